"""Data that lives on the device: MNIST and other IDX sets, and a small generated one.

Names are loaded when first used, so that `dropnorm.data.idx` can be had without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropnorm.data.batches import EvalBatches, Share, TrainBatches, epoch_order
    from dropnorm.data.errors import DataError
    from dropnorm.data.images import ImageData
    from dropnorm.data.mnist import MNIST
    from dropnorm.data.parts import Part
    from dropnorm.data.synthetic import Synthetic

__all__ = [
    "MNIST",
    "DataError",
    "EvalBatches",
    "ImageData",
    "Part",
    "Share",
    "Synthetic",
    "TrainBatches",
    "epoch_order",
]

_HOMES = {
    "DataError": "errors", "EvalBatches": "batches", "ImageData": "images", "MNIST": "mnist",
    "Part": "parts", "Share": "batches", "Synthetic": "synthetic", "TrainBatches": "batches",
    "epoch_order": "batches",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dropnorm.data' has no attribute {name!r}")
    return getattr(import_module(f"dropnorm.data.{_HOMES[name]}"), name)
