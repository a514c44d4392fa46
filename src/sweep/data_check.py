"""Whether the data that a configuration names is there, before a worker is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dropnorm.data.idx import DIMENSIONS, find_file
from sweep.errors import Problem, as_typed


def missing_data(data: Any) -> list[Problem]:
    """What is wrong if `data.path` lacks IDX files and nothing says to download them."""
    if not isinstance(data, dict) or data.get("_target_") != "dropnorm.MNIST":
        return []
    path, download = data.get("path"), data.get("download")
    if path is None and download is not None:
        what = "expected a folder to download into, got null"
        return [Problem("data.path", what, f"type data.path=data/{download}")]
    if not isinstance(path, str) or download is not None:
        return []
    folder = Path(path).expanduser()
    missing = [name for name in DIMENSIONS if find_file(folder, name) is None]
    if not missing:
        return []
    came = f"{as_typed(path)}{'' if folder.is_dir() else ' (no such folder)'}"
    what = f"expected a folder with {', '.join(missing)} (raw, .gz or .xz), got {came}"
    advice = "put them there, or for Fashion-MNIST type data.download=fashion_mnist"
    return [Problem("data.path", what, advice)]
