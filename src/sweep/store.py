"""The durable study: SQLite in WAL mode, in Optuna's own schema, so Optuna's tools open it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from sweep.errors import StudyError
from sweep.messages import Status
from sweep.results import RowStatus, TrialRow

STATES: dict[Status, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "interrupted": TrialState.WAITING,
}
ROW_STATUS: dict[TrialState, RowStatus] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
STORE_ERRORS = (SQLAlchemyError, StorageInternalError, sqlite3.Error)
_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}
_LOCKED_FOR_S = 60  # how long to wait for another program that writes to the file


class Store:
    """One study in one file, opened by its only writer. A trial's number is its number everywhere.

    Errors: StudyError if the file is there and cannot be used.
    """

    def __init__(self, path: Path, name: str, direction: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _explained(path):
            self._storage = _storage(partial(_connect_to_write, path), new=True)
            studies = self._storage.get_all_studies()
            # There is one study in the file, whatever its folder has been renamed to.
            self._study_id = (
                studies[0]._study_id
                if studies
                else self._storage.create_new_study([_DIRECTIONS[direction]], name)
            )
            trials = self.trials()
            self._ids = {t.number: t._trial_id for t in trials}
            with self.together():
                for trial in trials:
                    if trial.state is TrialState.RUNNING:  # its conductor is dead
                        self.set_aside(trial.number)

    def trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is one transaction: recorded together, or not at all.

        Optuna commits after each call; its session joins the transaction of a connection that it is
        given, and leaves the commit to whoever began it.
        """
        self._storage.remove_session()
        engine, sessions = self._storage.engine, self._storage.scoped_session
        try:
            with engine.begin() as connection:
                sessions.configure(bind=connection)
                yield
        finally:
            self._storage.remove_session()
            sessions.configure(bind=engine)

    def begin(self, row: TrialRow, distributions: Mapping[str, BaseDistribution]) -> None:
        """A trial starts, or starts again: it has a row from here on, in state RUNNING."""
        number = row.number
        if number not in self._ids:
            waiting = create_trial(
                state=TrialState.WAITING,
                params=dict(row.params),
                distributions=dict(distributions),
                user_attrs={"seed": row.seed},
            )
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=waiting)
            if (got := self._storage.get_trial_number_from_id(trial_id)) != number:
                raise RuntimeError(f"study.db: expected to add trial {number}, it became {got}")
            self._ids[number] = trial_id
        self._storage.set_trial_state_values(self._ids[number], TrialState.RUNNING)

    def finish(self, row: TrialRow, state: TrialState, notes: Mapping[str, Any]) -> None:
        """All that is known of an ended trial; `notes` are the sampler's and the pruner's own."""
        trial_id = self._ids[row.number]
        for epoch, value in row.curve.items():
            self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        known = {"metrics": row.metrics, "history": row.history, "seconds": row.seconds}
        known |= {"worker": row.worker, "reason": row.reason}
        for key, attribute in known.items():
            if attribute is not None:
                self._storage.set_trial_user_attr(trial_id, key, attribute)
        for key, note in notes.items():
            self._storage.set_trial_system_attr(trial_id, key, note)
        values = None if row.value is None else [row.value]
        self._storage.set_trial_state_values(trial_id, state, values)

    def set_aside(self, number: int) -> None:
        """Back to waiting: the same command starts it again, with the same number and seed."""
        self._storage.set_trial_state_values(self._ids[number], TrialState.WAITING)

    def close(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


def read_trials(path: Path) -> list[FrozenTrial]:
    """The trials in a file, which is left as it is, whether or not a conductor writes it meanwhile.

    Errors: StudyError if it is no record of trials.
    """
    with _explained(path):
        storage = _storage(partial(_connect_to_read, path), new=False)
        try:
            study = storage.get_all_studies()[0]
            return storage.get_all_trials(study._study_id, deepcopy=False)
        except IndexError:
            return []  # killed before its first trial
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _storage(connect: Callable[[], sqlite3.Connection], new: bool) -> RDBStorage:
    # Paths may hold ? # % { }, which an URL would read as something else: `connect` knows the path.
    return RDBStorage(
        "sqlite:///study.db", engine_kwargs={"creator": connect}, skip_table_creation=not new
    )


def _connect_to_write(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_LOCKED_FOR_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _connect_to_read(path: Path) -> sqlite3.Connection:
    # Nobody has a file without -wal open. SQLite would make one there, and leave it.
    still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro{still}",
        uri=True,
        timeout=_LOCKED_FOR_S,
        check_same_thread=False,
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (*STORE_ERRORS, RuntimeError) as error:
        raise StudyError(
            f"{path}: cannot be used as a study's record: {cause_of(error)}; mend that, restore it "
            f"from a copy, or move {path.parent} away and begin again"
        ) from None


def cause_of(error: Exception) -> str:
    """The first line of what SQLite said, from below what Optuna and SQLAlchemy made of it."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) else error
    return str(getattr(inner, "orig", inner)).splitlines()[0]


def to_row(trial: FrozenTrial) -> TrialRow:
    """One recorded trial as a plain row."""
    attributes = trial.user_attrs
    return TrialRow(
        number=trial.number,
        status=ROW_STATUS[trial.state],
        params=trial.params,
        value=trial.value,
        metrics=attributes.get("metrics", {}),
        curve=dict(sorted(trial.intermediate_values.items())),
        history=attributes.get("history", {}),
        seed=attributes.get("seed", 0),
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason"),
        worker=attributes.get("worker"),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
    )
