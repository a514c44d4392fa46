"""A study's folder: what ran (config.yaml), what came out (study.db, trials.csv), and by whom.

Whatever is replaced is written aside and renamed; whatever grows is SQLite's or TensorBoard's.
"""

from __future__ import annotations

import csv
import io
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sweep.config import Plan
from sweep.confirm.rows import read_rows
from sweep.errors import ConfigError, Problem, StudyError, SweepError
from sweep.experiment import describe, differences, other_versions, read_config
from sweep.files import write_aside
from sweep.results import ResultSet, TrialRow, to_table
from sweep.saves import Saves
from sweep.store import Store, read_trials, to_row

PARTS = ("checkpoints", "logs", "report", "tensorboard")


class Record:
    """One study's folder, opened for writing by one conductor at a time.

    `command` is what was typed. Opening changes nothing that is recorded: `describe` does, once
    there is something to train.

    Errors: ConfigError if the folder belongs to other settings or another conductor, or cannot be
    written; StudyError if it is damaged.
    """

    def __init__(self, plan: Plan, command: str = "") -> None:
        self.folder, self._name = plan.folder, plan.study.name
        self.saves = Saves(self.folder / "checkpoints" / "running")
        self._now = describe(plan, command)
        with _writable(self.folder):
            for part in PARTS:
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        try:
            with _writable(self.folder):
                self._open(plan.study.direction)
        except SweepError:
            self._lock.release()
            raise

    def _open(self, direction: str) -> None:
        path = self.folder / "config.yaml"
        self._recorded = read_config(path) if path.exists() else self._now
        self.store = Store(self.folder / "study.db", self._name, direction)
        if not path.exists() or not self.store.trials():
            self.describe()
        elif found := another_experiment(self._name, self.folder, self._recorded, self._now):
            self.store.close()
            raise found
        self._settle_checkpoint()

    def describe(self) -> list[str]:
        """Writes config.yaml anew; returns a phrase for each library that is another one now."""
        write_aside(self.folder / "config.yaml", yaml.safe_dump(self._now, sort_keys=False))
        return other_versions(self._recorded, self._now)

    def results(self) -> ResultSet:
        config = read_config(self.folder / "config.yaml")
        return _results(self.folder, config, [to_row(trial) for trial in self.store.trials()])

    def write_table(self, rows: Iterable[TrialRow]) -> None:
        """trials.csv: one row a trial, one column a parameter and metric."""
        table = to_table(rows)
        columns = list(dict.fromkeys(key for row in table for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        write_aside(self.folder / "trials.csv", text.getvalue())

    def lay_checkpoint(self, number: int, checkpoint: bytes) -> None:
        """Puts a checkpoint beside best.ckpt, before it is recorded that its trial is the best."""
        write_aside(self._laid(number), checkpoint)

    def crown_checkpoint(self, number: int) -> None:
        """It is recorded that this trial is the best: its checkpoint replaces the last best."""
        self._laid(number).replace(self.folder / "checkpoints" / "best.ckpt")

    def close(self) -> None:
        self.store.close()
        self._lock.release()

    def _laid(self, number: int) -> Path:
        return self.folder / "checkpoints" / f".trial_{number:04d}.ckpt"

    def _settle_checkpoint(self) -> None:
        """After a crash between record and crown the best checkpoint lies beside its place."""
        best = self.results().best
        if best is not None and self._laid(best.number).exists():
            self.crown_checkpoint(best.number)
        for stray in (self.folder / "checkpoints").glob(".trial_*"):
            stray.unlink()

    def _locked(self) -> FileLock:
        """The operating system frees the lock of a dead process, so it is never stale."""
        lock = FileLock(self.folder / ".lock", timeout=0)
        owner = self.folder / ".owner"
        try:
            lock.acquire()
        except Timeout:
            who = owner.read_text() if owner.exists() else "another process"
            raise ConfigError(
                [f"study {self._name}: already being run by {who}; wait for it, or stop it"]
            ) from None
        write_aside(owner, f"process {os.getpid()} on {socket.gethostname()}")
        return lock


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write to {folder}: {error.strerror}"
        raise ConfigError([Problem("study.folder", what, "set study.folder=...")]) from None


def another_experiment(
    name: str, folder: Path, recorded: Mapping[str, Any], now: Mapping[str, Any]
) -> ConfigError | None:
    """Why the trials of a folder cannot go on as the study that is described `now`."""
    found = differences(recorded, now)
    if not found:
        return None
    return ConfigError(
        [
            f"study {name}: {folder} was recorded with other settings:",
            *(f"  {line}" for line in found),
            f"  type study.name={name}-2 for a new study, or remove {folder}",
        ]
    )


def load_study(where: str | Path) -> ResultSet:
    """A recorded study, by its folder or by its name below sweeps/. Reads only; loads no torch.

    Works while a conductor writes it. Errors: StudyError if there is none, naming those there are.
    """
    for folder in (Path(where), Path("sweeps") / where):
        if (folder / "study.db").is_file() and (folder / "config.yaml").is_file():
            rows = [to_row(trial) for trial in read_trials(folder / "study.db")]
            return _results(folder, read_config(folder / "config.yaml"), rows)
    there = ", ".join(sorted(p.parent.name for p in Path("sweeps").glob("*/study.db")))
    raise StudyError(f"no recorded study at {where}; recorded below sweeps/: {there or 'none'}")


def _results(folder: Path, config: dict[str, Any], rows: list[TrialRow]) -> ResultSet:
    study = config["study"]
    return ResultSet(
        name=study["name"],
        folder=folder,
        metric=study["metric"],
        direction=study["direction"],
        total=config.get("total", study["trials"]),
        search=config["search"],
        config=config,
        trials=rows,
        confirm=read_rows(folder),
    )
