"""Monte Carlo dropout: uncertainty from several passes with dropout on (Gal & Ghahramani 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dropnorm.evaluation import AnyDropout, evaluating


@torch.no_grad()
def mc_dropout(network: nn.Module, x: Tensor, samples: int) -> dict[str, Tensor]:
    """Mean prediction and uncertainty over `samples` passes with dropout on, batch norm in eval.

    Returns what `uncertainty` does of [B, classes]. The network is as before afterwards, dropout's
    steps included. Errors: ValueError if there is no dropout, and for less than one sample.
    """
    layers = [m for m in network.modules() if isinstance(m, AnyDropout)]
    if not layers:
        raise ValueError("mc_samples: expected a network with dropout, got none; set mc_samples=0")
    if samples < 1:
        raise ValueError(f"mc_samples: expected 1 or more passes, got {samples!r}")
    with evaluating(network):
        for layer in layers:
            layer.training = True
        return uncertainty(torch.stack([network(x).softmax(-1) for _ in range(samples)]))


def uncertainty(passes: Tensor) -> dict[str, Tensor]:
    """What several passes' probabilities [samples, ..., C] say.

    Their mean, as probabilities [..., C]; entropy [...] (nats), of the mean; mutual_information
    [...] (nats), the part of the entropy that comes from the passes disagreeing. Source: Houlsby et
    al. 2011.
    """
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
