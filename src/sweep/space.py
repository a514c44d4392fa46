"""The search space: Hydra's sweep grammar read as dimensions, and as Optuna's distributions.

    interval(0, 0.7)                 any number in between; both whole (int(interval(1, 8))): integers
    tag(log, interval(0.001, 1))     the same on a log scale
    choice(relu, gelu) or a,b        one of these
    range(1, 10, 2)                  1, 3, 5, 7, 9, in order
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweep.messages import Value

GRAMMAR = "interval(a,b), tag(log, interval(a,b)), choice(x,y) or range(start,stop,step)"


@dataclass(frozen=True)
class Dimension:
    """One searched key. Numbers have `low`, `high`, `log` and perhaps `step`; others `choices`."""

    key: str
    text: str  # as it was typed
    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()

    def distribution(self) -> BaseDistribution:
        if self.low is None or self.high is None:
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def corners(self) -> tuple[Value, ...]:
        """The values at which a mistake in the range shows: both ends, or every choice."""
        if self.low is None or self.high is None:
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)

    def at(self, share: float) -> Value:
        """The value that lies `share` (0 <= share < 1) of the way through, on the range's scale."""
        if self.low is None or self.high is None:
            return self.choices[int(share * len(self.choices))]
        if self.kind == "int" or self.step is not None:
            step = self.step or 1.0
            count = round((self.high - self.low) / step) + 1
            if not self.log:
                value = self.low + int(share * count) * step
                return int(value) if self.kind == "int" else value
        if not self.log:
            return self.low + share * (self.high - self.low)
        value = self.low * (self.high / self.low) ** share
        return min(round(value), int(self.high)) if self.kind == "int" else value

    def grid(self, points: int) -> list[Value]:
        """`points` values evenly over an interval, its ends included; ranges and choices whole."""
        if self.low is None or self.high is None:
            return list(self.choices)
        if self.step is not None:
            count = round((self.high - self.low) / self.step) + 1
            return [self.at(i / count) for i in range(count)]
        inner = [self.at(i / (points - 1)) for i in range(1, points - 1)]
        return list(dict.fromkeys([*self.corners()[:1], *inner, *self.corners()[1:]]))


def parse_dimension(key: str, text: Any) -> Dimension:
    """A range as typed -> a dimension. Errors: ValueError saying what was expected."""
    if isinstance(text, list):
        return Dimension(key, f"choice({','.join(map(str, text))})", "categorical", choices=tuple(text))
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException:
        raise ValueError(f"expected {GRAMMAR}, got {text!r}") from None
    if not override.is_sweep_override():
        raise ValueError(f"expected {GRAMMAR}, got {text!r}; a fixed value needs no search")
    return _dimension(key, str(text), override)


def _dimension(key: str, text: str, override: Override) -> Dimension:
    match override.value():
        case IntervalSweep(start=low, end=high, tags=tags):
            return _interval(key, text, low, high, tags)
        case RangeSweep(start=start, stop=stop, step=step):
            return _range(key, text, float(start or 0), float(stop or 0), float(step))
        case ChoiceSweep(list=choices):
            values = tuple(getattr(c, "text", c) for c in choices)
            return Dimension(key, text, "categorical", choices=values)
        case other:
            raise ValueError(f"expected {GRAMMAR}, got {type(other).__name__}")


def _interval(key: str, text: str, low: float, high: float, tags: set[str]) -> Dimension:
    if unknown := tags - {"log"}:
        raise ValueError(f"expected the tag log or none, got {', '.join(sorted(unknown))}")
    if not low < high:
        raise ValueError(f"expected low < high, got interval({low:g}, {high:g})")
    log = "log" in tags
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0, got low = {low:g}")
    kind: Literal["int", "float"] = "int" if isinstance(low, int) else "float"
    return Dimension(key, text, kind, float(low), float(high), log)


def _range(key: str, text: str, start: float, stop: float, step: float) -> Dimension:
    count = math.ceil((stop - start) / step - 1e-9) if step > 0 else 0
    if count < 2:
        raise ValueError(f"expected at least two values, start < stop and step > 0, got {text}")
    whole = start.is_integer() and step.is_integer()
    return Dimension(
        key, text, "int" if whole else "float", start, start + (count - 1) * step, step=step
    )


def write_params(config: Mapping[str, Any], params: Mapping[str, Value]) -> dict[str, Any]:
    """A copy of the nested `config` with each dotted key of `params` set."""
    result: dict[str, Any] = dict(config)
    for key, value in params.items():
        head, _, rest = key.partition(".")
        result[head] = write_params(result.get(head) or {}, {rest: value}) if rest else value
    return result
