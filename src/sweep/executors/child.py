"""The life of a local worker's process: set up, work, and die with the conductor."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from socket import gethostname
from threading import Event as ThreadEvent
from threading import Lock, Thread
from typing import Literal

from sweep.executors.places import Place
from sweep.messages import Event, Exchange, Order
from sweep.processes import die_with_parent, kill_group

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
VITALS_EVERY_S = 5.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a worker process is told at its birth."""

    name: str
    metric: str
    direction: str
    lanes: int | Literal["auto"]
    place: Place


def serve(job: Job, log_path: str, pipe: Connection) -> None:
    """Runs in the spawned process until told to quit."""
    os.setpgrp()  # so that what it starts can die with it
    die_with_parent(kill_group)
    _write_output_to(log_path)

    def exchange(worker: str, events: Sequence[Event]) -> list[Order]:
        pipe.send(list(events))
        return pipe.recv()  # type: ignore[no-any-return]

    if job.place.gpu is not None:
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # count as nvidia-smi does
        os.environ["CUDA_VISIBLE_DEVICES"] = job.place.gpu
    train(job, exchange)


def train(job: Job, exchange: Exchange, where: str = "") -> None:
    """Works in this process, whose visible device is the worker's, until told to quit.

    A thread beside it says now and then what it uses, whatever training does meanwhile.
    """
    import torch  # after the device has been chosen

    from sweep.worker import work
    from sweep.worker.meter import Meter

    log.info("%s: process %d on %s, %s", job.name, os.getpid(), gethostname(), job.place)
    torch.set_num_threads(job.place.threads)
    meter, lock, over = Meter(where or str(job.place)), Lock(), ThreadEvent()

    def in_turn(worker: str, events: Sequence[Event]) -> Sequence[Order]:
        with lock:
            return exchange(worker, events)

    def tell_vitals() -> None:
        with suppress(Exception):  # nobody listens any more: training finds out by itself
            while not over.wait(VITALS_EVERY_S):
                in_turn(job.name, [meter.read()])

    Thread(target=tell_vitals, daemon=True).start()
    try:
        work(job.name, in_turn, job.metric, job.direction, job.lanes)
    finally:
        over.set()


def _write_output_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.captureWarnings(True)
