"""What a worker asks of the metrics of an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping

SAVE_EVERY_S = 60.0  # how much training a crash may cost


def require(metric: str, metrics: Mapping[str, float]) -> None:
    """Errors: ValueError naming what there is, if the study's metric is not."""
    if metric not in metrics:
        known = ", ".join(sorted(metrics)) or "nothing"
        raise ValueError(f"study.metric: the module never logs {metric}; it logs {known}")


def first_broken(metrics: Mapping[str, float], epoch: int) -> str | None:
    """Why an epoch's metrics mean that the trial has failed; None if they do not."""
    broken = (f"{k} is {v} in epoch {epoch}" for k, v in metrics.items() if not math.isfinite(v))
    return next(broken, None)
