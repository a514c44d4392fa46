"""The conductor: asks for parameters, hands out trials, prunes, and records how they end.

It knows no processes and no tensors. An executor carries `exchange` to the workers, and calls `flush`
when a worker has its orders and trains again: what is written to the disk is written then.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from dropnorm.seeds import derive
from sweep.config import Plan
from sweep.messages import Ended, Event, Order, Quit, Ready, Report, Start, Stop, TrialSpec, Wait
from sweep.record import Record
from sweep.space import write_params
from sweep.store import STATES
from sweep.strategies import design, is_control, make_pruner, make_sampler
from sweep.tensorboard import Board

log = logging.getLogger(__name__)

Watch = Callable[[str, Event | Order], None]


@dataclass
class Running:
    """A trial that has been asked for and has not ended."""

    spec: TrialSpec
    trial: Trial
    worker: str = ""
    started_s: float = 0.0  # Unix time
    attempts: int = 0
    reported: int = 0  # the last epoch that Optuna has heard of, over all attempts
    history: list[Mapping[str, float]] = field(default_factory=list)


class Conductor:
    """One study from its first ask to its last tell.

    `watch` sees every event and order as it passes (the terminal listens there). `clock` counts
    seconds and never jumps; dates in the record come from the calendar.
    """

    def __init__(
        self, plan: Plan, record: Record, watch: Watch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._record, self._watch, self._clock = plan, record, watch, clock
        study = plan.study
        self._space = {d.key: d.distribution() for d in plan.search}
        self._board = Board(
            record.folder / "tensorboard", {d.key: d for d in plan.search}, study.metric
        )
        self._design = design(plan.sampler, plan.search, study.trials, derive(study.seed, "design"))
        self.total = study.trials if self._design is None else len(self._design)
        self._study = optuna.create_study(
            direction=study.direction,
            pruner=make_pruner(plan.pruner, plan.trial["trainer"]["max_epochs"]),
        )
        self._deadline = math.inf if study.timeout_s is None else clock() + study.timeout_s
        self._running: dict[int, Running] = {}
        self._retry: deque[Running] = deque()
        self._writes: deque[Callable[[], None]] = deque()
        self._table_written_s = -math.inf
        self._draining = False
        self.halted = False  # executors look here, and end their workers
        self.failure: str | None = None  # why the study cannot go on
        self._resume()

    def _resume(self) -> None:
        """Optuna's live study is in memory: tell it what is recorded, queue what was cut short."""
        recorded = self._record.store.trials()
        self._waiting = deque(t.number for t in recorded if not t.state.is_finished())
        for trial in recorded:
            if trial.state.is_finished():
                self._study.add_trial(trial)
            else:
                self._study.enqueue_trial(trial.params)
        self._asked = len(recorded)
        self._ended_states = [t.state for t in recorded if t.state.is_finished()]
        best = self._record.results().best
        self._best: float | None = best.value if best else None

    # Called by executors -------------------------------------------------------------------------

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        """Takes in what a worker has to say, answers what it shall do; writes nothing yet."""
        orders: list[Order] = []
        for event in map(self._judged, events):
            self._watch(worker, event)
            match event:
                case Report():
                    orders += self._report(event)
                case Ended():
                    self._end(event)
                case Ready(lanes=lanes):
                    orders += self._fill(worker, lanes)
        for order in orders:
            self._watch(worker, order)
        return orders

    def lost(self, worker: str, reason: str) -> None:
        """A worker died: its trials are tried again by the next free one, up to `study.retries`."""
        for running in [r for r in self._running.values() if r.worker == worker]:
            running.attempts += 1
            number = running.spec.number
            if running.attempts > self._plan.study.retries:
                reason = f"{reason}, {running.attempts} times"
                self.exchange(worker, [Ended(number, "failed", reason=reason)])
            else:
                log.warning("trial %d: %s; it will run again", number, reason)
                self._retry.append(self._running.pop(number))

    def flush(self) -> None:
        """Writes what has happened since the last flush."""
        while self._writes:
            self._writes.popleft()()
        if self._clock() - self._table_written_s > 2:
            self._record.write_table()
            self._table_written_s = self._clock()

    def drain(self) -> None:
        """Starts nothing more; running trials stop at their next report and wait to be resumed."""
        self._draining = True

    def halt(self) -> None:
        """Stops now: executors end their workers, and what was running waits to be resumed."""
        self._draining = self.halted = True

    def close(self) -> None:
        """Leaves nothing marked as running."""
        for running in [*self._running.values(), *self._retry]:
            self._set_aside(running)
        self._table_written_s = -math.inf
        self.flush()

    @property
    def ended(self) -> int:
        """How many trials have ended and count towards the total."""
        return len(self._ended_states)

    # Starting ------------------------------------------------------------------------------------

    def _fill(self, worker: str, lanes: int) -> list[Order]:
        orders: list[Order] = []
        while len(orders) < lanes and (running := self._next()):
            running.worker, running.started_s = worker, time.time()
            running.history.clear()
            running.spec = replace(running.spec, best=self._best)
            self._running[running.spec.number] = running
            self._writes.append(lambda r=running: self._write_start(r))  # type: ignore[misc]
            orders.append(Start(running.spec))
        if orders or any(r.worker == worker for r in self._running.values()):
            return orders
        return [Quit() if self._draining or not self._running else Wait()]

    def _next(self) -> Running | None:
        if self._draining:
            return None
        if self._retry:
            return self._retry.popleft()
        left = len(self._waiting) + max(self.total - self._asked, 0)
        if left == 0 or self._clock() > self._deadline:
            return None
        return self._ask()

    def _ask(self) -> Running:
        study = self._plan.study
        if self._waiting:
            number = self._waiting.popleft()
        else:
            number, self._asked = self._asked, self._asked + 1
            if self._design is not None:
                self._study.enqueue_trial(self._design[number])
        self._study.sampler = make_sampler(
            self._plan.sampler, derive(study.seed, "sampler", number)
        )
        trial = self._study.ask(self._space)
        config = write_params(self._plan.trial, trial.params)
        seed = derive(study.seed, "trial", number)
        return Running(TrialSpec(number, seed, trial.params, config), trial)

    def _write_start(self, running: Running) -> None:
        spec = running.spec
        self._board.start(spec.number)
        self._record.store.begin(spec.number, spec.params, self._space, spec.seed)

    # Training ------------------------------------------------------------------------------------

    def _report(self, event: Report) -> list[Order]:
        running = self._running.get(event.trial)
        if running is None:
            return []
        running.history.append(event.metrics)
        self._writes.append(lambda: self._board.report(event.trial, event.epoch, event.metrics))
        if self._draining:
            return [Stop(event.trial, "interrupted")]
        return [Stop(event.trial, "pruned")] if self._prune(running, event) else []

    def _prune(self, running: Running, event: Report) -> bool:
        value = event.metrics.get(self._plan.study.metric)
        if value is None or not math.isfinite(value) or event.epoch <= running.reported:
            return False
        running.trial.report(value, event.epoch)
        running.reported = event.epoch
        if event.epoch >= running.spec.config["trainer"]["max_epochs"]:
            return False
        control = self._plan.pruner.control
        if is_control(self._plan.study.seed, event.trial, control):
            return False
        return running.trial.should_prune()

    # Ending --------------------------------------------------------------------------------------

    def _end(self, event: Ended) -> None:
        running = self._running.pop(event.trial, None)
        if running is None:  # already recorded, or given to another worker
            return
        if event.status == "interrupted":
            self._set_aside(running)
            return
        value = event.metrics.get(self._plan.study.metric)
        state = STATES[event.status]
        self._study.tell(
            running.trial, value if state is TrialState.COMPLETE else None, state=state
        )
        self._ended_states.append(state)
        if state is TrialState.COMPLETE and value is not None and self._improves(value):
            self._best = value
            if event.checkpoint is not None:
                self._writes.append(lambda c=event.checkpoint: self._record.keep_checkpoint(c))
        ended, best = self.ended, self._best
        self._writes.append(lambda: self._write_end(running, event, value))
        self._writes.append(lambda: self._board.study(ended, best))
        self._stop_if_hopeless(event)

    def _judged(self, event: Event) -> Event:
        """A trial without a finite value has failed, whatever its worker thinks."""
        if not isinstance(event, Ended) or event.status != "complete":
            return event
        value = event.metrics.get(self._plan.study.metric)
        if value is not None and math.isfinite(value):
            return event
        return replace(event, status="failed", reason=f"{self._plan.study.metric} is {value}")

    def _improves(self, value: float) -> bool:
        if self._best is None:
            return True
        return value > self._best if self._plan.study.direction == "maximize" else value < self._best

    def _stop_if_hopeless(self, event: Ended) -> None:
        limit = self._plan.study.max_failures
        if len(self._ended_states) >= limit and set(self._ended_states) == {TrialState.FAIL}:
            self.failure = (
                f"all of the first {len(self._ended_states)} trials failed, the last with: {event.reason}"
            )
            self.drain()

    def _write_end(self, running: Running, event: Ended, value: float | None) -> None:
        spec = running.spec
        assert event.status != "interrupted"
        # The table's row comes before the record: after a crash between the two the trial runs
        # again, while the other way round the row would never be written.
        self._board.end(
            spec.number, spec.params, event.status, event.metrics, running.started_s, time.time()
        )
        self._record.store.finish(
            spec.number, event.status, value, self._curve(running), self._attributes(running, event)
        )

    def _curve(self, running: Running) -> dict[int, float]:
        metric = self._plan.study.metric
        return {i: m[metric] for i, m in enumerate(running.history, 1) if metric in m}

    def _attributes(self, running: Running, event: Ended) -> dict[str, Any]:
        names = dict.fromkeys(name for metrics in running.history for name in metrics)
        history = {name: [m.get(name, math.nan) for m in running.history] for name in names}
        attributes = {
            "metrics": dict(event.metrics),
            "history": history,
            "seconds": event.seconds,
            "worker": running.worker,
            "reason": event.reason,
        }
        return {key: value for key, value in attributes.items() if value is not None}

    def _set_aside(self, running: Running) -> None:
        """Back to waiting: the same command starts it again, with the same number and seed."""
        number = running.spec.number
        self._writes.append(lambda: self._record.store.finish(number, "interrupted", None, {}, {}))
