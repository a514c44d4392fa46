"""One trial in several processes, one a device: a worker starts them, listens, and ends them.

The first of them, rank 0, speaks for all; what it is told it tells the others. They meet in a
file, so no port can be taken, and go on to the next trial together. If one fails or dies the others
would wait for ever: all are killed, and the next trial starts new ones.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection, get_context

import torch

from sweep.messages import Ended, Stop, TrialSpec
from sweep.processes import how_it_died, without_ctrl_c
from sweep.trial_config import devices_per_trial
from sweep.worker.build import on_gpu
from sweep.worker.desk import Desk
from sweep.worker.rank import Failure, Task, serve

_LEAVE_S = 20.0  # for the processes to end by themselves when they are needed no more
_CAUSE_S = 1.0  # in which a death shows that made the others fail


class Ranks:
    """A worker's processes, started for the first trial that needs them."""

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._kind: tuple[int, bool] | None = None  # how many, and whether on GPUs
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def train(self, desk: Desk, spec: TrialSpec) -> Ended:
        """One trial to its end; failed, or interrupted if one of its processes was killed."""
        start = time.monotonic()
        kind = devices_per_trial(spec.config), on_gpu(spec.config["trainer"])
        if self._kind != kind:
            self.close()
            self._start(desk, *kind)
        try:
            ended = _trained(desk, self._ranks, spec)
        except BaseException:
            self._kill()
            raise
        if isinstance(ended, Failure):
            self._kill()
            ended = Ended(spec.number, "failed", reason=ended.reason)
        elif ended.died:
            self._kill()
        return replace(ended, seconds=time.monotonic() - start)

    def close(self) -> None:
        """Hangs up, so that they end by themselves, and with them what they have started."""
        for rank in self._ranks:
            rank.pipe.close()
        end_s = time.monotonic() + _LEAVE_S
        for rank in self._ranks:
            connection.wait([rank.sentinel], max(0.0, end_s - time.monotonic()))
        self._kill()

    def _start(self, desk: Desk, world_size: int, on_gpu: bool) -> None:
        threads = max(1, torch.get_num_threads() // world_size)
        self._folder = tempfile.TemporaryDirectory()
        meeting = f"{self._folder.name}/meeting"
        task = Task(desk.metric, desk.direction, world_size, threads, on_gpu, meeting)
        self._kind = world_size, on_gpu
        for number in range(world_size):
            self._ranks.append(Rank(task, number))

    def _kill(self) -> None:
        for rank in self._ranks:
            rank.kill()
        self._ranks, self._kind = [], None
        if self._folder is not None:
            self._folder.cleanup()


class Rank:
    """One process, and this side's end of its pipe."""

    def __init__(self, task: Task, number: int) -> None:
        context = get_context("spawn")
        self.number = number
        self.pipe, theirs = context.Pipe()
        # No daemon, or it could not start processes of its own to load data.
        self._process = context.Process(
            target=serve, args=(task, number, theirs), name=f"rank-{number}"
        )
        with without_ctrl_c():
            self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    def is_killed(self) -> bool:
        return (self._process.exitcode or 0) < 0

    def death(self, trial: int) -> Ended:
        """How the trial ends when this process has died."""
        self._process.join(_CAUSE_S)
        how = how_it_died(self._process.exitcode)
        return Ended(trial, "interrupted", reason=f"rank {self.number} died ({how})", died=True)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _trained(desk: Desk, ranks: Sequence[Rank], spec: TrialSpec) -> Ended | Failure:
    """Carries what rank 0 says to the conductor, and logs what all of them log."""
    by_pipe = {rank.pipe: rank for rank in ranks}
    for rank in ranks:
        with suppress(OSError):  # it is dead, as its pipe will say
            rank.pipe.send(spec)
    while True:
        for pipe in connection.wait(list(by_pipe)):
            rank = by_pipe[pipe]  # type: ignore[index]
            try:
                message = rank.pipe.recv()
                if isinstance(message, list):
                    stops = desk.say(message)
                    rank.pipe.send([Stop(number, status) for number, status in stops.items()])
                    continue
            except (EOFError, OSError):
                return rank.death(spec.number)
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif isinstance(message, Failure):
                return _cause(ranks, message, spec.number)
            else:
                return message  # type: ignore[no-any-return]


def _cause(ranks: Sequence[Rank], failure: Failure, trial: int) -> Ended | Failure:
    """What made a rank fail: the death of another, or whichever failed first."""
    connection.wait([rank.sentinel for rank in ranks], _CAUSE_S)
    if killed := next((rank for rank in ranks if rank.is_killed()), None):
        return killed.death(trial)
    failures = [failure]
    for rank in ranks:
        with suppress(EOFError, OSError):
            while rank.pipe.poll():
                if isinstance(message := rank.pipe.recv(), Failure):
                    failures.append(message)
                elif isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
    return min(failures, key=lambda failure: failure.at_s)
