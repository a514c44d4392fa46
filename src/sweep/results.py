"""A recorded study as plain rows: what reports, tables and notebooks read.

Nothing here opens a file or imports Optuna; `sweep.record` fills these rows from a study's folder.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sweep.messages import Value

RowStatus: TypeAlias = Literal["complete", "pruned", "failed", "running", "waiting"]


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
    seed: int = 0
    seconds: float = 0.0
    reason: str | None = None
    worker: str | None = None
    started: dt.datetime | None = None
    finished: dt.datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether it counts towards the study's total."""
        return self.status in ("complete", "pruned", "failed")


@dataclass(frozen=True)
class ResultSet:
    """A study's folder, read: its settings and its trials in order of number."""

    name: str
    folder: Path
    metric: str
    direction: Literal["maximize", "minimize"]
    total: int  # study.trials
    search: Mapping[str, str]  # dotted key -> the range as it was typed, e.g. "interval(0,0.7)"
    config: Mapping[str, Any]  # the resolved configuration that ran
    trials: Sequence[TrialRow]

    @property
    def complete(self) -> list[TrialRow]:
        """Trials that trained to the end and have a value."""
        return [t for t in self.trials if t.status == "complete" and t.value is not None]

    @property
    def best(self) -> TrialRow | None:
        """The complete trial with the best value, the earliest of equals; None if there is none."""
        sign = -1.0 if self.direction == "maximize" else 1.0
        return min(self.complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict a trial, ready for `pandas.DataFrame(study.rows())`."""
        return to_table(self.trials)


def to_table(trials: Iterable[TrialRow]) -> list[dict[str, Any]]:
    """One flat dict a trial: its parameters and metrics are keys beside what the trial is."""
    return [
        {"number": t.number, "status": t.status, "value": t.value, **t.params, **t.metrics,
         "epochs": len(t.curve), "seed": t.seed, "seconds": t.seconds, "worker": t.worker,
         "reason": t.reason, "started": t.started, "finished": t.finished}
        for t in trials
    ]  # fmt: skip
