"""Scores: the metrics of many predictions for the same images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dropnorm import Classifier
from dropnorm.scores import Scores


def test_scores_are_those_of_the_plain_module() -> None:
    logits, y = 3 * torch.randn(2, 70, 10), torch.randint(10, (70,))
    logits[1, :5] = 1000 * torch.eye(10)[y[:5]]  # confidences of exactly 1
    scores = Scores(2, torch.device("cpu"))
    for some in (slice(0, 40), slice(40, 70)):
        scores.update(logits[:, some], y[some])
    for lane in range(2):
        module = Classifier(nn.Identity())
        module.validation_step((logits[lane], y), 0)
        expected = {k: float(v) for k, v in module.val_metrics.compute().items()}
        mine = {f"val_{k}": float(v[lane]) for k, v in scores.compute().items()}
        assert mine["val_accuracy"] == expected["val_accuracy"]
        assert mine == pytest.approx(expected, abs=1e-6)
