"""How many lanes a pack gets: measured on this worker's device, once for each signature.

A probe trains copies of the first trial for a few steps under the Trainer that it will have, and
throws them away. No result depends on it: all draws are keyed, and a lane is the trial alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from dropnorm.draws import Draws
from dropnorm.pack import LaneBatches
from sweep.worker.build import make_trainer
from sweep.worker.desk import Desk
from sweep.worker.lanes import Key, model_of
from sweep.worker.packed import packing_of
from sweep.worker.packing import Packing, free_memory
from sweep.worker.training import Training

log = logging.getLogger(__name__)

_USUAL_ON_CPU = 2  # most of what can be saved; and workers come to the end of a study together
_MOST_ON_CPU = 16
_MOST_ON_GPU = 1024
_FIRST_ON_GPU = 16
_BETWEEN = 0.25  # of a lane's time: what a step may take besides its lanes
_SLOW_S = 0.05  # a step of one lane, beside which all that happens between steps is nothing
_GAIN = 1.1  # in trials a second, for which twice the lanes are worth their memory
_MEMORY = 0.7  # of what is free: scoring, other workers, and what the allocator cannot use
_COST = 0.01  # of the training to come; the last doubling may cost as much again
_STEPS, _WARM_UP = 8, 3  # of the Trainer, each of one batch
_BURSTS, _WARM_UP_BURSTS = 3, 1  # or of several
_FEW_STEPS = 20_000  # of all trials: with fewer, a probe on the CPU would be seen in the total


@dataclass(frozen=True)
class Measured:
    """Training steps of a pack; `peak_bytes` is the most memory on a GPU, validation included."""

    lanes: int
    step_s: float
    peak_bytes: int = 0
    probe_s: float = 0.0  # what measuring took


@dataclass(frozen=True)
class Choice:
    """How many lanes, and the reason, for the log."""

    lanes: int
    reason: str


Measure: TypeAlias = Callable[[int], Measured | None]  # None: so many lanes did not fit


def choose_on_cpu(measure: Measure, most: int, steps: int) -> Choice:
    """The fewest lanes that make what happens between steps small: 1, 2, 4, 8 or 16.

    `most` are the trials there are for this worker, of `steps` training steps each. Lanes run in
    turn on a CPU, so a step is a fixed time and one more for each lane; steps of one lane and of
    two tell both. Few lanes prune sooner. Memory does not decide: lanes that are large enough to
    fill it are slow enough to be alone.
    """
    if most == 1 or most * steps < _FEW_STEPS:
        return Choice(min(_USUAL_ON_CPU, most), "the training is too short to measure for")
    one = measure(1)
    if one is None or one.step_s > _SLOW_S:
        return Choice(1, f"a step of one takes {1e3 * one.step_s:.0f} ms" if one else "no room")
    two = measure(2)
    lane = (two.step_s if two else 0.0) - one.step_s
    if lane <= 0:  # another program was in the way of one of them
        return Choice(min(_USUAL_ON_CPU, most), "the usual number: steps varied too much to tell")
    between = max(one.step_s - lane, 0.0)
    lanes = 1
    while between / lanes > _BETWEEN * lane and lanes < _MOST_ON_CPU:
        lanes *= 2
    times = f"a lane takes {1e3 * lane:.2f} ms of a step, the rest {1e3 * between:.2f} ms"
    return Choice(min(lanes, most), times)


def choose_on_gpu(measure: Measure, most: int, room_bytes: float, steps: int) -> Choice:
    """Twice the lanes for as long as that trains more trials a second and fits into memory.

    `most` are the trials there are for this worker, of `steps` training steps each. Stops, too,
    when measuring has cost a part of what training all of them will.
    """
    best, spent_s, most = None, 0.0, min(most, _MOST_ON_GPU)
    size, reason = min(_FIRST_ON_GPU, most), ""
    while size:
        found = measure(size)
        if found is None:
            reason, most = f"{size} do not fit into memory", size // 2
            size = 0 if best else most
            continue
        spent_s += found.probe_s
        if best and found.lanes / found.step_s < _GAIN * best.lanes / best.step_s:
            reason = f"{size} train hardly more trials a second"
            break
        best, size = found, min(2 * size, most)
        training_s = best.step_s / best.lanes * most * steps
        if best.lanes == most:
            reason = reason or f"there are {most} trials to train"
            break
        if best.peak_bytes * size / best.lanes > room_bytes:
            reason = f"{size} would not fit into memory"
            break
        if spent_s > _COST * training_s:
            reason = "measuring more would cost more than it saves"
            break
    if best is None:
        return Choice(1, reason)
    step = f"a step takes {1e3 * best.step_s:.1f} ms, {best.peak_bytes / 2**30:.1f} GiB"
    return Choice(best.lanes, f"{reason}; {step}")


@dataclass
class Prober:
    """The lanes of each signature's packs; `fit` a desk to the one that is trained next."""

    _chosen: dict[Key, int] = field(default_factory=dict)
    _key: Key | None = None

    def fit(self, desk: Desk, key: Key) -> None:
        """Measures a signature that is new, and asks for as many trials as its packs have room for.

        What was halved because it did not fit stays halved.
        """
        if key == self._key:
            return
        if self._key is not None:
            self._chosen[self._key] = desk.lanes
        self._key = key
        if key not in self._chosen:
            choice = choose(desk, key)
            log.info("%d lanes to a pack: %s", choice.lanes, choice.reason)
            self._chosen[key] = choice.lanes
        desk.most_lanes = desk.lanes = self._chosen[key]
        desk.ask()


def choose(desk: Desk, key: Key) -> Choice:
    """How many lanes packs of trials like the desk's first one get: as many as wait at most."""
    start, draws = time.monotonic(), Draws()
    most = max(desk.share, len(desk.waiting))
    try:
        packing, spec = _packing(desk, key), desk.waiting[0]
        train, _ = packing.batches(torch.device("cpu"))
        steps = spec.epochs * len(train) * _at_once(train)  # type: ignore[arg-type]
        if torch.cuda.is_available():
            free_memory()
            room = _MEMORY * torch.cuda.mem_get_info()[0]
            choice = choose_on_gpu(partial(measure, desk, key), most, room, steps)
        else:
            choice = choose_on_cpu(partial(measure, desk, key), most, steps)
    except Exception as error:  # the trial's own, most likely: its training will tell
        return Choice(
            min(_USUAL_ON_CPU, most), f"measuring failed: {type(error).__name__}: {error}"
        )
    finally:
        draws.go_on()
    return Choice(choice.lanes, f"{choice.reason}; found in {time.monotonic() - start:.1f} s")


def measure(desk: Desk, key: Key, lanes: int) -> Measured | None:
    """A few training steps, on a GPU validation too, of a pack of copies of the first trial."""
    try:
        return _measure(desk, key, lanes)
    except torch.OutOfMemoryError:
        return None
    finally:
        free_memory()


def _measure(desk: Desk, key: Key, lanes: int) -> Measured:
    start, on_gpu = time.monotonic(), torch.cuda.is_available()
    packing = _packing(desk, key)
    packing.pack.shrink([0] * lanes)  # copies of a lane are made faster than trials
    at_once = _at_once(packing.batches(torch.device("cpu"))[0])
    steps, warm_up = (_STEPS, _WARM_UP) if at_once == 1 else (_BURSTS, _WARM_UP_BURSTS)
    few = {"max_epochs": -1, "max_steps": steps, "limit_train_batches": steps}
    clock = _Clock(steps, warm_up)
    settings = {**desk.waiting[0].config["trainer"], **few, "limit_val_batches": int(on_gpu)}
    trainer = make_trainer(settings, [clock])
    device = trainer.strategy.root_device
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    trainer.fit(packing.pack, *packing.batches(device))
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return Measured(lanes, clock.step_s() / at_once, peak, time.monotonic() - start)


def _at_once(train: object) -> int:
    """How many batches a Trainer gets as one."""
    return train.at_once if isinstance(train, LaneBatches) else 1


def _packing(desk: Desk, key: Key) -> Packing:
    """A pack of the desk's first trial, which goes on waiting."""
    spec = desk.waiting[0]
    return packing_of(desk, key, [Training(spec, model_of(key, spec))])


class _Clock(Callback):
    """When each of a Trainer's steps ended; a device is waited for before the first and last."""

    def __init__(self, steps: int, warm_up: int) -> None:
        self._steps, self._warm_up = steps, warm_up
        self._times: list[float] = []
        self._on_gpu = torch.cuda.is_available()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: Any, batch: Any, index: int
    ) -> None:
        if self._on_gpu and trainer.global_step in (self._warm_up, self._steps):
            torch.cuda.synchronize()
        self._times.append(time.perf_counter())

    def step_s(self) -> float:
        """Seconds a step. On a CPU of the fastest: others are slowed down by other programs."""
        times = self._times[self._warm_up - 1 :]
        if self._on_gpu:
            return (times[-1] - times[0]) / (len(times) - 1)
        return min(end - begin for begin, end in pairwise(times))
