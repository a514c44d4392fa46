"""Which trials can share a pack."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from hydra.utils import get_class

from dropnorm.data.images import ImageData
from dropnorm.module import Classifier
from dropnorm.pack import signature, stack
from sweep.messages import TrialSpec
from sweep.trial_config import PACKED_PRECISIONS, devices_per_trial, is_retrofitted
from sweep.worker.build import build, build_data, offered
from sweep.worker.desk import Desk
from sweep.worker.fitness import BEGUN_IN_A_PACK, fitness

_PACKED: dict[Hashable, bool] = {}  # whether networks of a signature have a packed form


@dataclass(frozen=True)
class Key:
    """Trials with equal keys can train in one pack."""

    theirs: bool  # somebody else's modules, packed by vmap
    shape: Hashable
    others: str  # what else must be the same, spelled
    columns: tuple[float | None, ...]


def packs_theirs(lanes: int | Literal["auto"]) -> bool:
    """Whether other people's modules train together: on CPUs that is slower, so only if asked."""
    return torch.cuda.is_available() if lanes == "auto" else lanes > 1


def pack_key(desk: Desk, spec: TrialSpec) -> Key | None:
    """What the trial shares with those that can train beside it; None: it can only alone.

    Errors: whatever is wrong with the trial's settings.
    """
    config = spec.config
    if devices_per_trial(config) > 1:
        return None
    others = json.dumps([config["data"], config["trainer"]], sort_keys=True)
    if get_class(config["model"]["_target_"]) is not Classifier:
        begun = spec.resume is not None and spec.resume.startswith(BEGUN_IN_A_PACK)
        # A trial goes on as it was begun.
        if not (begun if spec.resume is not None else desk.packs_theirs):
            return None
        found = fitness(spec, desk.metric)
        return None if found.reason else Key(True, found.shape, others, spec.columns)
    trainer = config["trainer"]
    if is_retrofitted(config) or not issubclass(get_class(config["data"]["_target_"]), ImageData):
        return None
    if (
        trainer["precision"] not in PACKED_PRECISIONS
        or trainer.get("accumulate_grad_batches", 1) != 1
    ):
        return None
    settings = lane_settings(spec)
    shape = signature(settings)
    return Key(False, shape, others, spec.columns) if _has_packed_form(settings, shape) else None


def model_of(key: Key, spec: TrialSpec) -> Any:
    """What a lane is made of: a module, or what the constructor of a `Classifier` takes."""
    return build(spec)[1] if key.theirs else lane_settings(spec)


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
