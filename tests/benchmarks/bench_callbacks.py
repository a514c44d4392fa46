"""What each callback costs on a training of MNIST, as a ratio to the same training without it.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_callbacks

All of them take turns in one run, since the machine may not be quiet. Epochs are short, of 10,000
images, but validate on MNIST's 10,000: with epochs of all 50,000 the extra is a fifth.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytorch_lightning as pl
import torch

from dropnorm import MNIST, Classifier
from dropnorm.callbacks import (
    Diagnostics,
    DropoutSchedule,
    MCDropout,
    MomentumBank,
    PreciseBatchNorm,
)
from sweep.optuna_pruning import OptunaPruning
from tests.benchmarks.rounds import median_seconds

EPOCHS, ROUNDS, IMAGES = 2, 7, 10_000


def pruning() -> OptunaPruning:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    return OptunaPruning(study.ask(), "val_accuracy")


CALLBACKS: dict[str, Callable[[], list[Any]]] = {
    "none": list,
    "DropoutSchedule": lambda: [DropoutSchedule("early")],
    "OptunaPruning": lambda: [pruning()],
    "PreciseBatchNorm, 20 batches": lambda: [PreciseBatchNorm(20)],
    "PreciseBatchNorm, 20, at the end": lambda: [PreciseBatchNorm(20, when="end")],
    "Diagnostics, 20 batches": lambda: [Diagnostics(20)],
    "MomentumBank, 14 momenta": lambda: [MomentumBank()],
    "MomentumBank, 14, last epoch": lambda: [MomentumBank(every_n_epochs=EPOCHS)],
    "MomentumBank, 14, never scored": lambda: [MomentumBank(every_n_epochs=EPOCHS + 1)],
}


def trainer(callbacks: list[Any], folder: str) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, default_root_dir=folder,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=callbacks,
    )  # fmt: skip


def classifier() -> Classifier:
    return Classifier("mlp", hidden=[256, 256], dropout=0.3)


def fit(callbacks: list[Any], folder: str) -> None:
    trainer(callbacks, folder).fit(classifier(), MNIST(train_size=IMAGES))


def predict(callbacks: list[Any], folder: str) -> None:
    model = classifier()
    loader = torch.utils.data.DataLoader(torch.randn(2_000, 1, 28, 28), batch_size=500)
    trainer(callbacks, folder).predict(model, loader)


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    threads = torch.get_num_threads()
    print(f"784-256-256-10, {IMAGES} images, {EPOCHS} epochs, batch 128, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        fits = {name: lambda c=make: fit(c(), folder) for name, make in CALLBACKS.items()}
        report(median_seconds(fits, ROUNDS))
        uncertain = [MCDropout(50, kind="probabilities", key="probabilities")]
        predicts = {
            "none": lambda: predict([], folder),
            "MCDropout, 50 passes": lambda: predict(uncertain, folder),
        }
        report(median_seconds(predicts, ROUNDS), "prediction of 2,000 images")


def report(seconds: dict[str, float], what: str = "training") -> None:
    print(f"{what:<34} {'seconds':>8} {'ratio':>6}")
    for name, taken in seconds.items():
        print(f"{name:<34} {taken:>8.2f} {taken / seconds['none']:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
