"""Precise statistics: what running averages would be if the weights had stood still."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.evaluation import AnyDropout, Norm, averages_of, evaluating


@torch.no_grad()
def recalibrate(
    network: nn.Module, batches: Iterable[Any], *, dropout: bool = False
) -> dict[str, Tensor]:
    """Running averages of all norms over these batches, for `load_state_dict(..., strict=False)`.

    Each batch is normalised by its own statistics, as in training, and they are pooled: the mean of
    all that a norm saw, and the variance of all of it, with what lies between batches. That takes
    away the lag of running averages. With `dropout` off it also takes away the shift between
    training and evaluation that dropout before a norm causes; with it on, the shift stays. 1,000 to
    10,000 training examples are enough. Source: Wu & Johnson 2021, PreciseBN.

    The network stays as it is, modes, averages and dropout's steps, and so do torch's random
    numbers. Norms that no batch reached are left out of the result.

    Shapes: batches are x [B, ...], or a sequence that begins with it, on the network's device.
    Errors: ValueError for no batches, and (from torch) for a batch of one value per channel.
    """
    batches_seen = 0
    with evaluating(network) as norms, _same_draws(network), ExitStack() as hooks:
        pools = {name: _Pool() for name in norms}
        for name, pool in pools.items():
            hooks.enter_context(norms[name].register_forward_pre_hook(pool.add, with_kwargs=True))
        for layer in network.modules():
            layer.training = dropout and isinstance(layer, AnyDropout)
        for batch in batches:
            network(batch if isinstance(batch, Tensor) else batch[0])
            batches_seen += 1
    if not batches_seen:
        raise ValueError("batches: expected at least one to recalibrate with, got none")
    entries: dict[str, Tensor] = {}
    for name, pool in pools.items():
        prefix = f"{name}." if name else ""
        if pool.values:
            entries |= {f"{prefix}running_mean": pool.mean, f"{prefix}running_var": pool.var}
    return entries


class _Pool:
    """The mean and variance [C] of all values that went through a norm."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        self.values = 0  # per channel

    def add(self, norm: Norm, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        """A forward pre-hook: pools a batch, by whose statistics the norm then normalises it."""
        (x,) = args or kwargs.values()
        values = x.numel() // x.shape[1]
        mean, var = (torch.zeros_like(average) for average in averages_of(norm))
        # Many times faster than `torch.var_mean`, and refuses what cannot be normalised.
        F.batch_norm(x, mean, var, training=True, momentum=1.0)
        var *= (values - 1) / values  # of these values, not an estimate for others
        norm.running_mean, norm.running_var = mean, var
        self._merge(values, mean, var)

    def _merge(self, values: int, mean: Tensor, var: Tensor) -> None:
        """Chan, Golub & LeVeque's update, in which nothing large is subtracted."""
        if not self.values:
            self.values, self.mean, self.var = values, mean.clone(), var.clone()
            return
        self.values += values
        share = values / self.values
        apart = mean - self.mean
        self.mean += share * apart
        self.var.lerp_(var, share).add_(share * (1 - share) * apart.square())


def _same_draws(network: nn.Module) -> AbstractContextManager[None]:
    """Torch's random numbers afterwards as before."""
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=list(devices))
