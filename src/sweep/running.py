"""A trial between its ask and its end, as the conductor knows it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optuna.trial import Trial

from sweep.messages import Ended, Report, TrialSpec
from sweep.results import RowStatus, TrialRow


@dataclass
class Running:
    """One trial; `trial` is Optuna's side of it. It may start several times, if its workers die."""

    spec: TrialSpec
    trial: Trial
    worker: str = ""
    deaths: int = 0  # of workers that it was running on
    told: int = 0  # the last epoch that Optuna has heard of, whichever attempt it was
    started: dt.datetime | None = None
    history: dict[int, Mapping[str, float]] = field(default_factory=dict)  # by epoch

    def start(self, worker: str, best: float | None) -> None:
        """Begins an attempt, from the first epoch."""
        self.worker, self.started = worker, dt.datetime.now()
        self.spec = replace(self.spec, best=best)
        self.history = {}

    def should_stop(self, event: Report, metric: str) -> bool:
        """Tells Optuna of an epoch; whether its pruner would stop the trial here."""
        value = event.metrics.get(metric)
        if value is None or not math.isfinite(value) or event.epoch <= self.told:
            return False
        self.trial.report(value, event.epoch)
        self.told = event.epoch
        return not self.is_over(event) and self.trial.should_prune()

    def is_over(self, event: Report) -> bool:
        """Whether this was the last epoch."""
        return event.epoch >= int(self.spec.config["trainer"]["max_epochs"])

    def row(self, status: RowStatus) -> TrialRow:
        """What is known at the start."""
        number, seed, params = self.spec.number, self.spec.seed, self.spec.params
        return TrialRow(number, status, params, seed=seed, worker=self.worker, started=self.started)

    def final_row(self, status: RowStatus, event: Ended, metric: str) -> TrialRow:
        """What is known at the end. A failed trial has no value, whatever its metrics are."""
        value = event.metrics.get(metric, math.nan)
        history = dict(sorted(self.history.items()))
        names = dict.fromkeys(name for metrics in history.values() for name in metrics)
        return replace(
            self.row(status),
            value=value if status != "failed" and math.isfinite(value) else None,
            metrics=dict(event.metrics),
            curve={
                e: m[metric] for e, m in history.items() if math.isfinite(m.get(metric, math.nan))
            },
            history={name: [m.get(name, math.nan) for m in history.values()] for name in names},
            seconds=event.seconds,
            reason=event.reason,
            finished=dt.datetime.now(),
        )
