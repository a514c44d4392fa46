"""The conductor: asks for parameters, hands out trials, prunes, and decides how they end.

It knows no processes and no tensors. An executor carries `exchange` to the workers, and calls
`flush` when they have their orders and train again: what goes to the disk is written then.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from sweep.asking import Asker
from sweep.config import Plan
from sweep.errors import StudyError
from sweep.experiment import planned
from sweep.messages import (
    Ended,
    Event,
    Order,
    Quit,
    Ready,
    Report,
    Saved,
    Start,
    Stop,
    Vitals,
    Wait,
    Watch,
)
from sweep.record import Record
from sweep.running import Running
from sweep.scribe import Scribe
from sweep.store import STATES
from sweep.strategies import is_control
from sweep.tally import Tally
from sweep.tensorboard import Board

_LATE_S = 60.0  # at most, from a trial's time limit to the end of a worker that says nothing of it


class Conductor:
    """One study from its first ask to its last tell.

    `watch` sees every event and order as it passes (the terminal listens there). `clock` counts
    seconds and never jumps; dates in the record come from the calendar.
    """

    def __init__(
        self, plan: Plan, record: Record, watch: Watch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._watch, self._clock = plan, watch, clock
        study = plan.study
        board = Board(record.folder / "tensorboard", {d.key: d for d in plan.search}, study.metric)
        distributions = {d.key: d.distribution() for d in plan.search}
        self._asker = Asker(plan)
        self._scribe = Scribe(record, board, distributions, clock)
        self._saves = record.saves
        self.total = planned(plan)
        self._first_s = math.inf  # when the first worker was ready: from then on time counts
        self._running: dict[int, Running] = {}
        self._workers: set[str] = set()  # that have asked for trials
        self._heard: dict[str, float] = {}  # when each last said something of a trial
        self._again: deque[Running] = deque()  # started, cut short, to be started again
        self._tally = Tally(study.direction)
        self.draining = False  # nothing more is started
        self.halted = False  # executors look here, and end their workers
        self.failure: str | None = None  # why the study cannot go on
        self._resume(record)

    def _resume(self, record: Record) -> None:
        """Takes in what is recorded; what was cut short is asked for first."""
        for trial in record.store.trials():
            self._asker.recall(trial)
            if trial.state.is_finished():
                self._tally.take(trial.number, trial.state, trial.value)

    @property
    def ended(self) -> int:
        """How many trials have ended and count towards the total."""
        return self._tally.ended

    @property
    def is_out_of_time(self) -> bool:
        """Whether `study.timeout_s` is over, so that no trial starts any more."""
        limit_s = self._plan.study.timeout_s
        return limit_s is not None and self._clock() - self._first_s > limit_s

    # Called by executors -------------------------------------------------------------------------

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        """Takes in what a worker has to say, answers what it shall do; writes nothing yet."""
        orders: list[Order] = []
        for event in events:
            if isinstance(event, Ready):
                self._watch(worker, event)
                orders += self._fill(worker, event.lanes)
                continue
            if isinstance(event, Vitals):
                self._watch(worker, event)
                self._scribe.vitals(worker, event, self.ended)
                continue
            running = self._running.get(event.trial)
            if running is None or running.worker != worker:
                # Given to another worker meanwhile: what this one says of it counts no more.
                orders += [Stop(event.trial, "interrupted")] if isinstance(event, Report) else []
                continue
            running.begin(self._heard.get(worker, 0.0))
            if isinstance(event, Ended):
                event = running.judged(event, self._plan.study, self._clock())
            self._watch(worker, event)
            match event:
                case Report():
                    orders += self._report(running, event)
                case Saved():
                    self._scribe.save(event.trial, running.save(event))
                case Ended():
                    self._end(running, event)
        if any(isinstance(event, Report | Ended) for event in events):
            self._heard[worker] = self._clock()
            orders += self._give_back(worker) if self.draining else []
        for order in orders:
            self._watch(worker, order)
        return orders

    def lost(self, worker: str, reason: str) -> None:
        """A worker died: its trials are tried again by the next free one, up to `study.retries`."""
        self._workers.discard(worker)
        self._heard.pop(worker, None)
        self._scribe.forget(worker)
        for number in [n for n, r in self._running.items() if r.worker == worker]:
            self.exchange(worker, [Ended(number, "interrupted", reason=reason, died=True)])

    def overdue(self, worker: str) -> str | None:
        """Why a worker has to be ended: a trial of its is late, and it does not come to report."""
        limit_s = self._plan.study.trial_timeout_s or math.inf
        patience_s, now_s = limit_s + min(limit_s, _LATE_S), self._clock()
        heard_s = self._heard.get(worker, 0.0)
        mine = (r for r in self._running.values() if r.worker == worker)
        late = next((r.spec.number for r in mine if r.is_late(patience_s, now_s, heard_s)), None)
        return None if late is None else f"trial {late} is beyond study.trial_timeout_s"

    def flush(self, last: bool = False) -> None:
        """Writes what has happened since the last flush. A disk that is full stops the study."""
        try:
            self._scribe.flush(last)
        except StudyError as error:
            self.failure = str(error)
            self.halt()

    def drain(self) -> None:
        """Starts nothing more; running trials stop at their next report and wait to be resumed."""
        self.draining = True

    def halt(self) -> None:
        """Stops now: executors end their workers, and what was running waits to be resumed."""
        self.draining = self.halted = True

    def close(self) -> None:
        """Leaves nothing marked as running."""
        for running in [*self._running.values(), *self._again]:
            self._scribe.set_aside(running.spec.number)
        self.flush(last=True)

    # Starting ------------------------------------------------------------------------------------

    def _fill(self, worker: str, lanes: int) -> list[Order]:
        orders: list[Order] = []
        mine = [r for r in self._running.values() if r.worker == worker]
        self._workers.add(worker)
        self._first_s = min(self._first_s, self._clock())
        share = math.ceil(self._open_places() / len(self._workers))  # what is left is for all
        while len(orders) < min(lanes, share) and (running := self._next(mine)):
            mine.append(running)
            orders.append(self._start(running, worker, share))
        if mine:
            return orders
        return [Quit() if self.draining or not self._running else Wait()]

    def _start(self, running: Running, worker: str, share: int) -> Start:
        number = running.spec.number
        saved = self._saves.read(number)
        running.start(worker, self._tally.best, saved, self._plan.study.metric)
        running.begun_s = self._clock()
        self._running[number] = running
        self._scribe.start(running.row("running"), self._asker.notes(number), running.history)
        return Start(running.spec, share)

    def _open_places(self) -> int:
        """How many trials are still to be started, or started again."""
        return self.total - self.ended - len(self._running)

    def _next(self, mine: Sequence[Running]) -> Running | None:
        """What a worker that has these trials starts next; None if nothing, or not now."""
        if self.draining or any(map(self._is_suspect, mine)):
            return None
        if self._again and not (mine and self._is_suspect(self._again[0])):
            return self._again.popleft()
        if self._open_places() <= len(self._again) or self.is_out_of_time:
            return None
        return self._asker.ask()

    def _is_suspect(self, running: Running) -> bool:
        """A trial makes its last attempt alone: it fails for its own sins, and harms nobody."""
        return 0 < running.deaths >= self._plan.study.retries

    # Training ------------------------------------------------------------------------------------

    def _report(self, running: Running, event: Report) -> list[Order]:
        self._scribe.report(event)
        study = self._plan.study
        prune = running.should_stop(event, study.metric)  # control trials are measured by it too
        if running.is_late(study.trial_timeout_s, self._clock()) and not running.is_over(event):
            running.stopped_late = True
            return [Stop(event.trial, "failed")]
        if self.draining and not running.is_over(event):
            return [Stop(event.trial, "interrupted")]
        if prune and not is_control(study.seed, event.trial, self._plan.pruner.control):
            return [Stop(event.trial, "pruned")]
        return []

    def _give_back(self, worker: str) -> list[Order]:
        """Nothing more is to start: not those either that a worker has and has not begun."""
        mine = (r for r in self._running.values() if r.worker == worker and not r.is_begun)
        return [Stop(r.spec.number, "interrupted") for r in mine]

    # Ending --------------------------------------------------------------------------------------

    def _end(self, running: Running, event: Ended) -> None:
        del self._running[event.trial]
        if event.status == "interrupted":
            running.pause(self._clock())
            self._again.append(running)
            return
        state = STATES[event.status]
        row = running.final_row(event.status, event, self._plan.study.metric)
        value = row.value if event.status == "complete" else None
        notes = self._asker.tell(running, value, state)
        if self._tally.take(event.trial, state, value) and event.checkpoint is not None:
            self._scribe.best(event.trial, event.checkpoint)
        self._scribe.end(row, event, notes)
        self._scribe.progress(self.ended, self._tally.best)
        self._stop_if_hopeless(event)

    def _stop_if_hopeless(self, event: Ended) -> None:
        enough = min(self._plan.study.max_failures, self.total)
        if self.ended == self._tally.failed >= enough:
            self.failure = (
                f"all of the first {self.ended} trials failed, the last with: {event.reason}; see "
                f"{self._plan.folder / 'logs'}"
            )
            self.drain()
