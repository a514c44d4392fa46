"""The durable study: SQLite in WAL mode, in Optuna's own schema, so Optuna's tools open it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweep.messages import Status, Value
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
_LOCKED_FOR_S = 60  # how long to wait for another program that reads or writes the file


class Store:
    """One Optuna study in one SQLite file. A trial's number here is its number everywhere."""

    def __init__(self, path: Path, name: str, direction: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = RDBStorage(
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _LOCKED_FOR_S}}
        )
        event.listen(self._storage.engine, "connect", _use_wal)
        self._storage.engine.dispose()  # the connections made so far have not heard of WAL
        study = optuna.create_study(
            storage=self._storage, study_name=name, direction=direction, load_if_exists=True
        )
        self._study_id = study._study_id
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self._ids = {t.number: t._trial_id for t in trials}

    def trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id)

    def begin(
        self,
        number: int,
        params: Mapping[str, Value],
        distributions: Mapping[str, BaseDistribution],
        seed: int,
    ) -> None:
        """A trial starts, or starts again: it has a row from here on, in state RUNNING."""
        if number not in self._ids:
            waiting = create_trial(
                state=TrialState.WAITING,
                params=dict(params),
                distributions=dict(distributions),
                user_attrs={"seed": seed},
            )
            trial_id = self._storage.create_new_trial(self._study_id, template_trial=waiting)
            if (got := self._storage.get_trial_number_from_id(trial_id)) != number:
                raise RuntimeError(f"study.db: expected to add trial {number}, it became {got}")
            self._ids[number] = trial_id
        self._storage.set_trial_state_values(self._ids[number], TrialState.RUNNING)

    def finish(
        self,
        number: int,
        status: Status,
        value: float | None,
        curve: Mapping[int, float],
        attributes: Mapping[str, Any],
    ) -> None:
        """All that is known of an ended trial; its state comes last, so that it never ends half."""
        trial_id = self._ids[number]
        for epoch, reported in curve.items():
            self._storage.set_trial_intermediate_value(trial_id, epoch, reported)
        for key, attribute in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, attribute)
        values = None if value is None or status == "failed" else [value]
        self._storage.set_trial_state_values(trial_id, STATES[status], values)

    def close(self) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()


def _use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


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
