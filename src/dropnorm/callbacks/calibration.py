"""`Calibration`: how far a classifier's probabilities can be trusted."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassCalibrationError


class Calibration:
    """ECE (15 bins), NLL (nats) and Brier score of logits [B, C] against classes int64 [B].

    Processes are pooled. Brier's score is a sum over classes, from 0 to 2 (Brier 1950).
    ECE: Naeini et al. 2015.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def update(self, logits: Tensor, y: Tensor) -> None:
        logits = logits.float()
        p = logits.softmax(-1)
        if not self._metrics:
            ece = MulticlassCalibrationError(p.shape[-1], n_bins=15)
            new = {"ece": ece, "nll": MeanMetric(), "brier": MeanMetric()}
            self._metrics = {name: metric.to(p.device) for name, metric in new.items()}
        squares = (p - F.one_hot(y, p.shape[-1])).square().sum(-1)
        self._metrics["ece"].update(p, y)
        self._metrics["nll"].update(F.cross_entropy(logits, y, reduction="none"))
        self._metrics["brier"].update(squares)

    def compute(self) -> dict[str, float]:
        """Each score so far, by name; then it begins anew. Nothing, if there were no logits."""
        scores = {name: float(metric.compute()) for name, metric in self._metrics.items()}
        self._metrics = {}
        return scores
