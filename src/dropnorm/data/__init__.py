"""Data that lives on the device: MNIST and other IDX sets, and a small generated one."""

from dropnorm.data.batches import EvalBatches, TrainBatches, epoch_order
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
    "Synthetic",
    "TrainBatches",
    "epoch_order",
]
