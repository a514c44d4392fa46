"""Validation metrics of many predictions for the same images at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_BINS = 15


class Scores:
    """Accuracy, NLL (nats) and ECE (15 bins) over batches, of lanes or momenta, on their device.

    The definitions are torchmetrics' own, so each has the numbers of a plain `Classifier`.
    """

    def __init__(self, lanes: int, device: torch.device) -> None:
        # A confidence of exactly 1 has a bin to itself.
        shape = (3, lanes, _BINS + 1)
        self._bins = torch.zeros(shape, device=device, dtype=torch.float64)
        self._nll = torch.zeros(lanes, device=device, dtype=torch.float64)
        self._edges = torch.linspace(0, 1, _BINS + 1, device=device)

    def update(self, logits: Tensor, y: Tensor) -> None:
        """logits [K, B, classes] of shared images with labels y int64 [B]."""
        logits = logits.float()
        confidence, guess = logits.softmax(-1).max(-1)
        correct = guess == y
        target = y.expand(len(logits), -1).flatten()
        nll = F.cross_entropy(logits.flatten(0, 1), target, reduction="none")
        self._nll += nll.view_as(confidence).sum(-1, dtype=torch.float64)
        bins = torch.bucketize(confidence, self._edges, right=True) - 1
        parts = (torch.ones_like(confidence), correct, confidence)
        for total, part in zip(self._bins, parts, strict=True):
            total.scatter_add_(1, bins, part.double())

    def compute(self) -> dict[str, Tensor]:
        """Each metric [K]."""
        count, correct, confidence = self._bins
        images = count.sum(-1)
        sums = {
            "accuracy": correct.sum(-1),
            "nll": self._nll,
            "ece": (correct - confidence).abs().sum(-1),
        }
        return {name: (total / images).float() for name, total in sums.items()}
