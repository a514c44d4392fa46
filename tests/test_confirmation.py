"""The best few on fresh seeds, after the search and by the same workers; and `rerun`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from sweep import load_study
from sweep.config import make_plan
from sweep.confirm.contenders import choose_contenders
from sweep.errors import ConfigError, StudyError
from sweep.messages import MOMENTUM
from sweep.rerun import rerun
from sweep.results import ResultSet
from sweep.run import run_study
from tests.studies import row

TYPED = ("+study=synthetic", "executor=inline", "pruner=none", "study.trials=4", "confirm.seeds=2")


def command(folder: Path, *words: str) -> ResultSet:
    """Runs a study as the command line does, but for the terminal."""
    plan = make_plan([*TYPED, f"study.folder={folder}", *words])
    assert run_study(plan, Console(quiet=True), "") == 0
    return load_study(folder / "synthetic")


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    return command(tmp_path_factory.mktemp("confirmed"))


def test_the_best_three_and_the_default_get_the_same_fresh_seeds(confirmed: ResultSet) -> None:
    assert Counter(r.arm for r in confirmed.confirm) == dict.fromkeys(
        ("1st", "2nd", "3rd", "default"), 2
    )
    seeds = {arm: {r.seed for r in confirmed.confirm if r.arm == arm} for arm in ("1st", "default")}
    assert len(seeds["1st"]) == 2 and seeds["1st"] == seeds["default"]
    assert not seeds["1st"] & {t.seed for t in confirmed.trials}
    best = confirmed.best
    assert best is not None
    first = next(r for r in confirmed.confirm if r.arm == "1st")
    assert (first.trial, dict(first.params)) == (best.number, dict(best.params))
    default = next(r for r in confirmed.confirm if r.arm == "default")
    assert default.trial is None
    assert default.params == {"model.dropout": 0.0, MOMENTUM: 0.1}


def test_each_training_is_measured_at_its_own_momentum_and_on_the_test_set(
    confirmed: ResultSet,
) -> None:
    for r in confirmed.confirm:
        assert {"val_accuracy", "test_accuracy", "test_nll", "test_ece"} <= r.metrics.keys()
        assert r.momentum is not None
        curve = dict(zip(r.momentum.momenta, r.momentum.values, strict=True))
        assert r.metrics["val_accuracy"] == pytest.approx(curve[r.params[MOMENTUM]], abs=1e-7)  # type: ignore[index]


def test_the_same_command_again_trains_nothing(confirmed: ResultSet) -> None:
    file = confirmed.folder / "confirm.jsonl"
    before = file.read_bytes()
    assert command(confirmed.folder.parent) == confirmed
    assert file.read_bytes() == before


def test_what_a_crash_left_out_is_trained_and_nothing_twice(tmp_path: Path) -> None:
    whole = command(tmp_path)
    file = whole.folder / "confirm.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:5]) + lines[5][:40])  # torn in the middle of a line
    assert len(load_study(whole.folder).confirm) == 5
    again = command(tmp_path)
    assert sorted(again.confirm, key=str) == sorted(whole.confirm, key=str)


def test_more_trials_may_bring_others_and_what_was_confirmed_stays(tmp_path: Path) -> None:
    few = command(tmp_path, "study.trials=2")
    more = command(tmp_path, "study.trials=6")
    arms = Counter(r.arm for r in more.confirm)
    assert [arms[arm] for arm in ("1st", "2nd", "3rd", "default")] == [2, 2, 2, 2]
    key = {(json.dumps(dict(r.params)), r.seed): r.metrics for r in more.confirm}
    assert all(key[json.dumps(dict(r.params)), r.seed] == r.metrics for r in few.confirm)
    one = command(tmp_path, "study.trials=6", "confirm.seeds=0")
    assert one.confirm == more.confirm


def test_contenders_are_ranked_by_value_then_number() -> None:
    plan = make_plan(["+study=synthetic", "confirm.top=2"])
    trials = [row(0, value=0.5), row(1, value=0.7), row(2, "pruned", value=0.9), row(3, value=0.7)]
    assert [(c.arm, c.trial) for c in choose_contenders(plan, trials)] == [
        ("1st", 1),
        ("2nd", 3),
        ("default", None),
    ]
    assert choose_contenders(plan, trials[2:3]) == []


def test_a_trial_trained_again_is_the_same_in_every_digit(
    confirmed: ResultSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rerun(confirmed, "2", Console()) == 0
    assert "the same in every digit of every metric" in capsys.readouterr().out


def test_a_trial_that_is_none_is_refused(confirmed: ResultSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a trial's number from 0 to 3, got 4"):
        rerun(confirmed, "4", Console(quiet=True))
    running = ResultSet(**{**vars(confirmed), "trials": [row(0, "running")]})
    with pytest.raises(StudyError, match="trial 0: it has not ended yet"):
        rerun(running, "0", Console(quiet=True))


def test_everything_is_read_as_frames(confirmed: ResultSet) -> None:
    assert list(confirmed.frame()["number"]) == [0, 1, 2, 3]
    epochs = confirmed.frame("epochs")
    assert len(epochs) == 4 * 4 and {"val_accuracy", "train_loss"} <= set(epochs)
    assert len(confirmed.frame("momenta")) == 4 * 14
    means = confirmed.frame("confirm").groupby("arm")["test_accuracy"].mean()
    assert set(means.index) == {"1st", "2nd", "3rd", "default"}
