"""Batches for all lanes of a pack, each lane in its own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dropnorm.data import Part, epoch_order
from dropnorm.data.parts import Batch


class LaneBatches:
    """The batches that each lane's trial would see alone, side by side: one epoch of each.

    `ages` is asked when a pass begins: the (seed, epoch) of each lane. See `Pack.ages`. The rows
    left over are dropped, as `TrainBatches` does.

    Shapes: `rows` int64 [N] on the CPU -> on the part's device x float32 [K, B, C, H, W] and
    y int64 [K, B].
    """

    def __init__(
        self,
        part: Part,
        rows: Tensor,
        batch_size: int,
        ages: Callable[[], Sequence[tuple[int, int]]],
    ) -> None:
        self.part = part
        self.rows = rows
        self.batch_size = batch_size
        self.ages = ages

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        orders = torch.stack([epoch_order(self.rows, seed, epoch) for seed, epoch in self.ages()])
        orders = orders.to(self.part.images.device)
        for batch in range(len(self)):
            some = orders[:, batch * self.batch_size : (batch + 1) * self.batch_size]
            x, y = self.part.gather(some.flatten())
            yield x.view(*some.shape, *x.shape[1:]), y.view(some.shape)
