"""What a study's confirmation found, as plain frozen rows: figures, verdicts and their sentences.

Differences are oriented: positive is better, whatever the metric's direction. Values are as
recorded; `Answer.metric` scales them for readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sweep.messages import Value
from sweep.metric import Metric

Split: TypeAlias = Literal["test", "validation"]
Outcome: TypeAlias = Literal["better", "worse", "equal", "undecided"]
Standing: TypeAlias = Literal["as good", "worse", "undecided"]
Effect: TypeAlias = Literal["matters", "no difference", "undecided", "unknown"]

PLACES: Mapping[Split, str] = {"test": "on the test set", "validation": "on validation"}


@dataclass(frozen=True)
class Interval:
    """A mean and its own 95 % interval, which is infinite where one value is all there is."""

    mean: float
    low: float
    high: float
    count: int  # of independent values, e.g. seeds

    @property
    def half(self) -> float:
        """Half of its width: what stands after the ±."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Arm:
    """One setting on fresh seeds. Without any (`seeds` is empty) it is what the search alone says.

    `shrinkage` is by how much the search's value was better than fresh seeds are: the winner's
    curse. `missing` seeds were trained by another arm and gave no finite value here.
    """

    name: str
    trial: int | None
    params: Mapping[str, Value]
    seeds: tuple[int, ...] = ()
    missing: int = 0
    validation: Interval | None = None
    test: Interval | None = None
    searched: float | None = None
    shrinkage: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """One arm against another. `holm` is the p-value corrected for all comparisons of the study.

    `outcome` follows the corrected p-values; `difference` has an interval of its own, so one that
    just leaves zero out may still be undecided.
    """

    arm: str
    against: str
    split: Split
    paired: bool
    difference: Interval
    p: float
    holm: float
    outcome: Outcome
    seeds: int | None  # an arm that would tell a difference of the margin from none
    sentence: str


@dataclass(frozen=True)
class Level:
    """One value of a parameter, the others as recommended, against the parameter's `best`."""

    value: Value
    difference: Interval
    standing: Standing


@dataclass(frozen=True)
class Verdict:
    """What is known of one searched parameter. `levels` are in order, and empty if unknown."""

    key: str
    name: str
    effect: Effect
    evidence: str
    best: Value
    levels: tuple[Level, ...]
    seeds: int | None  # a setting that would decide what is undecided
    sentence: str
    clause: str  # its part of the answer in two sentences; empty if unknown

    def runs(self, standing: Standing) -> list[tuple[Value, Value]]:
        """First and last value of every unbroken run of numbers that stand so, and all others."""
        found: list[tuple[Value, Value]] = []
        before: Level | None = None
        for level in self.levels:
            if level.standing == standing:
                joined = before is not None and before.standing == standing
                numbers = before is not None and _ordered(before.value) and _ordered(level.value)
                start = found.pop()[0] if joined and numbers else level.value
                found.append((start, level.value))
            before = level
        return found


@dataclass(frozen=True)
class Answer:
    """All that a study says, in figures and in words. Every field is there without confirm rows.

    `sentences` are the answer itself; `shrinkage` and `unknown` (what is missing, and what
    speaks against them) say how far to trust it.
    """

    metric: Metric
    margin: float
    recommended: Arm | None
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    noise: float | None  # SD between seeds of one setting on validation
    luck: float | None  # by how much the best of that many equal trials would look better
    sentences: tuple[str, ...]
    shrinkage: str
    unknown: tuple[str, ...]


def _ordered(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
