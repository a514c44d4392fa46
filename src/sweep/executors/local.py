"""Local: spawned processes on this machine, one a GPU, or one a core.

Each process has one pipe: up it goes a list of events, down it comes a list of orders. A pipe that
closes before its worker was told to quit is a worker that died; another takes its place.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.errors import StudyError
from sweep.executors.child import Job, serve
from sweep.messages import Quit
from sweep.schema import ExecutorSettings

_MOST_ON_CPU = 16  # workers of half a gigabyte each
_TICK_S = 0.3  # how often the loop looks up from the pipes, for signals
_GRACE_S = 5.0  # between TERM and KILL


def run_local(conductor: Conductor, plan: Plan) -> None:
    """Carries messages until every worker has quit, or the conductor says halt.

    Errors: StudyError when a worker dies before it has said a word; its log says why.
    """
    count, gpus = placement(plan.executor)
    count = min(count, conductor.total - conductor.ended)
    workers = [Worker(job) for job in _jobs(plan, count, gpus)]
    try:
        while workers and not conductor.halted:
            pipes = {worker.pipe: worker for worker in workers}
            for pipe in connection.wait(list(pipes), timeout=_TICK_S):
                worker = pipes[pipe]  # type: ignore[index]
                if worker.converse(conductor):
                    continue
                workers.remove(worker)
                if not worker.dismissed:
                    workers.append(worker.replaced(conductor))
    finally:
        for worker in workers:
            worker.end()


def placement(executor: ExecutorSettings) -> tuple[int, int]:
    """(workers, GPUs to spread them over). Counted without CUDA, which belongs to the workers."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else list(Path("/dev").glob("nvidia[0-9]*"))
    gpus = len(devices) if visible != "" else 0
    if executor.devices != "auto":
        return executor.devices, gpus
    # Small products use two cores badly: two workers of one thread each train 1.6 times as many
    # trials as one of two threads, and unlike OpenMP's threads they do not wait for each other.
    return gpus or min(len(os.sched_getaffinity(0)), _MOST_ON_CPU), gpus


def _jobs(plan: Plan, count: int, gpus: int) -> list[Job]:
    return [
        Job(
            name=f"worker-{i}",
            log=str(plan.folder / "logs" / f"worker-{i}.log"),
            metric=plan.study.metric,
            direction=plan.study.direction,
            threads=max(1, len(os.sched_getaffinity(0)) // count),
            gpu=i % gpus if gpus else None,
        )
        for i in range(count)
    ]


class Worker:
    """A process that trains, and this side's end of its pipe."""

    def __init__(self, job: Job) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.dismissed = False
        self._spoke = False
        self._job = job
        self._process: SpawnProcess = context.Process(
            target=serve, args=(job, theirs), name=job.name, daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe closes with the process

    def converse(self, conductor: Conductor) -> bool:
        """One message up, one answer down, then the writing. False once the pipe has closed."""
        try:
            orders = conductor.exchange(self._job.name, self.pipe.recv())
            self._spoke = True
            self.dismissed = any(isinstance(order, Quit) for order in orders)
            self.pipe.send(orders)
        except (EOFError, OSError):
            return False
        conductor.flush()
        return True

    def replaced(self, conductor: Conductor) -> Worker:
        """A fresh worker in this dead one's place; its trials are tried again."""
        self._process.join(_GRACE_S)
        how = _how_it_died(self._process.exitcode)
        if not self._spoke:
            raise StudyError(f"{self._job.name} could not start ({how}); see {self._job.log}")
        conductor.lost(self._job.name, f"worker died ({how})")
        conductor.flush()
        return Worker(self._job)

    def end(self) -> None:
        self._process.terminate()
        self._process.join(_GRACE_S)
        self._process.kill()
        self.pipe.close()


def _how_it_died(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, probably out of memory" if -code == signal.SIGKILL else name
