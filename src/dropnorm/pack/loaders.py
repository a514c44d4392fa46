"""Batches for all lanes of a pack from one DataLoader of anyone's, each lane in its own order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from dropnorm.draws import Draws, begin_epoch


class LaneLoaders:
    """What each lane's trial would get from this loader alone, side by side: one epoch of each.

    `ages` is asked when a pass begins: the (seed, epoch) of each lane. See `VmappedPack.ages`. A
    lane's order and augmentation are those of `dropnorm.draws.begin_epoch`, whoever is beside it.
    Every lane has its own pass, so a loader with workers starts `num_workers` of them for each.

    Shapes: batches of tensors [B, ...] in any containers -> the same with [K, B, ...]. Errors:
    ValueError for anything but a DataLoader of known length, and for batches that differ in shape.
    """

    def __init__(
        self, loader: DataLoader[Any], ages: Callable[[], Sequence[tuple[int, int]]]
    ) -> None:
        check_loader(loader)
        self.loader = loader
        self.ages = ages

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        lanes = [self._begun(seed, epoch) for seed, epoch in self.ages()]
        for _ in range(len(self)):
            yield stack_batches([_next(lane) for lane in lanes])

    def _begun(self, seed: int, epoch: int) -> list[Any]:
        loader = copy.copy(self.loader)
        loader._iterator = None  # with persistent workers there would be one for all lanes
        return [*begin_epoch(loader, lambda: iter(loader), seed, epoch), loader]


def _next(lane: list[Any]) -> Any:
    """A lane's next batch; other lanes draw from the same generators in between."""
    iterator, draws, loader = lane
    draws.go_on()
    batch = next(iterator)
    lane[1] = Draws(loader)
    return batch


def check_loader(loader: object) -> None:
    """Errors: ValueError for what cannot be gone through once for each lane."""
    if not isinstance(loader, DataLoader):
        raise ValueError(f"train_dataloader: expected one DataLoader, got {type(loader).__name__}")
    try:
        len(loader)
    except TypeError:
        raise ValueError("train_dataloader: expected a length, got an iterable without") from None


def stack_batches(batches: Sequence[Any]) -> Any:
    """Batches of the same containers as one, with a leading lane axis on every tensor."""

    def stacked(*parts: Any) -> Tensor:
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"batch: expected tensors, got {type(parts[0]).__name__}")
        if len(shapes := {tuple(part.shape) for part in parts}) > 1:
            raise ValueError(
                f"batch: expected one shape in all lanes, got {', '.join(map(str, shapes))}; "
                "train them one at a time, or pad batches to one size"
            )
        return torch.stack(parts)

    return tree_map(stacked, *batches)
