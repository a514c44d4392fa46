"""What a trial's configuration says of how it trains: read by who plans it and by who trains it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKED_PRECISIONS = ("32-true", "bf16-mixed")  # of packs of our own networks


def devices_per_trial(config: Mapping[str, Any]) -> int:
    """How many devices one trial trains on, each with a process of its own."""
    return int(config["trainer"].get("devices", 1))


def is_retrofitted(config: Mapping[str, Any]) -> bool:
    """Whether anything of the module's layers is replaced."""
    return any(value is not None for value in (config.get("retrofit") or {}).values())


def holds_objects(setting: Any) -> bool:
    """Whether a setting is built from a `_target_`, or something in it is."""
    if isinstance(setting, Mapping):
        return "_target_" in setting or any(map(holds_objects, setting.values()))
    return isinstance(setting, list) and any(map(holds_objects, setting))
