"""What makes two runs the same study, and config.yaml, which tells it from others.

Trials of one study must share what they are trained on and measured by. Its budget, sampler, pruner
and executor may change on the way.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from sweep.config import TRIAL_SECTIONS, Plan
from sweep.errors import StudyError, as_typed
from sweep.schema import TrainerSettings
from sweep.sections import leaves
from sweep.space import parse_dimension
from sweep.strategies import design

LIBRARIES = ("dropnorm", "torch", "pytorch-lightning", "optuna", "hydra-core", "numpy")
_SHARED_OF_STUDY = ("metric", "direction", "seed")


def planned(plan: Plan) -> int:
    """How many trials the study has: `study.trials`, or every point of a smaller grid."""
    points = design(plan.sampler, plan.asked, plan.study.trials, 0)
    return plan.study.trials if points is None else len(points)


def describe(plan: Plan, command: str) -> dict[str, Any]:
    """What config.yaml holds: the resolved configuration and how it came to be."""
    search = json.dumps(plan.resolved["search"], sort_keys=True)
    return {
        **plan.resolved,
        "total": planned(plan),
        "command": command,
        "space_hash": hashlib.sha256(search.encode()).hexdigest()[:16],
        "versions": {"python": platform.python_version()} | {n: _version(n) for n in LIBRARIES},
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed as a package"


def read_config(path: Path) -> dict[str, Any]:
    """config.yaml, read. Errors: StudyError naming the file, and the place if it is no YAML."""
    remedy = "restore it from a copy, or move the study's folder away"
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise StudyError(f"{path}: cannot be read: {cause}; {remedy}") from None
    wanted = ("study.name", "study.metric", "study.direction", "study.trials")
    keys = leaves(config) if isinstance(config, Mapping) else {}
    missing = [key for key in wanted if key not in keys]
    if missing or not isinstance(config.get("search"), Mapping):
        what = f"expected the configuration of a study, without {(missing or ['search'])[0]}"
        raise StudyError(f"{path}: {what} it is none; {remedy}")
    return dict(config)


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each setting that trials of one study must share and do not."""
    before, after = _shared(recorded), _shared(now)
    return [
        f"{key}: recorded {_spelled(key, before)}, now {_spelled(key, after)}"
        for key in dict.fromkeys([*before, *after])
        if _meaning(key, before) != _meaning(key, after)
    ]


def _meaning(key: str, settings: Mapping[str, Any]) -> Any:
    """A setting; of a range what it says, however it is spelled."""
    if key.startswith("search.") and key in settings:
        try:  # in words, for 1, 1.0 and true are equal
            return repr(replace(parse_dimension(key, settings[key]), text=""))
        except ValueError:  # recorded by another version, or changed by hand
            pass
    return settings.get(key)


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key. Null counts as absent: a key may be newer than the record.

    So may one of the Trainer's, whose defaults are what it was before.
    """
    study = {key: config["study"].get(key) for key in _SHARED_OF_STUDY}
    sections = {key: config.get(key) or {} for key in TRIAL_SECTIONS}
    usual = {f.name: f.default for f in fields(TrainerSettings) if f.default is not MISSING}
    sections["trainer"] = {**usual, **sections["trainer"]}
    search = {f"search.{key}": text for key, text in config["search"].items()}
    return {k: v for k, v in leaves({"study": study, **sections}).items() if v is not None} | search


def _spelled(key: str, settings: Mapping[str, Any]) -> str:
    if not key.startswith("search."):
        return as_typed(settings.get(key))
    return str(settings.get(key, "not searched"))


def other_versions(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase for each library that is not the one the study began with."""
    before = recorded.get("versions") or {}
    return [
        f"{name} {before[name]} is now {found}"
        for name, found in now["versions"].items()
        if before.get(name, found) != found
    ]
