"""Studies of other people's modules in packs: every trial is the one that trains alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep import load_study
from sweep.__main__ import main
from sweep.conductor import Conductor
from sweep.config import make_plan
from sweep.messages import Event, Order, Report, Start
from sweep.results import TrialRow
from tests import studies
from tests.own_modules import QUICK, write
from tests.studies import Watch
from tests.test_worker import essence

# Products of all lanes at once may round otherwise than a plain module's, by 1e-15 here. What
# remains is that a momentum and a rate are float32 in a pack or outside, 3e-8 off, which 36 steps
# of Adam make 1e-6 of at most. In float32 the same trials differ by up to 2e-3.
REL = 1e-5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        write(folder)
        yield folder


def run(home: Path, name: str, *words: str, watch: Watch | None = None) -> list[TrialRow]:
    """A study below `home`, with an inline worker; what is recorded afterwards."""
    folder = f"study.folder={home}/{name}"
    plan = make_plan(["+study=mine", *QUICK, folder, *words], str(home / "conf"))
    return studies.run(plan, watch)


def log_of(home: Path, name: str) -> str:
    return (home / name / "mine" / "logs" / "inline-0.log").read_text()


@pytest.fixture(scope="module")
def alone(home: Path) -> list[TrialRow]:
    return run(home, "alone", "executor.lanes=1")


@pytest.fixture(scope="module")
def together(home: Path) -> list[TrialRow]:
    """Five trials in three lanes: two are refilled, and at last lanes are dropped."""
    return run(home, "together", "executor.lanes=3")


def assert_alike(rows: list[TrialRow], others: list[TrialRow]) -> None:
    for row, other in zip(rows, others, strict=True):
        assert (row.status, row.seed, set(row.metrics)) == (
            other.status,
            other.seed,
            set(other.metrics),
        )
        assert row.curve == pytest.approx(other.curve, rel=REL)
        assert row.metrics == pytest.approx(other.metrics, rel=REL)
        if other.momentum is not None:
            assert row.momentum is not None and row.momentum.momenta == other.momentum.momenta
            assert row.momentum.values == pytest.approx(other.momentum.values, rel=REL)
            assert row.params == other.params


def test_lanes_are_the_trials_alone(alone: list[TrialRow], together: list[TrialRow]) -> None:
    assert [row.status for row in alone] == ["complete"] * 5
    assert_alike(together, alone)
    values = [row.value for row in alone]
    assert max(values) > 1.05 * min(values)  # or they would agree for no reason


def test_trials_cut_short_and_resumed_have_the_same_bits(
    home: Path, together: list[TrialRow]
) -> None:
    starts: list[int] = []

    def stop_after(reports: int) -> Watch:
        seen: list[Report] = []

        def watch(conductor: Conductor, message: Event | Order) -> None:
            if isinstance(message, Start):
                starts.append(message.spec.resumed)
            if isinstance(message, Report):
                seen.append(message)
                if len(seen) >= reports:
                    conductor.drain()

        return watch

    run(home, "resumed", "executor.lanes=3", watch=stop_after(4))
    rows = run(home, "resumed", "executor.lanes=3", "study.trials=3", watch=stop_after(99))
    assert max(starts) == 2 and [row.status for row in rows] == ["complete"] * 3
    assert [*map(essence, rows)] == [*map(essence, together[:3])]


def test_trials_begun_in_a_pack_go_on_in_one(home: Path, together: list[TrialRow]) -> None:
    """With one lane they would begin alone. Packs of another size round otherwise."""

    def watch(conductor: Conductor, message: Event | Order) -> None:
        if isinstance(message, Report):
            conductor.drain()

    run(home, "smaller", "executor.lanes=3", "study.trials=2", watch=watch)
    rows = run(home, "smaller", "executor.lanes=1", "study.trials=2")
    assert_alike(rows, together[:2])


def test_a_trial_begun_alone_goes_on_alone_with_the_same_bits(home: Path) -> None:
    """In the usual precision: with 64-true Lightning restores Adam's state in float32."""

    def watch(conductor: Conductor, message: Event | Order) -> None:
        if isinstance(message, Report) and message.epoch == 2:
            conductor.drain()

    words = ("study.trials=1", "trainer.precision=32-true")
    (whole,) = run(home, "whole", "executor.lanes=1", *words)
    run(home, "begun", "executor.lanes=1", *words, watch=watch)
    (row,) = run(home, "begun", "executor.lanes=3", *words)
    assert essence(row) == essence(whole)


def test_pruned_lanes_are_refilled_and_the_others_go_on(home: Path, alone: list[TrialRow]) -> None:
    """A pruner that depends on what others reported: only what was pruned may differ."""
    words = ("pruner=asha", "pruner.control=0", "pruner.first_rung=0.5", "study.trials=7")
    rows = run(home, "pruned", "executor.lanes=3", *words)
    assert {row.status for row in rows} == {"complete", "pruned"} and len(rows) == 7
    for row, other in zip(rows, alone, strict=False):
        seen = {epoch: other.curve[epoch] for epoch in row.curve if epoch != 2}
        assert {e: v for e, v in row.curve.items() if e != 2} == pytest.approx(seen, rel=REL)


def test_a_lane_that_diverges_fails_alone(home: Path) -> None:
    words = ("sampler=grid", "model.explode=choice(1.0,1e308)", "retrofit.dropout=0.1")
    rows = run(home, "diverged", "executor.lanes=2", *words, "+model.lr=0.01", "study.trials=2")
    by = {row.params["model.explode"]: row for row in rows}
    assert (by[1.0].status, by[1e308].status) == ("complete", "failed")
    assert "is nan" in str(by[1e308].reason) or "is inf" in str(by[1e308].reason)


def test_what_the_loss_reads_keeps_trials_apart(home: Path) -> None:
    """A label smoothing is a plain number, which one Python run would share among lanes."""
    words = ("sampler=grid", "model.smoothing=choice(0.0,0.2)", "retrofit.dropout=0.1")
    packed, one = (
        run(home, f"smoothed{lanes}", f"executor.lanes={lanes}", *words, "+model.lr=0.01")
        for lanes in (3, 1)
    )
    assert_alike(packed, one)
    assert packed[0].metrics["train_loss"] != pytest.approx(packed[1].metrics["train_loss"])


def test_modules_without_the_protocol_train_one_at_a_time_and_the_log_says_why(
    home: Path,
) -> None:
    rows = run(home, "plain", "executor.lanes=3", "model._target_=mine_pytorch_lightning.Plain")
    assert [row.status for row in rows] == ["complete"] * 5
    assert "trains alone: Plain has no method loss(batch)" in log_of(home, "plain")


def test_packs_are_confirmed_and_diagnosed_as_trials_alone_are(home: Path) -> None:
    """With a look at the test set, which here is that of validation: what the data draw when they
    are set up is always the same. Diagnostics are of weights in float32, 1e-7 off."""
    words = ("confirm.seeds=2", "confirm.top=1", "study.trials=3")
    rows = {}
    for lanes in (2, 1):
        name = f"study.folder={home}/confirmed{lanes}"
        lane = f"executor.lanes={lanes}"
        assert (
            main(["+study=mine", "--config-dir", f"{home}/conf", *QUICK, name, lane, *words]) == 0
        )
        rows[lanes] = load_study(home / f"confirmed{lanes}" / "mine").confirm
    assert "trains alone" not in log_of(home, "confirmed2")
    for packed, alone in zip(rows[2], rows[1], strict=True):
        assert packed.params == alone.params and packed.seed == alone.seed
        for row in (packed, alone):
            for name in ("acc", "nll"):
                tested, validated = row.metrics[f"test_{name}"], row.metrics[f"val_{name}"]
                assert tested == pytest.approx(validated, rel=REL)
        assert packed.diagnostics == pytest.approx(alone.diagnostics, rel=1e-4, abs=1e-6)
        assert {"dead_units", "variance_shift/net.1", "lag_cost/val_nll"} <= {*packed.diagnostics}


def test_loaders_with_workers_of_their_own_are_packed(home: Path) -> None:
    words = ("study.trials=2", "+data.workers=1")
    packed, one = (
        run(home, f"workers{lanes}", f"executor.lanes={lanes}", *words) for lanes in (2, 1)
    )
    assert_alike(packed, one)
    assert "trains alone" not in log_of(home, "workers2")


def test_plan_says_how_theirs_are_packed_and_why_not(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main(["plan", "+study=mine", "--config-dir", f"{home}/conf", *QUICK, *words]) == 0
        return capsys.readouterr().out

    assert "packs of 3 by vmap" in said("executor.lanes=3")
    assert "unless you type executor.lanes=4" in said()
    plain = said("executor.lanes=3", "model._target_=mine_pytorch_lightning.Plain", "model.width=8")
    assert "one trial at a time: Plain has no method loss(batch)" in plain


def test_a_metric_that_is_not_logged_is_refused_before_anything_trains(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "study.metric=val_nnl", f"study.folder={home}/typo"]
    assert main(["+study=mine", "--config-dir", f"{home}/conf", *words]) == 2
    said = capsys.readouterr().err
    assert "Mine logs (train_loss, val_acc, val_nll), got val_nnl" in said
    assert "did you mean val_nll?" in said
    assert not (home / "typo").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model._target_=mine_pytorch_lightning.Mime"], "that can be made, got ImportError"),
        (["+model.widht=8"], "unexpected keyword argument 'widht'"),
        (
            ["model._target_=mine_pytorch_lightning.Bare"],
            "retrofit.bn_momentum is searched, and Bare has no batch norm",
        ),
        (["study.direction=maximize"], "expected minimize for val_nll, got maximize"),
    ],
)
def test_what_no_trial_could_train_is_refused_before_anything_is_recorded(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    typed = [*QUICK, *words, f"study.folder={home}/refused"]
    assert main(["+study=mine", "--config-dir", f"{home}/conf", *typed]) == 2
    assert line in " ".join(capsys.readouterr().err.split())
    assert not (home / "refused").exists()
