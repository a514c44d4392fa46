"""The durable study: what is written, read back by Optuna itself and by SQLite."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sweep.errors import StudyError
from sweep.messages import Value
from sweep.results import TrialRow
from sweep.store import STATES, Store, read_trials, to_row
from tests.studies import row

SPACE = {
    "model.dropout": FloatDistribution(0, 0.7),
    "model.bn_momentum": FloatDistribution(0.001, 1, log=True),
}


@pytest.fixture(params=["study.db", "it's 100% {odd}? #1/study.db"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file in an ordinary folder, and in one whose name means something to URLs and formats."""
    where: Path = tmp_path / request.param
    where.parent.mkdir(exist_ok=True)
    return where


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path, "mnist", "maximize")
    yield opened
    opened.close()


def record(store: Store, *rows: TrialRow) -> None:
    for ended in rows:
        with store.together():
            store.begin(ended, SPACE, {})
        with store.together():
            store.finish(ended, STATES[ended.status], SPACE, {"completed_rung_0": 0.5})  # type: ignore[index]


def study_of(path: Path) -> optuna.Study:
    engine = {"creator": lambda: sqlite3.connect(path)}
    storage = optuna.storages.RDBStorage("sqlite:///study.db", engine_kwargs=engine)
    return optuna.load_study(study_name="mnist", storage=storage)


ENDED = [
    row(0),
    row(1, "pruned", curve={1: 0.5}, value=0.5),
    row(2, "failed", value=None, reason="ValueError: 'no' — \U0001f41f", curve={}, metrics={}),
    row(3, value=0.95),
]


def test_what_is_written_is_read_back_exactly(store: Store) -> None:
    record(store, *ENDED)
    assert [to_row(trial) for trial in store.trials()] == ENDED


def test_optuna_opens_it_and_finds_everything(path: Path, store: Store) -> None:
    record(store, *ENDED)
    study = study_of(path)
    complete, pruned, failed, best = study.trials
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    assert [t.number for t in study.trials] == [0, 1, 2, 3]
    assert complete.params == ENDED[0].params
    assert complete.distributions == SPACE
    assert complete.intermediate_values == {1: 0.5, 2: 0.9}
    assert complete.user_attrs["metrics"] == ENDED[0].metrics
    assert complete.system_attrs == {"completed_rung_0": 0.5}
    assert (complete.datetime_start, complete.duration) == (
        ENDED[0].started,
        replace(ENDED[0]).finished - ENDED[0].started,  # type: ignore[operator]
    )
    assert (pruned.value, failed.value) == (0.5, None)
    assert (study.best_trial.number, study.best_value) == (best.number, 0.95)
    assert study.direction.name == "MAXIMIZE"
    assert len(study.trials_dataframe()) == 4


def test_optuna_goes_on_with_it(path: Path, store: Store) -> None:
    record(store, *ENDED)
    study = study_of(path)
    trial = study.ask(SPACE)
    assert trial.number == 4
    study.tell(trial, 0.99)
    assert study.best_trial.number == 4


def test_trials_that_another_program_adds_meanwhile_are_noticed(path: Path, store: Store) -> None:
    record(store, row(0))
    study_of(path).ask(SPACE)
    with pytest.raises(StudyError, match="expected 1 trials, got 2: another program"):
        record(store, row(1))
    assert len(read_trials(path)) == 2


@pytest.mark.parametrize(
    "distribution, value",
    [
        (IntDistribution(1, 64, log=True), 8),
        (IntDistribution(0, 10, step=5), 5),
        (FloatDistribution(0, 1, step=0.25), 0.75),
        (FloatDistribution(0, 1), 0.1 + 0.2),
        (CategoricalDistribution(("relu", None, 2, 0.5, True)), "relu"),
        (CategoricalDistribution(("relu", None, 2, 0.5, True)), None),
        (CategoricalDistribution(("relu", None, 2, 0.5, True)), True),
    ],
)
def test_every_kind_of_parameter_comes_back(
    tmp_path: Path, distribution: optuna.distributions.BaseDistribution, value: Value
) -> None:
    store = Store(tmp_path / "study.db", "mnist", "minimize")
    with store.together():
        store.begin(TrialRow(0, "running", {"x": value}), {"x": distribution}, {})
    (trial,) = store.trials()
    store.close()
    assert trial.params == {"x": value}
    assert type(trial.params["x"]) is type(value)
    assert trial.distributions == {"x": distribution}


def test_the_file_is_in_wal_mode(path: Path, store: Store) -> None:
    record(store, row(0))
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_what_is_written_together_is_kept_together_or_not_at_all(store: Store) -> None:
    record(store, row(0))
    with pytest.raises(ZeroDivisionError), store.together():
        store.begin(row(1), SPACE, {})
        store.finish(row(1), TrialState.COMPLETE, SPACE, {})
        raise ZeroDivisionError
    assert [t.number for t in store.trials()] == [0]


def test_a_trial_set_aside_starts_again_as_it_was(store: Store) -> None:
    with store.together():
        store.begin(row(0), SPACE, {"note": 1})
    with store.together():
        store.set_aside(0)
    assert store.trials()[0].state is TrialState.WAITING
    again = row(0, worker="worker-7")
    record(store, again)
    assert [to_row(trial) for trial in store.trials()] == [again]
    assert store.trials()[0].system_attrs == {"note": 1, "completed_rung_0": 0.5}


def test_what_a_killed_conductor_left_running_waits(path: Path, store: Store) -> None:
    record(store, row(0))
    with store.together():
        store.begin(row(1), SPACE, {})
    store.close()
    again = Store(path, "mnist", "maximize")
    assert [t.state.name for t in again.trials()] == ["COMPLETE", "WAITING"]
    again.close()


def test_a_renamed_folder_still_has_its_study(path: Path, store: Store) -> None:
    record(store, row(0))
    store.close()
    again = Store(path, "another name", "maximize")
    assert [to_row(trial) for trial in again.trials()] == [row(0)]
    again.close()


# Reading without touching


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file but SQLite's index of the journal, which is no content."""
    files = [path for path in folder.iterdir() if not path.name.endswith("-shm")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_reading_a_closed_file_makes_and_changes_nothing(path: Path, store: Store) -> None:
    record(store, *ENDED)
    store.close()
    before = contents(path.parent)
    assert [to_row(trial) for trial in read_trials(path)] == ENDED
    assert contents(path.parent) == before
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["study.db"]


def test_reading_sees_what_a_conductor_is_writing(path: Path, store: Store) -> None:
    record(store, row(0))
    before = contents(path.parent)
    assert len(read_trials(path)) == 1
    assert contents(path.parent) == before
    record(store, row(1))  # the reader is in nobody's way
    assert len(read_trials(path)) == 2


def test_reading_sees_what_a_killed_conductor_wrote(path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from sweep.store import Store
        from tests.studies import row
        from tests.test_store import record
        record(Store(Path({str(path)!r}), "mnist", "maximize"), row(0), row(1))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[1]
    )
    assert killed.returncode == -9
    before = contents(path.parent)
    assert {"study.db", "study.db-wal"} <= before.keys()
    assert [to_row(trial) for trial in read_trials(path)] == [row(0), row(1)]
    assert contents(path.parent) == before
    store = Store(path, "mnist", "maximize")
    assert [to_row(trial) for trial in store.trials()] == [row(0), row(1)]
    store.close()


# Damage


@pytest.mark.parametrize("use", [lambda path: Store(path, "mnist", "maximize"), read_trials])
def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path, use: object) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"This was a study once. " * 1000)
    with pytest.raises(StudyError, match=r"study\.db: cannot be used .* file is not a database"):
        use(path)  # type: ignore[operator]
    assert path.read_bytes() == b"This was a study once. " * 1000


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    store = Store(path, "mnist", "maximize")
    record(store, *ENDED)
    store.close()
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(StudyError, match=r"study\.db: cannot be used .* malformed"):
        Store(path, "mnist", "maximize")


def test_a_file_of_a_newer_optuna_is_refused(path: Path, store: Store) -> None:
    record(store, row(0))
    store.close()
    with sqlite3.connect(path) as newer:
        newer.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    newer.close()
    with pytest.raises(StudyError, match="no longer compatible with the table schema"):
        Store(path, "mnist", "maximize")
