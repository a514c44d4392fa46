"""Batches for all lanes of a pack from one DataLoader of anyone's, each lane in its own order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader

from dropnorm.draws import Draws, begin_epoch


class LaneLoaders:
    """What each lane's trial would get from this loader alone, side by side: one epoch of each.

    `ages` is asked when a pass begins: the (seed, epoch) of each lane. See `VmappedPack.ages`. A
    lane's order and augmentation are those of `dropnorm.draws.begin_epoch`, whoever is beside it.
    Every lane has its own pass, so a loader with workers starts `num_workers` of them for each, an
    epoch. Lanes share dataset and sampler: what these draw by generators that are not the loader's,
    torch's, numpy's or Python's would depend on the neighbours, and is refused.

    Shapes: batches of tensors [B, ...] in any containers -> the same with [K, B, ...]. Errors:
    ValueError for what `check_loader` refuses, and for batches that differ in shape.
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
        lanes = [Pass(self.loader, seed, epoch) for seed, epoch in self.ages()]
        for _ in range(len(self)):
            yield stack_batches([next(lane) for lane in lanes])


class Pass:
    """One epoch of one trial over a loader; others may draw and go over it in between."""

    def __init__(self, loader: DataLoader[Any], seed: int, epoch: int) -> None:
        self._loader = own = copy.copy(loader)
        self._iterator, self._draws = begin_epoch(own, lambda: iter(own), seed, epoch)

    def __iter__(self) -> Pass:
        return self

    def __next__(self) -> Any:
        self._draws.go_on()
        batch = next(self._iterator)
        self._draws = Draws(self._loader)
        return batch


def check_loader(loader: object) -> None:
    """Errors: ValueError for what cannot be gone through once for each lane.

    Two passes of the same seed and epoch are begun, and have to agree in their first batch.
    """
    if not isinstance(loader, DataLoader):
        raise ValueError(f"train_dataloader: expected one DataLoader, got {type(loader).__name__}")
    try:
        len(loader)
    except TypeError:
        raise ValueError("train_dataloader: expected a length, got an iterable without") from None
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if kind := next((type(s).__name__ for s in samplers if hasattr(s, "set_epoch")), None):
        raise ValueError(
            f"train_dataloader: its {kind} has a set_epoch, which a pack does not call"
        )
    before = Draws(loader)
    once, again = (tree_leaves(next(Pass(loader, 0, 0))) for _ in range(2))
    before.go_on()
    if not all(map(_same, once, again)):
        raise ValueError(
            "train_dataloader: expected the same first batch from the same seed, got another: its "
            "dataset or sampler draws from a generator of its own; draw from torch's"
        )


def _same(a: object, b: object) -> bool:
    both = isinstance(a, Tensor) and isinstance(b, Tensor)
    return not both or torch.equal(a, b)  # type: ignore[arg-type]


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
