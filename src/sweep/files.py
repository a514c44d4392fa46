"""Writing files so that a crash leaves the old one or the new one, never half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_aside(path: Path, content: str | bytes) -> None:
    """All of it or nothing: written beside `path`, flushed to the disk, then renamed."""
    data = content.encode() if isinstance(content, str) else content
    with (aside := path.with_name(f".{path.name}.new")).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
