"""Workers on real trials: packs of any size train what each trial alone would, resumed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dropnorm import Classifier, Synthetic
from dropnorm.pack import Pack
from sweep.conductor import Conductor
from sweep.messages import MOMENTUM, Ended, Event, Order, Report, Start
from sweep.results import TrialRow
from sweep.saves import Saves
from tests.studies import Watch, plan, run

QUICK = (
    "study.trials=5",
    "optimizer.lr=tag(log,interval(0.001,0.01))",
    "optimizer.schedule=cosine",
)


def essence(row: TrialRow) -> tuple[Any, ...]:
    """All that training brought about."""
    params = dict(row.params)
    return row.status, params, row.value, row.metrics, row.curve, row.history, row.momentum


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[TrialRow]:
    """Five trials, one at a time."""
    return run(plan(tmp_path_factory.mktemp("alone"), *QUICK, "executor.lanes=1"))


def test_trials_are_the_same_however_many_share_a_pack(
    alone: list[TrialRow], tmp_path: Path
) -> None:
    for lanes in (2, 4):
        together = run(plan(tmp_path / str(lanes), *QUICK, f"executor.lanes={lanes}"))
        assert [*map(essence, together)] == [*map(essence, alone)]
    assert all(row.status == "complete" and len(row.curve) == 4 for row in alone)


def test_trials_are_the_same_however_often_they_were_cut_short(
    alone: list[TrialRow], tmp_path: Path
) -> None:
    words = (*QUICK, "executor.lanes=3")
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

    for reports in (2, 1, 5):
        rows = run(plan(tmp_path, *words), stop_after(reports))
        assert any(row.status == "waiting" for row in rows)
    rows = run(plan(tmp_path, *words))
    assert [*map(essence, rows)] == [*map(essence, alone)]
    assert {1, 2} <= set(starts), "no trial went on from where it was"
    assert not list((tmp_path / "synthetic" / "checkpoints" / "running").iterdir())


def test_a_trial_scores_all_momenta_and_takes_the_best(alone: list[TrialRow]) -> None:
    for row in alone:
        assert row.momentum is not None
        curve = dict(zip(row.momentum.momenta, row.momentum.values, strict=True))
        assert len(curve) == 14 and None in curve
        best = max(value for momentum, value in curve.items() if momentum is not None)
        assert row.value == curve[row.params[MOMENTUM]] == best  # type: ignore[index]
        assert row.momentum.dropout_off is not None and row.momentum.dropout_on is not None


def test_the_best_checkpoint_gives_the_recorded_accuracy_with_its_momentum(tmp_path: Path) -> None:
    rows = run(plan(tmp_path, *QUICK))
    best = max(rows, key=lambda row: (row.value, -row.number))
    model = Classifier.load_from_checkpoint(tmp_path / "synthetic/checkpoints/best.ckpt").eval()
    assert model.hparams["bn_momentum"] == best.params[MOMENTUM]
    part = Synthetic().part("val")
    with torch.inference_mode():
        x, y = part.between(0, len(part))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(best.value, abs=1e-6)


def test_each_momentum_scores_as_a_training_with_it_does(
    alone: list[TrialRow], tmp_path: Path
) -> None:
    """The value of a column is what an ordinary trial with that fixed momentum reaches."""
    row = alone[0]
    assert row.momentum is not None
    fixed = [f"{key}={row.params[key]!r}" for key in ("model.dropout", "optimizer.lr")]
    momenta = "model.bn_momentum=choice(0.001,0.1,1.0)"
    words = (*QUICK[2:], "study.trials=1", "executor.lanes=1", *fixed, momenta)
    (again,) = run(plan(tmp_path, *words, "model.label_smoothing=0.0"))
    assert again.seed == row.seed and again.momentum is not None
    curve = dict(zip(row.momentum.momenta, row.momentum.values, strict=True))
    few = dict(zip(again.momentum.momenta, again.momentum.values, strict=True))
    assert few == {momentum: curve[momentum] for momentum in (0.001, 0.1, 1.0, None)}


def test_a_trial_that_cannot_be_built_fails_alone(tmp_path: Path) -> None:
    words = ("data.batch_size=choice(64,9999)", "model.bn_momentum=0.1", "model.dropout=0.1")
    rows = run(plan(tmp_path, *words, "sampler=grid", "trainer.max_epochs=1"))
    assert {(row.params["data.batch_size"], row.status) for row in rows} == {
        (64, "complete"),
        (9999, "failed"),
    }
    (reason,) = (row.reason for row in rows if row.status == "failed")
    assert reason and reason.startswith("DataError: ") and "batch_size from 1 to 1,024" in reason


def test_a_pack_that_fails_is_halved_until_the_culprit_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory does not suffice: here more than two lanes, and one trial by itself."""
    sizes: list[int] = []
    step = Pack.training_step

    def limited(self: Pack, batch: Any, index: int) -> Any:
        sizes.append(len(self.lanes))
        if len(self.lanes) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return step(self, batch, index)

    monkeypatch.setattr(Pack, "training_step", limited)
    reasons: list[str | None] = []

    def watch(conductor: Conductor, message: Event | Order) -> None:
        if isinstance(message, Ended) and message.status == "interrupted":
            reasons.append(message.reason)

    rows = run(plan(tmp_path, *QUICK, "executor.lanes=4"), watch)
    assert {row.status for row in rows} == {"complete"}
    assert sizes[0] == 4 and set(sizes[1:]) <= {1, 2}
    assert len(reasons) == 4 and "a pack of 4 failed with OutOfMemoryError" in str(reasons[0])


def test_a_save_that_cannot_be_read_is_no_save(tmp_path: Path) -> None:
    saves = Saves(tmp_path)
    (tmp_path / "trial_0003.zip").write_bytes(b"PK torn")
    assert saves.read(3) is None and saves.read(4) is None
