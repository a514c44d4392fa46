"""Kinds of values that a setting may take, and how they are spoken of.

Numbers are strict: "5" is no integer and 1 no boolean. Descriptions follow the word "expected" in
messages, examples are what to type instead.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, StrictBool, ValidationInfo

Whole: TypeAlias = Annotated[
    int, Field(strict=True, ge=1, description="a whole number from 1 up", examples=[10])
]
Natural: TypeAlias = Annotated[
    int, Field(strict=True, ge=0, description="a whole number from 0 up", examples=[0])
]
Several: TypeAlias = Annotated[
    int, Field(strict=True, ge=2, description="a whole number from 2 up", examples=[3])
]
Share: TypeAlias = Annotated[
    float, Field(strict=True, ge=0, le=1, description="a number from 0 to 1", examples=[0.2])
]
Rate: TypeAlias = Annotated[
    float, Field(strict=True, ge=0, lt=1, description="a number from 0 to below 1", examples=[0.3])
]
Positive: TypeAlias = Annotated[
    float, Field(strict=True, gt=0, description="a number above 0", examples=[0.01])
]
Widths: TypeAlias = Annotated[
    list[Whole], Field(description="a list of whole numbers from 1 up", examples=[[64, 64]])
]
Part: TypeAlias = Annotated[
    Whole | Annotated[float, Field(strict=True, gt=0, le=1)],
    Field(description="a number of batches, or a share above 0.0 up to 1.0", examples=[0.5]),
]
Flag: TypeAlias = Annotated[StrictBool, Field(description="true or false", examples=[True])]
Text: TypeAlias = Annotated[str, Field(min_length=1, description="a name", examples=["sweeps"])]
Momentum: TypeAlias = Annotated[
    Annotated[float, Field(strict=True, gt=0, le=1)] | None,
    Field(description="a number above 0 up to 1, or null", examples=[0.1]),
]


def _each_once(order: list[str]) -> list[str]:
    if sorted(order) not in (["act", "drop", "norm"], ["act", "drop", "norm", "weight"]):
        raise ValueError("each of norm, act and drop once, and weight if it is not first")
    return order


# Settings against those before them. Of one that is wrong itself, `info.data` knows nothing.


def _widths(info: ValidationInfo) -> list[list[int]]:
    return [info.data.get(key, []) for key in ("channels", "hidden")]


def _divides_the_widths(groups: int, info: ValidationInfo) -> int:
    if info.data.get("norm") == "group" and any(w % groups for ws in _widths(info) for w in ws):
        raise ValueError("a divisor of every width")
    return groups


def _alpha_with_selu(noise: str, info: ValidationInfo) -> str:
    if noise == "alpha" and info.data.get("activation", "selu") != "selu":
        raise ValueError("alpha keeps the mean and variance of selu alone")
    return noise


def _has_a_way_around(residual: bool, info: ValidationInfo) -> bool:
    equal = any(i == o for widths in _widths(info) for i, o in pairwise(widths))
    if residual and "hidden" in info.data and not equal:
        raise ValueError("equal widths side by side")
    return residual


def _of_residual_blocks(drop_path: float, info: ValidationInfo) -> float:
    if drop_path and not info.data.get("residual", True):
        raise ValueError("0 without residual blocks")
    return drop_path


Order: TypeAlias = Annotated[
    list[str],
    AfterValidator(_each_once),
    Field(description="norm, act and drop in any order", examples=[["norm", "act", "drop"]]),
]
Groups: TypeAlias = Annotated[
    Whole,
    AfterValidator(_divides_the_widths),
    Field(description="with norm=group a divisor of every width", examples=[1]),
]
Noise: TypeAlias = Annotated[
    Literal["dropout", "channel", "gaussian", "uniform", "alpha"],
    AfterValidator(_alpha_with_selu),
    Field(
        description="dropout, channel, gaussian, uniform, or with activation=selu alpha",
        examples=["gaussian"],
    ),
]
Residual: TypeAlias = Annotated[
    StrictBool,
    AfterValidator(_has_a_way_around),
    Field(description="false, or true with equal widths side by side", examples=[False]),
]
DropPath: TypeAlias = Annotated[
    Rate,
    AfterValidator(_of_residual_blocks),
    Field(description="0.0, or with residual=true a number below 1", examples=[0.0]),
]
Patterns: TypeAlias = Annotated[
    str | list[str] | None,
    Field(description="a pattern of names, a list of them, or null", examples=["*"]),
]
