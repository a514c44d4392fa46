"""What `retrofit` puts in the place of torch's dropout and batch norm layers.

They are the blocks' layers, and remember what they stand in for, so `unretrofit` can undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Dropout

# Whose every step is known. Of a class made from one of these it is not: where that matters,
# `get_args` gives the classes themselves.
TorchNorm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
TorchDropout: TypeAlias = nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d


class StandInNorm(BatchNorm):
    """A `BatchNorm` on the parameters and buffers of one of torch's, with its check of shapes.

    The very tensors are shared, so an optimizer made before goes on working. In place of a
    `SyncBatchNorm` it is synchronised: on CPUs too, where torch's refuses, but without torch's
    fused CUDA kernels. It normalises with the kernels of what it stands in for, to the same bits.
    """

    def __init__(self, old: TorchNorm) -> None:
        super().__init__(old.num_features, old.momentum, eps=old.eps, affine=old.affine)
        self.origin = type(old)
        self.synchronised = isinstance(old, nn.SyncBatchNorm)
        self.process_group = getattr(old, "process_group", None)
        if self.momentum is not None and old.running_mean is not None:
            self.to(old.running_mean.device)
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

    def _normalise(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._by_torch(x)

    def _check_input_dim(self, x: Tensor) -> None:
        self.origin._check_input_dim(self, x)  # type: ignore[arg-type]


class StandInDropout(Dropout):
    """A `Dropout` for one of torch's (`origin`), or one that `retrofit` inserted (None)."""

    def __init__(self, rate: float, origin: type[TorchDropout] | None, inplace: bool) -> None:
        super().__init__(rate)
        self.origin = origin
        self.inplace = inplace

    def original(self) -> nn.Module:
        """A layer of torch's with the rate as it is now."""
        new = (self.origin or nn.Dropout)(short(self.rate), self.inplace)
        return new.train(self.training)

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
