"""Batches of a part that is already on the device: what Lightning iterates, not a DataLoader.

There are no workers and no transfers: a batch is one gather and one kernel that normalises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dropnorm.data.parts import Batch, Part
from dropnorm.seeds import derive


def epoch_order(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """`rows` int64 [N] (on the CPU) in the order of one epoch: a pure function of (seed, epoch)."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return rows[torch.randperm(len(rows), generator=generator)]


class TrainBatches:
    """Batches of some rows of a part in a new order each epoch; the rows left over are dropped.

    A short last batch would get full weight in BatchNorm's running averages. `epoch` is asked when
    the first batch of a pass is: given `lambda: trainer.current_epoch`, a resumed run sees the
    orders it would have seen. A pass that a checkpoint interrupts goes on where it stopped.

    Shapes: `rows` int64 [N] on the CPU -> on the part's device x float32 [B, C, H, W], y int64 [B].
    """

    def __init__(
        self, part: Part, rows: Tensor, batch_size: int, *, seed: int, epoch: Callable[[], int]
    ) -> None:
        self.part = part
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self._given = {"epoch": 0, "batch": 0}
        self._resume: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        resume, self._resume = self._resume, None
        first = resume["batch"] if resume and resume["epoch"] == epoch else 0
        order = epoch_order(self.rows, self.seed, epoch).to(self.part.images.device)
        batches = torch.split(order, self.batch_size)
        for batch in range(first, len(self)):
            self._given = {"epoch": epoch, "batch": batch + 1}
            yield self.part.gather(batches[batch])

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were given; Lightning puts it into checkpoints."""
        return self._given

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = state


class EvalBatches:
    """Batches of a whole part in its own order, the last one as short as it comes."""

    def __init__(self, part: Part, batch_size: int) -> None:
        self.part = part
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.part) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.part), self.batch_size):
            yield self.part.between(start, start + self.batch_size)
