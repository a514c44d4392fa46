"""Whether the data that a configuration names is there and suffices, before a worker is started."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropnorm.data.errors import DataError
from dropnorm.data.idx import (
    PACKAGED,
    TRAIN_LABELS,
    find_file,
    missing_files,
    read_idx,
    training_part,
)
from sweep.errors import ConfigError, Problem, as_typed
from sweep.space import Dimension

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.config import Plan

_MNIST, _SYNTHETIC = "dropnorm.MNIST", "dropnorm.Synthetic"


def missing_data(data: Any) -> list[Problem]:
    """What is wrong if `data.path` lacks IDX files and nothing says to download them."""
    if not isinstance(data, dict) or data.get("_target_") != _MNIST:
        return []
    path, download = data.get("path"), data.get("download")
    if path is None and download is not None:
        what = "expected a folder to download into, got null"
        return [Problem("data.path", what, f"type data.path=data/{download}")]
    if not isinstance(path, str) or download is not None:
        return []
    folder = Path(path).expanduser()
    if not (missing := missing_files(folder)):
        return []
    came = f"{as_typed(path)}{'' if folder.is_dir() else ' (no such folder)'}"
    what = f"expected a folder with {', '.join(missing)} (raw, .gz or .xz), got {came}"
    advice = "put them there, or for Fashion-MNIST type data.download=fashion_mnist"
    return [Problem("data.path", what, advice)]


def too_few_images(data: Mapping[str, Any], search: Sequence[Dimension]) -> list[Problem]:
    """What is wrong if a trial asks for more training images, or a larger batch, than there are.

    Of data that is not there yet, and of somebody else's, nothing is known.
    """
    ranges = {d.key: d.corners() for d in search}
    if data["_target_"] not in (_MNIST, _SYNTHETIC) or {"data._target_", "data.path"} & {*ranges}:
        return []
    try:
        there = math.inf if data["_target_"] == _SYNTHETIC else _training_images(data.get("path"))
    except DataError as error:
        expected, came, do = error.args
        return [Problem("data.path", f"expected {expected}, got {came}", do)]

    def values(key: str) -> list[float]:
        found = ranges.get(f"data.{key}", (data.get(key),))
        return [value for value in found if isinstance(value, int | float)]

    if (largest := max(values("train_size"), default=1)) > there:
        what = f"expected at most {there}, the number of training images, got {largest}"
        return [Problem("data.train_size", what, f"type data.train_size={there}")]
    least = min(values("train_size"), default=there)
    if (batch := max(values("batch_size"), default=1)) > least:
        what = f"expected at most {least}, the number of training images, got {batch}"
        return [Problem("data.batch_size", what, f"type data.batch_size={min(least, 128)}")]
    return []


def fetch_data(plan: Plan, console: Console) -> None:
    """Downloads what `data.download` names and is not there yet; nodes of a cluster do so later.

    Errors: ConfigError if it cannot be had, or has too few images.
    """
    data = plan.trial["data"]
    name, path = data.get("download"), data.get("path")
    if data["_target_"] != _MNIST or not name or not path or plan.executor.name == "ray":
        return
    folder = Path(path).expanduser()
    if not missing_files(folder):
        return
    from dropnorm.data.download import fetch

    console.print(f"downloading {name} into {folder}", highlight=False, soft_wrap=True)
    try:
        fetch(name, folder)
    except (DataError, OSError) as error:
        raise ConfigError([f"data.download: {error}"]) from error
    if problems := too_few_images(data, plan.search):
        raise ConfigError(problems)


def _training_images(path: str | None) -> float:
    """How many there are in an IDX folder, going by the labels; without end if none is there yet.

    Errors: DataError if the file is damaged.
    """
    labels = find_file(PACKAGED if path is None else Path(path).expanduser(), TRAIN_LABELS)
    return math.inf if labels is None else training_part(len(read_idx(labels, 1)))
