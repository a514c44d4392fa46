"""A network in eval mode for a while, and the part of it that runs before its first batch norm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Block, Dropout
from dropnorm.blocks.fusing import is_heard
from dropnorm.kernels.cpu import evaluate, fits

Norm: TypeAlias = nn.modules.batchnorm._BatchNorm
AnyDropout: TypeAlias = Dropout | nn.modules.dropout._DropoutNd


def norms_of(network: nn.Module) -> dict[str, Norm]:
    """The batch norms that keep running averages, ours and torch's, by name."""
    norms = {name: m for name, m in network.named_modules() if isinstance(m, Norm)}
    return {name: norm for name, norm in norms.items() if norm.running_mean is not None}


def averages_of(norm: Norm) -> tuple[Tensor, Tensor]:
    """The running mean and variance, [C] each, of a norm that keeps them."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@contextmanager
def evaluating(network: nn.Module) -> Iterator[dict[str, Norm]]:
    """`network` in eval mode inside the block, which gets `norms_of` it.

    Inside, layers may be switched to training and running averages replaced by other tensors (do
    not write into them): modes, averages, and the seeds and steps of keyed dropout are afterwards
    as before.
    """
    norms = norms_of(network)
    modes = [(m, m.training) for m in network.modules()]
    averages = [(norm, *averages_of(norm)) for norm in norms.values()]
    keys = [(m, m.seed, m.step) for m in network.modules() if isinstance(m, Dropout)]
    network.eval()
    try:
        yield norms
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, mean, var in averages:
            norm.running_mean, norm.running_var = mean, var
        for layer, seed, step in keys:
            layer.seed, layer.step = seed, step


def split(network: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """What runs before the first batch norm, and the layers that run after that, in order.

    The parts share their layers with the network. Only Sequentials and Blocks are cut, which run
    their children in order; of another network with norms nothing is known to come before.
    """
    if not norms_of(network):
        return network, []
    if not isinstance(network, nn.Sequential) or type(network).forward not in _IN_ORDER:
        return nn.Identity(), [network]
    before: dict[str, nn.Module] = {}
    children, rest = iter(network._modules.items()), list[nn.Module]()
    while not rest:
        name, child = next(children)
        assert child is not None
        before[name], rest = split(child)
    if isinstance(network, Block) and "weight" not in before:
        return nn.Identity(), [network]  # its forward looks at its weight layer first
    first = copy.copy(network)
    first._modules = {**before}
    return first, [*rest, *(child for _, child in children if child is not None)]


_IN_ORDER = (nn.Sequential.forward, Block.forward)


def steps(layers: Sequence[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """What runs these layers of a network that is `evaluating`, in order and without gradients.

    On the CPU a batch norm and the ReLU behind it are one loop, to the same bits, unless a hook
    would miss that they run.
    """
    found, waiting = list[Callable[[Tensor], Tensor]](), list(layers)
    while waiting:
        match waiting:
            case [Norm() as norm, nn.ReLU() as relu, *rest] if _can_be_one(norm, relu):
                found.append(partial(_norm_and_relu, norm, relu))
                waiting = rest
            case [layer, *rest]:
                found.append(layer)
                waiting = rest
    return found


def _can_be_one(norm: Norm, relu: nn.ReLU) -> bool:
    # Of torch's only those whose batches can fit the loop, which knows no volumes.
    known = type(norm) in (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d) and type(relu) is nn.ReLU
    heard = is_heard(norm) or is_heard(relu)
    return known and not heard and not norm.training and norm.running_mean is not None


def _norm_and_relu(norm: Norm, relu: nn.ReLU, x: Tensor) -> Tensor:
    if fits(x) and x.shape[1] == norm.num_features:
        return evaluate(x, averages_of(norm), norm.weight, norm.bias, norm.eps)
    y: Tensor = relu(norm(x))
    return y
