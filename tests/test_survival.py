"""What a study survives, and what it refuses, besides kills and signals (test_faults)."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from threading import Timer

import pytest
import torch

from sweep import load_study
from sweep.conductor import Conductor
from sweep.config import make_plan
from sweep.errors import ConfigError
from sweep.executors import EXECUTORS
from sweep.messages import Ended, Quit, Ready, Start
from sweep.record import Record
from sweep.saves import Save
from tests.awkward import Evil
from tests.studies import bench, metrics, on_one_core, plan

CONF = str(Path(__file__).parent / "conf")
SRC = Path(__file__).parents[1] / "src"


def test_a_torn_last_record_costs_what_was_in_it_and_no_more(tmp_path: Path) -> None:
    """The log of SQLite's last transactions, cut in the middle of one as a power cut leaves it."""
    with bench(plan(tmp_path / "whole")) as desk:
        desk.run(3)
        rows = desk.rows
        shutil.copytree(desk.record.folder, tmp_path / "torn" / "synthetic")  # while it is written
    log = tmp_path / "torn" / "synthetic" / "study.db-wal"
    os.truncate(log, log.stat().st_size - 100)
    with bench(plan(tmp_path / "torn")) as desk:
        assert list(desk.rows[:2]) == list(rows[:2])
        assert not desk.rows[2].ended
        assert [spec.number for spec in desk.run()] == [2, 3, 4, 5, 6, 7]
        assert desk.rows[2].params == rows[2].params


def test_a_lock_that_a_dead_process_left_is_no_lock(tmp_path: Path) -> None:
    folder = tmp_path / "synthetic"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".owner").write_text("process 999999 on elsewhere")
    with bench(plan(tmp_path)) as desk:
        assert len(desk.run()) == 8
    assert (folder / ".owner").read_text().startswith(f"process {os.getpid()} on ")


def test_a_clock_that_jumps_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits are told by a clock that only goes forward; the calendar is for the record."""
    limits = ("study.timeout_s=1000", "study.trial_timeout_s=1000", "study.trials=4")
    some, now_s = plan(tmp_path, *limits), time.time()
    jumps = iter([-1e6, 1e6, -1e8, 1e8] * 1000)
    monkeypatch.setattr(time, "time", lambda: now_s + next(jumps))
    with closing(Record(some)) as record:
        record.describe()
        conductor, ran = Conductor(some, record, lambda *_: None), 0
        with closing(conductor):
            while not isinstance((order := conductor.exchange("a", [Ready()])[0]), Quit):
                assert isinstance(order, Start)
                end = Ended(order.spec.number, "complete", metrics(0.5), 1.0)
                conductor.exchange("a", [end])
                conductor.flush()
                ran += 1
        assert [row.status for row in record.results().trials] == ["complete"] * 4
    assert ran == 4


def test_a_database_locked_by_another_program_is_waited_for(tmp_path: Path) -> None:
    with bench(plan(tmp_path)) as desk:
        desk.run(1)
        other = sqlite3.connect(desk.record.folder / "study.db", check_same_thread=False)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")
            Timer(0.3, other.rollback).start()
            desk.run(1)
        assert desk.conductor.failure is None
        assert [row.status for row in desk.rows] == ["complete"] * 2


def test_a_folder_that_cannot_be_written_is_named_before_the_first_trial() -> None:
    with pytest.raises(ConfigError, match=r"study.folder: cannot write to /proc/nowhere/synthetic"):
        Record(plan(Path("/proc/nowhere")))


def test_a_batch_of_one_image_is_refused_before_the_first_trial() -> None:
    """Batch norm could not normalise it."""
    with pytest.raises(ConfigError, match=r"data.batch_size: expected a whole number from 2 up"):
        make_plan(["+study=synthetic", "data.batch_size=1"])


def test_equal_parameters_are_trials_of_their_own_with_seeds_of_their_own(tmp_path: Path) -> None:
    few = ("model.dropout=choice(0.1,0.2)", "study.trials=8")
    with bench(plan(tmp_path, *few)) as desk:
        while specs := desk.ask(lanes=4):
            desk.say("a", *(Ended(s.number, "complete", metrics(0.5), 1.0) for s in specs))
        assert len({row.params["model.dropout"] for row in desk.rows}) == 2
        assert len({row.seed for row in desk.rows}) == len(desk.rows) == 8


def test_processes_are_spawned_and_never_forked() -> None:
    """A fork of a process with threads, or with a CUDA context, hangs now and then."""
    starts = [
        line.strip()
        for path in SRC.rglob("*.py")
        for line in path.read_text().splitlines()
        if "get_context(" in line or "os.fork" in line or "set_start_method" in line
    ]
    assert starts
    assert all('get_context("spawn")' in line for line in starts)


def state_with(evil: Evil) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {}, "epoch": 1, "evil": evil}, file)
    return file.getvalue()


@pytest.mark.parametrize("study", ["synthetic", "awkward"])
def test_a_saved_trial_that_brings_code_is_refused(tmp_path: Path, study: str) -> None:
    """Whether it goes on in a pack or alone: nothing but weights is unpickled."""
    typed = ["study.trials=1", "executor=inline", "pruner=none", "confirm.seeds=0"]
    some = make_plan([f"+study={study}", f"study.folder={tmp_path}", *typed], CONF)
    with closing(Record(some)) as record:
        record.describe()
        epoch = {1: metrics(0.5)}
        record.saves.write(0, Save(1, epoch, {}, state_with(Evil(str(tmp_path / "made")))))
        conductor = Conductor(some, record, lambda *_: None)
        with closing(conductor):
            EXECUTORS["inline"](conductor, some)
        (row,) = record.results().trials
    assert row.status == "failed"
    assert row.reason is not None
    assert "weights" in row.reason.lower()
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_data_loader_that_dies_fails_the_trial_with_its_reason(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    on_one_core()
    data = [
        "data=own",
        "data._target_=tests.awkward.BrokenLoader",
        "model.deed=choice(fine,is_bad)",
    ]
    typed = ["+study=awkward", f"study.folder={tmp_path}", "study.trials=1", *data]
    some = make_plan([*typed, "executor=local"], CONF)
    with closing(Record(some)) as record:
        record.describe()
        conductor = Conductor(some, record, lambda *_: None)
        with closing(conductor):
            EXECUTORS["local"](conductor, some)
    os.sched_setaffinity(0, before)
    (row,) = load_study(tmp_path / "awkward").trials
    assert row.status == "failed"
    assert row.reason is not None
    assert "DataLoader worker" in row.reason
    assert "Traceback" in (tmp_path / "awkward" / "logs" / "worker-0.log").read_text()
