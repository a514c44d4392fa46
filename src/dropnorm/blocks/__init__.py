"""Dropout and its relatives, norms, and the block that combines them with a weight layer."""

from dropnorm.blocks.batchnorm import BatchNorm
from dropnorm.blocks.block import Block
from dropnorm.blocks.dropout import Dropout, seed_dropout
from dropnorm.blocks.norms import GhostBatchNorm, RMSNorm
from dropnorm.blocks.residual import Residual
from dropnorm.blocks.variants import (
    AlphaDropout,
    ChannelDropout,
    DropPath,
    GaussianDropout,
    UniformDropout,
)
from dropnorm.blocks.weights import MaxNormConv2d, MaxNormLinear

__all__ = [
    "AlphaDropout", "BatchNorm", "Block", "ChannelDropout", "DropPath", "Dropout",
    "GaussianDropout", "GhostBatchNorm", "MaxNormConv2d", "MaxNormLinear", "RMSNorm", "Residual",
    "UniformDropout", "seed_dropout",
]  # fmt: skip
