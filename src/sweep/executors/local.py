"""Local: spawned processes on this machine, one a GPU, or one a core.

Each process has one pipe: up it goes a list of events, down it comes a list of orders. A pipe that
closes before its worker was told to quit is a worker that died; another takes its place.
"""

from __future__ import annotations

import logging
import os
import signal
from multiprocessing import connection, get_context
from pathlib import Path

from sweep.config import Plan
from sweep.errors import StudyError
from sweep.executors.child import Job, serve
from sweep.messages import Conducting, Quit
from sweep.schema import ExecutorSettings

log = logging.getLogger(__name__)

_MOST_ON_CPU = 16  # workers of half a gigabyte each
_TICK_S = 0.3  # how often the loop looks up from the pipes, for signals
_GRACE_S = 5.0  # between TERM and KILL


def run_local(conductor: Conducting, plan: Plan) -> None:
    """Carries messages until every worker has quit, or the conductor says halt.

    Errors: StudyError when no worker could say a word; a log says why.
    """
    count, gpus = placement(plan.executor)
    count = min(count, conductor.total - conductor.ended)
    crew = [Worker(job) for job in _jobs(plan, count, gpus)]
    try:
        while crew and not conductor.halted:
            _attend(crew, conductor)
    finally:
        for worker in crew:
            worker.terminate()
        for worker in crew:
            worker.bury()


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
            lanes=plan.executor.lanes,
        )
        for i in range(count)
    ]


def _attend(crew: list[Worker], conductor: Conducting) -> None:
    """One round: answers all who have something to say, replaces the dead, then writes."""
    pipes = {worker.pipe: worker for worker in crew}
    for pipe in connection.wait(list(pipes), timeout=_TICK_S):
        worker = pipes[pipe]  # type: ignore[index]
        if not worker.converse(conductor):
            crew.remove(worker)
            crew += _successors(worker, conductor, alone=not crew)
    conductor.flush()


def _successors(worker: Worker, conductor: Conducting, alone: bool) -> list[Worker]:
    """Who takes the place of a worker whose pipe has closed: nobody, if it could not even start.

    A broken device must not stop the others, nor be tried for ever.
    """
    how = worker.bury()
    conductor.lost(worker.job.name, f"worker died ({how})")
    if worker.dismissed or conductor.draining or conductor.ended >= conductor.total:
        return []
    if worker.spoke:
        return [Worker(worker.job)]
    path = worker.job.log
    problem = f"{worker.job.name} could not start ({how}): {_last_line(path)}; see {path}"
    if alone:
        raise StudyError(problem)
    log.warning("%s; the others go on", problem)
    return []


class Worker:
    """A process that trains, and this side's end of its pipe."""

    def __init__(self, job: Job) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.job = job
        self.spoke = self.dismissed = False
        self._process = context.Process(
            target=serve, args=(job, theirs), name=job.name, daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe closes with the process

    def converse(self, conductor: Conducting) -> bool:
        """One message up, one answer down. False once the pipe has closed."""
        try:
            events = self.pipe.recv()
        except (EOFError, OSError):
            return False
        self.spoke = True
        orders = conductor.exchange(self.job.name, events)
        self.dismissed = any(isinstance(order, Quit) for order in orders)
        try:
            self.pipe.send(orders)
        except OSError:
            return False
        return True

    def terminate(self) -> None:
        self._process.terminate()

    def bury(self) -> str:
        """Waits for the end of the process, at most a while; says how it ended."""
        self._process.join(_GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()
        return _how_it_died(self._process.exitcode)


def _how_it_died(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, probably out of memory" if -code == signal.SIGKILL else name


def _last_line(path: str) -> str:
    """What a dead worker said last."""
    file = Path(path)
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
