"""Packs: many trials of one network, trained together as one LightningModule.

A lane is a place in a pack that a trial occupies. On the CPU lanes are computed in turn, with the
kernels of the plain network, so a lane *is* the trial trained alone; elsewhere all lanes together.
"""

from dropnorm.pack.batches import LaneBatches
from dropnorm.pack.loaders import LaneLoaders
from dropnorm.pack.module import Pack
from dropnorm.pack.optimizer import LaneOptimizer
from dropnorm.pack.protocol import can_pack
from dropnorm.pack.sequential import stack
from dropnorm.pack.signature import signature
from dropnorm.pack.vmapped import VmappedPack

__all__ = [
    "LaneBatches",
    "LaneLoaders",
    "LaneOptimizer",
    "Pack",
    "VmappedPack",
    "can_pack",
    "signature",
    "stack",
]
