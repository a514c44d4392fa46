"""Training losses of K lanes at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def lane_losses(logits: Tensor, y: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """Mean cross entropy of each lane, [K], with its own label smoothing (None: without, in all).

    Shapes: logits [K, B, classes], y int64 [K, B], smoothing float64 [K].
    """
    if logits.device.type != "cpu":
        return losses_together(logits, y, smoothing)
    # One kernel a lane, the plain module's own.
    shares = [0.0] * len(logits) if smoothing is None else smoothing.tolist()
    lanes = zip(logits.unbind(), y.unbind(), shares, strict=True)
    return torch.stack([F.cross_entropy(z, t, label_smoothing=s) for z, t, s in lanes])


def losses_together(logits: Tensor, y: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """`lane_losses` with kernels over all lanes, on any device."""
    log_p = logits.float().log_softmax(-1)
    true = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1).mean(-1)
    if smoothing is None:
        return true
    return true.lerp(-log_p.mean((-2, -1)), smoothing.to(true.dtype))
