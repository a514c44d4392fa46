"""`Stacked`: K modules of one shape as one, run by `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dropnorm.blocks import Dropout
from dropnorm.pack.vmap_layers import LaneNoise, VmapBatchNorm, is_norm, momentum_of


class Stacked(nn.Module):
    """K modules with a leading lane axis on every parameter and buffer of `network`.

    `network` is a copy of the first module with dropout and batch norm replaced; it does not run by
    itself. The modules stay as they are, but for their dropout layers, which go on counting here.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = _with_lane_layers(modules)
        states = [_lane_tensors(module) for module in modules]
        stacked: dict[int, Tensor] = {}  # a tensor that has two names stays one tensor
        for name, tensor in _tensors(self.network).items():
            if id(tensor) not in stacked:
                packed = torch.stack([state[name] for state in states])
                if isinstance(tensor, nn.Parameter):
                    packed = nn.Parameter(packed, requires_grad=tensor.requires_grad)
                stacked[id(tensor)] = packed
            _replace(self.network, name, stacked[id(tensor)])
        self._one = (_One(self.network),)  # in a tuple, so that it adds no names

    def forward(self, method: str, batch: Any, shared: bool = False) -> Any:
        """What `method(batch)` of each lane returns, with a leading lane axis.

        Every tensor in `batch` has a lane axis too, unless the batch is `shared` by all lanes.
        """
        tensors = {f"network.{name}": tensor for name, tensor in _tensors(self.network).items()}

        def lane(tensors: dict[str, Tensor], batch: Any) -> Any:
            return functional_call(self._one[0], tensors, (method, batch), tie_weights=False)

        return vmap(lane, in_dims=(0, None if shared else 0))(tensors, batch)

    @torch.no_grad()
    def put(self, lane: int, module: nn.Module) -> None:
        """Copies a module into a lane, in place; its dropout layers are those that draw there."""
        state = _lane_tensors(module)
        for name, packed in _tensors(self.network).items():
            packed[lane].copy_(state[name])
        for name, layer in self._noise().items():
            layer.layers[lane] = _dropout(module, name)

    @torch.no_grad()
    def keep(self, lanes: Sequence[int]) -> None:
        """Drops the other lanes. The parameters stay the same objects, without gradients."""
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.grad = None
            tensor.data = tensor.data[list(lanes)]
        for layer in self._noise().values():
            layer.layers = [layer.layers[lane] for lane in lanes]

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of one lane's state, as the plain module's `state_dict` has it."""
        return {name: t[lane].clone() for name, t in self.network.state_dict().items()}

    def _noise(self) -> dict[str, LaneNoise]:
        return {n: m for n, m in self.network.named_modules() if isinstance(m, LaneNoise)}


class _One(nn.Module):
    """A method of a module as a forward pass: `functional_call` calls nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, method: str, batch: Any) -> Any:
        return getattr(self.network, method)(batch)


def _with_lane_layers(modules: Sequence[nn.Module]) -> nn.Module:
    network = copy.deepcopy(modules[0])
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Dropout):
            noise = LaneNoise([_dropout(module, name) for module in modules])
            _replace(network, name, noise.train(layer.training))
        elif is_norm(layer):
            assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
            _replace(network, name, VmapBatchNorm(layer))
    return network


def _lane_tensors(module: nn.Module) -> dict[str, Tensor]:
    """All that a lane holds of a plain module; the momentum of its norms is a tensor here."""
    tensors = {name: tensor.detach() for name, tensor in _tensors(module).items()}
    for name, layer in module.named_modules():
        if is_norm(layer):
            assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
            tensors[f"{name}.momentum"] = momentum_of(layer)
    return tensors


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, under several names if several submodules share them.

    A submodule that has two names is taken once: `functional_call` would not restore it.
    """
    tensors: dict[str, Tensor] = {}
    for path, part in module.named_modules(prefix=""):
        own = {**dict(part.named_parameters(path, False)), **dict(part.named_buffers(path, False))}
        tensors |= own
    return tensors


def _dropout(module: nn.Module, name: str) -> Dropout:
    layer = module.get_submodule(name)
    assert isinstance(layer, Dropout)
    return layer


def _replace(module: nn.Module, name: str, new: Tensor | nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
