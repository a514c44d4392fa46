"""Seconds per trial-epoch of packs of K trials, beside one trial at a time and a product floor.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_pack

Same network, data, batch size, optimizer and validation for all; two fifths of an epoch each.
The floor is the time of the trial's matrix products alone, by the fastest backend that stays at
float32 accuracy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch

from dropnorm import MNIST
from dropnorm.pack import LaneBatches, Pack
from sweep.worker.ours import AT_ONCE
from tests.benchmarks.bench_trial import TRAIN, announce, ours, trial
from tests.benchmarks.peers import optuna_lightning
from tests.benchmarks.rounds import median_seconds

BATCH, VAL, ROUNDS = 128, 10_000, 3
PART, SMALL_PART = 2 / 5, 1 / 5  # of an epoch and of validation, which has five batches or ten
LANES = (1, 2, 4, 8, 16, 32)
NETWORKS: dict[str, dict[str, Any]] = {
    "784-512-10": {"hidden": [512]},
    "784-512-512-10": {"hidden": [512, 512]},
    "cnn": {"network": "cnn", "hidden": [64]},
}


def packed(settings: dict[str, Any], lanes: int, part: float, precision: str = "32-true") -> None:
    """Trains and validates a pack over part of an epoch."""
    data = MNIST(batch_size=BATCH, train_size=int(TRAIN * part))
    pack = Pack([{**settings, "dropout": 0.3, "seed": seed} for seed in range(lanes)])
    batches = LaneBatches(data.part("train"), data.train_rows(), BATCH, pack.ages, AT_ONCE)
    trainer = pl.Trainer(
        max_epochs=1, precision=precision, accelerator="cpu", logger=False,
        limit_val_batches=part, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(pack, batches, data.val_dataloader())


def floor(hidden: list[int], steps: int = 10) -> float:
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


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Seconds per trial-epoch by name, in interleaved rounds; of a cnn, ten times dearer, fewer."""
    lanes, part = (LANES, PART) if "network" not in settings else ((1, 4), SMALL_PART)
    spec = trial(settings, part)
    things: dict[str, Callable[[], object]] = {
        "peer": lambda: optuna_lightning(settings, 1, part=part),
        "one": lambda: ours(spec),
    }
    things |= {f"K={k}": lambda k=k: packed(settings, k, part) for k in lanes}
    floors: list[float] = []
    if "network" not in settings:
        things["floor"] = lambda: floors.append(floor(settings["hidden"]))
    seconds = median_seconds(things, ROUNDS, warm_up=0)
    each = {f"K={k}": k for k in lanes}
    found = {name: s / part / each.get(name, 1) for name, s in seconds.items()}
    return found | {"floor": statistics.median(floors)} if floors else found


def main() -> None:
    announce()
    names = ["floor", "peer", "one", *(f"K={lanes}" for lanes in LANES)]
    print(f"{'network':<15} " + " ".join(f"{name:>6}" for name in names) + "  peer/K=4  peer/best")
    for network, settings in NETWORKS.items():
        seconds = measure(settings)
        cells = [f"{seconds[n]:>6.2f}" if n in seconds else f"{'':>6}" for n in names]
        best = min(s for name, s in seconds.items() if name.startswith("K="))
        ratios = [seconds["peer"] / seconds["K=4"], seconds["peer"] / best]
        print(f"{network:<15} {' '.join(cells)}  {ratios[0]:>8.2f}  {ratios[1]:>9.2f}", flush=True)
    start = time.perf_counter()
    packed(NETWORKS["784-512-10"], 4, SMALL_PART, "bf16-mixed")
    seconds_of_bf16 = (time.perf_counter() - start) / SMALL_PART / 4
    print(f"784-512-10 in bf16-mixed, K=4: {seconds_of_bf16:.2f}")


if __name__ == "__main__":
    main()
