"""Seconds per trial-epoch of packs of K trials, beside one trial at a time and a product floor.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_pack

Same network, data, batch size, epochs, optimizer and validation for all. The floor is the time of
the trial's matrix products alone, by the fastest backend that stays at float32 accuracy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import pytorch_lightning as pl
import torch

from dropnorm import MNIST
from dropnorm.pack import LaneBatches, Pack
from tests.benchmarks.bench_trial import EPOCHS, NETWORKS, announce, ours, trial
from tests.benchmarks.peers import optuna_lightning
from tests.benchmarks.rounds import median_seconds

BATCH, TRAIN, VAL, ROUNDS = 128, 50_000, 10_000, 3
LANES = (1, 2, 4, 8, 16)


def packed(hidden: tuple[int, ...], lanes: int, precision: str = "32-true") -> None:
    """Trains and validates a pack."""
    data = MNIST(batch_size=BATCH)
    trials = [{"hidden": list(hidden), "dropout": 0.3, "seed": seed} for seed in range(lanes)]
    pack = Pack(trials)
    batches = LaneBatches(data.part("train"), data.train_rows(), BATCH, pack.ages)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, precision=precision, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(pack, batches, data.val_dataloader())


def floor(hidden: tuple[int, ...], steps: int = 10) -> float:
    """Seconds of an epoch's matrix products: forward, both gradients, validation."""
    pairs = list(pairwise((784, *hidden, 10)))
    operands = [(torch.randn(BATCH, i), torch.randn(o, i), torch.randn(BATCH, o)) for i, o in pairs]
    forward: list[float] = []
    backward: list[float] = []
    for _ in range(steps):
        start = time.perf_counter()
        for x, w, _ in operands:
            x @ w.t()
        middle = time.perf_counter()
        for n, (x, w, dy) in enumerate(operands):
            dy.t() @ x
            if n:  # nobody wants the gradient of the images
                dy @ w
        forward.append(middle - start)
        backward.append(time.perf_counter() - middle)
    ahead, back = statistics.median(forward), statistics.median(backward)
    return TRAIN // BATCH * (ahead + back) + VAL / BATCH * ahead


def main() -> None:
    announce()
    names = ["peer", "one", *(f"K={lanes}" for lanes in LANES)]
    print(f"{'network':<14} {'floor':>7} " + " ".join(f"{name:>7}" for name in names))
    for hidden in NETWORKS:
        spec = trial(hidden)
        things: dict[str, Callable[[], object]] = {
            "peer": lambda h=hidden: optuna_lightning(h, EPOCHS),
            "one": lambda s=spec: ours(s),
        }
        things |= {f"K={k}": lambda h=hidden, k=k: packed(h, k) for k in LANES}
        floors = [floor(hidden)]
        things["floor"] = lambda h=hidden, f=floors: f.append(floor(h))
        seconds = median_seconds(things, ROUNDS, warm_up=0)
        each = {"peer": 1, "one": 1} | {f"K={k}": k for k in LANES}
        cells = [f"{seconds[name] / EPOCHS / each[name]:>7.2f}" for name in names]
        name = "-".join(map(str, (784, *hidden, 10)))
        print(f"{name:<14} {statistics.median(floors):>7.2f} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
