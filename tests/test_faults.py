"""The real command, killed, interrupted and starved; then the same command again.

A study of many short epochs in one worker; what happened is read from its record.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sweep import load_study
from sweep.errors import StudyError
from sweep.results import TrialRow
from tests.kill_study import killed_studies
from tests.studies import bench, children, is_alive, on_one_core, plan, wait_for

TYPED = ["+study=synthetic", "pruner=none", "trainer.max_epochs=60", "confirm.seeds=0"]
FEW = [*TYPED, "study.trials=3"]
SHORT = ["+study=synthetic", "trainer.max_epochs=4", "confirm.seeds=0"]


class Command:
    """`python -m sweep ...` in a session of its own, as from a terminal."""

    def __init__(
        self, folder: Path, *typed: str, before: Callable[[], None] | None = on_one_core
    ) -> None:
        self.folder = folder / "sweeps" / "synthetic"
        self.output = folder / "output"
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sweep", *typed],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=before,
            )
        self.pid = self._process.pid

    def rows(self) -> Sequence[TrialRow]:
        try:
            return load_study(self.folder).trials
        except StudyError:  # not there yet
            return []

    def wait_for_trials(self, ended: int) -> list[TrialRow]:
        """The trials that have ended, as soon as there are that many and another one is running."""

        def enough() -> list[TrialRow]:
            assert self._process.poll() is None, self.output.read_text()
            rows = self.rows()
            found = [row for row in rows if row.ended]
            return found if len(found) >= ended and len(rows) > len(found) else []

        return wait_for(enough)

    def wait_for_text(self, text: str) -> None:
        wait_for(lambda: text in self.text())

    def wait_for_epoch(self) -> None:
        """Waits until a worker has reported, so that there is something to interrupt."""
        wait_for(lambda: list((self.folder / "tensorboard").glob("trial_*/*")))

    def signal(self, number: signal.Signals) -> None:
        """As a terminal does: to all of its processes."""
        os.killpg(self.pid, number)

    def end(self) -> int:
        """Its exit code. It leaves no process behind."""
        code = self._process.wait(120)
        wait_for(lambda: not in_session(self.pid), within_s=10)
        return code

    def text(self) -> str:
        return self.output.read_text()

    def clean_up(self) -> None:
        """After a test that failed in the middle."""
        for pid in in_session(self.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()


Sweep = Callable[..., Command]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """Starts a command in the test's folder."""
    commands: list[Command] = []

    def start(*typed: str, **options: Any) -> Command:
        commands.append(Command(tmp_path, *typed, **options))
        return commands[-1]

    yield start
    for command in commands:
        command.clean_up()


def in_session(session: int) -> list[int]:
    """The processes that a command started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def assert_whole(folder: Path, trials: int, before: Sequence[TrialRow]) -> None:
    """Every trial once, what had ended untouched, and the files agree with the record."""
    study = load_study(folder)
    assert [row.number for row in study.trials] == list(range(trials))
    assert all(row.ended for row in study.trials)
    assert len({row.seed for row in study.trials}) == trials
    rows = {row.number: row for row in study.trials}
    assert [rows[row.number] for row in before] == list(before)
    table = pandas.read_csv(folder / "trials.csv")
    assert list(table["number"]) == list(range(trials))
    assert list(table["value"]) == [row.value for row in study.trials]
    assert study.best is not None
    assert (folder / "checkpoints" / "best.ckpt").exists()
    for row in study.trials:
        run = folder / "tensorboard" / f"trial_{row.number:04d}"
        points = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        shown = {point.step: point.value for point in points.Scalars("val_accuracy")}
        assert shown == pytest.approx(dict(row.curve))


@pytest.mark.slow
def test_a_study_survives_kill_9_of_everything_and_of_the_conductor(
    sweep: Sweep, tmp_path: Path
) -> None:
    typed = [*TYPED, "study.trials=7"]
    first = sweep(*typed)
    first.wait_for_trials(1)
    first.signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    kept = [row for row in first.rows() if row.ended]

    second = sweep(*typed)
    second.wait_for_trials(len(kept) + 1)
    workers = children(second.pid)
    assert workers
    os.kill(second.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, workers)), within_s=10)
    assert second.end() == -signal.SIGKILL
    rows = {row.number: row for row in second.rows() if row.ended}
    assert [rows[row.number] for row in kept] == kept
    assert len(kept) < len(rows) < 7
    go_on(second, trials=7)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """As `python -m tests.kill_study` does for longer."""
    assert sum(killed_studies(tmp_path, trials=8, kills=2, seed=0)) == 2


def go_on(command: Command, trials: int = 3, typed: Sequence[str] = TYPED) -> None:
    """The rest of the study, in this process, which has torch loaded."""
    from rich.console import Console

    from sweep.config import make_plan
    from sweep.run import run_study

    before = [row for row in command.rows() if row.ended]
    folder = command.folder.parent
    here = [f"study.trials={trials}", f"study.folder={folder}", "executor=inline"]
    rest = make_plan([*typed, *here])
    assert run_study(rest, Console(quiet=True)) == 0
    assert_whole(command.folder, trials, before)


@pytest.mark.slow
def test_ctrl_c_once_ends_after_the_epoch(sweep: Sweep, tmp_path: Path) -> None:
    command = sweep(*FEW)
    command.wait_for_epoch()
    command.signal(signal.SIGINT)
    assert command.end() == 130, command.text()
    assert "Ctrl-C: stopping after the running epochs; once more to stop now" in command.text()
    assert "stopped; the same command goes on with study synthetic" in command.text()
    assert "Traceback" not in command.text()
    assert {row.status for row in command.rows() if not row.ended} == {"waiting"}
    go_on(command)


@pytest.mark.slow
def test_ctrl_c_twice_ends_now(sweep: Sweep, tmp_path: Path) -> None:
    command = sweep(*FEW)
    (worker,) = wait_for(lambda: children(command.pid))
    os.kill(worker, signal.SIGSTOP)  # it would never come to the end of an epoch
    command.signal(signal.SIGINT)
    command.wait_for_text("once more to stop now")
    command.signal(signal.SIGINT)
    assert command.end() == 130, command.text()
    assert not is_alive(worker)
    assert "Traceback" not in command.text()


@pytest.mark.slow
def test_sigterm_ends_now(sweep: Sweep, tmp_path: Path) -> None:
    command = sweep(*FEW)
    command.wait_for_epoch()
    os.kill(command.pid, signal.SIGTERM)
    assert command.end() == 143, command.text()
    assert "stopped; the same command goes on with study synthetic" in command.text()
    assert {row.status for row in command.rows() if not row.ended} == {"waiting"}
    go_on(command)


@pytest.mark.slow
def test_a_full_disk_ends_the_study_with_an_error(sweep: Sweep, tmp_path: Path) -> None:
    with bench(plan(tmp_path / "sweeps")) as desk:
        desk.run(1)
    size = (tmp_path / "sweeps" / "synthetic" / "study.db").stat().st_size

    def no_room() -> None:
        on_one_core()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, resource.RLIM_INFINITY))

    command = sweep(*SHORT, "study.trials=100", before=no_room)
    assert command.end() == 1, command.text()
    assert "sweeps/synthetic: cannot be written" in command.text()
    assert "make room, and type the same command again" in command.text()
    assert "Traceback" not in command.text()
    ended = [row for row in command.rows() if row.ended]
    assert 2 <= len(ended) < 100
    go_on(command, trials=len(command.rows()) + 1, typed=SHORT)


def test_a_finished_study_trains_nothing_and_shows_its_result(sweep: Sweep, tmp_path: Path) -> None:
    with bench(plan(tmp_path / "sweeps")) as desk:
        desk.run()
    first = sweep(*SHORT)
    assert first.end() == 0, first.text()
    assert "study synthetic is finished: nothing to train" in first.text()
    assert "8 complete" in first.text()
    assert list((first.folder / "logs").iterdir()) == []
    page = first.folder / "report" / "index.html"
    built = page.stat().st_mtime_ns
    second = sweep(*SHORT, "study.trials=3")
    assert second.end() == 0
    assert page.stat().st_mtime_ns == built
    assert Counter(row.status for row in second.rows()) == {"complete": 8}


def test_a_second_conductor_is_refused_and_harms_nothing(sweep: Sweep, tmp_path: Path) -> None:
    with bench(plan(tmp_path / "sweeps")) as desk:
        desk.run(3)
        command = sweep("+study=synthetic", "trainer.max_epochs=4")
        assert command.end() == 2
        assert f"already being run by process {os.getpid()} on " in command.text()
        assert len(desk.run()) == 5
