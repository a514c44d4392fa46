"""What a configuration may say: names, types and ranges, checked before anything runs.

Numbers are strict: "5" is no integer and 1 no boolean. Plain containers go in (as Hydra composed them), frozen dataclasses come out, and every mistake is
found in one pass. Importing this loads no torch; a test holds it against the constructors' own
signatures. Models and data of others (`_target_` elsewhere) are checked by their constructors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, StrictBool, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from sweep.errors import did_you_mean

_CLOSED = ConfigDict(extra="forbid")
Whole: TypeAlias = Annotated[int, Field(strict=True, ge=1)]
Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]
Rate: TypeAlias = Annotated[float, Field(strict=True, ge=0, lt=1)]
Positive: TypeAlias = Annotated[float, Field(strict=True, gt=0)]
Names: TypeAlias = Annotated[list[Literal["norm", "act", "drop"]], Field(min_length=3, max_length=3)]


@dataclass(frozen=True, config=_CLOSED)
class StudySettings:
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    trials: Whole
    metric: Annotated[str, Field(min_length=1)]
    direction: Literal["maximize", "minimize"]
    seed: Annotated[int, Field(strict=True, ge=0)]
    timeout_s: Positive | None
    retries: Annotated[int, Field(strict=True, ge=0)]
    max_failures: Whole
    folder: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, config=_CLOSED)
class _BlockOptions:
    dropout: Rate
    bn_momentum: Annotated[float, Field(strict=True, gt=0, le=1)] | None
    label_smoothing: Rate
    norm: Literal["batch", "none"]
    activation: Literal["relu", "gelu", "silu", "tanh", "sigmoid"]
    order: Names
    hidden: list[Whole]


@dataclass(frozen=True, config=_CLOSED)
class Mlp(_BlockOptions):
    network: Literal["mlp"]


@dataclass(frozen=True, config=_CLOSED)
class Cnn(_BlockOptions):
    network: Literal["cnn"]
    channels: Annotated[list[Whole], Field(min_length=1)]
    kernel: Whole


@dataclass(frozen=True, config=_CLOSED)
class Idx:
    path: str | None
    batch_size: Annotated[int, Field(strict=True, ge=2)]
    eval_batch_size: Whole
    train_size: Whole | None
    download: Literal["fashion_mnist"] | None


@dataclass(frozen=True, config=_CLOSED)
class Synthetic:
    batch_size: Annotated[int, Field(strict=True, ge=2)]
    eval_batch_size: Whole


@dataclass(frozen=True, config=_CLOSED)
class OptimizerSettings:
    name: Literal["adam", "adamw", "sgd"]
    lr: Positive
    weight_decay: Annotated[float, Field(strict=True, ge=0)] = 0.0
    betas: Annotated[list[Rate], Field(min_length=2, max_length=2)] | None = None
    momentum: Rate | None = None
    nesterov: StrictBool | None = None
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"


@dataclass(frozen=True, config=_CLOSED)
class TrainerSettings:
    max_epochs: Whole
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    gradient_clip_val: Positive | None


@dataclass(frozen=True, config=_CLOSED)
class SamplerSettings:
    name: Literal["tpe", "random", "qmc", "grid", "gp", "cmaes"]
    multivariate: StrictBool = True
    n_startup_trials: Whole = 10
    points: Whole = 5


@dataclass(frozen=True, config=_CLOSED)
class PrunerSettings:
    name: Literal["asha", "hyperband", "median", "none"]
    first_rung: Share = 0.34
    reduction_factor: Annotated[int, Field(strict=True, ge=2)] = 3
    startup_trials: Whole = 5
    control: Share = 0.2


@dataclass(frozen=True, config=_CLOSED)
class ExecutorSettings:
    name: Literal["inline", "local"]
    devices: Literal["auto"] | Whole = "auto"


SECTIONS: dict[str, type] = {
    "study": StudySettings, "optimizer": OptimizerSettings, "trainer": TrainerSettings,
    "sampler": SamplerSettings, "pruner": PrunerSettings, "executor": ExecutorSettings,
}  # fmt: skip
TARGETS: dict[str, dict[str, type]] = {
    "dropnorm.Classifier": {"mlp": Mlp, "cnn": Cnn},
    "dropnorm.MNIST": {"": Idx},
    "dropnorm.Synthetic": {"": Synthetic},
}


def check_section(name: str, section: Any) -> tuple[Any, list[str]]:
    """One section as its frozen dataclass (or as it came, if another's), and what is wrong with it."""
    if not isinstance(section, Mapping):
        return section, [f"{name}: expected a group of settings, got {section!r}"]
    if name in SECTIONS:
        return _validate(name, SECTIONS[name], section)
    target = section.get("_target_")
    if not isinstance(target, str):
        return section, [f"{name}._target_: expected an import path like dropnorm.Classifier"]
    kinds = TARGETS.get(target)
    if kinds is None:
        return section, []
    kind = kinds.get(section.get("network", "")) or next(iter(kinds.values()))
    return _validate(name, kind, {k: v for k, v in section.items() if k != "_target_"})


def _validate(name: str, kind: type, section: Mapping[str, Any]) -> tuple[Any, list[str]]:
    try:
        return TypeAdapter(kind).validate_python(dict(section)), []
    except ValidationError as error:
        known = [f.name for f in fields(kind)]
        return section, [_sentence(name, known, e) for e in _one_per_key(error)]


def _one_per_key(error: ValidationError) -> list[ErrorDetails]:
    """A value that fits no member of a union fails once a member: keep the first."""
    return list({str(e["loc"][0]): e for e in reversed(error.errors())}.values())[::-1]


def _sentence(name: str, known: list[str], error: ErrorDetails) -> str:
    key = str(error["loc"][0])
    place, value = f"{name}.{key}", error["input"]
    match error["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{place}: unknown key; {did_you_mean(key, known)}"
        case "missing":
            return f"{place}: missing; set {place}=..."
        case "string_pattern_mismatch":
            return (
                f"{place}: expected letters, digits, '.', '_' or '-' (64 at most, no leading dot), "
                f"got {value!r}"
            )
    expected = error["msg"].removeprefix("Input should be ").replace("Input should have", "having")
    element = "".join(f"[{i}]" for i in error["loc"][1:] if isinstance(i, int))
    return f"{place}{element}: expected {expected}, got {value!r}"
