"""Batch normalisation whose momentum is a buffer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.blocks.setting import Tunable, setting_of
from dropnorm.blocks.together import are_several, normalise_together
from dropnorm.kernels.cpu import batch_norm, batch_norm_by_torch, fits, track


class BatchNorm(Tunable, nn.modules.batchnorm._BatchNorm):
    """Normalises each channel by batch statistics; in eval by running averages.

    `momentum` follows PyTorch, `running = (1 - m) * running + m * batch` (Keras's is 1 - m), and
    None is the cumulative average. It is a buffer: change it with `norm.momentum.fill_(0.01)`. It
    shapes evaluation only, never the training step.

    The running variance is the unbiased one, like PyTorch's. State names are those of
    `torch.nn.BatchNorm1d`, so checkpoints move between the two. Source: Ioffe & Szegedy 2015.

    With `synchronised` it takes its statistics over the batches of all processes of
    `process_group` (None: all there are), as `torch.nn.SyncBatchNorm` does, but on CPUs too.
    `dropnorm.synchronisation.synchronise` sets it; torch's `convert_sync_batchnorm` would put its
    own layer here, for which momentum is no buffer.

    Shapes: [B, C], [B, C, L] or [B, C, H, W] -> the same. Errors: ValueError unless
    0 < momentum <= 1 or None, for another number of dimensions or channels, and (from torch) for a
    training batch of one value per channel.
    """

    synchronised: bool = False
    process_group: Any = None
    setting = "momentum"
    momentum: Tensor | None  # type: ignore[assignment]
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, momentum: float | None = 0.1, *, eps: float = 1e-5, affine: bool = True
    ) -> None:
        if momentum is not None and not 0 < np.float32(momentum) <= 1:
            raise ValueError(f"bn_momentum: expected 0 < momentum <= 1 or None, got {momentum!r}")
        super().__init__(channels, eps=eps, affine=affine)
        del self.momentum
        buffer = None if momentum is None else setting_of(momentum)
        self.register_buffer("momentum", buffer, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        x = input
        self._check_input_dim(x)
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if self.synchronised and are_several(self.process_group):
            group, eps = self.process_group, self.eps
            y, mean, var = normalise_together(x, self.weight, self.bias, eps, group)
        else:
            y, mean, var = self._normalise(x)
        if x.numel():
            self._track(mean, var)
        return y

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A training batch, normalised by its mean and unbiased variance; and these, [C] each."""
        if fits(x) and not torch.compiler.is_compiling():
            return batch_norm(x, self.weight, self.bias, self.eps)
        return self._by_torch(x)

    def _by_torch(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`_normalise` with torch's kernels."""
        kind = self.running_mean.dtype
        return batch_norm_by_torch(x, self.weight, self.bias, self.eps, kind)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Moves the running averages towards one batch's mean and unbiased variance, both [C]."""
        self.num_batches_tracked.add_(1)
        momentum = self.running_mean.new_zeros(()) if self.momentum is None else self.momentum
        batch = mean, var
        track(self.running_mean, self.running_var, momentum, batch, self.num_batches_tracked)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() not in (2, 3, 4):
            raise ValueError(f"expected an input of 2 to 4 dimensions, got shape {tuple(x.shape)}")
        if x.shape[1] != self.num_features:
            got = f"{x.shape[1]} in {tuple(x.shape)}"
            raise ValueError(f"expected an input of {self.num_features} channels, got {got}")

    def extra_repr(self) -> str:
        momentum = "None" if self.momentum is None else f"{self.momentum.item():g}"
        return f"{self.num_features}, momentum={momentum}, eps={self.eps:g}"
