"""A study's folder: what ran (config.yaml), what came out (study.db, trials.csv), and by whom.

Whatever is replaced is written aside and renamed; whatever grows is SQLite's or TensorBoard's.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from difflib import unified_diff
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sweep.config import TRIAL_SECTIONS, Plan
from sweep.errors import ConfigError, StudyError
from sweep.results import ResultSet
from sweep.store import Store, to_row

LIBRARIES = ("dropnorm", "torch", "pytorch-lightning", "optuna", "hydra-core", "numpy")
PARTS = ("checkpoints", "logs", "report", "tensorboard")


class Record:
    """One study's folder, opened for writing by one conductor at a time."""

    def __init__(self, plan: Plan) -> None:
        """Errors: ConfigError if the folder belongs to other settings, another conductor, or nobody."""
        self.plan = plan
        self.folder = plan.folder
        try:
            for part in PARTS:
                (self.folder / part).mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        except OSError as error:
            raise ConfigError(
                [f"study.folder: cannot write to {self.folder}: {error.strerror}; set study.folder=..."]
            ) from None
        self._check_same_experiment()
        write_aside(self.folder / "config.yaml", yaml.safe_dump(describe(plan), sort_keys=False))
        self.store = Store(self.folder / "study.db", plan.study.name, plan.study.direction)

    def results(self) -> ResultSet:
        return _results(self.folder, describe(self.plan), self.store)

    def write_table(self) -> None:
        """trials.csv: one row a trial, one column a parameter and metric."""
        rows = self.results().rows()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        path = self.folder / "trials.csv"
        with (aside := _aside(path)).open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
        aside.replace(path)

    def keep_checkpoint(self, checkpoint: bytes) -> None:
        """The best trial so far is this one: its checkpoint takes the place of the last."""
        write_aside(self.folder / "checkpoints" / "best.ckpt", checkpoint)

    def close(self) -> None:
        self.store.close()
        self._lock.release()

    def _locked(self) -> FileLock:
        """The operating system frees the lock of a dead process, so it is never stale."""
        lock = FileLock(self.folder / ".lock", timeout=0)
        owner = self.folder / ".owner"
        try:
            lock.acquire()
        except Timeout:
            who = owner.read_text() if owner.exists() else "another process"
            raise ConfigError(
                [f"study {self.plan.study.name}: already being run by {who}; wait, or stop it"]
            ) from None
        write_aside(owner, f"process {os.getpid()} on {socket.gethostname()}")
        return lock

    def _check_same_experiment(self) -> None:
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        before, now = experiment(read_config(path)), experiment(self.plan.resolved)
        if before == now:
            return
        lines = [yaml.safe_dump(c, sort_keys=True).splitlines() for c in (before, now)]
        diff = [d for d in unified_diff(*lines, n=0, lineterm="") if d[:2] not in ("--", "++", "@@")]
        name = self.plan.study.name
        raise ConfigError(
            [
                f"study {name}: {self.folder} was recorded with other settings: {'; '.join(diff)}. "
                f"Type study.name={name}-2 for a new study, or remove the folder"
            ]
        )


def experiment(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that trials of one study must share to be comparable."""
    study = config["study"]
    same = {key: study[key] for key in ("metric", "direction", "seed")}
    return {"study": same, **{key: config[key] for key in ("search", *TRIAL_SECTIONS)}}


def describe(plan: Plan) -> dict[str, Any]:
    """What config.yaml holds: the resolved configuration, the space's hash, and versions."""
    search = plan.resolved["search"]
    return {
        **plan.resolved,
        "space_hash": hashlib.sha256(json.dumps(search, sort_keys=True).encode()).hexdigest()[:16],
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed as a package"
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Errors: StudyError naming file, line and column if it is not YAML."""
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(config, dict) or "study" not in config or "search" not in config:
        raise StudyError(f"{path}: expected the configuration of a study; restore or remove it")
    return config


def load_study(where: str | Path) -> ResultSet:
    """A recorded study, by its folder or by its name below sweeps/. Reads only; loads no torch.

    Errors: StudyError if there is none, naming those there are.
    """
    for folder in (Path(where), Path("sweeps") / where):
        if (folder / "study.db").is_file() and (folder / "config.yaml").is_file():
            config = read_config(folder / "config.yaml")
            study = config["study"]
            store = Store(folder / "study.db", study["name"], study["direction"])
            try:
                return _results(folder, config, store)
            finally:
                store.close()
    there = sorted(p.parent.name for p in Path("sweeps").glob("*/study.db"))
    raise StudyError(f"no recorded study at {where}; recorded below sweeps/: {', '.join(there) or 'none'}")


def _results(folder: Path, config: dict[str, Any], store: Store) -> ResultSet:
    study = config["study"]
    return ResultSet(
        name=study["name"],
        folder=folder,
        metric=study["metric"],
        direction=study["direction"],
        total=study["trials"],
        search=config["search"],
        config=config,
        trials=[to_row(trial) for trial in store.trials()],
    )


def write_aside(path: Path, content: str | bytes) -> None:
    """All of it or nothing: written beside `path`, flushed to the disk, then renamed."""
    data = content.encode() if isinstance(content, str) else content
    with (aside := _aside(path)).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")
