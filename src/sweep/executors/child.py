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
from typing import Literal

from sweep.messages import Event, Order

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@dataclass(frozen=True)
class Job:
    """What a worker process is told at its birth."""

    name: str
    log: str
    metric: str
    direction: str
    threads: int
    gpu: int | None
    lanes: int | Literal["auto"]


def serve(job: Job, pipe: Connection) -> None:
    """Runs in the spawned process until told to quit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the conductor decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _write_output_to(job.log)
    if job.gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[job.gpu] if visible != [""] else str(job.gpu)
    import torch  # after the device has been chosen

    from sweep.worker import work

    torch.set_num_threads(job.threads)

    def exchange(worker: str, events: Sequence[Event]) -> list[Order]:
        pipe.send(list(events))
        return pipe.recv()  # type: ignore[no-any-return]

    work(job.name, exchange, job.metric, job.direction, job.lanes)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _write_output_to(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.captureWarnings(True)
