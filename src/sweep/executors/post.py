"""A worker's post in a Ray actor: it trains in a thread, and speaks when it is called.

What it logs travels with what it says, because the study's folder is the conductor's machine's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from queue import SimpleQueue
from socket import gethostname
from threading import Thread

from sweep.executors.child import LOG_FORMAT, Job, train
from sweep.messages import Event, Order


class Post:
    """Made on the actor's own machine. Every call of `talk` takes orders and waits for events."""

    def __init__(self, job: Job) -> None:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or None  # Ray has chosen
        self._job = replace(job, place=replace(job.place, gpu=gpu))
        self._orders: SimpleQueue[Sequence[Order]] = SimpleQueue()
        self._events: SimpleQueue[list[Event] | BaseException | None] = SimpleQueue()
        self._log = _Collector()
        Thread(target=self._train, daemon=True).start()

    def is_there(self) -> bool:
        """Answers as soon as the actor has found its place."""
        return True

    def talk(self, orders: Sequence[Order] | None) -> tuple[list[Event] | None, str]:
        """What the worker says next, or None when it has quit; and what it has logged."""
        if orders is not None:
            self._orders.put(orders)
        events = self._events.get()
        if isinstance(events, BaseException):
            raise events
        return events, self._log.take()

    def _train(self) -> None:
        try:
            train(self._job, self._exchange, f"{gethostname()}, {self._job.place}")
            self._events.put(None)
        except BaseException as error:
            self._events.put(error)

    def _exchange(self, worker: str, events: Sequence[Event]) -> Sequence[Order]:
        self._events.put(list(events))
        return self._orders.get()


class _Collector(logging.Handler):
    """Keeps what is logged until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: SimpleQueue[str] = SimpleQueue()
        self.setFormatter(logging.Formatter(LOG_FORMAT))
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        root.addHandler(self)
        logging.captureWarnings(True)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(self.format(record) + "\n")

    def take(self) -> str:
        return "".join(self._lines.get() for _ in range(self._lines.qsize()))
