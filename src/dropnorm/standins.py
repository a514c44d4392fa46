"""What `retrofit` puts in the place of torch's dropout and batch norm layers.

They are the blocks' layers, and remember what they stand in for, so `unretrofit` can undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Dropout

TorchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
TorchDropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


class StandInNorm(BatchNorm):
    """A `BatchNorm` on the parameters and buffers of one of torch's, with its check of shapes.

    The very tensors are shared, so an optimizer made before goes on working. In place of a
    `SyncBatchNorm` it averages over the processes in training, with plain all-reduces: on CPUs too,
    where torch's refuses, but without torch's fused CUDA kernels.
    """

    def __init__(self, old: TorchNorm) -> None:
        super().__init__(old.num_features, old.momentum, eps=old.eps, affine=old.affine)
        self.origin = type(old)
        self.process_group = old.process_group if isinstance(old, nn.SyncBatchNorm) else None
        if self.momentum is not None and old.running_mean is not None:
            self.momentum = self.momentum.to(old.running_mean.device)
        _share(old, self)

    def original(self) -> nn.Module:
        """A layer of torch's on the same tensors, with the momentum as it is now."""
        momentum = None if self.momentum is None else short(self.momentum)
        options: dict[str, Any] = {"eps": self.eps, "momentum": momentum, "affine": self.affine}
        if self.origin is nn.SyncBatchNorm:
            options["process_group"] = self.process_group
        new = self.origin(self.num_features, **options)
        _share(self, new)
        return new

    def forward(self, x: Tensor) -> Tensor:
        apart = self.origin is not nn.SyncBatchNorm or not self.training
        if apart or not dist.is_initialized() or dist.get_world_size(self.process_group) == 1:
            return super().forward(x)
        self._check_input_dim(x)
        return self._normalised_together(x)

    def _normalised_together(self, x: Tensor) -> Tensor:
        """Batch norm over the batches of all processes, however many rows each of them has."""
        dims = [d for d in range(x.dim()) if d != 1]
        per_channel = [1, -1, *[1] * (x.dim() - 2)]
        rows = x.new_tensor([x.numel() / self.num_features])
        sums = self._summed(torch.cat([x.sum(dims), rows]))
        count = sums[-1]
        mean = sums[:-1] / count
        centred = x - mean.view(per_channel)
        var = self._summed(centred.square().sum(dims)) / count
        self._track(mean.detach(), var.detach() * count / (count - 1))
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        y = centred * scale.view(per_channel)
        return y if self.bias is None else y + self.bias.view(per_channel)

    def _summed(self, x: Tensor) -> Tensor:
        total: Tensor = _SumOverProcesses.apply(x, self.process_group)  # type: ignore[no-untyped-call]
        return total

    def _check_input_dim(self, x: Tensor) -> None:
        self.origin._check_input_dim(self, x)  # type: ignore[arg-type]


class _SumOverProcesses(torch.autograd.Function):
    """An all-reduce through which gradients flow back: torch has none that is public."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class StandInDropout(Dropout):
    """A `Dropout` for one of torch's (`origin`), or one that `retrofit` inserted (None).

    `torch.compile` breaks its graph here in training: the masks come from numpy, and the step that
    keys them would otherwise be compiled in as a constant, again and again.
    """

    def __init__(self, rate: float, origin: type[TorchDropout] | None, inplace: bool) -> None:
        super().__init__(rate)
        self.origin = origin
        self.inplace = inplace

    def original(self) -> nn.Module:
        """A layer of torch's with the rate as it is now."""
        new = (self.origin or nn.Dropout)(short(self.rate), self.inplace)
        return new.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self._dropped(x) if self.training else x

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _dropped(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def _units(self, x: Tensor) -> Sequence[int]:
        """All of x, but whole channels for torch's numbered kinds, batched or as each allows."""
        if self.origin in (None, nn.Dropout):
            return x.shape
        unbatched = {nn.Dropout1d: 2, nn.Dropout3d: 4}.get(self.origin) == x.dim()
        leading = 1 if unbatched else 2
        return [*x.shape[:leading], *[1] * (x.dim() - leading)]


def short(value: Tensor) -> float:
    """The shortest number that a buffer's is nearest to: 0.1 and not 0.10000000149."""
    return float(str(value.cpu().numpy()[()]))


def _share(source: nn.Module, target: nn.Module) -> None:
    """`target` takes the mode and the very parameters and running statistics of `source`."""
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        setattr(target, name, getattr(source, name))
    target.train(source.training)
