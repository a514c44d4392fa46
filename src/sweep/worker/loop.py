"""The life of a worker: ask for trials, train those that can share a pack together, ask again."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any, Literal

from dropnorm.matmul import arithmetic, choose_matmul_backend, use_arithmetic
from sweep.messages import Exchange
from sweep.trial_config import devices_per_trial
from sweep.worker.alone import train_alone
from sweep.worker.build import quiet
from sweep.worker.desk import Desk, Disconnected
from sweep.worker.lanes import pack_key, packs_theirs
from sweep.worker.packed import train_packed
from sweep.worker.probing import Prober
from sweep.worker.ranks import Ranks

log = logging.getLogger(__name__)


def work(
    name: str,
    exchange: Exchange,
    metric: str,
    direction: str,
    lanes: int | Literal["auto"] = "auto",
    given: Mapping[str, Any] | None = None,
) -> None:
    """Trains until told to quit. An error in a trial ends that trial, not the worker.

    With `lanes` "auto" it begins with one trial, measures how many train best together, and asks
    for the others then: by that time its neighbours have asked for theirs. `given` is the
    arithmetic of a worker whose bits are wanted again; without it the fastest is used.
    """
    quiet()
    if given:
        use_arithmetic(**given)
    else:
        log.info("matrix products: %s", choose_matmul_backend())
    prober = Prober() if lanes == "auto" else None
    most = 1 if lanes == "auto" else lanes
    desk = Desk(name, exchange, metric, direction, most, packs_theirs(lanes))
    desk.arithmetic = arithmetic()
    with closing(Ranks()) as ranks:
        while not desk.dismissed:
            desk.ask()
            while desk.waiting:
                _train_next(desk, prober, ranks)
            time.sleep(desk.pause_s)


def _train_next(desk: Desk, prober: Prober | None, ranks: Ranks) -> None:
    """Trains the first trial that waits, and with it those that can share its pack."""
    spec = desk.waiting[0]
    start = time.monotonic()
    try:
        key = pack_key(desk, spec)
        if key is None:
            desk.waiting.popleft()
            train = ranks.train if devices_per_trial(spec.config) > 1 else train_alone
            desk.say([train(desk, spec)])
    except Disconnected:
        raise
    except Exception as error:
        desk.fail(spec.number, error, time.monotonic() - start)
    else:
        if key is not None:
            if prober is not None:
                prober.fit(desk, key)
            train_packed(desk, key)
