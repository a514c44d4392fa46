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


class Burst:
    """Some batches of each lane, one after the other, gathered when they are asked for.

    Shapes: `rows` [K, S, B] of a part, for S batches of K lanes.
    """

    def __init__(self, part: Part, rows: Tensor) -> None:
        self._part, self._rows = part, rows

    def __len__(self) -> int:
        return self._rows.shape[1]

    def of(self, lane: int) -> Iterator[Batch]:
        """A lane's batches: x [B, ...], y [B]."""
        return map(self._part.gather, self._rows[lane])

    def __iter__(self) -> Iterator[Batch]:
        """The batches of all lanes side by side: x [K, B, ...], y [K, B]."""
        for some in self._rows.unbind(1):
            x, y = self._part.gather(some.flatten())
            yield x.view(*some.shape, *x.shape[1:]), y.view(some.shape)


class LaneBatches:
    """The batches that each lane's trial would see alone, side by side: one epoch of each.

    `ages` is asked when a pass begins: the (seed, epoch) of each lane. See `Pack.ages`. The rows
    left over are dropped, as `TrainBatches` does. On other devices than the CPU the orders are made
    there (`orders_on_device`): a thousand of them would keep the host busy for a second.

    With `at_once` above 1 a Trainer gets that many batches as one, a `Burst`, and what it does
    around a step it does once for all of them: with one lane on a CPU that is a third of the time.
    The pack makes as many steps, to the same bits; what the Trainer counts are then bursts.

    Shapes: `rows` int64 [N] on the CPU -> on the part's device x float32 [K, B, C, H, W] and
    y int64 [K, B].
    """

    def __init__(
        self,
        part: Part,
        rows: Tensor,
        batch_size: int,
        ages: Callable[[], Sequence[tuple[int, int]]],
        at_once: int = 1,
    ) -> None:
        if at_once < 1:
            raise ValueError(f"at_once: expected 1 or more batches, got {at_once}")
        part.check(rows)
        self.part = part
        self.rows = rows
        self.batch_size = batch_size
        self.ages = ages
        self.at_once = at_once

    def __len__(self) -> int:
        return -(-self._batches // self.at_once)

    def __iter__(self) -> Iterator[Batch | Burst]:
        rows = self._orders()[:, : self._batches * self.batch_size]
        for some in torch.split(rows.view(len(rows), self._batches, -1), self.at_once, dim=1):
            burst = Burst(self.part, some)
            yield next(iter(burst)) if self.at_once == 1 else burst

    def batches_in(self, count: int) -> int:
        """How many batches the first `count` have that a Trainer gets."""
        return min(count * self.at_once, self._batches)

    @property
    def _batches(self) -> int:
        """Of an epoch."""
        return len(self.rows) // self.batch_size

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
