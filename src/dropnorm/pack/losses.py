"""Training losses: of one lane with its gradient, and of K lanes at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ONE = torch.ones(())
_MEAN, _IGNORED = 1, -100  # torch's numbers for reduction="mean" and for the label to ignore


def lane_loss(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean cross entropy with label smoothing, and the gradient of the logits.

    Both bit for bit what autograd makes of `F.cross_entropy`, under autocast too. Shapes: logits
    [B, classes], y int64 [B] -> [], [B, classes].
    """
    if smoothing:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = F.cross_entropy(leaf, y, label_smoothing=smoothing)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]
    wide = logits.float() if logits.dtype == torch.bfloat16 else logits
    log_p = torch.log_softmax(wide, 1)
    how = None, _MEAN, _IGNORED
    loss, weight = torch.ops.aten.nll_loss_forward(log_p, y, *how)
    slope = torch.ops.aten.nll_loss_backward(_ONE.to(loss.dtype), log_p, y, *how, weight)
    gradient = torch.ops.aten._log_softmax_backward_data(slope, log_p, 1, log_p.dtype)
    return loss, gradient.to(logits.dtype)


def losses_together(logits: Tensor, y: Tensor, smoothing: Tensor | None = None) -> Tensor:
    """Mean cross entropy of each lane, [K], with its own label smoothing (None: without, in all).

    Shapes: logits [K, B, classes], y int64 [K, B], smoothing float64 [K], on any device.
    """
    log_p = logits.float().log_softmax(-1)
    true = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1).mean(-1)
    if smoothing is None:
        return true
    return true.lerp(-log_p.mean((-2, -1)), smoothing.to(true.dtype))
