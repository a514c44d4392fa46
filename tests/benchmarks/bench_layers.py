"""What dropout and batch norm cost in a training step: torch's layers against ours, in one run.

python -m tests.benchmarks.bench_layers
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from dropnorm import BatchNorm, Dropout
from tests.benchmarks.rounds import median_seconds

BATCH, STEPS, ROUNDS, RATE = 128, 20, 11, 0.3
KINDS = ("none", "dropout", "batch norm", "both")


def network(width: int, kind: str, ours: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(784, width)]
    if kind in ("batch norm", "both"):
        layers.append(BatchNorm(width) if ours else nn.BatchNorm1d(width))
    layers.append(nn.ReLU())
    if kind in ("dropout", "both"):
        layers.append(Dropout(RATE, seed=0) if ours else nn.Dropout(RATE))
    return nn.Sequential(*layers, nn.Linear(width, 10))


def steps(width: int, kind: str, ours: bool) -> Callable[[], None]:
    model = network(width, kind, ours)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, y = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return run


def main() -> None:
    threads = torch.get_num_threads()
    print(f"training step, 784-W-10, batch {BATCH}, Adam, rate {RATE}, {threads} threads")
    print(f"{'width':>6} {'layers':<6} " + " ".join(f"{kind:>20}" for kind in KINDS))
    for width in (512, 2048):
        cases = {(o, kind): steps(width, kind, o) for kind in KINDS for o in (False, True)}
        named = {f"{o} {kind}": run for (o, kind), run in cases.items()}
        seconds = median_seconds(named, ROUNDS)
        for ours in (False, True):
            base = seconds[f"{ours} none"]
            cells = [seconds[f"{ours} {kind}"] for kind in KINDS]
            row = " ".join(
                f"{1e3 * s / STEPS:9.2f} ms {100 * (s / base - 1):+6.1f} %" for s in cells
            )
            print(f"{width:>6} {'ours' if ours else 'torch':<6} {row}")


if __name__ == "__main__":
    main()
