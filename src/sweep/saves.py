"""Saved trials: what goes on where it was after a crash, one file for each trial that runs."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from sweep.files import write_aside

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Save:
    """A trial after an epoch: its metrics so far, and the worker's own `state`.

    `bank` is the study's metric by momentum at the epochs where it was scored.
    """

    epoch: int
    history: Mapping[int, Mapping[str, float]]
    banks: Mapping[int, tuple[float, ...]]
    state: bytes = field(repr=False)


class Saves:
    """The saved trials of a study, by number. Whatever is written replaces the last as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, number: int, save: Save) -> None:
        self._folder.mkdir(exist_ok=True)
        content = BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            told = {"epoch": save.epoch, "history": save.history, "banks": save.banks}
            archive.writestr("told.json", json.dumps(told))
            archive.writestr("state", save.state)
        write_aside(self._path(number), content.getvalue())

    def read(self, number: int) -> Save | None:
        """None if there is nothing, or nothing that can be read: the trial then starts anew."""
        path = self._path(number)
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                told = json.loads(archive.read("told.json"))
                state = archive.read("state")
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            log.warning("%s cannot be read (%s): trial %d starts anew", path, error, number)
            return None
        history = {int(epoch): metrics for epoch, metrics in told["history"].items()}
        banks = {int(epoch): tuple(values) for epoch, values in told["banks"].items()}
        return Save(told["epoch"], history, banks, state)

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"trial_{number:04d}.zip"
