"""The durable study: SQLite in WAL mode, in Optuna's own schema, so Optuna's tools open it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.database import connect_to_read, connect_to_write, explained, open_storage
from sweep.errors import StudyError
from sweep.messages import Status, Value
from sweep.results import MomentumCurve, RowStatus, TrialRow

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
_DIRECTIONS = {"maximize": StudyDirection.MAXIMIZE, "minimize": StudyDirection.MINIMIZE}
_SCHEMA = "v3.2.0.a"  # of Optuna 3.2 to 5, at least


class Store:
    """One study in one file, opened by its only writer. A trial's number is its number everywhere.

    Optuna makes the tables and reads them; rows are written here, one statement for many, because
    one call of Optuna's for each of them takes fifty times as long.

    Errors: StudyError if the file is there and cannot be used.
    """

    def __init__(self, path: Path, name: str, direction: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with explained(path):
            self._storage = open_storage(partial(connect_to_write, path), new=True)
            if (found := self._storage.get_current_version()) != _SCHEMA:
                raise RuntimeError(f"expected Optuna's tables {_SCHEMA}, got {found}")
            studies = self._storage.get_all_studies()
            # There is one study in the file, whatever its folder has been renamed to.
            self._study_id = (
                studies[0]._study_id
                if studies
                else self._storage.create_new_study([_DIRECTIONS[direction]], name)
            )
            self._trials: list[FrozenTrial] | None = None
            self._db = connect_to_write(path)
            with self.together():  # a conductor that was killed left them running
                self._db.execute("UPDATE trials SET state = 'WAITING' WHERE state = 'RUNNING'")
            self._ids = {t.number: t._trial_id for t in self.trials()}

    def trials(self) -> list[FrozenTrial]:
        """All of them by number; not to be changed. Optuna takes a millisecond for each."""
        if self._trials is None:
            self._trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return self._trials

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is one transaction: recorded together, or not at all."""
        self._trials = None
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def begin(
        self,
        row: TrialRow,
        distributions: Mapping[str, BaseDistribution],
        notes: Mapping[str, Any],
    ) -> None:
        """A trial starts, or starts again: it has a row from here on, in state RUNNING.

        `notes` are the sampler's and the pruner's own; CMA-ES keeps its state there.
        """
        if row.number not in self._ids:
            self._ids[row.number] = self._insert(row.number)
        trial_id = self._ids[row.number]
        self._set(trial_id, row.params, distributions)
        self._note("trial_user_attributes", trial_id, {"seed": row.seed})
        self._note("trial_system_attributes", trial_id, notes)
        self._db.execute(
            "UPDATE trials SET state = 'RUNNING', datetime_start = ? WHERE trial_id = ?",
            (_date(row.started), trial_id),
        )

    def _insert(self, number: int) -> int:
        count = "SELECT COUNT(*) FROM trials WHERE study_id = ?"
        (there,) = self._db.execute(count, (self._study_id,)).fetchone()
        if there != number:
            raise StudyError(
                f"study.db: expected {number} trials, got {there}: another program has changed "
                "them; stop it, and type the same command again"
            )
        insert = "INSERT INTO trials (number, study_id, state) VALUES (?, ?, 'RUNNING')"
        trial_id = self._db.execute(insert, (number, self._study_id)).lastrowid
        assert trial_id is not None
        return trial_id

    def _set(
        self,
        trial_id: int,
        params: Mapping[str, Value],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Parameters that the trial has not got yet."""
        known = [(key, distributions[key], value) for key, value in params.items()]
        self._db.executemany(
            "INSERT OR IGNORE INTO trial_params "
            "(trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
            [(trial_id, k, d.to_internal_repr(v), distribution_to_json(d)) for k, d, v in known],
        )

    def finish(
        self,
        row: TrialRow,
        state: TrialState,
        distributions: Mapping[str, BaseDistribution],
        notes: Mapping[str, Any],
    ) -> None:
        """All that is known of an ended trial."""
        trial_id = self._ids[row.number]
        self._set(trial_id, row.params, distributions)
        known: dict[str, Any] = {
            "metrics": row.metrics,
            "history": row.history,
            "seconds": row.seconds,
            "arithmetic": row.arithmetic,
        }
        if row.momentum is not None:
            known["momentum"] = asdict(row.momentum)
        known |= {"worker": row.worker, "reason": row.reason, "doomed": row.doomed or None}
        known = {key: value for key, value in known.items() if value is not None}
        self._note("trial_user_attributes", trial_id, known)
        self._note("trial_system_attributes", trial_id, notes)
        self._db.executemany(
            "INSERT INTO trial_intermediate_values "
            "(trial_id, step, intermediate_value, intermediate_value_type) "
            "VALUES (?, ?, ?, 'FINITE')",
            [(trial_id, epoch, value) for epoch, value in row.curve.items()],
        )
        if row.value is not None:
            self._db.execute(
                "INSERT INTO trial_values (trial_id, objective, value, value_type) "
                "VALUES (?, 0, ?, 'FINITE')",
                (trial_id, row.value),
            )
        self._db.execute(
            "UPDATE trials SET state = ?, datetime_complete = ? WHERE trial_id = ?",
            (state.name, _date(row.finished), trial_id),
        )

    def set_aside(self, number: int) -> None:
        """Back to waiting: the same command starts it again, with the same number and seed."""
        self._db.execute(
            "UPDATE trials SET state = 'WAITING' WHERE trial_id = ?", (self._ids[number],)
        )

    def close(self) -> None:
        self._db.close()
        self._storage.remove_session()
        self._storage.engine.dispose()

    def _note(self, table: str, trial_id: int, attributes: Mapping[str, Any]) -> None:
        self._db.executemany(
            f"INSERT OR REPLACE INTO {table} (trial_id, key, value_json) VALUES (?, ?, ?)",
            [(trial_id, key, json.dumps(value)) for key, value in attributes.items()],
        )


def read_trials(path: Path) -> list[FrozenTrial]:
    """The trials in a file, which is left as it is, whether or not a conductor writes it meanwhile.

    Errors: StudyError if it is no record of trials.
    """
    with explained(path):
        storage = open_storage(partial(connect_to_read, path), new=False)
        try:
            study = storage.get_all_studies()[0]
            return storage.get_all_trials(study._study_id, deepcopy=False)
        except IndexError:
            return []  # killed before its first trial
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _date(date: dt.datetime | None) -> str | None:
    """As SQLAlchemy writes it."""
    return None if date is None else date.isoformat(" ", "microseconds")


def to_row(trial: FrozenTrial) -> TrialRow:
    """One recorded trial as a plain row."""
    attributes = trial.user_attrs
    momentum = attributes.get("momentum")
    return TrialRow(
        number=trial.number,
        status=ROW_STATUS[trial.state],
        params=trial.params,
        value=trial.value,
        metrics=attributes.get("metrics", {}),
        curve=dict(sorted(trial.intermediate_values.items())),
        history=attributes.get("history", {}),
        momentum=None if momentum is None else MomentumCurve(**momentum),
        seed=attributes.get("seed", 0),
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason"),
        doomed=attributes.get("doomed", 0),
        worker=attributes.get("worker"),
        arithmetic=attributes.get("arithmetic", {}),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
    )
