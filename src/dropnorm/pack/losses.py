"""Training losses of K lanes at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def lane_losses(logits: Tensor, y: Tensor, smoothing: Sequence[float]) -> Tensor:
    """Mean cross entropy of each lane, [K], with its own label smoothing.

    Shapes: logits [K, B, classes], y int64 [K, B].
    """
    if logits.device.type == "cpu":  # one kernel a lane, the plain module's own
        lanes = zip(logits.unbind(), y.unbind(), smoothing, strict=True)
        return torch.stack([F.cross_entropy(z, t, label_smoothing=s) for z, t, s in lanes])
    return losses_together(logits, y, smoothing)


def losses_together(logits: Tensor, y: Tensor, smoothing: Sequence[float]) -> Tensor:
    """`lane_losses` with kernels over all lanes."""
    log_p = logits.float().log_softmax(-1)
    true = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1).mean(-1)
    if not any(smoothing):
        return true
    share = torch.tensor(list(smoothing), device=logits.device)
    return true.lerp(-log_p.mean((-2, -1)), share)
