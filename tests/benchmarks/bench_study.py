"""Configurations scored a minute: workers as a study places them, against Optuna + Lightning.

    python -m tests.benchmarks.bench_study

Both have the machine's cores: ours a worker of one thread on each, with packs of 4 and a bank of 14
momenta scored after the last epoch; the peer, one trial at a time with all threads, one
configuration a trial. Trials of 3 epochs on MNIST; starting processes is not counted.
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
from dropnorm.bank import MOMENTA, score
from dropnorm.matmul import choose_matmul_backend
from dropnorm.pack import LaneBatches, Pack
from tests.benchmarks.bench_trial import announce
from tests.benchmarks.peers import optuna_lightning

LANES, EPOCHS, ROUNDS = 4, 3, 3
NETWORKS = ([512], [256, 256])


def train(hidden: list[int], momenta: tuple[float | None, ...]) -> float:
    """Trains a pack and scores its banks; the share of the time that scoring took."""
    data = MNIST()
    settings = [{"hidden": hidden, "dropout": 0.3, "seed": seed} for seed in range(LANES)]
    pack = Pack(settings, momenta=momenta)
    batches = LaneBatches(data.part("train"), data.train_rows(), data.batch_size, pack.ages)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(pack, batches, data.val_dataloader())
    trained = time.perf_counter()
    for lane in range(LANES):
        score(pack.classifier(lane).network, pack.bank(lane), data.val_dataloader())
    end = time.perf_counter()
    return (end - trained) / (end - start)


def work(hidden: list[int], barrier: Barrier) -> None:
    """A worker's process."""
    announce()
    torch.set_num_threads(1)
    choose_matmul_backend()
    MNIST().part("train")
    for _ in range(ROUNDS):
        barrier.wait()
        share = train(hidden, MOMENTA)
        barrier.wait()
    print(f"    scoring took {share:.1%} of a worker's time", flush=True)


def ours(hidden: list[int]) -> float:
    """Seconds of a round of all workers: the median."""
    context = get_context("spawn")
    cores = len(os.sched_getaffinity(0))
    barrier = context.Barrier(cores + 1)
    workers = [context.Process(target=work, args=(hidden, barrier)) for _ in range(cores)]
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
    return statistics.median(seconds)


def main() -> None:
    announce()
    cores = len(os.sched_getaffinity(0))
    for hidden in NETWORKS:
        peer = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            optuna_lightning({"hidden": hidden}, EPOCHS)
            peer.append(time.perf_counter() - start)
        theirs = statistics.median(peer)
        mine = ours(hidden) / (cores * LANES)
        rates = [60 / theirs, 60 * len(MOMENTA) / mine]
        name = "-".join(map(str, (784, *hidden, 10)))
        print(f"{name}: s per trial-epoch {theirs / EPOCHS:.2f} and {mine / EPOCHS:.2f}: "
              f"{theirs / mine:.2f} times; scored configurations a minute {rates[0]:.1f} and "
              f"{rates[1]:.0f}: {rates[1] / rates[0]:.0f} times", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
