"""Monte Carlo dropout: uncertainty from several passes with dropout on (Gal & Ghahramani 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropnorm.blocks import Dropout


@torch.no_grad()
def mc_dropout(network: nn.Module, x: Tensor, samples: int) -> dict[str, Tensor]:
    """Mean prediction and uncertainty over `samples` passes with dropout on, batch norm in eval.

    Returns probabilities [B, classes]; entropy [B] (nats), of the mean prediction; and
    mutual_information [B] (nats), the part of the entropy that comes from the masks disagreeing.
    The network's modes are as before afterwards. Errors: ValueError if there is no dropout.
    """
    kinds = Dropout | nn.modules.dropout._DropoutNd
    layers = [m for m in network.modules() if isinstance(m, kinds)]
    if not layers:
        raise ValueError("mc_samples: expected a network with dropout, got none; set mc_samples=0")
    modes = [(m, m.training) for m in network.modules()]
    network.eval()
    for layer in layers:
        layer.training = True
    try:
        passes = torch.stack([network(x).softmax(-1) for _ in range(samples)])
    finally:
        for module, mode in modes:
            module.training = mode
    mean = passes.mean(0)
    entropy = _entropy(mean)
    return {
        "probabilities": mean,
        "entropy": entropy,
        "mutual_information": entropy - _entropy(passes).mean(0),
    }


def _entropy(p: Tensor) -> Tensor:
    each: Tensor = torch.special.entr(p)
    return each.sum(-1)
