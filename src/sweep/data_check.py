"""Whether the data that a configuration names is there, before a worker is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES = tuple(
    f"{part}-{kind}"
    for part in ("train", "t10k")
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)
ENDINGS = ("", ".gz", ".xz")


def missing_data(data: Any) -> list[str]:
    """One line if `data.path` lacks IDX files and nothing says to download them; else nothing."""
    if not isinstance(data, Mapping) or data.get("_target_") != "dropnorm.MNIST":
        return []
    path = data.get("path")
    if not isinstance(path, str) or data.get("download"):
        return []
    folder = Path(path)
    if not folder.is_dir():
        return [f"data.path: no such folder: {path}; put the IDX files there or type data.download=..."]
    missing = [f for f in FILES if not any((folder / (f + e)).is_file() for e in ENDINGS)]
    return [f"data.path: {path} lacks {', '.join(missing)} (or .gz, .xz)"] if missing else []
