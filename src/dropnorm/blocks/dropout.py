"""Inverted dropout whose rate is a buffer and whose masks are keyed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import VmapInterpreter, retrieve_all_functorch_interpreters

from dropnorm.blocks.setting import Tunable, setting_of
from dropnorm.kernels.cpu import NO_DROP, mask_of
from dropnorm.kernels.loops import Drop
from dropnorm.random import dropping, dropping_on_device
from dropnorm.seeds import derive


class Dropout(Tunable):
    """Zeroes units with probability `rate`, scales the others by 1 / (1 - rate); identity in eval.

    `rate` is the probability of *dropping*, as in `torch.nn.Dropout` and Keras (Srivastava et al.
    2014 write p for keeping). It is a buffer: change it in training with `dropout.rate.fill_(0.1)`.

    The mask of a training step is a pure function of (`seed`, `step`); `step` counts the training
    forwards. Left at None, the seed is drawn from torch's generator at the first training forward,
    so `torch.manual_seed` governs it as it does `torch.nn.Dropout`. A forward that activation
    checkpointing makes once more, in backward, is not another step: it has the mask of the last, so
    between a checkpointed forward and its backward the layer may not be called again.
    `torch.compile` breaks its graph here: masks come from other compiled loops, and a step would be
    compiled in as a constant, again and again.

    Under `torch.vmap` its `randomness` decides, as over torch's dropout: "error" refuses, "same"
    has one mask for all lanes, and "different" masks are torch's generator's, whatever the seed.

    Other noise is a subclass: it shares rate, seed and step, so whoever seeds, saves or removes
    dropout does so with all of them.

    Shapes: any -> the same. Errors: ValueError unless 0 <= rate < 1 and seed >= 0.
    """

    rate: Tensor
    setting = "rate"

    def __init__(self, rate: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__()
        if not 0 <= np.float32(rate) < 1:
            raise ValueError(f"dropout: expected 0 <= rate < 1, got {rate!r}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed: expected None or a number from 0, got {seed!r}")
        self.register_buffer("rate", setting_of(rate), persistent=False)
        self.seed = seed
        self.step = 0

    def forward(self, input: Tensor) -> Tensor:
        return self._dropped(input) if self.training and not input.is_meta else input

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _dropped(self, x: Tensor) -> Tensor:
        """A training pass."""
        if _lanes_differ():
            key = torch.randint(2**63 - 1, (2,), device=x.device)  # each lane's, or refused
            return self._noisy_on_device(x, *key.unbind())
        seed = self._begin()
        if x.device.type != "cpu":
            self.rate = self.rate.to(x.device)  # it stays on the host in a module filled from meta
            return self._noisy_on_device(x, *self._key_on_device(x, seed))
        rate = self.rate.item()
        return self._noisy(x, rate, seed) if rate else x

    def draws(self) -> Drop:
        """Begins a training pass on the CPU that is made elsewhere, which has to drop this."""
        rate, seed = self.rate.item(), self._begin()
        return dropping(rate, seed, self.step) if rate else NO_DROP

    def _begin(self) -> int:
        """A training pass begins; its seed."""
        if torch._C._current_graph_task_id() == -1:  # not in backward
            self.step += 1
        if self.seed is None:
            self.seed = int(torch.randint(2**63 - 1, ()))
        return self.seed

    def _noisy(self, x: Tensor, rate: float, seed: int) -> Tensor:
        """A training pass on the CPU."""
        drop, double = dropping(rate, seed, self.step), x.dtype == torch.float64
        return x * mask_of(self._units(x), drop, double).to(x.dtype)

    def _noisy_on_device(self, x: Tensor, seed: Tensor, step: Tensor) -> Tensor:
        """A training pass elsewhere. The host never waits: not even the rate is read back."""
        return x * dropping_on_device(self._units(x), self.rate, seed, step, x.dtype)

    def _key_on_device(self, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        return torch.full((), seed, device=x.device), torch.full((), self.step, device=x.device)

    def _units(self, x: Tensor) -> Sequence[int]:
        """The shape of what is dropped or kept as one."""
        return x.shape

    def extra_repr(self) -> str:
        return f"rate={self.rate.item():g}"


def _lanes_differ() -> bool:
    """Whether this runs under a vmap that has not been told to draw the same in all lanes."""
    if not torch._C._are_functorch_transforms_active():
        return False
    levels = retrieve_all_functorch_interpreters()
    return any(isinstance(v, VmapInterpreter) and v.randomness() != "same" for v in levels)


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Key every Dropout of `network` by (seed, its place in the network) and start at step 0.

    Layers of other noise are Dropouts too.
    """
    layers = [m for m in network.modules() if isinstance(m, Dropout)]
    for place, layer in enumerate(layers):
        layer.seed = derive(seed, "dropout", place)
        layer.step = 0
