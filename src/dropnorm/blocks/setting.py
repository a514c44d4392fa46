"""Settings of layers that are buffers, and keep their numbers whatever becomes of the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Tunable(nn.Module):
    """A layer with a `setting`, the name of a buffer, that moves with it but is never converted.

    In half precision a rate of 0.3 would be one of 0.30078; and of a layer made on the meta device
    the state comes from a checkpoint, in which there is no setting.
    """

    setting: str

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = self._buffers[self.setting]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self._buffers[self.setting]
        if kept is not None and moved is not None:
            self._buffers[self.setting] = kept if moved.is_meta else kept.to(moved.device)
        return self


def setting_of(value: float, device: torch.device | None = None) -> Tensor:
    """The buffer of a setting: in float32 at least, and with its number even on meta's behalf."""
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    made = torch.tensor(float(value), dtype=dtype, device=device)
    return torch.tensor(float(value), dtype=dtype, device="cpu") if made.is_meta else made
