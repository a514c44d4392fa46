"""Studies for tests: small plans, and a bench where a test speaks for the workers."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sweep.conductor import Conductor
from sweep.config import Plan, make_plan
from sweep.executors import EXECUTORS
from sweep.messages import MOMENTUM, Ended, Event, Order, Ready, Report, Start, Stop, TrialSpec
from sweep.record import Record
from sweep.results import ResultSet, RowStatus, TrialRow

EPOCHS = 4
T = TypeVar("T")
Watch = Callable[[Conductor, Event | Order], None]


def plan(folder: Path, *overrides: str) -> Plan:
    """Eight random trials of four epochs, not pruned and not confirmed, but for the overrides."""
    composed = _composed(*overrides)
    resolved = {**composed.resolved, "study": {**composed.resolved["study"], "folder": str(folder)}}
    return replace(composed, study=replace(composed.study, folder=str(folder)), resolved=resolved)


@cache
def _composed(*overrides: str) -> Plan:
    usual = ("executor=inline", "sampler=random", "pruner=none", "confirm.seeds=0")
    epochs = f"trainer.max_epochs={EPOCHS}"
    return make_plan(["+study=synthetic", *usual, epochs, *overrides])


def score(params: Mapping[str, object]) -> float:
    """What a trial reaches in the end: best at dropout 0.3."""
    dropout = params["model.dropout"]
    assert isinstance(dropout, float)
    return 0.9 - (dropout - 0.3) ** 2


def report(spec: TrialSpec, epoch: int, value: float) -> Report:
    """One epoch, with a bank where a worker would score it: best at the third momentum."""
    bank = [value - abs(2 - place) / 1000 for place in range(len(spec.columns))]
    scored = epoch in spec.scored
    return Report(spec.number, epoch, metrics(value), tuple(bank) if scored else ())


def found(spec: TrialSpec) -> dict[str, float | None]:
    """The momentum that training finds by itself."""
    return {MOMENTUM: spec.momenta[2]} if spec.momenta else {}


def metrics(value: float) -> dict[str, float]:
    return {"val_accuracy": value, "val_nll": 1 - value, "val_ece": 0.1, "train_loss": 2 - value}


class Bench:
    """One conductor on one record, with a clock that a test sets. No processes, no tensors."""

    def __init__(self, plan: Plan) -> None:
        self.now_s = 0.0
        self.seen: list[tuple[str, Event | Order]] = []
        self.record = Record(plan, "python -m sweep +study=synthetic")
        self.record.describe()
        self.conductor = Conductor(
            plan, self.record, lambda *passed: self.seen.append(passed), lambda: self.now_s
        )

    def say(self, worker: str, *events: Event) -> list[Order]:
        orders = self.conductor.exchange(worker, events)
        self.conductor.flush()
        return orders

    def lose(self, worker: str, reason: str = "worker died") -> None:
        self.conductor.lost(worker, reason)
        self.conductor.flush()

    def ask(self, worker: str = "a", lanes: int = 1) -> list[TrialSpec]:
        """What a worker with free lanes is given to train."""
        orders = self.say(worker, Ready(lanes))
        return [order.spec for order in orders if isinstance(order, Start)]

    def train(self, spec: TrialSpec, worker: str = "a", epochs: int = EPOCHS) -> list[Order]:
        """Reports the first epochs of a trial; stops early if it is told to."""
        for epoch in range(1, epochs + 1):
            value = score(spec.params) * epoch / EPOCHS
            if orders := self.say(worker, report(spec, epoch, value)):
                return orders
        return []

    def finish(self, spec: TrialSpec, worker: str = "a") -> None:
        """Trains a trial to its end, or until it is stopped."""
        orders = self.train(spec, worker)
        status = next((order.status for order in orders if isinstance(order, Stop)), "complete")
        checkpoint = f"trial {spec.number}".encode()
        end = metrics(score(spec.params))
        last = Ended(spec.number, status, end, 1.0, checkpoint=checkpoint, found=found(spec))
        self.say(worker, last)

    def run(self, trials: int = 10**6, worker: str = "a") -> list[TrialSpec]:
        """Trains one after the other as a single worker does; returns what was trained."""
        done: list[TrialSpec] = []
        while len(done) < trials and (specs := self.ask(worker)):
            self.finish(specs[0], worker)
            done += specs
        return done

    @property
    def rows(self) -> Sequence[TrialRow]:
        return self.results.trials

    @property
    def results(self) -> ResultSet:
        return self.record.results()

    def crash(self) -> None:
        """What `kill -9` leaves: nothing is set aside, and the lock falls."""
        self.record.close()

    def close(self) -> None:
        self.conductor.close()
        self.record.close()


def run(plan: Plan, watch: Watch | None = None) -> list[TrialRow]:
    """Trains with an inline worker, and `watch` looking on; what is recorded afterwards."""
    record = Record(plan)
    record.describe()

    def look(worker: str, message: Event | Order) -> None:
        if watch is not None:
            watch(conductor, message)

    conductor = Conductor(plan, record, look)
    try:
        EXECUTORS["inline"](conductor, plan)
    finally:
        conductor.close()
        rows = list(record.results().trials)
        record.close()
    return rows


@contextmanager
def bench(plan: Plan) -> Iterator[Bench]:
    opened = Bench(plan)
    try:
        yield opened
    finally:
        opened.close()


def row(number: int, status: RowStatus = "complete", **changes: Any) -> TrialRow:
    """A trial as the conductor would record it."""
    started = dt.datetime(2024, 2, 29, 12, 0, 0, 123456)
    params = {"model.dropout": 0.1 + number / 100, "model.bn_momentum": 0.1}
    ended = TrialRow(
        number,
        status,
        params,
        value=0.9,
        metrics=metrics(0.9),
        curve={1: 0.5, 2: 0.9},
        history={"val_accuracy": [0.5, 0.9], "train_loss": [2.0, 1.1]},
        seed=2**62 + number,
        seconds=1.5,
        worker="worker-0",
        started=started,
        finished=started + dt.timedelta(seconds=2),
    )
    return replace(ended, **changes)


def wait_for(happened: Callable[[], T], within_s: float = 90.0) -> T:
    """What `happened` returns as soon as it is true; fails if that never comes."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        if found := happened():
            return found
        time.sleep(0.2)  # between two looks; nothing depends on how long
    raise AssertionError(f"did not happen within {within_s:g} s: {happened}")


def children(pid: int) -> set[int]:
    """Living workers that this process started.

    Told by their command lines: between its fork and its exec a child has its parent's.
    """
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            line = (stat.parent / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if int(parent) == pid and state != "Z" and b"spawn_main" in line:
            found.add(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether it still runs; a process that has ended and was not waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def on_one_core() -> None:
    """So that there is one worker, of one thread; tests side by side have a core each."""
    cores = sorted(os.sched_getaffinity(0))
    beside = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {cores[beside % len(cores)]})
