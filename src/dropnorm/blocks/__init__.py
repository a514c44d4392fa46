"""Dropout and BatchNorm layers, and the block that combines them with a weight layer."""

from dropnorm.blocks.batchnorm import BatchNorm
from dropnorm.blocks.block import Block
from dropnorm.blocks.dropout import Dropout, seed_dropout

__all__ = ["BatchNorm", "Block", "Dropout", "seed_dropout"]
