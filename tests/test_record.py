"""A study's folder: what it holds, who may write it, and what becomes of it in trouble."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pandas
import pytest
import yaml

from sweep import load_study
from sweep.config import Plan
from sweep.errors import ConfigError, StudyError
from sweep.files import write_aside
from sweep.messages import Ended
from sweep.record import PARTS, Record
from tests.studies import Bench, bench, metrics, plan

HERE = Path(__file__).parents[1]


def open_and_close(plan: Plan) -> None:
    Record(plan).close()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def recorded(folder: Path, *overrides: str) -> Path:
    """The folder of a study of eight complete trials."""
    with bench(plan(folder, *overrides)) as desk:
        desk.run()
    return folder / "synthetic"


# What is there


def test_a_folder_has_its_parts_from_the_start(tmp_path: Path) -> None:
    open_and_close(plan(tmp_path))
    visible = {path.name for path in (tmp_path / "synthetic").iterdir() if path.name[0] != "."}
    assert visible == {*PARTS, "config.yaml", "study.db"}


def test_config_yaml_is_what_ran_and_with_what(tmp_path: Path) -> None:
    typed = "python -m sweep +study=synthetic 'model.dropout=interval(0,0.5)'"
    Record(plan(tmp_path, "model.dropout=interval(0,0.5)"), typed).close()
    config = yaml.safe_load((tmp_path / "synthetic" / "config.yaml").read_text())
    assert config["search"]["model.dropout"] == "interval(0,0.5)"
    assert config["optimizer"]["lr"] == 0.001
    assert config["command"] == typed
    assert config["total"] == 8
    assert len(config["space_hash"]) == 16
    assert config["versions"]["optuna"] == optuna.__version__
    assert {"python", "torch", "pytorch-lightning", "dropnorm"} <= config["versions"].keys()


def test_the_hash_of_the_space_changes_with_it(tmp_path: Path) -> None:
    def space_hash(name: str, *overrides: str) -> str:
        open_and_close(plan(tmp_path / name, *overrides))
        config = yaml.safe_load((tmp_path / name / "synthetic" / "config.yaml").read_text())
        return str(config["space_hash"])

    assert space_hash("a") == space_hash("b", "study.trials=9", "optimizer.lr=0.1")
    assert space_hash("a") != space_hash("c", "model.dropout=interval(0,0.5)")


def test_the_table_is_read_by_pandas(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    table = pandas.read_csv(folder / "trials.csv", parse_dates=["started", "finished"])
    rows = load_study(folder).rows()
    assert list(table.columns) == list(rows[0])
    assert {"model.dropout", "model.bn_momentum", "val_accuracy", "val_nll"} <= set(table.columns)
    for column in ("number", "status", "value", "model.dropout", "val_nll", "seed", "finished"):
        assert list(table[column]) == [row[column] for row in rows]
    assert pandas.DataFrame(rows).shape == table.shape


def test_a_record_is_found_by_name_and_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded(tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    by_name = load_study("synthetic")
    assert by_name.trials == load_study(folder).trials == load_study(str(folder)).trials
    assert (by_name.name, by_name.total, by_name.direction) == ("synthetic", 8, "maximize")
    with pytest.raises(StudyError, match=r"no recorded study at mnits; .* sweeps/: synthetic$"):
        load_study("mnits")


def test_loading_changes_nothing(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    load_study(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_record_is_loaded_while_it_is_written(tmp_path: Path) -> None:
    with bench(plan(tmp_path)) as desk:
        for ended in range(1, 4):
            desk.run(1)
            desk.ask("b")
            rows = load_study(tmp_path / "synthetic").trials
            assert [row.status for row in rows] == [row.status for row in desk.rows]
            assert sum(row.ended for row in rows) == ended


# Another experiment


CHANGES = [
    (
        "model.dropout=interval(0,0.5)",
        "search.model.dropout",
        "interval(0, 0.7)",
        "interval(0,0.5)",
    ),
    ("model.dropout=0.5", "search.model.dropout", "interval(0, 0.7)", "not searched"),
    ("optimizer.lr=interval(0.1,0.2)", "search.optimizer.lr", "not searched", "interval(0.1,0.2)"),
    ("study.metric=val_ece study.direction=minimize", "study.metric", "val_accuracy", "val_ece"),
    ("study.seed=5", "study.seed", "0", "5"),
    ("data.batch_size=32", "data.batch_size", "64", "32"),
    ("model.hidden=[64,64]", "model.hidden", "[32]", "[64,64]"),
    ("model.activation=gelu", "model.activation", "relu", "gelu"),
    ("optimizer=sgd", "optimizer.name", "adam", "sgd"),
    ("trainer.max_epochs=9", "trainer.max_epochs", "4", "9"),
    ("trainer.gradient_clip_val=1.0", "trainer.gradient_clip_val", "null", "1.0"),
]


@pytest.mark.parametrize("typed, key, before, now", CHANGES, ids=[c[0] for c in CHANGES])
def test_other_settings_are_refused_naming_both(
    tmp_path: Path, typed: str, key: str, before: str, now: str
) -> None:
    folder = recorded(tmp_path)
    config = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigError) as refusal:
        Record(plan(tmp_path, *typed.split()))
    first, *differences, advice = refusal.value.problems
    assert first == f"study synthetic: {folder} was recorded with other settings:"
    assert f"  {key}: recorded {before}, now {now}" in differences
    assert advice == f"  type study.name=synthetic-2 for a new study, or remove {folder}"
    assert refusal.value.exit_code == 2
    assert (folder / "config.yaml").read_text() == config
    open_and_close(plan(tmp_path))  # and the lock is free


def test_a_range_that_is_spelled_otherwise_is_the_same(tmp_path: Path) -> None:
    recorded(tmp_path, "optimizer.lr=choice(1,2)")
    same = "model.dropout=interval(0,0.70)"
    open_and_close(plan(tmp_path, same, "optimizer.lr=1, 2"))
    with pytest.raises(ConfigError, match=r"lr: recorded choice\(1,2\), now 1.0,2.0\n  type"):
        Record(plan(tmp_path, same, "optimizer.lr=1.0,2.0"))


@pytest.mark.parametrize(
    "typed", ["study.trials=4", "study.trials=40", "sampler=tpe", "pruner=asha", "executor=local"]
)
def test_how_to_search_may_change(tmp_path: Path, typed: str) -> None:
    recorded(tmp_path)
    open_and_close(plan(tmp_path, typed))


def test_a_setting_that_a_later_version_adds_as_null_changes_nothing(tmp_path: Path) -> None:
    recorded(tmp_path)
    now = plan(tmp_path)
    trainer = {**now.resolved["trainer"], "val_check_interval": None}
    open_and_close(replace(now, resolved={**now.resolved, "trainer": trainer}))


def test_without_a_trial_the_settings_may_still_change(tmp_path: Path) -> None:
    open_and_close(plan(tmp_path))
    open_and_close(plan(tmp_path, "optimizer.lr=0.1"))
    config = yaml.safe_load((tmp_path / "synthetic" / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.1


def test_opening_a_finished_study_leaves_its_configuration(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    before = (folder / "config.yaml").read_bytes()
    Record(plan(tmp_path, "study.trials=3"), "another command").close()
    assert (folder / "config.yaml").read_bytes() == before


def test_other_versions_are_named(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["versions"]["torch"] = "1.0"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = Record(plan(tmp_path))
    (change,) = record.describe()
    record.close()
    assert change.startswith("torch 1.0 is now 2")


# Another conductor


def test_a_second_conductor_is_refused_naming_the_first(tmp_path: Path) -> None:
    open_and_close(plan(tmp_path))
    holder = python(f"""
        import sys
        from pathlib import Path
        from sweep.record import Record
        from tests.studies import plan
        record = Record(plan(Path({str(tmp_path)!r})))
        print("open", flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        holder, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        with pytest.raises(ConfigError) as refusal:
            Record(plan(tmp_path))
        who = f"process {first.pid} on {socket.gethostname()}"
        assert str(refusal.value) == (
            f"study synthetic: already being run by {who}; wait for it, or stop it"
        )
        first.kill()  # nothing is cleaned up
        first.wait()
        open_and_close(plan(tmp_path))


# Damage


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "without study.name it is none"),
        ("- a list", "without study.name it is none"),
        (
            "study: {name: x, metric: m, direction: maximize, trials: 8}",
            "without search it is none",
        ),
        ("study: [unclosed\n", "cannot be read: .* line 2, column 1"),
        ("\x00\x01\x02", "cannot be read: .* special characters are not allowed"),
    ],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str, message: str) -> None:
    folder = recorded(tmp_path)
    (folder / "config.yaml").write_text(content)
    for use in (lambda: load_study(folder), lambda: Record(plan(tmp_path))):
        with pytest.raises(StudyError, match=rf"config\.yaml: .*{message}.* restore it"):
            use()
    assert (folder / "config.yaml").read_text() == content


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    (folder / "study.db").write_bytes(b"no database" * 1000)
    for use in (lambda: load_study(folder), lambda: Record(plan(tmp_path))):
        with pytest.raises(StudyError, match=r"study\.db: cannot be used .* not a database"):
            use()


def test_a_lost_table_and_configuration_come_back(tmp_path: Path) -> None:
    folder = recorded(tmp_path)
    table = (folder / "trials.csv").read_bytes()
    (folder / "trials.csv").unlink()
    (folder / "config.yaml").unlink()
    with bench(plan(tmp_path)) as desk:
        assert desk.conductor.ended == 8
    assert (folder / "trials.csv").read_bytes() == table
    assert load_study(folder).total == 8


# No room, no right


def test_a_file_in_the_folders_place_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "synthetic").write_text("not a folder")
    with pytest.raises(ConfigError) as refusal:
        Record(plan(tmp_path))
    what = f"cannot write to {tmp_path / 'synthetic'}: Not a directory"
    assert str(refusal.value) == f"study.folder: {what}; set study.folder=..."


def limited_to(size: int, action: Callable[[], None]) -> None:
    """Runs it while no file can grow beyond `size` bytes, which is how a full disk looks."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        action()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_study_and_keeps_what_had_ended(tmp_path: Path) -> None:
    """The write that fails is undone as a whole, so the trial it was about runs again."""
    desk = Bench(plan(tmp_path, "study.trials=60"))
    trained = desk.run(3)
    journal = tmp_path / "synthetic" / "study.db-wal"
    limited_to(journal.stat().st_size + 20_000, lambda: trained.extend(desk.run()))
    assert desk.conductor.halted
    assert desk.conductor.failure is not None
    assert "cannot be written: " in desk.conductor.failure
    assert "make room, and type the same command again" in desk.conductor.failure
    before = {row.number: row for row in desk.rows if row.ended}
    assert 3 <= len(before) < len(trained) < 60
    desk.close()  # which must not fail once more
    with bench(plan(tmp_path, "study.trials=60")) as desk:
        desk.run()
        assert [row.number for row in desk.rows] == list(range(60))
        assert {row.status for row in desk.rows} == {"complete"}
        assert [row for row in desk.rows if row.number in before] == list(before.values())


def test_opening_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with pytest.raises((ConfigError, StudyError), match=r"File too large|full|disk I/O"):
        limited_to(10_000, lambda: open_and_close(plan(tmp_path)))
    open_and_close(plan(tmp_path))


# Writing aside


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_aside(path, "old")
    with pytest.raises(OSError, match="File too large"):
        limited_to(1000, lambda: write_aside(path, b"new" * 10_000))
    assert path.read_text() == "old"
    write_aside(path, "newer")
    assert path.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [path]


def test_killing_a_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = python(f"""
        from itertools import cycle
        from pathlib import Path
        from sweep.files import write_aside
        path = Path({str(path)!r})
        write_aside(path, b"a" * 4_000_000)
        print("writing", flush=True)
        for letter in cycle((b"b", b"a")):
            write_aside(path, letter * 4_000_000)
    """)
    for _ in range(3):
        with subprocess.Popen(writer, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            inode = path.stat().st_ino
            while path.stat().st_ino == inode:  # until it is in the middle of its work
                os.sched_yield()
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (b"a" * 4_000_000, b"b" * 4_000_000)


# The best checkpoint


def test_a_checkpoint_laid_before_a_crash_does_not_stay(tmp_path: Path) -> None:
    """Killed before it was recorded that the trial is the best: it runs again."""
    desk = Bench(plan(tmp_path, "study.trials=2"))
    desk.run(1)
    desk.ask()
    desk.record.lay_checkpoint(1, b"of a trial that never ended")
    desk.crash()
    open_and_close(plan(tmp_path, "study.trials=2"))
    (checkpoint,) = (tmp_path / "synthetic" / "checkpoints").iterdir()
    assert (checkpoint.name, checkpoint.read_bytes()) == ("best.ckpt", b"trial 0")


def test_a_checkpoint_not_crowned_before_a_crash_is_crowned(tmp_path: Path) -> None:
    """Killed after it was recorded that the trial is the best: it never runs again."""
    desk = Bench(plan(tmp_path, "study.trials=2"))
    desk.run(1)
    desk.ask()
    desk.record.lay_checkpoint(1, b"of the best trial")
    desk.say("a", Ended(1, "complete", metrics(0.99), 1.0))
    desk.crash()
    open_and_close(plan(tmp_path, "study.trials=2"))
    (checkpoint,) = (tmp_path / "synthetic" / "checkpoints").iterdir()
    assert (checkpoint.name, checkpoint.read_bytes()) == ("best.ckpt", b"of the best trial")


def test_of_two_bests_recorded_together_the_better_checkpoint_stays(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=2")) as desk:
        first, second = desk.ask(lanes=2)
        ends = [
            Ended(spec.number, "complete", metrics(value), 1.0, checkpoint=str(value).encode())
            for spec, value in ((first, 0.8), (second, 0.9))
        ]
        desk.say("a", *ends)
        (checkpoint,) = (tmp_path / "synthetic" / "checkpoints").iterdir()
        assert (checkpoint.name, checkpoint.read_bytes()) == ("best.ckpt", b"0.9")
