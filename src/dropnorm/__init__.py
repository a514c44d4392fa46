"""dropnorm: dropout and batch norm for PyTorch Lightning, made to be tuned.

Names are loaded when first used, so `import dropnorm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropnorm.blocks import BatchNorm, Block, Dropout
    from dropnorm.data import MNIST, Synthetic
    from dropnorm.module import Classifier
    from dropnorm.networks import cnn, mlp
    from dropnorm.pack import Pack

__all__ = [
    "MNIST", "BatchNorm", "Block", "Classifier", "Dropout", "Pack", "Synthetic", "cnn", "mlp",
]  # fmt: skip

_HOMES = {
    "BatchNorm": "blocks", "Block": "blocks", "Dropout": "blocks", "MNIST": "data",
    "Synthetic": "data", "Classifier": "module", "Pack": "pack", "cnn": "networks",
    "mlp": "networks",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dropnorm' has no attribute {name!r}")
    return getattr(import_module(f"dropnorm.{_HOMES[name]}"), name)
