"""Local: spawned processes on this machine, each with its own device.

Each process has one pipe: up it goes a list of events, down it comes a list of orders. A pipe that
closes before its worker was told to quit is a worker that died.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.executors.child import Job, serve
from sweep.executors.crew import Crew, Gone
from sweep.executors.places import places_of
from sweep.messages import Conducting, Event, Order
from sweep.processes import how_it_died, without_ctrl_c

if TYPE_CHECKING:
    from sweep.config import Plan

_GRACE_S = 5.0  # between TERM and KILL


def run_local(conductor: Conducting, plan: Plan) -> None:
    """Carries messages until every worker has quit, or the conductor says halt.

    Errors: ConfigError if a device is not there; StudyError when no worker could say a word.
    """
    Crew(conductor, Machine(plan), plan.executor.silence_s).work()


class Machine:
    """This machine: a worker for each of its places."""

    def __init__(self, plan: Plan) -> None:
        self._logs, study, lanes = plan.folder / "logs", plan.study, plan.executor.lanes
        found = places_of(plan)
        self._jobs = {
            f"worker-{i}": Job(f"worker-{i}", study.metric, study.direction, lanes, place)
            for i, place in enumerate(found)
        }

    def names(self) -> Sequence[str]:
        return list(self._jobs)

    def start(self, name: str) -> Child:
        return Child(self._jobs[name], self._log(name))

    def listen(self, links: Sequence[Child], timeout_s: float) -> Sequence[Child]:
        children = {child.pipe: child for child in links}
        ready = connection.wait(list(children), timeout_s)
        return [children[pipe] for pipe in ready]  # type: ignore[index]

    def last_words(self, name: str) -> str:
        return last_line(self._log(name))

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"


class Child:
    """A process that trains, and this side's end of its pipe."""

    def __init__(self, job: Job, log: Path) -> None:
        context = get_context("spawn")
        self.name = job.name
        self.pipe, theirs = context.Pipe()
        # No daemon, or it could not start processes: data loaders, or one a GPU.
        self._process = context.Process(target=serve, args=(job, str(log), theirs), name=job.name)
        with without_ctrl_c():
            self._process.start()
        theirs.close()  # so that the pipe closes with the process

    def is_placed(self) -> bool:
        return True

    def hear(self) -> Sequence[Event]:
        try:
            return self.pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            raise Gone from None

    def tell(self, orders: Sequence[Order]) -> None:
        try:
            self.pipe.send(orders)
        except OSError:
            raise Gone from None

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def bury(self) -> str:
        connection.wait([self._process.sentinel], _GRACE_S)
        self._signal(signal.SIGKILL)
        self._process.join()
        self.pipe.close()
        return how_it_died(self._process.exitcode)

    def _signal(self, number: signal.Signals) -> None:
        """To its group, and to itself: a young process has no group yet.

        It has not been waited for, so its number is still its own.
        """
        assert self._process.pid is not None
        for send in (os.killpg, os.kill):
            with suppress(ProcessLookupError):
                send(self._process.pid, number)


def last_line(log: Path) -> str:
    """What a dead worker said last, and where."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    line = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{line}; see {log}"
