"""The lines that load a study's checkpoint, of our own module or of anyone's.

They name the class that was trained. Retrofitting moves no name in a checkpoint and changes no
evaluation, so the module loads without; whoever trains it on retrofits it as the study did.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickletools import genops
from typing import Any

from sweep.messages import Value
from sweep.profile import PACKABLE
from sweep.results import ResultSet
from sweep.space import parse_dimension
from sweep.trial_config import holds_objects, retrofit_settings

_KNOWN_TO_TORCH = ("torch", "torch._utils", "torch.nn.parameter", "collections", "__builtin__")


def load_lines(
    results: ResultSet, params: Mapping[str, Value], checkpoint: Path, typed: str
) -> list[str]:
    """Lines of Python: the imports, the module in eval mode, and its retrofit if it had one.

    `params` are those of the trial that the checkpoint is of; `typed` is how its path is shown.
    """
    home, _, name = target_of(results).rpartition(".")
    classes, words = _names_in(checkpoint)
    lines = [f"from {home} import {name}", *_trusting(classes)]
    if lacking := [key for key in _objects(results) if key not in words]:
        given = ", ".join(f"{key}=..." for key in lacking)
        lines.append(f"# {name} does not save its arguments: add {given} to the next line")
    path = json.dumps(typed, ensure_ascii=False)
    lines.append(f"model = {name}.load_from_checkpoint({path}).eval()")
    if settings := _retrofit(results, params):
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        lines += [
            "from dropnorm import retrofit  # to train it on as the study did; not to evaluate it",
            f"retrofit(model, {given})",
        ]
    return lines


def target_of(results: ResultSet) -> str:
    """The dotted name of the class that was trained."""
    return str((results.config.get("model") or {}).get("_target_", PACKABLE))


def _objects(results: ResultSet) -> list[str]:
    """The module's arguments that no line could spell, as they are objects themselves."""
    return [k for k, v in (results.config.get("model") or {}).items() if holds_objects(v)]


def _names_in(checkpoint: Path) -> tuple[list[tuple[str, str]], set[str]]:
    """The classes (module and name) of what a checkpoint holds beside weights, and all its words.

    A module may save any object as a hyperparameter. Nothing of the file is run or imported.
    """
    if not zipfile.is_zipfile(checkpoint):
        return [], set()
    with zipfile.ZipFile(checkpoint) as parts:
        (name,) = (name for name in parts.namelist() if name.endswith("/data.pkl"))
        found = [(op.name, value) for op, value, _ in genops(parts.read(name))]
    classes = [str(value).partition(" ")[::2] for op, value in found if op == "GLOBAL"]
    others = {(home, kind) for home, kind in classes if home not in _KNOWN_TO_TORCH}
    return sorted(others), {value for _, value in found if isinstance(value, str)}


def _trusting(classes: list[tuple[str, str]]) -> list[str]:
    """Lines that let torch load these: by itself it takes nothing but weights."""
    if not classes:
        return []
    kinds = ", ".join(kind for _, kind in classes)
    return [
        *(f"from {home} import {kind}" for home, kind in classes),
        "import torch",
        f"torch.serialization.add_safe_globals([{kinds}])  # the module saved such objects",
    ]


def _retrofit(results: ResultSet, params: Mapping[str, Value]) -> dict[str, Any]:
    """What a trial with these parameters was retrofitted with; empty if it was not."""
    settings = dict(results.config.get("retrofit") or {})
    for key, value in params.items():
        section, _, name = key.partition(".")
        if section == "retrofit":
            settings[name] = parse_dimension(key, results.search[key]).setting(value)
    return retrofit_settings(settings, params)
