"""What conductor and workers say to each other: specs and events up, orders down.

Both sides meet in one callable, `exchange(worker, events) -> orders`. Inline it is a function call,
on one machine a pipe, on a cluster an actor's method; so everything here pickles, holds plain types
only, and knows neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

MOMENTUM = "model.bn_momentum"
RETROFITTED = "retrofit.bn_momentum"
MOMENTUM_KEYS = (MOMENTUM, RETROFITTED)  # parameters of which a trial can score every value
Value: TypeAlias = float | int | str | bool | None
Status: TypeAlias = Literal["complete", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class TrialSpec:
    """One set of parameters and one seed, ready to train anywhere.

    `config` is the study's resolved configuration with `params` (dotted key -> value) already
    written into it. `best` is the study's best value when the trial started: a worker sends a
    checkpoint home only if it beats that.

    A trial with `momenta` (None: the cumulative average) has its bn_momentum profiled: after the
    epochs `scored` all of them are scored on its weights, and the best is its own, unless
    `momentum_is_fixed`. It goes on after epoch `resumed` with the state that it had then, `resume`.
    With `test` it ends with a look at the test set.
    """

    number: int
    seed: int
    params: Mapping[str, Value]
    config: Mapping[str, Any]
    best: float | None = None
    momenta: tuple[float | None, ...] = ()
    momentum_key: str = MOMENTUM
    scored: tuple[int, ...] = ()
    momentum_is_fixed: bool = False
    test: bool = False
    resumed: int = 0
    resume: bytes | None = field(default=None, repr=False)

    @property
    def epochs(self) -> int:
        """How many epochs it trains if nothing stops it."""
        return int(self.config["trainer"]["max_epochs"])

    @property
    def columns(self) -> tuple[float | None, ...]:
        """All momenta that are scored: the cumulative average, too, for comparison."""
        return self.momenta if None in self.momenta or not self.momenta else (*self.momenta, None)


@dataclass(frozen=True)
class Ready:
    """The worker has `lanes` free places for trials."""

    lanes: int = 1


@dataclass(frozen=True)
class Report:
    """Metrics of one epoch (the first is 1); `bank` is the study's metric by momentum.

    With a bank, one value for each of the spec's `columns`, the metrics are those of the best. A
    pack validates the trials of a confirmation after their last epoch only.
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
    """A trial left its lane; `metrics` and `bank` are of its last epoch, `checkpoint` is a file.

    `found` are parameters that training itself has chosen. `precise` is the study's metric with
    precise statistics: "dropout_off" and "dropout_on". `diagnostics`, of a trial with a look at the
    test set, have the names of `dropnorm.callbacks.Diagnostics`. `arithmetic` is the worker's, see
    `dropnorm.matmul`. `died`: a process that trained it is dead, so running it again counts against
    `study.retries`.
    """

    trial: int
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = None
    checkpoint: bytes | None = field(default=None, repr=False)
    bank: tuple[float, ...] = ()
    found: Mapping[str, Value] = field(default_factory=dict)
    precise: Mapping[str, float] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    arithmetic: Mapping[str, int | str] = field(default_factory=dict)
    died: bool = False


@dataclass(frozen=True)
class Vitals:
    """What a worker's processes use, now and then; its silence about trials is none the shorter.

    `memory_bytes` is resident, `cpu` in cores since the last time. `gpu` is the share of that time
    in which the GPU was busy, None where nobody can tell; `gpu_bytes` what is taken of its memory.
    """

    where: str
    memory_bytes: int
    cpu: float
    gpu: float | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class Start:
    """Train this trial in a free lane.

    `share` is how many trials the worker could have now: its part of what is left to be started.
    """

    spec: TrialSpec
    share: int = 1


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


Event: TypeAlias = Ready | Report | Saved | Ended | Vitals
Order: TypeAlias = Start | Stop | Wait | Quit
Exchange: TypeAlias = Callable[[str, Sequence[Event]], Sequence[Order]]
Watch: TypeAlias = Callable[[str, Event | Order], None]  # sees what passes; the worker comes first


class Conducting(Protocol):
    """What executors know of whoever gives the orders: a search, a confirmation, or both."""

    @property
    def total(self) -> int: ...

    @property
    def ended(self) -> int: ...

    @property
    def draining(self) -> bool: ...

    @property
    def halted(self) -> bool: ...

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]: ...

    def lost(self, worker: str, reason: str) -> None: ...

    def overdue(self, worker: str) -> str | None: ...

    def flush(self) -> None: ...
