"""The search space: Hydra's sweep grammar read as dimensions, and as Optuna's distributions.

    interval(0, 0.7)                 any number in between; int(interval(1, 8)): whole ones
    tag(log, interval(0.001, 1))     the same on a log scale
    choice(relu, gelu) or a,b        one of these; lists too: choice([64], [256,256])
    range(1, 10, 2)                  1, 3, 5, 7, 9, in order; the end is left out

In YAML a list is a choice of its elements.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sweep.errors import as_typed
from sweep.messages import Value

GRAMMAR = "interval(a,b), tag(log,interval(a,b)), choice(x,y) or range(start,stop,step)"
_CHOICE = re.compile(r"choice\s*\((.*)\)", re.DOTALL)
_CALL = re.compile(r"\s*(interval|tag|choice|range|sort|shuffle|glob|int|float|str|bool)\s*\(")


@dataclass(frozen=True)
class Dimension:
    """One searched key. Numbers have `low`, `high`, `log` and perhaps `step`; others `choices`.

    Optuna's categories are plain values, so a choice that is a list stands among `choices` as it is
    typed; `setting` gives the list back.
    """

    key: str
    text: str  # as it was typed
    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    lists: Mapping[str, list[Any]] = field(default_factory=dict)  # by their spelling in `choices`

    def distribution(self) -> BaseDistribution:
        if self.low is None or self.high is None:
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def setting(self, value: Value) -> Any:
        """What the configuration gets when the search proposes `value`."""
        return self.lists.get(value, value) if isinstance(value, str) else value

    def corners(self) -> tuple[Value, ...]:
        """The values at which a mistake in the range shows: both ends, or every choice."""
        if self.low is None or self.high is None:
            return self.choices
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)

    def at(self, share: float) -> Value:
        """The value that lies `share` (0 <= share < 1) of the way through, on the range's scale."""
        low, high = self.low, self.high
        if low is None or high is None:
            return self.choices[int(share * len(self.choices))]
        if self.kind == "float" and self.step is None:
            return low * (high / low) ** share if self.log else low + share * (high - low)
        if self.log:  # each whole number has the room from half below to half above it
            below, above = low - 0.5, high + 0.5
            return int(max(low, min(high, round(below * (above / below) ** share))))
        return self._after(int(share * self._steps()))

    def grid(self, points: int) -> list[Value]:
        """`points` values evenly over an interval, its ends included; ranges and choices whole."""
        if self.low is None or self.high is None:
            return list(self.choices)
        if self.step is not None:
            return [self._after(i) for i in range(self._steps())]
        first, last = self.corners()
        inner = [self.at(i / (points - 1)) for i in range(1, points - 1)]
        return list(dict.fromkeys([first, *inner, last]))

    def _after(self, steps: int) -> Value:
        assert self.low is not None
        value = self.low + steps * (self.step or 1)
        return int(value) if self.kind == "int" else value

    def _steps(self) -> int:
        assert self.low is not None and self.high is not None
        return round((self.high - self.low) / (self.step or 1)) + 1


def parse_dimension(key: str, text: Any) -> Dimension:
    """A range as typed, or a list as YAML has it -> a dimension.

    `choice(relu,null)` is read as `relu,null`, which is the same in Hydra's grammar, because Hydra
    itself refuses null in the former. Errors: ValueError saying what was expected.
    """
    typed = text.strip() if isinstance(text, str) else as_typed(text)
    called = _CHOICE.fullmatch(typed)
    try:
        override = OverridesParser.create().parse_override(f"key={called[1] if called else typed}")
    except HydraException:
        raise ValueError(f"expected {GRAMMAR}, got {typed}") from None
    match override.value():
        case IntervalSweep(start=low, end=high, tags=tags) if low is not None and high is not None:
            return _interval(key, typed, low, high, tags or set())
        case RangeSweep() as sweep if not sweep.tags:
            return _range(key, typed, sweep)
        case ChoiceSweep(list=choices, tags=tags) if not tags:
            return _choice(key, typed, choices)
        case RangeSweep() | ChoiceSweep():
            raise ValueError(f"expected a tag on an interval only, got {typed}")
        case list(choices) if not called:
            return _choice(key, typed, choices)
        case only if called:
            return _choice(key, typed, [only])
    raise ValueError(f"expected {GRAMMAR}, got {typed}; a fixed value needs no search")


def _interval(key: str, text: str, low: float, high: float, tags: set[str]) -> Dimension:
    if unknown := tags - {"log"}:
        raise ValueError(f"expected the tag log or none, got {', '.join(sorted(unknown))}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"expected finite numbers, low < high, got {text}")
    log = "log" in tags
    if log and low <= 0:
        raise ValueError(f"expected low > 0 for a log scale, got {text}")
    kind: Literal["int", "float"] = "int" if isinstance(low, int) else "float"
    return Dimension(key, text, kind, float(low), float(high), log)


def _range(key: str, text: str, sweep: RangeSweep) -> Dimension:
    start, stop, step = float(sweep.start or 0), float(sweep.stop or 0), float(sweep.step)
    finite = all(map(math.isfinite, (start, stop, step)))
    count = math.ceil((stop - start) / step - 1e-9) if finite and step > 0 else 0
    if count < 2:
        raise ValueError(f"expected at least two values, start < stop and step > 0, got {text}")
    high = start + (count - 1) * step
    whole = isinstance(sweep.start, int) and isinstance(sweep.step, int)
    return Dimension(key, text, "int" if whole else "float", start, high, step=step)


def _choice(key: str, text: str, elements: Sequence[Any]) -> Dimension:
    settings = [_plain(element, text) for element in elements]
    lists = {as_typed(s): s for s in settings if isinstance(s, list)}
    choices = tuple(as_typed(s) if isinstance(s, list) else s for s in settings)
    # Optuna looks a choice up by ==, so 1, 1.0 and true would be one choice to it.
    if len(set(choices)) < max(len(choices), 2):
        raise ValueError(f"expected two or more different choices, got {text}")
    return Dimension(key, text, "categorical", choices=choices, lists=lists)


def _plain(element: Any, text: str) -> Any:
    match element:
        case QuotedString(text=inside):
            return inside
        case list():
            return [_plain(e, text) for e in element]
        case float() if not math.isfinite(element):
            raise ValueError(f"expected finite numbers, got {text}")
        case str() | int() | float() | None:
            return element
    raise ValueError(f"expected choices that are names, numbers or lists, got {text}")


def looks_like_range(text: Any) -> bool:
    """Whether somebody meant a range, even if it cannot be read as one."""
    return isinstance(text, str) and _CALL.match(text) is not None


def write_params(config: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested `config` with each dotted key of `params` set."""
    result: dict[str, Any] = dict(config)
    for key, value in params.items():
        head, _, rest = key.partition(".")
        result[head] = write_params(result.get(head) or {}, {rest: value}) if rest else value
    return result
