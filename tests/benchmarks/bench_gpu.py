"""Packs on a GPU: seconds per trial-epoch, and what the device does in a training step.

    python -m tests.benchmarks.bench_gpu             all of it, on one GPU
    python -m tests.benchmarks.bench_gpu --smoke     whether it runs: tiny, also without a GPU

An epoch is training and validation, as a study has it; the first one, which compiles kernels and
fills caches, is not counted. The peer is Optuna with Lightning and a DataLoader on the same device.
Last comes a whole study of a thousand trials of ten epochs, from its command line.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dropnorm import MNIST
from dropnorm.data import EvalBatches
from dropnorm.pack import LaneBatches, Pack
from sweep.worker.ours import AT_ONCE
from tests.benchmarks.peers import PlainModule, loaders

NETWORKS = ((512,), (512, 512))
BATCH, EVAL_BATCH = 128, 1000
ALIKE = ("sampler=random", "pruner=none", "confirm.seeds=0")  # every trial trains to its end


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    lanes: Sequence[int]
    networks: Sequence[tuple[int, ...]]
    epochs: int
    train_size: int | None
    batches: float  # of the peer's epoch, as Lightning's limit_train_batches
    profiled: slice  # of an epoch's bursts, of `AT_ONCE` steps each
    job: tuple[Any, ...]  # trials, epochs and the words of a whole study


FULL = Size(
    [4**n for n in range(6)], NETWORKS, 4, None, 1.0, slice(3, 5),
    (1000, 10, "+study=mnist", "model.hidden=[512]"),  # in a minute, on one H200
)  # fmt: skip
SMOKE = Size([1, 2], [(16,)], 3, 2 * BATCH, 2, slice(0, 1), (3, 1, "+study=synthetic"))
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
    """Profiles the steps of some bursts of an epoch."""

    def __init__(self, bursts: slice) -> None:
        self.bursts, self.steps, self.profiled = bursts, 0, 0
        self.profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.bursts.start:
            self.steps = 0
            self.profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: Any, batch: Any, idx: int
    ) -> None:
        self.steps += len(batch)
        if idx + 1 == self.bursts.stop:
            self.profile.stop()
            self.profiled = self.steps

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
        steps = self.profiled
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
    train = LaneBatches(data.part("train", device), data.train_rows(), BATCH, pack.ages, AT_ONCE)
    fitter.fit(pack, train, EvalBatches(data.part("val", device), EVAL_BATCH))
    return stamps.seconds() / lanes, steps.summary()


def peer(size: Size, hidden: tuple[int, ...], precision: str) -> float:
    """Seconds per trial-epoch of a trial of an ordinary Optuna study."""
    (train, val), stamps = loaders(BATCH), Stamps()
    settings = {"hidden": list(hidden)}

    def objective(trial: optuna.Trial) -> float:
        dropout = trial.suggest_float("dropout", 0.0, 0.7)
        momentum = trial.suggest_float("bn_momentum", 1e-3, 1.0, log=True)
        fitter = trainer(size.epochs, precision, [stamps], limit_train_batches=size.batches)
        fitter.fit(PlainModule(settings, dropout, momentum), train, val)
        return float(fitter.callback_metrics["val_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=1)
    return stamps.seconds()


def table(size: Size, hidden: tuple[int, ...], precision: str) -> None:
    one = peer(size, hidden, precision)
    name = "-".join(map(str, (784, *hidden, 10)))
    print(f"\n{name}, {precision}\n{'Optuna + Lightning':>20} {one:10.5f} s per trial-epoch")
    for lanes in size.lanes:
        try:
            seconds, steps = packed(size, hidden, lanes, precision)
        except torch.OutOfMemoryError:
            print(f"{f'K = {lanes}':>20} out of memory", flush=True)
            break
        print(f"{f'K = {lanes}':>20} {seconds:10.5f} {one / seconds:8.1f}x {steps}", flush=True)


def main_job(size: Size) -> None:
    """A whole study in processes of its own, its lanes chosen by its worker: wall seconds."""
    trials, epochs, *words = size.job
    with tempfile.TemporaryDirectory() as folder:
        study = [f"study.trials={trials}", f"trainer.max_epochs={epochs}", f"study.folder={folder}"]
        command = [sys.executable, "-m", "sweep", *words, *study, *ALIKE]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        logs = "".join(path.read_text() for path in Path(folder).rglob("*.log"))
    chosen = [line for line in logs.splitlines() if "lanes to a pack" in line]
    print(f"\n{trials:,} trials of {epochs} epochs, in a study: {seconds:.1f} s", *chosen, sep="\n")


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
    main_job(size)


if __name__ == "__main__":
    main()
