"""Packs on a GPU: seconds per trial-epoch, and what the device does in a training step.

    python -m tests.benchmarks.bench_gpu             all of it, on one GPU
    python -m tests.benchmarks.bench_gpu --smoke     whether it runs: tiny, also without a GPU

An epoch is training and validation, as a study has it; the first one, which compiles kernels and
fills caches, is not counted. The peer is Optuna with Lightning and a DataLoader on the same device.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dropnorm import MNIST
from dropnorm.data import EvalBatches
from dropnorm.pack import LaneBatches, Pack
from tests.benchmarks.peers import PlainModule, loaders

NETWORKS = ((512,), (512, 512))
BATCH, EVAL_BATCH = 128, 1000
GOAL_TRIALS, GOAL_EPOCHS = 1000, 10  # in a minute, on one H200


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    lanes: Sequence[int]
    networks: Sequence[tuple[int, ...]]
    epochs: int
    train_size: int | None
    batches: float  # of the peer's epoch, as Lightning's limit_train_batches
    profiled: slice  # of the first epoch's steps


FULL = Size([4**n for n in range(6)], NETWORKS, 4, None, 1.0, slice(30, 50))
SMOKE = Size([1, 2], [(16,)], 3, 2 * BATCH, 2, slice(0, 2))
PRECISIONS = ("32-true", "bf16-mixed")


class Stamps(pl.Callback):
    """When each epoch ended, as the device sees it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Median seconds of the epochs after the first."""
        pairs = zip(self.times, self.times[1:], strict=False)
        return statistics.median(end - start for start, end in pairs)


class Steps(pl.Callback):
    """Profiles some steps of an epoch."""

    def __init__(self, steps: slice) -> None:
        self.steps = steps
        self.profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.steps.start:
            self.profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: Any, batch: Any, idx: int
    ) -> None:
        if idx + 1 == self.steps.stop:
            self.profile.stop()

    def summary(self) -> str:
        """Launches a step, and how much of the time the device waited for the host.

        Without a GPU the operators that torch calls stand in for kernels.
        """
        kind = DeviceType.CUDA if torch.cuda.is_available() else DeviceType.CPU
        events = [e for e in self.profile.events() if e.device_type == kind]
        events = [e for e in events if not e.is_user_annotation]  # spans of many kernels
        spans = sorted((e.time_range.start, e.time_range.end) for e in events)
        busy, reached, gap = 0.0, spans[0][0], 0.0
        for start, end in spans:
            gap = max(gap, start - reached)
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        wall = reached - spans[0][0]
        steps = self.steps.stop - self.steps.start
        return (
            f"{len(events) / steps:7.0f} launches, {wall / steps / 1e3:8.3f} ms a step, "
            f"{100 * (1 - busy / wall):4.1f} % idle, longest gap {gap / 1e3:.3f} ms"
        )


def trainer(epochs: int, precision: Any, callbacks: list[pl.Callback], **more: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, precision=precision, devices=1, callbacks=callbacks, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, **more,
    )  # fmt: skip


def packed(size: Size, hidden: tuple[int, ...], lanes: int, precision: str) -> tuple[float, str]:
    """Seconds per trial-epoch of a pack, and what the profiler says of its steps."""
    rates = torch.linspace(0, 0.7, lanes).tolist()
    pack = Pack(
        [{"hidden": list(hidden), "dropout": rate, "seed": seed} for seed, rate in enumerate(rates)]
    )
    stamps, steps = Stamps(), Steps(size.profiled)
    fitter = trainer(size.epochs, precision, [stamps, steps])
    device = fitter.strategy.root_device
    data = MNIST(batch_size=BATCH, train_size=size.train_size)
    train = LaneBatches(data.part("train", device), data.train_rows(), BATCH, pack.ages)
    fitter.fit(pack, train, EvalBatches(data.part("val", device), EVAL_BATCH))
    return stamps.seconds() / lanes, steps.summary()


def peer(size: Size, hidden: tuple[int, ...], precision: str) -> float:
    """Seconds per trial-epoch of a trial of an ordinary Optuna study."""
    train, val = loaders(BATCH)
    stamps = Stamps()

    def objective(trial: optuna.Trial) -> float:
        dropout = trial.suggest_float("dropout", 0.0, 0.7)
        momentum = trial.suggest_float("bn_momentum", 1e-3, 1.0, log=True)
        fitter = trainer(size.epochs, precision, [stamps], limit_train_batches=size.batches)
        fitter.fit(PlainModule(hidden, dropout, momentum), train, val)
        return float(fitter.callback_metrics["val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=1)
    return stamps.seconds()


def table(size: Size, hidden: tuple[int, ...], precision: str) -> None:
    one = peer(size, hidden, precision)
    name = "-".join(map(str, (784, *hidden, 10)))
    print(f"\n{name}, {precision}\n{'Optuna + Lightning':>20} {one:10.5f} s per trial-epoch")
    best = one
    for lanes in size.lanes:
        try:
            seconds, steps = packed(size, hidden, lanes, precision)
        except torch.OutOfMemoryError:
            print(f"{f'K = {lanes}':>20} out of memory", flush=True)
            break
        best = min(best, seconds)
        print(f"{f'K = {lanes}':>20} {seconds:10.5f} {one / seconds:8.1f}x {steps}", flush=True)
    if size is FULL:
        epochs = GOAL_TRIALS * GOAL_EPOCHS
        print(f"{GOAL_TRIALS:,} trials of {GOAL_EPOCHS} epochs: {best * epochs:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    size = SMOKE if parser.parse_args(arguments).smoke else FULL
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{device}, torch {torch.__version__}; MNIST, batch {BATCH}, Adam, dropout and BN")
    for hidden in size.networks:
        for precision in PRECISIONS:
            table(size, hidden, precision)


if __name__ == "__main__":
    main()
