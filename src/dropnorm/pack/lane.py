"""What a pack knows of the trial in one of its lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dropnorm.module import Classifier
from dropnorm.optimizers import Optimizer


@dataclass
class Lane:
    """A trial: all settings of its `Classifier`, and how far it has come.

    `metrics` are those of its last validation, and empty before the first. `moments` are what its
    optimizer is to begin with once there is one, if the trial was begun elsewhere.
    """

    hparams: dict[str, Any]
    optimizer: Optimizer
    batches: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    moments: dict[str, Any] | None = None

    @classmethod
    def of(cls, trial: Classifier, snapshot: Mapping[str, Any] | None = None) -> Lane:
        """At its beginning, or where a `Pack.lane_snapshot` of it was taken."""
        lane = cls(dict(trial.hparams), trial.optimizer_settings)
        if snapshot is not None:
            lane.batches = snapshot["global_step"]
            lane.metrics = dict(snapshot["metrics"])
            lane.moments = snapshot["moments"]
        return lane

    @property
    def seed(self) -> int:
        seed: int = self.hparams["seed"]
        return seed

    @property
    def label_smoothing(self) -> float:
        smoothing: float = self.hparams["label_smoothing"]
        return smoothing


def check_same(known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ValueError that names the first setting of a signature that differs."""
    for name in {**known, **settings}:
        mine, theirs = known.get(name), settings.get(name)
        if mine != theirs:
            raise ValueError(
                f"pack: expected {name}={mine!r} in every lane, got {theirs!r}; "
                "put trials of another signature into another pack"
            )
