"""The layers of anyone's module that callbacks work on, ours and torch's alike."""

from __future__ import annotations

from torch import nn

from dropnorm.blocks import Dropout
from dropnorm.evaluation import AnyDropout, Norm, norms_of


def norms_in(module: nn.Module, who: str) -> dict[str, Norm]:
    """Batch norm layers with running averages, by name. Errors: ValueError if there are none."""
    norms = norms_of(module)
    if not norms:
        raise ValueError(
            f"{who}: expected batch norm layers with running averages, got none in "
            f"{type(module).__name__}; take the callback out"
        )
    return norms


def dropouts_of(module: nn.Module, who: str) -> list[AnyDropout]:
    """Dropout layers, in order. Errors: ValueError if there are none."""
    layers = [m for m in module.modules() if isinstance(m, AnyDropout)]
    if not layers:
        raise ValueError(
            f"{who}: expected dropout layers, got none in {type(module).__name__}; "
            "retrofit(module, dropout=0.1, insert='ReLU') puts some in"
        )
    return layers


def rate_of(layer: AnyDropout) -> float:
    return layer.rate.item() if isinstance(layer, Dropout) else layer.p


def set_rate(layer: AnyDropout, rate: float) -> None:
    if isinstance(layer, Dropout):
        layer.rate.fill_(rate)
    else:
        layer.p = rate
