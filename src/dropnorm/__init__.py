"""dropnorm: dropout and batch norm for PyTorch Lightning, made to be tuned.

Names are loaded when first used, so `import dropnorm` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dropnorm.bank import Bank
    from dropnorm.blocks import BatchNorm, Block, Dropout
    from dropnorm.callbacks import (
        Diagnostics,
        DropoutSchedule,
        MCDropout,
        MomentumBank,
        PreciseBatchNorm,
    )
    from dropnorm.data import MNIST, Synthetic
    from dropnorm.module import Classifier
    from dropnorm.networks import cnn, mlp
    from dropnorm.pack import Pack
    from dropnorm.retrofitting import retrofit, unretrofit

__all__ = [
    "MNIST", "Bank", "BatchNorm", "Block", "Classifier", "Diagnostics", "Dropout",
    "DropoutSchedule", "MCDropout", "MomentumBank", "Pack", "PreciseBatchNorm", "Synthetic", "cnn",
    "mlp", "retrofit", "unretrofit",
]  # fmt: skip

_HOMES = {
    "Bank": "bank", "BatchNorm": "blocks", "Block": "blocks", "Dropout": "blocks",
    "Diagnostics": "callbacks", "DropoutSchedule": "callbacks", "MCDropout": "callbacks",
    "MomentumBank": "callbacks", "PreciseBatchNorm": "callbacks", "MNIST": "data",
    "Synthetic": "data", "Classifier": "module", "Pack": "pack", "cnn": "networks",
    "mlp": "networks", "retrofit": "retrofitting", "unretrofit": "retrofitting",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dropnorm' has no attribute {name!r}")
    return getattr(import_module(f"dropnorm.{_HOMES[name]}"), name)
