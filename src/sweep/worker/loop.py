"""The life of a worker: ask for trials, train those that can share a pack together, ask again."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Literal

from dropnorm.matmul import choose_matmul_backend
from sweep.messages import Exchange
from sweep.worker.alone import train_alone
from sweep.worker.desk import Desk, Disconnected
from sweep.worker.lanes import lanes_for, pack_key
from sweep.worker.packed import train_packed

log = logging.getLogger(__name__)

_NOT_FOR_US = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a name torch deprecates
    ".*does not have many workers.*",  # batches are slices of resident tensors
)


def work(
    name: str,
    exchange: Exchange,
    metric: str,
    direction: str,
    lanes: int | Literal["auto"] = "auto",
) -> None:
    """Trains until told to quit. An error in a trial ends that trial, not the worker."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for advice in _NOT_FOR_US:
        warnings.filterwarnings("ignore", message=advice)
    log.info("matrix products: %s", choose_matmul_backend())
    desk = Desk(name, exchange, metric, direction, lanes_for(lanes))
    while not desk.dismissed:
        desk.ask()
        while desk.waiting:
            _train_next(desk)
        time.sleep(desk.pause_s)


def _train_next(desk: Desk) -> None:
    """Trains the first trial that waits, and with it those that can share its pack."""
    spec = desk.waiting[0]
    start = time.monotonic()
    try:
        key = pack_key(spec)
        if key is None:
            desk.waiting.popleft()
            desk.say([train_alone(desk, spec)])
    except Disconnected:
        raise
    except Exception as error:
        desk.fail(spec.number, error, time.monotonic() - start)
    else:
        if key is not None:
            train_packed(desk, key)
