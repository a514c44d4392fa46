"""The searched parameters of a study, as axes.

A parameter is numeric if all its recorded values are numbers; the ends of its axis and whether it
is logarithmic come from the range as it was typed, e.g. `tag(log, interval(0.001,1))`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweep.messages import Value
from sweep.metric import plain
from sweep.results import ResultSet, TrialRow

if TYPE_CHECKING:
    from sweep.space import Dimension

_VAGUE = {"name", "kind", "type"}  # these endings say nothing without what comes before


@dataclass(frozen=True)
class Parameter:
    """One searched parameter. `low` and `high` end its axis; they are 0 and 1 for categories."""

    key: str  # dotted, as in the configuration
    name: str  # see `short_name`
    numeric: bool
    dense: bool  # whether all between its ends was searched: no choice, and no range of steps
    log: bool
    low: float
    high: float
    categories: tuple[str, ...]

    def number(self, trial: TrialRow) -> float | None:
        """The trial's value as a number (a category's number is its place); None if it has none."""
        if self.key not in trial.params:
            return None
        value = trial.params[self.key]
        if self.numeric and isinstance(value, (int, float)):
            return float(value)
        return float(self.categories.index(plain(value)))

    def place(self, number: float) -> float:
        """Where a number lies between the ends of the axis: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """The number at a place along the axis; undoes `place`."""
        if self.log:
            return self.low * math.exp(place * math.log(self.high / self.low))
        return self.low + place * (self.high - self.low)

    def aligned(self, value: Value) -> str:
        """A value as text whose decimal points line up in a column, if the axis is linear."""
        if self.log or not isinstance(value, float):
            return plain(value)
        decimals = 2 - math.floor(math.log10(self.high - self.low))
        return f"{value:.{max(decimals, 0)}f}"


def parameters_of(study: ResultSet) -> list[Parameter]:
    """The parameters that at least one trial has a value for, in the order of the search space."""
    from sweep.space import parse_dimension  # Hydra's grammar, loaded where there is a range

    keys = list(dict.fromkeys([*study.search, *(k for t in study.trials for k in t.params)]))
    found = {key: [t.params[key] for t in study.trials if key in t.params] for key in keys}
    typed = {key: parse_dimension(key, text) for key, text in study.search.items()}
    return [
        _parameter(key, short_name(key, keys), typed.get(key), values)
        for key, values in found.items()
        if values
    ]


def _parameter(
    key: str, name: str, dimension: Dimension | None, values: Sequence[Value]
) -> Parameter:
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
        categories = tuple(dict.fromkeys(plain(v) for v in sorted(values, key=str)))
        return Parameter(key, name, False, False, False, 0.0, 1.0, categories)
    low, high = min(numbers), max(numbers)
    log = False
    if dimension and dimension.kind == "categorical":
        # Choices carry no tag: decades between their ends ask for a logarithmic axis.
        log = low > 0 and high / low >= 50
    elif dimension and dimension.low is not None and dimension.high is not None:
        low, high = min(low, dimension.low), max(high, dimension.high)
        log = dimension.log and low > 0
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    dense = dimension is None or (dimension.kind != "categorical" and dimension.step is None)
    return Parameter(key, name, True, dense, log, low, high, ())


def short_name(key: str, keys: Collection[str]) -> str:
    """What a dotted key is called: its shortest ending that no other of the `keys` shares."""
    parts = key.split(".")
    for size in range(2 if parts[-1] in _VAGUE else 1, len(parts)):
        ending = ".".join(parts[-size:])
        if sum(k == ending or k.endswith("." + ending) for k in keys) == 1:
            return ending
    return key
