"""Which trials can share a pack, and how many lanes a pack has."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from hydra.utils import get_class

from dropnorm.data.images import ImageData
from dropnorm.module import Classifier
from dropnorm.pack import signature, stack
from sweep.messages import TrialSpec
from sweep.worker.build import build_data, offered

# On the CPU lanes are computed in turn, so more of them only save Lightning's work between steps:
# from 1 to 4 lanes a third of a trial's time, from 4 to 16 a tenth. Few lanes prune sooner.
_LANES_ON_CPU = 4
_LANES_ON_GPU = 64
_PRECISIONS = ("32-true", "bf16-mixed")
_PACKED: dict[Hashable, bool] = {}  # whether networks of a signature have a packed form


def lanes_for(lanes: int | Literal["auto"]) -> int:
    """How many lanes to begin with; a pack that does not fit is halved."""
    if lanes != "auto":
        return lanes
    return _LANES_ON_GPU if torch.cuda.is_available() else _LANES_ON_CPU


def pack_key(spec: TrialSpec) -> Hashable | None:
    """Trials with equal keys can train in one pack; None: this one only alone.

    Errors: whatever is wrong with the trial's settings.
    """
    config = spec.config
    trainer = config["trainer"]
    ours = issubclass(get_class(config["data"]["_target_"]), ImageData)
    if not ours or get_class(config["model"]["_target_"]) is not Classifier:
        return None
    if any(value is not None for value in config["retrofit"].values()):
        return None
    if trainer["precision"] not in _PRECISIONS or trainer.get("accumulate_grad_batches", 1) != 1:
        return None
    settings = lane_settings(spec)
    shape = signature(settings)
    if not _has_packed_form(settings, shape):
        return None
    data = json.dumps([config["data"], trainer], sort_keys=True)
    return shape, data, spec.columns


def lane_settings(spec: TrialSpec) -> dict[str, Any]:
    """The constructor arguments of the trial's `Classifier`."""
    given = {k: v for k, v in spec.config["model"].items() if k != "_target_"}
    return {**given, **offered(spec, build_data(spec))}


def _has_packed_form(settings: Mapping[str, Any], shape: Hashable) -> bool:
    """Whether every layer has one; built once for each shape."""
    if shape not in _PACKED:
        try:
            stack([Classifier(**settings).network])
            _PACKED[shape] = True
        except TypeError:
            _PACKED[shape] = False
    return _PACKED[shape]
