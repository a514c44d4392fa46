"""A trial between its ask and its end, as the conductor knows it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optuna.trial import Trial

from sweep.messages import Ended, Report, Saved, TrialSpec
from sweep.results import MomentumCurve, RowStatus, TrialRow
from sweep.saves import Save
from sweep.schema import StudySettings


@dataclass
class Running:
    """One trial; `trial` is Optuna's side of it. It may start several times, if its workers die."""

    spec: TrialSpec
    trial: Trial
    worker: str = ""
    deaths: int = 0  # of workers that it was running on
    doomed: int = 0  # the first epoch after which the pruner would have stopped it
    told: int = 0  # the last epoch that Optuna has heard of, whichever attempt it was
    started: dt.datetime | None = None
    begun_s: float = 0.0  # by the conductor's clock, this attempt: not before it has been begun
    is_begun: bool = False  # whether its worker has said anything of this attempt
    spent_s: float = 0.0  # by earlier attempts
    stopped_late: bool = False  # told to end, because it trained for too long
    history: dict[int, Mapping[str, float]] = field(default_factory=dict)  # by epoch
    banks: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by scored epoch

    def start(self, worker: str, best: float | None, saved: Save | None, metric: str) -> None:
        """Begins an attempt: from the first epoch, or after the one when it was saved."""
        self.worker, self.started, self.is_begun = worker, dt.datetime.now(), False
        self.history, self.banks = {}, {}
        if saved is None:
            self.spec = replace(self.spec, best=best, resumed=0, resume=None)
            return
        self.spec = replace(self.spec, best=best, resumed=saved.epoch, resume=saved.state)
        for epoch, metrics in saved.history.items():
            bank = saved.banks.get(epoch, ())
            self.should_stop(Report(self.spec.number, epoch, metrics, bank), metric)

    def begin(self, heard_s: float) -> None:
        """Its worker says something of it, after it has spoken of another trial at `heard_s`.

        Until then a trial may have waited for its turn, which is no time of its own.
        """
        if not self.is_begun:
            self.is_begun, self.begun_s = True, max(self.begun_s, heard_s)

    def trained_s(self, now_s: float, heard_s: float = 0.0) -> float:
        """How long it has trained, in all attempts; at most, if it has not begun to speak."""
        begun_s = self.begun_s if self.is_begun else max(self.begun_s, heard_s)
        return self.spent_s + now_s - begun_s

    def is_late(self, limit_s: float | None, now_s: float, heard_s: float = 0.0) -> bool:
        return limit_s is not None and self.trained_s(now_s, heard_s) > limit_s

    def pause(self, now_s: float) -> None:
        """The attempt is over; another will follow."""
        self.spent_s = self.trained_s(now_s)
        self.begun_s = now_s

    def should_stop(self, event: Report, metric: str) -> bool:
        """Takes in an epoch and tells Optuna; whether its pruner would stop the trial here.

        Of a trial whose momentum is profiled Optuna hears when the bank is scored, and not before:
        values of one momentum and of the best would not compare.
        """
        self.history[event.epoch] = event.metrics
        if event.bank:
            self.banks[event.epoch] = event.bank
        value = event.metrics.get(metric)
        if value is None or not math.isfinite(value) or event.epoch <= self.told:
            return False
        if self.spec.momenta and event.epoch not in self.spec.scored:
            return False
        self.trial.report(value, event.epoch)
        self.told = event.epoch
        if self.is_over(event) or not self.trial.should_prune():
            return False
        self.doomed = self.doomed or event.epoch
        return True

    def judged(self, event: Ended, study: StudySettings, now_s: float) -> Ended:
        """How it has ended, whatever its worker thinks.

        Without a finite value it has failed, and if it was too late. When a process that trained it
        has died it runs again, unless that has happened too often.
        """
        value = event.metrics.get(study.metric)
        if event.status == "complete" and (value is None or not math.isfinite(value)):
            return replace(event, status="failed", reason=f"{study.metric} is {value}")
        stopped = self.stopped_late and event.status == "failed"
        if stopped or (event.died and self.is_late(study.trial_timeout_s, now_s)):
            limit = f"it trained for longer than study.trial_timeout_s, {study.trial_timeout_s:g} s"
            return replace(event, status="failed", reason=limit)
        if not event.died:
            return event
        self.deaths += 1
        if self.deaths <= study.retries:
            return replace(event, reason=f"{event.reason}; it will run again")
        times = f", {self.deaths} times" if self.deaths > 1 else ""
        return replace(event, status="failed", reason=f"{event.reason}{times}")

    def save(self, event: Saved) -> Save:
        """What has to be known to go on after an epoch."""
        history = {epoch: m for epoch, m in self.history.items() if epoch <= event.epoch}
        banks = {epoch: bank for epoch, bank in self.banks.items() if epoch <= event.epoch}
        return Save(event.epoch, history, banks, event.state)

    def is_over(self, event: Report) -> bool:
        """Whether this was the last epoch."""
        return event.epoch >= self.spec.epochs

    def row(self, status: RowStatus) -> TrialRow:
        """What is known at the start."""
        number, seed, params = self.spec.number, self.spec.seed, self.spec.params
        return TrialRow(number, status, params, seed=seed, worker=self.worker, started=self.started)

    def final_row(self, status: RowStatus, event: Ended, metric: str) -> TrialRow:
        """What is known at the end. A failed trial has no value, whatever its metrics are."""
        value = event.metrics.get(metric, math.nan)
        history = dict(sorted(self.history.items()))
        last = self.banks[max(self.banks)] if self.banks else ()
        return replace(
            self.row(status),
            params={**self.spec.params, **event.found},
            momentum=MomentumCurve.of(self.spec.columns, last, event.precise),
            value=value if status != "failed" and math.isfinite(value) else None,
            metrics=dict(event.metrics),
            curve={
                e: m[metric] for e, m in history.items() if math.isfinite(m.get(metric, math.nan))
            },
            history=by_metric(history),
            seconds=event.seconds,
            reason=event.reason,
            doomed=self.doomed,
            arithmetic=event.arithmetic,
            finished=dt.datetime.now(),
        )


def by_metric(history: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each metric's values, one an epoch; NaN where an epoch lacks it."""
    names = dict.fromkeys(name for metrics in history.values() for name in metrics)
    return {name: [m.get(name, math.nan) for m in history.values()] for name in names}
