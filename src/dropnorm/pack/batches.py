"""Batches for all lanes of a pack, each lane in its own order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dropnorm.data import Part, epoch_order
from dropnorm.data.parts import Batch
from dropnorm.random import hashes
from dropnorm.seeds import derive

_SORTED = 1 << 24  # hashes at a time: with what sorting them takes, about a gigabyte


class LaneBatches:
    """The batches that each lane's trial would see alone, side by side: one epoch of each.

    `ages` is asked when a pass begins: the (seed, epoch) of each lane. See `Pack.ages`. The rows
    left over are dropped, as `TrainBatches` does. On other devices than the CPU the orders are made
    there (`orders_on_device`): a thousand of them would keep the host busy for a second.

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
        orders = self._orders()
        for batch in range(len(self)):
            some = orders[:, batch * self.batch_size : (batch + 1) * self.batch_size]
            x, y = self.part.gather(some.flatten())
            yield x.view(*some.shape, *x.shape[1:]), y.view(some.shape)

    def _orders(self) -> Tensor:
        """The rows of an epoch in each lane's order, [K, N], on the part's device."""
        ages, device = self.ages(), self.part.images.device
        if device.type != "cpu":
            return orders_on_device(self.rows.to(device, torch.int32), ages)
        return torch.stack([epoch_order(self.rows, seed, epoch) for seed, epoch in ages])


def orders_on_device(rows: Tensor, ages: Sequence[tuple[int, int]]) -> Tensor:
    """`rows` [N] in an order for each (seed, epoch), [K, N], made on their device and keyed by it.

    The rows are sorted by hashes of their places. The orders are others than those of
    `epoch_order`, which only the host can make.
    """
    seeds = torch.tensor([derive(seed, "order") for seed, _ in ages]).to(rows.device)
    epochs = torch.tensor([epoch for _, epoch in ages]).to(rows.device)
    lanes = max(_SORTED // max(len(rows), 1), 1)
    keys = zip(torch.split(seeds, lanes), torch.split(epochs, lanes), strict=True)
    return torch.cat([rows[hashes(len(rows), *key).argsort(dim=1, stable=True)] for key in keys])
