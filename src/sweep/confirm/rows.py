"""confirm.jsonl: one line for each training of the confirmation, appended as it ends."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sweep.files import write_aside
from sweep.results import ConfirmRow, MomentumCurve

NAME = "confirm.jsonl"


def read_rows(folder: Path) -> list[ConfirmRow]:
    """All of a study's; a last line that a crash cut short does not count."""
    path = folder / NAME
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [_row(line) for line in lines[:-1]]


def append_row(folder: Path, row: ConfirmRow) -> None:
    """Adds a line, which is on the disk afterwards."""
    with (folder / NAME).open("a") as file:
        file.write(_line(row))
        file.flush()
        os.fsync(file.fileno())


def replace_rows(folder: Path, rows: Sequence[ConfirmRow]) -> None:
    """All lines anew: also after a crash in the middle of one."""
    write_aside(folder / NAME, "".join(map(_line, rows)))


def _line(row: ConfirmRow) -> str:
    return json.dumps(asdict(row), default=dt.datetime.isoformat) + "\n"


def _row(line: str) -> ConfirmRow:
    known = json.loads(line)
    if (curve := known["momentum"]) is not None:
        known["momentum"] = MomentumCurve(**curve)
    for name in ("started", "finished"):  # rows of earlier versions have none
        if (date := known.get(name)) is not None:
            known[name] = dt.datetime.fromisoformat(date)
    return ConfirmRow(**known)
