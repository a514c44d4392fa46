"""The life of a local worker's process: set up, work, and die with the conductor."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from socket import gethostname
from typing import Literal

from sweep.executors.places import Place
from sweep.messages import Event, Exchange, Order

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
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
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _write_output_to(log_path)

    def exchange(worker: str, events: Sequence[Event]) -> list[Order]:
        pipe.send(list(events))
        return pipe.recv()  # type: ignore[no-any-return]

    if job.place.gpu is not None:
        if "CUDA_VISIBLE_DEVICES" not in os.environ:
            os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # count as nvidia-smi does
        os.environ["CUDA_VISIBLE_DEVICES"] = job.place.gpu
    train(job, exchange)


def train(job: Job, exchange: Exchange) -> None:
    """Works in this process, whose visible device is the worker's, until told to quit."""
    import torch  # after the device has been chosen

    from sweep.worker import work

    log.info("%s: process %d on %s, %s", job.name, os.getpid(), gethostname(), job.place)
    torch.set_num_threads(job.place.threads)
    work(job.name, exchange, job.metric, job.direction, job.lanes)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)


def _write_output_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.captureWarnings(True)
