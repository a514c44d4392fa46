"""A recorded study as plain rows: what reports, tables and notebooks read.

Nothing here opens a file or imports Optuna; `sweep.record` fills these rows from a study's folder.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sweep.messages import Value
from sweep.metric import Direction, sign_of

if TYPE_CHECKING:
    import pandas

RowStatus: TypeAlias = Literal["complete", "pruned", "failed", "running", "waiting"]
DIFFERENCES = ("lag_cost", "shift_cost", "gap")  # diagnostics that there is one of for each metric
DEFAULT = "default"  # the arm of the confirmation that is the configuration's own setting


@dataclass(frozen=True)
class MomentumCurve:
    """The study's metric of one trial's last weights, by the momentum of the running averages.

    A momentum of None is the cumulative average. `dropout_off` and `dropout_on` are the metric with
    precise statistics, gathered by a pass over training batches with dropout off or on.
    """

    momenta: Sequence[float | None]
    values: Sequence[float]
    dropout_off: float | None = None
    dropout_on: float | None = None

    @classmethod
    def of(
        cls,
        momenta: Sequence[float | None],
        values: Sequence[float],
        precise: Mapping[str, float],
    ) -> MomentumCurve | None:
        """What a worker says of a trial; None if it scored no momenta."""
        if not values:
            return None
        return cls(momenta, values, precise.get("dropout_off"), precise.get("dropout_on"))


@dataclass(frozen=True)
class TrialRow:
    """One trial as recorded. `value` is the study's metric after the last epoch, if that is one."""

    number: int
    status: RowStatus
    params: Mapping[str, Value]
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Mapping[int, float] = field(default_factory=dict)  # epoch (from 1) -> the study's metric
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)  # metric -> one an epoch
    momentum: MomentumCurve | None = None  # of trials whose bn_momentum is profiled
    seed: int = 0
    seconds: float = 0.0
    reason: str | None = None
    # The first epoch after which the pruner would stop it: control trials train on. 0: none.
    doomed: int = 0
    worker: str | None = None
    arithmetic: Mapping[str, int | str] = field(default_factory=dict)  # see dropnorm.matmul
    started: dt.datetime | None = None
    finished: dt.datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it counts towards the study's total."""
        return self.status in ("complete", "pruned", "failed")

    @property
    def epochs(self) -> int:
        """How many have been reported, with or without a value of the study's metric."""
        return max(map(len, self.history.values()), default=len(self.curve))


@dataclass(frozen=True)
class ConfirmRow:
    """One training on a fresh seed, after the search, of one arm: a setting to be confirmed.

    `arm` is "default", or "1st", "2nd", ... for the best of the search. `metrics` has those of
    validation (val_...) and of the test set (test_...); `diagnostics` have the names of
    `dropnorm.callbacks.Diagnostics`, such as variance_shift, lag_cost/val_nll or gap/val_accuracy.
    """

    arm: str
    trial: int | None  # the search's best with this setting; None if the default is not among them
    params: Mapping[str, Value]
    seed: int
    metrics: Mapping[str, float]
    momentum: MomentumCurve | None = None  # on validation
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    worker: str | None = None
    started: dt.datetime | None = None
    finished: dt.datetime | None = None


@dataclass(frozen=True)
class ResultSet:
    """A study's folder, read: its settings and its trials in order of number."""

    name: str
    folder: Path
    metric: str
    direction: Direction
    total: int  # study.trials
    search: Mapping[str, str]  # dotted key -> the range as it was typed, e.g. "interval(0,0.7)"
    config: Mapping[str, Any]  # the resolved configuration that ran
    trials: Sequence[TrialRow]
    confirm: Sequence[ConfirmRow] = ()

    @property
    def sign(self) -> float:
        """1 if more of the metric is better, -1 if less is."""
        return sign_of(self.direction)

    @property
    def complete(self) -> list[TrialRow]:
        """Trials that trained to the end and have a value."""
        return [t for t in self.trials if t.status == "complete" and t.value is not None]

    @property
    def best(self) -> TrialRow | None:
        """The complete trial with the best value, the earliest of equals; None if there is none."""
        sign = self.sign
        return max(self.complete, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a trial, ready for `pandas.DataFrame(study.rows())`."""
        return to_table(self.trials)

    def epoch_rows(self) -> list[dict[str, Any]]:
        """One flat dict a validated epoch: number, epoch (from 1), and each metric."""
        return [
            {
                "number": trial.number,
                "epoch": epoch,
                **dict(zip(trial.history, values, strict=True)),
            }
            for trial in self.trials
            for epoch, values in enumerate(zip(*trial.history.values(), strict=True), 1)
        ]

    def confirm_rows(self) -> list[dict[str, Any]]:
        """One flat dict a training of the confirmation: its parameters, metrics, diagnostics."""
        return [
            {"arm": r.arm, "trial": r.trial, "seed": r.seed, **r.params, **r.metrics,
             **r.diagnostics, "worker": r.worker, "started": r.started, "finished": r.finished}
            for r in self.confirm
        ]  # fmt: skip

    def frame(
        self, what: Literal["trials", "epochs", "momenta", "confirm"] = "trials"
    ) -> pandas.DataFrame:
        """The rows of one kind as a pandas frame. Errors: ImportError without pandas."""
        import pandas

        rows = {
            "trials": self.rows,
            "epochs": self.epoch_rows,
            "momenta": self.momentum_rows,
            "confirm": self.confirm_rows,
        }
        return pandas.DataFrame(rows[what]())

    def momentum_rows(self) -> list[dict[str, Any]]:
        """One flat dict a scored configuration: number, bn_momentum, value. None: cumulative."""
        return [
            {"number": trial.number, "bn_momentum": momentum, "value": value}
            for trial in self.trials
            if trial.momentum is not None
            for momentum, value in zip(trial.momentum.momenta, trial.momentum.values, strict=True)
        ]


def to_table(trials: Iterable[TrialRow]) -> list[dict[str, Any]]:
    """One flat dict a trial: its parameters and metrics are keys beside what the trial is."""
    return [
        {"number": t.number, "status": t.status, "value": t.value, **t.params, **t.metrics,
         "epochs": t.epochs, "seed": t.seed, "seconds": t.seconds, "worker": t.worker,
         "reason": t.reason, "started": t.started, "finished": t.finished}
        for t in trials
    ]  # fmt: skip
