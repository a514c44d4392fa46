"""What dropout and batch norm cost in a training step: torch's layers against our `Block`.

python -m tests.benchmarks.bench_layers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm import Block, mlp
from dropnorm.blocks import seed_dropout
from dropnorm.optimizers import Optimizer
from dropnorm.pack import LaneOptimizer, stack
from dropnorm.pack.bursts import Steps
from tests.benchmarks.rounds import median_seconds

BATCH, STEPS, ROUNDS, RATE = 128, 10, 41, 0.3
KINDS = ("none", "dropout", "batch norm", "both")


def network(width: int, kind: str, ours: bool) -> nn.Sequential:
    normed, dropped = kind in ("batch norm", "both"), kind in ("dropout", "both")
    if ours:
        block = Block(
            784, width, norm="batch" if normed else "none", dropout=RATE if dropped else None
        )
        seed_dropout(block, 0)
        return nn.Sequential(block, nn.Linear(width, 10))
    layers: list[nn.Module] = [nn.Linear(784, width, bias=not normed)]
    if normed:
        layers.append(nn.BatchNorm1d(width))
    layers.append(nn.ReLU())
    if dropped:
        layers.append(nn.Dropout(RATE))
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


class Again:
    """A burst that gives a lane the same batch at every step."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.batch = x, y

    def of(self, lane: int) -> list[tuple[Tensor, Tensor]]:
        return [self.batch] * STEPS


def packed_steps(width: int, kind: str) -> Callable[[], None]:
    norm = "batch" if kind in ("batch norm", "both") else "none"
    rate = RATE if kind in ("dropout", "both") else 0.0
    plain = mlp(hidden=[width], norm=norm, dropout=rate)
    seed_dropout(plain, 0)
    pack = stack([plain])
    how = Steps(LaneOptimizer(pack.parameters(), [Optimizer()]), None)
    burst: Any = Again(torch.randn(BATCH, 784), torch.randint(10, (BATCH,)))
    return lambda: how.in_turn(burst, pack, [0.0], torch.zeros(1))


def main() -> None:
    threads = torch.get_num_threads()
    print(f"training step, 784-W-10, batch {BATCH}, Adam, rate {RATE}, {threads} threads")
    print(f"{'width':>6} {'layers':<14} " + " ".join(f"{kind:>20}" for kind in KINDS))
    for width in (512, 2048):
        makers = {
            "torch": lambda kind, w=width: steps(w, kind, False),
            "Block": lambda kind, w=width: steps(w, kind, True),
            "Block, packed": lambda kind, w=width: packed_steps(w, kind),
        }
        cases = {f"{who} {kind}": make(kind) for kind in KINDS for who, make in makers.items()}
        seconds = median_seconds(cases, ROUNDS)
        for who in makers:
            base = seconds[f"{who} none"]
            cells = [seconds[f"{who} {kind}"] for kind in KINDS]
            row = " ".join(
                f"{1e3 * s / STEPS:9.2f} ms {100 * (s / base - 1):+6.1f} %" for s in cells
            )
            print(f"{width:>6} {who:<14} {row}")


if __name__ == "__main__":
    main()
