"""What conductor and workers say to each other: specs and events up, orders down.

Both sides meet in one callable, `exchange(worker, events) -> orders`. Inline it is a function call,
on one machine a pipe, on a cluster an actor's method; so everything here pickles, holds plain types
only, and knows neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Value: TypeAlias = float | int | str | bool | None
Status: TypeAlias = Literal["complete", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class TrialSpec:
    """One set of parameters and one seed, ready to train anywhere.

    `config` is the study's resolved configuration with `params` (dotted key -> value) already
    written into it. `best` is the study's best value when the trial started: a worker sends a
    checkpoint home only if it beats that.

    A trial with `momenta` (None: the cumulative average) has its bn_momentum profiled: after the
    epochs `scored` all of them are scored on its weights. `resume` is what `Saved` said of it last.
    """

    number: int
    seed: int
    params: Mapping[str, Value]
    config: Mapping[str, Any]
    best: float | None = None
    momenta: tuple[float | None, ...] = ()
    scored: tuple[int, ...] = ()
    resume: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Ready:
    """The worker has `lanes` free places for trials."""

    lanes: int = 1


@dataclass(frozen=True)
class Report:
    """Metrics of one validated epoch (the first is 1); `bank` is the study's metric by momentum.

    With a bank, the metrics are those of the best momentum.
    """

    trial: int
    epoch: int
    metrics: Mapping[str, float]
    bank: tuple[float, ...] = ()


@dataclass(frozen=True)
class Saved:
    """All that is needed to go on with a trial after an epoch: `state` is opaque here."""

    trial: int
    epoch: int
    state: bytes = field(repr=False)


@dataclass(frozen=True)
class Ended:
    """A trial left its lane; `metrics` are of its last epoch, `checkpoint` is a file's bytes.

    `precise` is the study's metric with precise statistics: "dropout_off" and "dropout_on".
    """

    trial: int
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = None
    checkpoint: bytes | None = field(default=None, repr=False)
    precise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Train this trial in a free lane."""

    spec: TrialSpec


@dataclass(frozen=True)
class Stop:
    """End the trial at this epoch as `pruned`, or as `interrupted` to run again later."""

    trial: int
    status: Status


@dataclass(frozen=True)
class Wait:
    """Nothing to start now, but a trial running elsewhere may come back: ask again in a while."""

    seconds: float = 0.5


@dataclass(frozen=True)
class Quit:
    """Nothing is left to do."""


Event: TypeAlias = Ready | Report | Saved | Ended
Order: TypeAlias = Start | Stop | Wait | Quit
Exchange: TypeAlias = Callable[[str, Sequence[Event]], Sequence[Order]]
