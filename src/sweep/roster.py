"""A roster: trials known beforehand, each trained once to its end, with nothing asked or pruned.

To executors it is a conductor. Confirmation and `rerun` train through it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from sweep.messages import (
    Ended,
    Event,
    Order,
    Quit,
    Ready,
    Report,
    Start,
    Stop,
    TrialSpec,
    Vitals,
    Wait,
    Watch,
)


class Roster:
    """Hands out `specs`; `watch` sees what passes, `ended` each trial that has come to its end.

    A trial whose worker dies is trained again, up to `retries` times, and then has failed. All are
    stopped after the epoch `stop_after`, if that is given.
    """

    def __init__(
        self,
        specs: Sequence[TrialSpec],
        watch: Watch,
        ended: Callable[[TrialSpec, Ended], None],
        retries: int = 2,
        stop_after: int | None = None,
    ) -> None:
        self._waiting = deque(specs)
        self._running: dict[int, tuple[str, TrialSpec]] = {}  # worker and spec by number
        self._begun: set[int] = set()  # of which their workers have said something
        self._deaths: Counter[int] = Counter()
        self._watch, self._tell, self._retries = watch, ended, retries
        self._stop_after = stop_after
        self._workers: set[str] = set()
        self.total, self.ended = len(specs), 0
        self.draining = self.halted = False
        self.failure: str | None = None

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        """Takes in what a worker has to say, answers what it shall do."""
        orders: list[Order] = []
        for event in events:
            if isinstance(event, Ready):
                orders += self._fill(worker, event.lanes)
                continue
            if isinstance(event, Vitals):
                self._watch(worker, event)
                continue
            holder, spec = self._running.get(event.trial, ("", None))
            if spec is None or holder != worker:
                continue  # given to another worker meanwhile
            self._begun.add(event.trial)
            if isinstance(event, Ended) and event.died:
                event = self._after_a_death(event)
            self._watch(worker, event)
            if isinstance(event, Report) and self.draining:
                orders.append(Stop(event.trial, "interrupted"))
            elif isinstance(event, Report) and event.epoch == self._stop_after:
                orders.append(Stop(event.trial, "pruned"))
            if isinstance(event, Ended):
                self._end(spec, event)
        if self.draining and any(isinstance(event, Report | Ended) for event in events):
            mine = (n for n, (holder, _) in self._running.items() if holder == worker)
            orders += [Stop(n, "interrupted") for n in mine if n not in self._begun]
        for order in orders:
            self._watch(worker, order)
        return orders

    def _fill(self, worker: str, lanes: int) -> list[Order]:
        self._workers.add(worker)
        share = -(-len(self._waiting) // len(self._workers))  # what is left is for all
        specs: list[TrialSpec] = []
        while self._waiting and len(specs) < min(lanes, share) and not self.draining:
            specs.append(self._waiting.popleft())
        self._running |= {spec.number: (worker, spec) for spec in specs}
        if any(holder == worker for holder, _ in self._running.values()):
            return [Start(spec, share) for spec in specs]
        return [Quit() if self.draining or not self._running else Wait()]

    def _end(self, spec: TrialSpec, event: Ended) -> None:
        del self._running[spec.number]
        self._begun.discard(spec.number)
        if event.status == "interrupted":
            self._waiting.appendleft(spec)
            return
        self.ended += 1
        self._tell(spec, event)

    def lost(self, worker: str, reason: str) -> None:
        """A worker died: the next free one trains what it had."""
        self._workers.discard(worker)
        for number in [n for n, (holder, _) in self._running.items() if holder == worker]:
            self.exchange(worker, [Ended(number, "interrupted", reason=reason, died=True)])

    def overdue(self, worker: str) -> str | None:
        """Trials known beforehand have no time limit."""
        return None

    def _after_a_death(self, event: Ended) -> Ended:
        self._deaths[event.trial] += 1
        if self._deaths[event.trial] <= self._retries:
            return replace(event, reason=f"{event.reason}; it will run again")
        return replace(event, status="failed")

    def flush(self) -> None:
        """Nothing is held back: `ended` is called at once."""

    def drain(self) -> None:
        """Starts nothing more; running trials stop at their next report."""
        self.draining = True

    def halt(self) -> None:
        """Stops now: executors end their workers."""
        self.draining = self.halted = True
