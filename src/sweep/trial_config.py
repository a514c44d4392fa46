"""What a trial's configuration says of how it trains: read by who plans it and by who trains it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

PACKED_PRECISIONS = ("32-true", "bf16-mixed")  # of packs of our own networks


def devices_per_trial(config: Mapping[str, Any]) -> int:
    """How many devices one trial trains on, each with a process of its own."""
    return int(config["trainer"].get("devices", 1))


def is_retrofitted(config: Mapping[str, Any]) -> bool:
    """Whether anything of the module's layers is replaced."""
    return any(value is not None for value in (config.get("retrofit") or {}).values())


def retrofit_settings(retrofit: Mapping[str, Any], searched: Collection[str]) -> dict[str, Any]:
    """What `dropnorm.retrofit` is told of a trial; empty if it is left out.

    Where a searched rate is null, as the default's often is, there is nothing to insert either.
    """
    settings = {key: value for key, value in retrofit.items() if value is not None}
    if "retrofit.dropout" in searched and "dropout" not in settings:
        settings.pop("insert", None)
        return settings if "bn_momentum" in settings else {}
    return settings


def holds_objects(setting: Any) -> bool:
    """Whether a setting is built from a `_target_`, or something in it is."""
    if isinstance(setting, Mapping):
        return "_target_" in setting or any(map(holds_objects, setting.values()))
    return isinstance(setting, list) and any(map(holds_objects, setting))
