"""The main job from its first line on the terminal to the checkpoint, the table and the report."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from rich.cells import cell_len
from rich.console import Console

from dropnorm import Classifier, Synthetic
from sweep import load_study
from sweep.config import Plan, make_plan
from sweep.errors import StudyError
from sweep.messages import Report
from sweep.rerun import rerun
from sweep.roster import Roster
from sweep.run import INTERRUPTED, run_study
from tests.studies import bench, on_one_core, plan

CONF = str(Path(__file__).parent / "conf")


def run(plan: Plan, width: int = 100) -> tuple[int, str]:
    """The main job in this process: its exit code and what it prints."""
    output = StringIO()
    code = run_study(plan, Console(file=output, width=width), "python -m sweep +study=synthetic")
    return code, output.getvalue()


def on_a_terminal(folder: Path, width: int, *typed: str) -> tuple[int, str]:
    """The real command on a terminal of so many columns: its exit code, and all that was drawn."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sweep", *typed]
    env = {**os.environ, "COLUMNS": str(width), "LINES": "24", "TERM": "xterm"}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=on_one_core,
    ) as process:
        os.close(theirs)
        drawn = b""
        try:
            while chunk := os.read(ours, 65536):
                drawn += chunk
        except OSError:  # the other end is closed
            os.close(ours)
    return process.returncode, drawn.decode()


@pytest.mark.slow
def test_one_command_ends_with_a_checkpoint_a_table_and_a_report(tmp_path: Path) -> None:
    code, drawn = on_a_terminal(tmp_path, 80, "+study=synthetic", "study.trials=4")
    assert code == 0, drawn
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", drawn)]
    assert max(map(cell_len, lines)) <= 80
    assert "the workers are starting" in drawn
    assert any(re.match(r"synthetic ━+ 4/4 ", line) for line in lines)
    assert "python -m sweep best synthetic" in drawn

    folder = tmp_path / "sweeps" / "synthetic"
    study = load_study(folder)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert study.best is not None
    assert study.config["command"] == "python -m sweep +study=synthetic study.trials=4"
    model = Classifier.load_from_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert model.hparams["dropout"] == study.best.params["model.dropout"]
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    (scores,) = pl.Trainer(accelerator="cpu", **quiet).validate(model, Synthetic(), verbose=False)
    assert scores["val_accuracy"] == pytest.approx(study.best.value, abs=1e-6)
    assert (folder / "report" / "index.html").stat().st_size > 10_000
    assert (folder / "trials.csv").read_text().count("\n") == 5
    assert len(list((folder / "tensorboard").glob("trial_*/*tfevents*"))) == 4


def recorded(folder: Path) -> Path:
    """The folder of a study of one trial, which was killed before its report was written."""
    with bench(plan(folder, "study.trials=1")) as desk:
        desk.run()
    return folder / "synthetic"


def test_a_larger_total_goes_on_and_the_report_follows(tmp_path: Path) -> None:
    page = recorded(tmp_path) / "report" / "index.html"
    page.write_text("the report of one trial")
    code, text = run(plan(tmp_path, "study.trials=2"))
    assert code == 0
    assert text.startswith("[2/2] trial 1 complete")
    assert page.stat().st_size > 10_000


def test_a_report_that_is_older_than_a_trial_is_made_anew(tmp_path: Path) -> None:
    page = recorded(tmp_path) / "report" / "index.html"
    page.write_text("the report of fewer trials")
    os.utime(page, (0, 0))
    code, text = run(plan(tmp_path, "study.trials=1"))
    assert (code, page.stat().st_size > 10_000) == (0, True)
    assert "nothing to train" in text


def test_a_report_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    (recorded(tmp_path) / "report" / "REPORT.md").mkdir()
    with pytest.raises(StudyError, match="every trial is recorded: make room, and type python -m"):
        run(plan(tmp_path, "study.trials=1"))


def test_a_study_whose_trials_all_fail_stops_and_says_why(tmp_path: Path) -> None:
    typed = ["+study=awkward", "model.deed=choice(raises,is_nan)", "study.max_failures=2"]
    with pytest.raises(StudyError) as stop:
        run(make_plan([*typed, f"study.folder={tmp_path}", "executor=inline"], CONF))
    assert stop.value.exit_code == 1
    assert "all of the first 2 trials failed, the last with: " in str(stop.value)
    assert str(stop.value).endswith(f"see {tmp_path / 'awkward' / 'logs'}")
    assert {trial.status for trial in load_study(tmp_path / "awkward").trials} == {"failed"}


def test_a_study_whose_trials_have_all_failed_is_not_finished_well(tmp_path: Path) -> None:
    typed = ["+study=awkward", "study.trials=2", "executor=inline"]
    typed += ["model.deed=choice(raises,is_nan)", "study.max_failures=2"]
    for what in ("all of the first 2 trials failed", "all 2 trials failed, the last with: "):
        with pytest.raises(StudyError, match=what):
            run(make_plan([*typed, f"study.folder={tmp_path}"], CONF))


def test_a_study_that_is_out_of_time_says_what_is_left(tmp_path: Path) -> None:
    typed = ["executor.lanes=2", f"study.timeout_s={1e-9}"]
    code, said = run(plan(tmp_path, *typed, "study.trials=5"))
    assert code == 0
    over = "study.timeout_s, 1e-09 s, is over: 0 of 5 trials have ended; the same command goes on"
    assert over in said
    code, said = run(plan(tmp_path, "study.timeout_s=1000", "study.trials=5"))
    assert code == 0 and "is over" not in said


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_networks_with_and_without_batch_norm_are_searched_together(
    tmp_path: Path, precision: str
) -> None:
    """In packs and alone, where only some trials have momenta to score."""
    typed = ["model.norm=choice(layer,batch)", "sampler=grid", "study.trials=4"]
    code, _ = run(plan(tmp_path, *typed, f"trainer.precision={precision}"))
    trials = load_study(tmp_path / "synthetic").trials
    assert (code, {trial.status for trial in trials}) == (0, {"complete"})
    norms = {trial.params["model.norm"]: trial.momentum is not None for trial in trials}
    assert norms == {"layer": False, "batch": True}


def test_going_on_with_other_versions_is_said(tmp_path: Path) -> None:
    path = recorded(tmp_path) / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["versions"]["torch"] = "1.0"
    path.write_text(yaml.safe_dump(config))
    _, text = run(plan(tmp_path, "study.trials=2"))
    assert "trials recorded so far ran with another version: torch 1.0 is now 2." in text


def again(folder: Path, number: str) -> tuple[int, str]:
    """`rerun` in this process: its exit code and what it prints."""
    output = StringIO()
    code = rerun(load_study(folder / "synthetic"), number, Console(file=output, width=100))
    return code, output.getvalue()


@pytest.mark.parametrize("status", ["complete", "pruned"])
def test_a_trial_is_the_same_after_the_pruner_has_changed(tmp_path: Path, status: str) -> None:
    """Where a bank was scored belongs to the pruner of then, which is not recorded."""
    typed = ["pruner=median", "pruner.startup_trials=1", "pruner.first_rung=0.5"]
    code, _ = run(plan(tmp_path, "study.trials=8", "pruner.control=0.0", *typed))
    assert code == 0
    run(plan(tmp_path, "study.trials=9", "pruner=none"))
    trials = load_study(tmp_path / "synthetic").trials
    number = next(t.number for t in trials if t.status == status)
    code, text = again(tmp_path, str(number))
    assert code == 0, text
    assert "the same in every digit of every metric" in text


def test_a_trial_that_fails_again_is_compared_by_how(tmp_path: Path) -> None:
    with pytest.raises(StudyError):
        run(plan(tmp_path, "optimizer.lr=1e20", "study.trials=1"))
    code, text = again(tmp_path, "0")
    then, now = text.splitlines()[-2:]
    assert code == 0
    assert then.removeprefix("failed then: ") == now.removeprefix("now: failed, ")


def test_ctrl_c_stops_a_trial_that_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(plan(tmp_path, "study.trials=1"))
    exchange = Roster.exchange

    def interrupted(roster: Roster, worker: str, events: Any) -> Any:
        if any(isinstance(event, Report) for event in events):
            signal.raise_signal(signal.SIGINT)
        return exchange(roster, worker, events)

    monkeypatch.setattr(Roster, "exchange", interrupted)
    before = signal.getsignal(signal.SIGINT)
    code, text = again(tmp_path, "0")
    assert code == INTERRUPTED
    assert "Ctrl-C: stopping after the running epoch" in text
    assert signal.getsignal(signal.SIGINT) is before
