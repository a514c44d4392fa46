"""What to type to repeat a study, look closer, or use its best model.

The configuration belongs to the study, not to this code: every lookup may find nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sweep.confirm.checkpoints import recommended_row
from sweep.loading import load_lines
from sweep.messages import Value
from sweep.report.reading import Reading
from sweep.results import ResultSet


class Step(NamedTuple):
    """A purpose and the lines to type for it."""

    purpose: str
    lines: str
    language: str  # of the lines: sh or python


def steps(reading: Reading) -> list[Step]:
    """The commands of this study; those about a best trial only if there is one."""
    study, best = reading.study, reading.best
    folder = _shown(study)
    found = [Step("Run the study again, or go on", _command(study.config, study.name), "sh")]
    board = f"tensorboard --logdir {shlex.quote(folder)}"
    found.append(Step("See every curve", board, "sh"))
    if (row := recommended_row(study)) is not None:
        purpose = f"Load a model of the recommended setting ({row.arm}), its median seed"
        found.append(_load(reading, purpose, row.params, "recommended.ckpt"))
    if best is not None:
        purpose = f"Load the model of trial {best.number}, the best of the search"
        found.append(_load(reading, purpose, best.params, "best.ckpt"))
    return found


def _load(reading: Reading, purpose: str, params: Mapping[str, Value], name: str) -> Step:
    path = reading.study.folder / "checkpoints" / name
    typed = f"{_shown(reading.study)}/checkpoints/{name}"
    lines = load_lines(reading.study, params, path, typed)
    first = next(k for k, line in enumerate(lines) if not line.startswith(("from ", "import ")))
    return Step(purpose, "\n".join([*lines[:first], "", *lines[first:]]), "python")


def seeds(reading: Reading) -> list[tuple[str, str]]:
    """The seeds that the draws of the study and of its best trial derive from."""
    settings = reading.study.config.get("study")
    found = [reading.study.config.get("seed")]
    if isinstance(settings, Mapping):
        found.insert(0, settings.get("seed"))
    rows = [("study seed", str(seed)) for seed in found if seed is not None][:1]
    if reading.best is not None:
        rows.append((f"seed of trial {reading.best.number}", str(reading.best.seed)))
    return rows


def versions(reading: Reading) -> list[tuple[str, str]]:
    """The versions that ran, if the configuration recorded them."""
    found = reading.study.config.get("versions")
    return [(str(k), str(v)) for k, v in found.items()] if isinstance(found, Mapping) else []


def _command(config: Mapping[str, Any], name: str) -> str:
    typed = config.get("command")
    if isinstance(typed, str):
        return typed
    if isinstance(typed, (list, tuple)):
        return shlex.join(map(str, typed))
    return f"python -m sweep {shlex.quote(f'+study={name}')}"


def _shown(study: ResultSet) -> str:
    """The folder as the study's own command names it, wherever the report is built.

    So a report names no machine's paths without need: only of a study that lies elsewhere now.
    """
    settings = study.config.get("study") or {}
    path = study.folder.resolve()
    typed = Path(settings.get("folder", "sweeps")).expanduser() / study.name
    return (typed if path.parts[-len(typed.parts) :] == typed.parts else path).as_posix()
