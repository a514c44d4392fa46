"""From K plain networks to a packed one with the same module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Block, Dropout
from dropnorm.blocks.block import ACTIVATIONS
from dropnorm.pack.dropout import LaneDropout
from dropnorm.pack.fusing import fused
from dropnorm.pack.images import LaneConv2d, LanePool
from dropnorm.pack.layer import LaneLayer, Stateless
from dropnorm.pack.linear import LaneLinear
from dropnorm.pack.norm import LaneBatchNorm
from dropnorm.pack.normalised import merged
from dropnorm.pack.passes import Chain, Pass


class LaneSequential(LaneLayer):
    """`nn.Sequential` for K lanes, with the plain one's names."""

    def __init__(self, layers: Sequence[nn.Sequential]) -> None:
        super().__init__(layers)
        self._computing: tuple[LaneLayer, ...] | None = None
        _check_shared(layers[0])
        for name in layers[0]._modules:  # a layer without state may come twice
            self.add_module(name, stack([layer.get_submodule(name) for layer in layers]))

    def passes(self, kept: bool) -> Iterator[Pass]:
        layers = [child.passes(kept) for child in self.lane_layers()]
        return (Chain(merged(lane)) for lane in zip(*layers, strict=False))

    def together(self, x: Tensor) -> Tensor:
        waiting = self.lane_layers()
        while waiting:
            x, taken = fused(waiting, x)
            if not taken:
                x, taken = waiting[0].together(x), 1
            waiting = waiting[taken:]
        return x

    def _all_layers(self) -> Sequence[LaneLayer]:
        if self._computing is None:
            self._computing = tuple(leaves(self))
        return self._computing

    def lane_layers(self) -> list[LaneLayer]:
        """The layers in it, in order."""
        return [child for child in self.children() if isinstance(child, LaneLayer)]


def _check_shared(layer: nn.Module) -> None:
    seen = dict[int, str]()
    for name, child in layer.named_modules(remove_duplicate=False):
        if seen.setdefault(id(child), name) != name and [*child.parameters(), *child.buffers()]:
            raise TypeError(
                f"pack: expected each layer with weights or draws once, got {name}, which is "
                f"{seen[id(child)]} too; train this network one trial at a time"
            )


_KINDS: dict[type[nn.Module], Callable[[Any], LaneLayer]] = {
    nn.Sequential: LaneSequential,
    Block: LaneSequential,
    nn.Linear: LaneLinear,
    nn.Conv2d: LaneConv2d,
    BatchNorm: LaneBatchNorm,
    Dropout: LaneDropout,
    nn.Flatten: Stateless,
    nn.MaxPool2d: LanePool,
    **dict.fromkeys(ACTIVATIONS.values(), Stateless),
}


def stack(networks: Sequence[nn.Module]) -> LaneLayer:
    """One packed network from K plain ones of the same shapes; the plain ones stay as they are.

    Shapes: [K, B, ...] -> [K, B, ...]. Errors: TypeError for a layer that has no packed form, and
    for networks of other layers than the first.
    """
    kind = type(networks[0])
    outlines = dict.fromkeys(" ".join([type(n).__name__, *n._modules]) for n in networks)
    if len(outlines) > 1:
        found = " and ".join(outlines)
        raise TypeError(f"pack: expected the same layers in every lane, got {found}")
    if kind not in _KINDS:
        known = ", ".join(sorted(known.__name__ for known in _KINDS))
        raise TypeError(
            f"pack: expected layers among {known}, got {kind.__name__}; "
            "train this network one trial at a time"
        )
    return _KINDS[kind](networks)


def leaves(packed: LaneLayer) -> Iterator[LaneLayer]:
    """The layers that compute, in the order in which they do."""
    if isinstance(packed, LaneSequential):
        for child in packed.lane_layers():
            yield from leaves(child)
    else:
        yield packed


def put_lane(packed: LaneLayer, lane: int, plain: nn.Module) -> None:
    """Copies a plain network, with its settings and counts, into a lane: in place."""
    for name, layer in packed.named_modules():
        if isinstance(layer, LaneLayer):
            layer.put(lane, plain.get_submodule(name))


def lane_state(packed: LaneLayer, lane: int) -> dict[str, Tensor]:
    """A copy of one lane's state, as the plain network's `state_dict` has it."""
    return {name: tensor[lane].clone() for name, tensor in packed.state_dict().items()}


def dropout_steps(packed: LaneLayer, lane: int) -> list[int]:
    """How many training passes each dropout of a lane has made."""
    return [int(m.step[lane]) for m in packed.modules() if isinstance(m, LaneDropout)]


@torch.no_grad()
def keep_lanes(packed: LaneLayer, lanes: Sequence[int]) -> None:
    """Drops the other lanes. The parameters stay the same objects, without gradients."""
    for tensor in (*packed.parameters(), *packed.buffers()):
        tensor.grad = None
        tensor.data = tensor.data[list(lanes)]
