"""Callbacks for any module under an ordinary Trainer, of either of Lightning's packages."""

from dropnorm.callbacks.diagnostics import Diagnostics
from dropnorm.callbacks.mc import MCDropout
from dropnorm.callbacks.momentum_bank import MomentumBank
from dropnorm.callbacks.precise_batch_norm import PreciseBatchNorm
from dropnorm.callbacks.schedule import DropoutSchedule

__all__ = ["Diagnostics", "DropoutSchedule", "MCDropout", "MomentumBank", "PreciseBatchNorm"]
