"""What one conductor can do: trials recorded a second, and how many workers it keeps busy.

    python -m tests.benchmarks.bench_conductor

Conductor, record and disk are real; the workers are numbers. An instant model shows what recording
costs. Then workers sleep through epochs of a second in simulated time, in which only the
conductor's own work takes as long as it really takes: one that is not answered yet stands idle.
"""

from __future__ import annotations

import heapq
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sweep.config import Plan
from sweep.messages import Ended, Event, Order, Ready, Start, TrialSpec, Wait
from tests.studies import EPOCHS, Bench, bench, found, metrics, plan, report, score

INSTANT_TRIALS = 400
EPOCH_S, LONG = 1.0, 10  # seconds an epoch, epochs a trial
BEGIN_S, END_S = 10.0, 40.0  # workers come until then; what follows is measured
CREWS = (
    (1, 1),
    (8, 1),
    (64, 1),
    (256, 1),
    (1000, 1),
    (2000, 1),
    (8, 16),
    (64, 16),
)  # workers, lanes
ASKED = 10**6


def study(folder: str, sampler: str, trials: int, epochs: int) -> Plan:
    return plan(
        Path(folder), f"sampler={sampler}", f"study.trials={trials}", f"trainer.max_epochs={epochs}"
    )


def instant(sampler: str) -> float:
    """Trials a second, each recorded before the next starts."""
    with tempfile.TemporaryDirectory() as folder:
        with bench(study(folder, sampler, INSTANT_TRIALS, EPOCHS)) as desk:
            start_s = time.perf_counter()
            done = len(desk.run())
            return done / (time.perf_counter() - start_s)


class Sleeper:
    """A worker of some lanes that trains nothing, epoch after epoch."""

    def __init__(self, number: int, lanes: int) -> None:
        self.name, self._lanes = f"worker-{number}", lanes
        self._epochs: dict[int, int] = {}  # done, by trial
        self._specs: dict[int, TrialSpec] = {}
        self._draw = random.Random(number)
        self._slept_s = (0.0, 0.0)  # from, until

    def obey(self, orders: Sequence[Order], now_s: float) -> float:
        """Takes orders; returns when it speaks again."""
        for order in orders:
            if isinstance(order, Start):
                self._epochs[order.spec.number] = 0
                self._specs[order.spec.number] = order.spec
            elif isinstance(order, Wait):
                return now_s + order.seconds
        until_s = now_s + EPOCH_S * self._draw.uniform(0.9, 1.1)
        self._slept_s = (now_s, until_s)
        return until_s

    def slept_s(self) -> float:
        """How much of its last epoch lies in the time that is measured."""
        since_s, until_s = self._slept_s
        return max(0.0, min(until_s, END_S) - max(since_s, BEGIN_S))

    def speak(self) -> list[Event]:
        """An epoch of every lane, and the next trials into those that are free."""
        events: list[Event] = []
        for trial, done in [*self._epochs.items()]:
            spec = self._specs[trial]
            value = score(spec.params)
            self._epochs[trial] = done + 1
            events.append(report(spec, done + 1, value * (done + 1) / LONG))
            if done + 1 == LONG:
                del self._epochs[trial], self._specs[trial]
                seconds, best = LONG * EPOCH_S, found(spec)
                events.append(Ended(trial, "complete", metrics(value), seconds, found=best))
        free = self._lanes - len(self._epochs)
        return [*events, Ready(free)] if free else events


def simulate(desk: Bench, workers: int, lanes: int) -> tuple[float, float, float]:
    """(share of their time that the workers train, share that the conductor works, trials a s)."""
    turn = itertools.count()  # of equals, who came first is served first
    queue = [(BEGIN_S * i / workers, next(turn), Sleeper(i, lanes)) for i in range(workers)]
    now_s = slept_s = worked_s = 0.0
    ended = 0
    while (now_s := max(now_s, queue[0][0])) < END_S:
        woken_s = now_s
        while queue[0][0] <= woken_s:
            _, _, worker = heapq.heappop(queue)
            slept_s += worker.slept_s()
            events = worker.speak()
            start_s = time.perf_counter()
            orders = desk.conductor.exchange(worker.name, events)
            now_s += time.perf_counter() - start_s
            heapq.heappush(queue, (worker.obey(orders, now_s), next(turn), worker))
            ended += sum(isinstance(event, Ended) for event in events) if now_s > BEGIN_S else 0
        start_s = time.perf_counter()
        desk.conductor.flush()
        now_s += time.perf_counter() - start_s
        worked_s += now_s - max(woken_s, BEGIN_S) if now_s > BEGIN_S else 0.0
    slept_s += sum(worker.slept_s() for _, _, worker in queue)
    span_s = END_S - BEGIN_S
    return slept_s / (workers * span_s), worked_s / span_s, ended / span_s


def main() -> None:
    print(f"instant model, {EPOCHS} epochs, one at a time: durable trials a second")
    for sampler in ("random", "tpe"):
        print(f"  {sampler:<8} {instant(sampler):>6.0f}", flush=True)
    print(f"sleeping workers, {EPOCH_S:g} s an epoch, {LONG} epochs a trial, random sampler")
    print(f"{'workers':>9} {'lanes':>6} {'busy':>7} {'conductor':>10} {'trials/s':>9}")
    for workers, lanes in CREWS:
        with tempfile.TemporaryDirectory() as folder:
            with bench(study(folder, "random", ASKED, LONG)) as desk:
                busy, conductor, rate = simulate(desk, workers, lanes)
        print(f"{workers:>9} {lanes:>6} {busy:>7.1%} {conductor:>10.1%} {rate:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
