"""Configurations scored a minute: workers as a study places them, against Optuna + Lightning.

    python -m tests.benchmarks.bench_study

Both have the machine's cores: ours a worker of one thread on each, with one trial or a pack of 4
and a bank of 14 momenta scored after the last epoch; the peer, one trial at a time with all
threads, one configuration a trial. Trials of 3 epochs on MNIST; starting processes is not counted.
"""

from __future__ import annotations

import os
import statistics
import time
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

import pytorch_lightning as pl
import torch

from dropnorm import MNIST
from dropnorm.bank import MOMENTA
from dropnorm.matmul import choose_matmul_backend
from dropnorm.pack import LaneBatches, Pack
from sweep.worker.ours import AT_ONCE
from tests.benchmarks.bench_trial import announce, be_quiet
from tests.benchmarks.peers import optuna_lightning

LANES, EPOCHS, ROUNDS = (1, 4), 3, 3
NETWORKS = ([512], [512, 512], [256, 256])


class LooksAsWorkersDo(pl.Callback):
    """After the last epoch the bank tells all that a validation would."""

    def on_validation_start(self, trainer: pl.Trainer, pack: pl.LightningModule) -> None:
        if trainer.current_epoch == EPOCHS - 1:
            pack.watch([])


def train(hidden: list[int], lanes: int) -> float:
    """Trains a pack and scores its banks; the share of the time that scoring took."""
    data = MNIST()
    settings = [{"hidden": hidden, "dropout": 0.3, "seed": seed} for seed in range(lanes)]
    pack = Pack(settings, momenta=MOMENTA)
    rows, size = data.train_rows(), data.batch_size
    batches = LaneBatches(data.part("train"), rows, size, pack.ages, AT_ONCE)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=[LooksAsWorkersDo()],
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(pack, batches, data.val_dataloader())
    trained = time.perf_counter()
    pack.score(range(lanes), data.val_dataloader())
    end = time.perf_counter()
    return (end - trained) / (end - start)


def work(hidden: list[int], lanes: int, barrier: Barrier) -> None:
    """A worker's process."""
    be_quiet()
    torch.set_num_threads(1)
    choose_matmul_backend()
    MNIST().part("train")
    for _ in range(ROUNDS):
        barrier.wait()
        share = train(hidden, lanes)
        barrier.wait()
    if lanes == max(LANES):
        print(f"    scoring took {share:.1%} of a worker's time", flush=True)


def ours(hidden: list[int], lanes: int) -> float:
    """Seconds of a trial, as all workers together have them: of a median round."""
    context = get_context("spawn")
    cores = len(os.sched_getaffinity(0))
    barrier = context.Barrier(cores + 1)
    given = (hidden, lanes, barrier)
    workers = [context.Process(target=work, args=given) for _ in range(cores)]
    for worker in workers:
        worker.start()
    seconds = []
    for _ in range(ROUNDS):
        barrier.wait()
        start = time.perf_counter()
        barrier.wait()
        seconds.append(time.perf_counter() - start)
    for worker in workers:
        worker.join()
    return statistics.median(seconds) / (cores * lanes)


def theirs(hidden: list[int]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        optuna_lightning({"hidden": hidden}, EPOCHS)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    announce()
    heads = ["peer", *(f"lanes={lanes}" for lanes in LANES), "ratios", "configurations a minute"]
    print(f"{'network':<15} " + " ".join(f"{head:>9}" for head in heads))
    for hidden in NETWORKS:
        peer, mine = theirs(hidden), [ours(hidden, lanes) for lanes in LANES]
        rates = [60 / peer, *(60 * len(MOMENTA) / s for s in mine)]
        name = "-".join(map(str, (784, *hidden, 10)))
        print(f"{name:<15} " + " ".join(f"{s / EPOCHS:>9.2f}" for s in (peer, *mine))
              + "  " + ", ".join(f"{peer / s:.2f}" for s in mine)
              + "  " + ", ".join(f"{rate:.0f}" for rate in rates)
              + f": {rates[-1] / rates[0]:.0f} times", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
