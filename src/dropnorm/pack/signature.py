"""What must agree for trials to share a pack."""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping
from typing import Any

from dropnorm.blocks import Block
from dropnorm.module import Classifier
from dropnorm.networks import NETWORKS
from dropnorm.optimizers import Optimizer

_PER_LANE = ("dropout", "bn_momentum", "label_smoothing", "seed", "mc_samples")


def signature(hparams: Mapping[str, Any]) -> Hashable:
    """The settings of a `Classifier` that shape its tensors, defaults filled in; equal ones pack.

    The optimizer's name is among them, for each kind keeps other state; its numbers are not.
    Errors: TypeError for a network that is not one of ours; ValueError for unknown names.
    """
    return tuple(sorted(shape_settings(hparams).items()))


def shape_settings(hparams: Mapping[str, Any]) -> dict[str, Hashable]:
    """The signature as a dict of setting -> value."""
    settings = {**_defaults(Classifier), **hparams}
    network = settings["network"]
    if not isinstance(network, str):
        raise TypeError(
            f"pack: expected a network's name, {' or '.join(NETWORKS)}, got "
            f"{type(network).__name__}; train this network one trial at a time"
        )
    if network not in NETWORKS:
        raise ValueError(f"network: expected {', '.join(NETWORKS)}, got {network!r}")
    settings = {**_defaults(Block), **_defaults(NETWORKS[network]), **settings}
    settings["optimizer"] = Optimizer.of(dict(settings["optimizer"] or {})).name
    shapes = {name: _plain(v) for name, v in settings.items() if name not in _PER_LANE}
    return {**shapes, "dropout layers": settings["dropout"] is not None}


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _plain(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list | tuple) else value
