"""A searched parameter as an axis of a surface: where values lie on it, and which are judged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from sweep.messages import Value
from sweep.metric import plain, shortest
from sweep.parameters import Parameter

_GRID = 33  # values of a range


def coordinate(parameter: Parameter, value: Value) -> float | None:
    """Where a value lies, from 0 to 1 within the range; None where it has no place.

    A default may have none: a category that no trial has, or 0 on a logarithmic axis.
    """
    if not parameter.numeric:
        text = plain(value)
        return float(parameter.categories.index(text)) if text in parameter.categories else None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return None if parameter.log and value <= 0 else parameter.place(float(value))


def point(parameters: Sequence[Parameter], params: Mapping[str, Value]) -> tuple[float, ...] | None:
    """The coordinates of a setting; None if one of its values is missing or has no place."""
    found = [coordinate(p, params[p.key]) for p in parameters if p.key in params]
    known = [x for x in found if x is not None]
    return tuple(known) if len(known) == len(parameters) else None


def grid(parameter: Parameter, values: Collection[Value], recommended: Value) -> list[Value]:
    """The values to judge, in order: of an interval an even grid over what was trained.

    Beyond that nothing is known. `recommended` is among them.
    """
    if not parameter.numeric:
        present = {plain(v) for v in values}
        return [text for text in parameter.categories if text in present]
    numbers = sorted({v for v in values if isinstance(v, (int, float))})
    if not parameter.dense:
        return list(numbers)
    ends = [parameter.place(n) for n in (numbers[0], numbers[-1])]
    steps = [ends[0] + (ends[1] - ends[0]) * i / (_GRID - 1) for i in range(_GRID)]
    between = shortest([parameter.at(place) for place in steps])
    if all(isinstance(n, int) for n in numbers):
        between = [round(x) for x in between]
    inside = {x for x in between if numbers[0] < x < numbers[-1]}
    return sorted({numbers[0], *inside, numbers[-1], recommended})  # type: ignore[type-var]
