"""Inline: the worker runs in this process; for tests, debugging and the smallest studies.

A second Ctrl-C stops no sooner than the first: at the end of the epoch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.executors.child import LOG_FORMAT, VITALS_EVERY_S
from sweep.messages import Conducting, Event, Order

if TYPE_CHECKING:
    from sweep.config import Plan

_NAME = "inline-0"


def run_inline(conductor: Conducting, plan: Plan) -> None:
    """Trains until the conductor has nothing more to give."""
    from sweep.worker import work  # torch is loaded only where training happens
    from sweep.worker.meter import Meter

    meter, told_s = Meter("this process"), time.monotonic()

    def exchange(worker: str, events: Sequence[Event]) -> list[Order]:
        nonlocal told_s
        if time.monotonic() - told_s > VITALS_EVERY_S:
            events, told_s = [*events, meter.read()], time.monotonic()
        orders = conductor.exchange(worker, events)
        conductor.flush()
        return orders

    with _log_to(plan.folder / "logs" / f"{_NAME}.log"):
        work(_NAME, exchange, plan.study.metric, plan.study.direction, plan.executor.lanes)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """What the worker says goes to a file, as in a process of its own, not among the results."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("sweep.worker")
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(level)
        logger.propagate = True
