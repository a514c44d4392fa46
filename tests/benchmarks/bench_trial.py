"""Seconds per trial-epoch, one at a time: our worker against Optuna, Lightning and DataLoaders.

    python -m tests.benchmarks.bench_trial

Same network, data, batch size, epochs, optimizer and validation; both with all threads. Ours is
what a worker with `executor.lanes=1` does.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import optuna
import torch

from dropnorm.matmul import choose_matmul_backend
from sweep.config import make_plan
from sweep.messages import TrialSpec
from sweep.worker.desk import Desk
from sweep.worker.lanes import pack_key
from sweep.worker.packed import train_packed
from tests.benchmarks.peers import optuna_lightning
from tests.benchmarks.rounds import median_seconds

TRAIN, EPOCHS, ROUNDS = 50_000, 3, 3
NETWORKS = ((512,), (256, 256))


def trial(settings: dict[str, Any], part: float = 1.0) -> TrialSpec:
    """One trial of these settings of the model; `part` of an epoch, or `EPOCHS` whole ones."""
    epochs = EPOCHS if part == 1.0 else 1
    plan = make_plan(
        ["+study=mnist", f"model={settings.get('network', 'mlp')}",
         f"model.hidden={settings['hidden']}", f"trainer.max_epochs={epochs}",
         f"+trainer.limit_val_batches={part}", f"data.train_size={int(TRAIN * part)}",
         "data.batch_size=128", "model.dropout=0.3",
         "model.bn_momentum=0.1", "optimizer.lr=interval(0.001,0.002)"]
    )  # fmt: skip
    return TrialSpec(0, 0, {}, plan.trial)


def ours(spec: TrialSpec) -> None:
    desk = Desk("bench", lambda *_: [], "val_accuracy", "maximize")
    key = pack_key(desk, spec)
    assert key is not None
    desk.waiting.append(spec)
    train_packed(desk, key)


def be_quiet() -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def announce() -> None:
    """Silences the libraries, picks the fastest products, and prints what is measured."""
    be_quiet()
    threads = torch.get_num_threads()
    print(f"MNIST, batch 128, Adam, dropout and BN; {threads} threads; s per trial-epoch")
    print(f"matrix products: {choose_matmul_backend()}")


def main() -> None:
    announce()
    print(f"{'network':<16} {'Optuna + Lightning':>20} {'dropnorm':>10} {'ratio':>7}")
    for hidden in NETWORKS:
        settings = {"hidden": list(hidden)}
        spec = trial(settings)
        seconds = median_seconds(
            {
                "peer": lambda s=settings: optuna_lightning(s, EPOCHS),
                "ours": lambda s=spec: ours(s),
            },
            ROUNDS,
        )
        peer, mine = seconds["peer"] / EPOCHS, seconds["ours"] / EPOCHS
        name = "-".join(map(str, (784, *hidden, 10)))
        print(f"{name:<16} {peer:>20.2f} {mine:>10.2f} {peer / mine:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
