"""`Stacked`: K modules of one shape as one, run by `torch.func.vmap`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dropnorm.blocks import Dropout
from dropnorm.pack.vmap_layers import LaneNoise, Momenta, VmapBatchNorm, is_norm, settings_of


class Stacked(nn.Module):
    """K modules with a leading lane axis on every parameter and buffer of `network`.

    `network` is a copy of the first module with dropout and batch norm replaced; it does not run by
    itself. The modules stay as they are, but for their dropout layers, which go on counting here.
    With `momenta` every batch norm carries a bank for each lane.
    """

    def __init__(self, modules: Sequence[nn.Module], momenta: Momenta = ()) -> None:
        super().__init__()
        self.momenta = momenta
        self.network = _with_lane_layers(modules, momenta)
        states = [_lane_tensors(module, momenta) for module in modules]
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
        return self._run(_tensors(self.network), method, batch, None if shared else 0)

    def shared(
        self, lanes: Sequence[int], column: int | None, method: str, batch: Any
    ) -> dict[str, Tensor]:
        """What `method(batch)` returns for these lanes of one batch, in eval mode.

        Running averages are those of a column of the banks, or with None the lanes' own.
        """
        tensors = {name: tensor[list(lanes)] for name, tensor in _tensors(self.network).items()}
        for name in self._banks() if column is not None else ():
            mean, var = tensors[f"{name}.bank"][:, :, column].unbind(1)
            tensors |= {f"{name}.running_mean": mean, f"{name}.running_var": var}
        found: dict[str, Tensor] = self._run(tensors, method, batch, None)
        return found

    def _run(self, tensors: dict[str, Tensor], method: str, batch: Any, dim: int | None) -> Any:
        named = {f"network.{name}": tensor for name, tensor in tensors.items()}

        def lane(tensors: dict[str, Tensor], batch: Any) -> Any:
            return functional_call(self._one[0], tensors, (method, batch), tie_weights=False)

        return vmap(lane, in_dims=(0, dim))(named, batch)

    @torch.no_grad()
    def put(
        self, lane: int, module: nn.Module, tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Copies a module into a lane, in place; its dropout layers are those that draw there.

        Its tensors are then `tensors`, if given: what `lane_tensors` had of it before.
        """
        state = _lane_tensors(module, self.momenta) if tensors is None else tensors
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

    def lane_tensors(self, lane: int) -> dict[str, Tensor]:
        """A copy, on the CPU, of all that a lane holds: momenta and banks besides its state."""
        return {name: t[lane].to("cpu", copy=True) for name, t in _tensors(self.network).items()}

    def lane_banks(self, lane: int) -> dict[str, tuple[Tensor, int]]:
        """A lane's bank and count of batches for each batch norm, on the CPU."""
        return {
            name: (norm.bank[lane].to("cpu", copy=True), int(norm.num_batches_tracked[lane]))
            for name, norm in self._banks().items()
        }

    def _banks(self) -> dict[str, VmapBatchNorm]:
        return {n: m for n, m in self.network.named_modules() if isinstance(m, VmapBatchNorm)}

    def _noise(self) -> dict[str, LaneNoise]:
        return {n: m for n, m in self.network.named_modules() if isinstance(m, LaneNoise)}


class _One(nn.Module):
    """A method of a module as a forward pass: `functional_call` calls nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, method: str, batch: Any) -> Any:
        return getattr(self.network, method)(batch)


def _with_lane_layers(modules: Sequence[nn.Module], momenta: Momenta) -> nn.Module:
    network = copy.deepcopy(modules[0])
    new: dict[int, nn.Module] = {}  # a layer that has two names stays one layer
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if id(layer) not in new and isinstance(layer, Dropout):
            noise = LaneNoise([_dropout(module, name) for module in modules])
            new[id(layer)] = noise.train(layer.training)
        elif id(layer) not in new and is_norm(layer):
            new[id(layer)] = VmapBatchNorm(layer, momenta)
        if id(layer) in new:
            _replace(network, name, new[id(layer)])
    return network


def _lane_tensors(module: nn.Module, momenta: Momenta) -> dict[str, Tensor]:
    """All that a lane holds of a plain module; the momentum of its norms is a tensor here."""
    tensors = {name: tensor.detach() for name, tensor in _tensors(module).items()}
    for name, layer in module.named_modules():
        if is_norm(layer):
            settings = settings_of(layer, momenta)
            tensors |= {f"{name}.{setting}": value for setting, value in settings.items()}
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
