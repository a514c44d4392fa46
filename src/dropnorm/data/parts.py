"""Parts of a data set (train, val, test) as tensors, shared by every trial of a process.

Pixels stay uint8 on their device, a quarter of the memory of floats, and are normalised after the
rows of a batch are gathered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dropnorm.data.errors import DataError
from dropnorm.kernels.pixels import gather

Batch: TypeAlias = tuple[Tensor, Tensor]
PartName: TypeAlias = Literal["train", "val", "test"]

_KEPT = 4  # data sets; one study uses one, and a process that looks at many must not keep them all


@dataclass(frozen=True, eq=False)
class Part:
    """Images uint8 [N, C, H, W] and labels int64 [N] on one device, and the scale of their pixels.

    The tensors are shared between trials: never change them in place. The batches are your own.
    `mean` and `std` are in pixel values (0 to 255), those of the training part for all parts.
    """

    images: Tensor
    labels: Tensor
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def check(self, rows: Tensor) -> None:
        """Raises IndexError for rows that are not here; `gather` does not look."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            got = f"{int(rows.min())} to {int(rows.max())}"
            raise IndexError(f"rows: expected 0 to {len(self) - 1}, got {got}")

    def gather(self, rows: Tensor) -> Batch:
        """The batch of these rows, int64 [B]: x float32 [B, C, H, W] and y int64 [B]."""
        if self.images.device.type != "cpu":
            x = self.images.index_select(0, rows)
            return self._normalise(x), self.labels.index_select(0, rows)
        x, y = torch.empty(len(rows), *self.images.shape[1:]), torch.empty_like(rows)
        batch = rows.numpy(), x.numpy().reshape(len(rows), -1), y.numpy()
        gather(*self._arrays, *batch, 1 / self.std, -self.mean / self.std)
        return x, y

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [N, C * H * W] and labels, sharing the tensors' memory on the CPU."""
        return self.images.flatten(1).numpy(), self.labels.numpy()

    def between(self, start: int, stop: int) -> Batch:
        """The batch of neighbouring rows: x [B, C, H, W] and y [B]."""
        if self.images.device.type == "cpu":
            return self.gather(torch.arange(start, stop))
        return self._normalise(self.images[start:stop]), self.labels[start:stop].clone()

    def to(self, device: torch.device) -> Part:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def _normalise(self, pixels: Tensor) -> Tensor:
        # One kernel converts, scales and shifts. A 0-d tensor on the CPU goes with any device.
        shift = torch.tensor(-self.mean / self.std, dtype=torch.float32)
        return torch.add(shift, pixels, alpha=1 / self.std)


@dataclass(frozen=True, eq=False)
class Parts:
    """The three parts of a data set on the CPU, and its number of classes."""

    train: Part
    val: Part
    test: Part
    classes: int


class Source(Protocol):
    """Where parts come from. Equal sources give equal parts: a source is the key of the cache."""

    def __hash__(self) -> int: ...

    def read(self) -> Parts: ...


@lru_cache(maxsize=_KEPT)
def load(source: Source) -> Parts:
    """The parts of a source on the CPU, read once a process."""
    return source.read()


@lru_cache(maxsize=_KEPT * 3)
def place(source: Source, name: PartName, device: torch.device) -> Part:
    """One part of a source on a device, copied there once a process (on the CPU: not at all)."""
    part: Part = getattr(load(source), name)
    return part.to(device)


def assemble(train: Batch, val: Batch, test: Batch) -> Parts:
    """Parts from uint8 images [N, C, H, W] and int64 labels [N], normalised as the training part.

    Errors: DataError if all training pixels are equal, for then nothing can be scaled.
    """
    mean, std = pixel_statistics(train[0])
    if not std:
        raise DataError("training images that differ", f"every pixel {mean:g}", "check the files")
    classes = max(int(labels.max()) for _, labels in (train, val, test)) + 1
    return Parts(
        train=Part(*train, mean, std),
        val=Part(*val, mean, std),
        test=Part(*test, mean, std),
        classes=classes,
    )


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels, exact: computed from how often each occurs."""
    counts = torch.zeros(256, dtype=torch.int64)
    for some in torch.split(images, 1000):  # all at once would copy them all
        counts += torch.bincount(some.flatten(), minlength=256)
    share = counts.double() / counts.sum()
    values = torch.arange(256, dtype=torch.float64)
    mean = (share * values).sum()
    return float(mean), float((share * (values - mean).square()).sum().sqrt())
