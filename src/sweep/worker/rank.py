"""The life of one process of several that train a trial together: join, train, join in the next."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

import torch
import torch.distributed as dist

from dropnorm.matmul import choose_matmul_backend
from sweep.messages import Event, Order, TrialSpec
from sweep.processes import die_with_parent, kill_self
from sweep.worker.alone import train_alone
from sweep.worker.build import quiet
from sweep.worker.desk import Desk

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What the processes are told at their birth."""

    metric: str
    direction: str
    world_size: int
    threads: int
    on_gpu: bool
    meeting: str  # a file that is not there yet


@dataclass(frozen=True)
class Failure:
    """The last word of a process in which an error was raised. `at_s` is the machine's clock."""

    at_s: float
    reason: str


def serve(task: Task, rank: int, pipe: Connection) -> None:
    """Runs in the spawned process: its share of one trial after another."""
    die_with_parent(kill_self)
    line = _Line(pipe)
    _log_to(line, logging.WARNING if rank else logging.INFO)
    try:
        _join(task, rank)
        desk = Desk(f"rank-{rank}", line.exchange, task.metric, task.direction)
        while (spec := line.next_trial()) is not None:
            ended = train_alone(desk, spec, rank)
            if rank == 0:
                line.send(ended)
    except BaseException as error:
        failure = Failure(time.monotonic(), f"{type(error).__name__}: {error}")
        log.error("rank %d failed\n%s", rank, traceback.format_exc())
        with suppress(OSError):
            line.send(failure)
        os._exit(1)  # a collective that waits for the others would keep it from ending
    dist.destroy_process_group()


def _join(task: Task, rank: int) -> None:
    """Makes this process one of several."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0"}  # Lightning starts no process then
    quiet()
    torch.set_num_threads(task.threads)
    choose_matmul_backend()
    gpu = torch.device("cuda", rank) if task.on_gpu else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    backend, meeting = "nccl" if gpu else "gloo", f"file://{task.meeting}"
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=task.world_size, device_id=gpu
    )


class _Line:
    """The pipe to the worker, for what is said and for what is logged."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, Lock()

    def send(self, message: Any) -> None:
        with self._lock:
            self._pipe.send(message)

    put_nowait = send  # what a QueueHandler calls

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        self.send(list(events))
        return self._pipe.recv()  # type: ignore[no-any-return]

    def next_trial(self) -> TrialSpec | None:
        """None when the worker has hung up."""
        try:
            return self._pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, OSError):
            return None


def _log_to(line: _Line, level: int) -> None:
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(QueueHandler(line))  # type: ignore[arg-type]
    logging.captureWarnings(True)
