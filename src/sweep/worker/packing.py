"""How trials are packed: what the end of an epoch needs of a pack, whatever its lanes are made of.

`ours` packs `Classifier`s, with kernels of our own; `theirs` packs other people's modules, by vmap.
"""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from dropnorm.data import EvalBatches
from dropnorm.data.images import ImageData
from dropnorm.pack import LaneBatches
from dropnorm.pack.together import Together
from sweep.worker.training import Training


class Packing(Protocol):
    """A pack and the data that it trains on; `training` is always the one in the lane."""

    @property
    def pack(self) -> Together[Any]: ...

    def batches(self, device: torch.device) -> tuple[Iterable[Any], Iterable[Any]]:
        """What the pack trains on, and what it is validated on."""

    def start(self, lane: int, training: Training) -> None:
        """Puts a trial into a lane, at its beginning or where it was saved."""

    def watch(self, trainings: Sequence[Training]) -> None:
        """Before a validation: leaves out of it what nobody would look at."""

    def score(self, due: Sequence[tuple[int, Training]]) -> None:
        """Scores the banks of lanes; a trial's metrics become those of its best momentum."""

    def complete(self, lane: int, training: Training, is_better: bool) -> None:
        """The last look at a trial, and its checkpoint if it may be the study's best."""

    def save(self, lane: int) -> bytes:
        """All that `start` needs to go on with the lane's trial elsewhere."""


def image_batches(
    data: ImageData,
    ages: Callable[[], Sequence[tuple[int, int]]],
    device: torch.device,
    at_once: int = 1,
) -> tuple[LaneBatches, EvalBatches]:
    """`Packing.batches` of data that lives on the device."""
    rows, size = data.train_rows(), data.batch_size
    train = LaneBatches(data.part("train", device), rows, size, ages, at_once)
    return train, EvalBatches(data.part("val", device), data.eval_batch_size)


def to_bytes(content: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def from_bytes(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    found: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    return found


def free_memory() -> None:
    """Gives back the memory of a pack that is gone: a Trainer and its module hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
