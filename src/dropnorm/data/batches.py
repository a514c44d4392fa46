"""Batches of a part that is already on the device: what Lightning iterates, not a DataLoader.

There are no workers and no transfers: a batch is one gather and one kernel that normalises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dropnorm.data.parts import Batch, Part
from dropnorm.seeds import derive


def epoch_order(rows: Tensor, seed: int, epoch: int) -> Tensor:
    """`rows` int64 [N] (on the CPU) in the order of one epoch: a pure function of (seed, epoch)."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return rows[torch.randperm(len(rows), generator=generator)]


@dataclass(frozen=True)
class Share:
    """Which of several processes that train one model this one is; the only one by default."""

    rank: int = 0
    world_size: int = 1


ALONE = Share()


class TrainBatches:
    """Batches of some rows of a part in a new order each epoch; the rows left over are dropped.

    A short last batch would get full weight in BatchNorm's running averages. `epoch` is asked when
    the first batch of a pass is: given `lambda: trainer.current_epoch`, a resumed run sees the
    orders it would have seen. A pass that a checkpoint interrupts goes on where it stopped.

    `batch_size` is one process's, as usual. Of W processes each takes its part of the W batches
    that one process would see next: together they step through the same order with W times the
    batch, and every image is in one of them.

    Shapes: `rows` int64 [N] on the CPU -> on the part's device x float32 [B, C, H, W], y int64 [B].
    """

    def __init__(
        self,
        part: Part,
        rows: Tensor,
        batch_size: int,
        *,
        seed: int,
        epoch: Callable[[], int],
        share: Share = ALONE,
    ) -> None:
        part.check(rows)
        self.part = part
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.share = share
        self._given = {"epoch": 0, "batch": 0}
        self._resume: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self.rows) // (self.batch_size * self.share.world_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch()
        resume, self._resume = self._resume, None
        first = resume["batch"] if resume and resume["epoch"] == epoch else 0
        order = epoch_order(self.rows, self.seed, epoch).to(self.part.images.device)
        batches = torch.split(order, self.batch_size)
        for batch in range(first, len(self)):
            self._given = {"epoch": epoch, "batch": batch + 1}
            yield self.part.gather(batches[batch * self.share.world_size + self.share.rank])

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches were given; Lightning puts it into checkpoints."""
        return self._given

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = state


class EvalBatches:
    """Batches of a whole part in its own order, the last one as short as it comes.

    Of several processes each takes neighbouring images, as many as another or one more, and nobody
    takes one twice: metrics summed over the processes are those of one.
    """

    def __init__(self, part: Part, batch_size: int, share: Share = ALONE) -> None:
        self.part = part
        self.batch_size = batch_size
        size, of = len(part), share.world_size
        self._start, self._stop = size * share.rank // of, size * (share.rank + 1) // of

    def __len__(self) -> int:
        return -(-(self._stop - self._start) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(self._start, self._stop, self.batch_size):
            yield self.part.between(start, min(start + self.batch_size, self._stop))
