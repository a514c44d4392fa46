"""The best few on fresh seeds, after the search and by the same workers; and `rerun`."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from dropnorm import BatchNorm, Classifier, Synthetic
from sweep import load_study
from sweep.__main__ import main
from sweep.conductor import Conductor
from sweep.config import make_plan
from sweep.confirm.checkpoints import recommended_path, recommended_row
from sweep.confirm.contenders import choose_contenders
from sweep.confirm.rows import read_rows
from sweep.confirm.summary import summarise
from sweep.confirm.training import Confirmation, Study
from sweep.errors import ConfigError, StudyError
from sweep.messages import MOMENTUM
from sweep.record import Record
from sweep.rerun import rerun
from sweep.results import ConfirmRow, ResultSet
from sweep.run import run_study
from sweep.scribe import Scribe
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
    assert untimed(again) == untimed(whole)


def untimed(results: ResultSet) -> list[ConfirmRow]:
    """The rows without what a clock and a scheduler have to do with, in a fixed order."""
    none = dict.fromkeys(("worker", "started", "finished"))
    return sorted((replace(row, **none) for row in results.confirm), key=str)


def test_rows_say_who_trained_them_and_when(confirmed: ResultSet) -> None:
    ends = [trial.finished for trial in confirmed.trials if trial.finished]
    for r in confirmed.confirm:
        assert r.started is not None and r.finished is not None
        assert max(ends) <= r.started < r.finished
        assert r.worker in {trial.worker for trial in confirmed.trials}


def test_rows_of_an_earlier_version_are_read(confirmed: ResultSet, tmp_path: Path) -> None:
    line = json.loads((confirmed.folder / "confirm.jsonl").read_text().splitlines()[0])
    for name in ("diagnostics", "worker", "started", "finished"):
        del line[name]
    (tmp_path / "confirm.jsonl").write_text(json.dumps(line) + "\n")
    (row,) = read_rows(tmp_path)
    assert row.metrics == confirmed.confirm[0].metrics
    assert (row.diagnostics, row.started, row.worker) == ({}, None, None)


# Diagnostics


def network_of(results: ResultSet) -> tuple[ConfirmRow, Any]:
    """The recommended training, and its network as the checkpoint has it."""
    row = recommended_row(results)
    assert row is not None
    model = Classifier.load_from_checkpoint(recommended_path(results.folder))
    return row, model.network.eval()


def logits_of(network: Any, part: str, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
    images = Synthetic().part(part)  # type: ignore[arg-type]
    x, y = images.between(0, len(images))
    with torch.no_grad():
        return network(x[rows]), y[rows]


def test_diagnostics_of_a_packed_training_are_those_of_its_weights(confirmed: ResultSet) -> None:
    """Against plain torch on the weights of recommended.ckpt: sums in another order, so 1e-4."""
    row, network = network_of(confirmed)
    found = row.diagnostics
    norms = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm1d | BatchNorm)]
    relus = [m for m in network.modules() if isinstance(m, nn.ReLU)]
    outputs: list[Tensor] = []
    hooks = [relu.register_forward_hook(lambda m, i, y: outputs.append(y)) for relu in relus]
    logits, y = logits_of(network, "val")
    for hook in hooks:
        hook.remove()
    units = torch.cat([(output.amax(0) <= 0).float() for output in outputs])
    assert found["dead_units"] == pytest.approx(units.mean().item())
    # Synthetic trains on all of its first rows: fewer than the subset, and in their order.
    fitted, targets = logits_of(network, "train")
    for metric, of in (("val_nll", F.cross_entropy), ("val_accuracy", accuracy)):
        gap = of(fitted, targets) - of(logits, y)
        assert found[f"gap/{metric}"] == pytest.approx(float(gap), abs=1e-4)
    precise = copy.deepcopy(network)
    for layer in precise.modules():  # with dropout off, all of the training set as one batch
        if isinstance(layer, BatchNorm):
            layer.train()
            layer.momentum.fill_(1.0)
    x = logits_of(nn.Identity(), "train")[0]
    with torch.no_grad():
        precise(x)
    before, after = dict(network.named_modules()), dict(precise.named_modules())
    for name in norms:
        ratio = after[name].running_var / before[name].running_var
        expected = torch.maximum(ratio, 1 / ratio).mean().item()
        # There is one norm, so batches do not matter; `running_var` is n / (n - 1) of the precise.
        assert found[f"variance_shift/network.{name}"] == pytest.approx(expected, rel=0.003)
    after_nll = F.cross_entropy(*logits_of(precise.eval(), "val")) - F.cross_entropy(logits, y)
    both = found["lag_cost/val_nll"] + found["shift_cost/val_nll"]
    assert both == pytest.approx(after_nll.item(), abs=3e-4)
    assert abs(both) > 3e-3  # or the comparison would say little


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).float().mean()


def test_a_training_alone_has_the_same_diagnostics(confirmed: ResultSet, tmp_path: Path) -> None:
    """In float64 it has no pack; the search's 4 trials and the weights differ by rounding only."""
    alone = command(tmp_path, "trainer.precision=64-true", "confirm.seeds=1", "confirm.top=1")
    rows = {row.seed: row for row in confirmed.confirm if row.arm == "default"}
    (row,) = [row for row in alone.confirm if row.arm == "default"]
    packed = rows[row.seed].diagnostics
    same = {name for name in packed if not name.startswith(("lag", "shift", "gap"))}
    assert same <= row.diagnostics.keys()
    for name in ("variance_shift", "dead_units", "gap/val_nll", "lag_cost/val_nll"):
        # Of other training batches: 20 of them, not 50 or all rows.
        assert row.diagnostics[name] == pytest.approx(packed[name], rel=0.1, abs=0.02)
    assert "diagnostics/variance_shift" not in row.metrics
    assert recommended_path(alone.folder).exists()


def test_diagnostics_are_columns_of_the_frame(confirmed: ResultSet) -> None:
    frame = confirmed.frame("confirm")
    assert {"variance_shift", "dead_units", "lag_cost/val_nll", "worker", "started"} <= set(frame)
    assert (frame["variance_shift"] >= 1).all()


# The recommended checkpoint


def test_the_recommended_checkpoint_has_the_recorded_values(confirmed: ResultSet) -> None:
    row, network = network_of(confirmed)
    chosen = summarise(confirmed).recommended
    assert chosen is not None and row.arm == chosen.name
    for part in ("val", "test"):
        reached = accuracy(*logits_of(network, part)).item()
        assert reached == pytest.approx(row.metrics[f"{part}_accuracy"], abs=1e-7)
    values = sorted(r.metrics["val_accuracy"] for r in confirmed.confirm if r.arm == row.arm)
    assert row.metrics["val_accuracy"] == values[0]  # the lower of two in the middle
    assert len(list((confirmed.folder / "checkpoints" / "confirmed").iterdir())) == 4


def test_what_a_crash_left_of_the_checkpoints_is_made_good(tmp_path: Path) -> None:
    whole = command(tmp_path)
    path = recommended_path(whole.folder)
    before = path.read_bytes()
    path.unlink()
    assert recommended_row(whole) is None
    again = command(tmp_path)
    assert path.read_bytes() == before and recommended_row(again) is not None


def test_until_more_is_confirmed_nothing_is_recommended(tmp_path: Path) -> None:
    few = command(tmp_path, "confirm.seeds=1")
    plan = make_plan([*TYPED, f"study.folder={tmp_path}"])
    with closing(Record(plan)) as record:
        confirmation = Confirmation(plan, record, lambda *passed: None)
        assert recommended_row(few) is None
        confirmation.close()  # cut short
        assert recommended_row(few) is None
    assert recommended_row(command(tmp_path)) is not None


def test_reporting_again_renews_the_figures_of_tensorboard(
    confirmed: ResultSet, tmp_path: Path
) -> None:
    folder = shutil.copytree(confirmed.folder, tmp_path / "copy")
    file = folder / "tensorboard" / "study" / "events.out.tfevents.2.figures"
    file.unlink()
    assert main(["report", str(folder)]) == 0
    reader = EventAccumulator(str(file.parent)).Reload()
    names = {f"report/{png.stem}" for png in (folder / "report" / "figures").glob("*.png")}
    assert set(reader.Tags()["images"]) == names and "report/timeline" in names


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


def test_each_setting_is_a_contender_once_and_the_default_keeps_its_name() -> None:
    plan = make_plan(["+study=synthetic", "confirm.top=3"])
    default, found, other = (
        {"model.dropout": dropout, MOMENTUM: 0.1} for dropout in (0.0, 0.3, 0.5)
    )
    tried = [(0, found, 0.7), (1, found, 0.9), (2, default, 0.8), (3, default, 0.6),
             (4, other, 0.5)]  # fmt: skip
    trials = [row(number, value=value, params=params) for number, params, value in tried]
    chosen = choose_contenders(plan, trials)
    assert [(c.arm, c.trial) for c in chosen] == [("1st", 1), ("3rd", 4), ("default", 2)]
    plan = make_plan(["+study=synthetic", "confirm.top=0"])
    assert [(c.arm, c.trial) for c in choose_contenders(plan, trials)] == [("default", None)]


def test_settings_that_many_trials_have_are_trained_once_and_called_the_same_again(
    tmp_path: Path,
) -> None:
    words = ("model.bn_momentum=0.1", "model.dropout=choice(0.0,0.3)", "study.trials=6")
    found = command(tmp_path, *words, "trainer.max_epochs=2")
    assert len({(r.params["model.dropout"], r.seed) for r in found.confirm}) == 4
    assert len(found.confirm) == 4
    default = [r for r in found.confirm if r.arm == "default"]
    assert {r.params["model.dropout"] for r in default} == {0.0}
    assert {found.trials[r.trial or 0].params["model.dropout"] for r in default} == {0.0}
    assert command(tmp_path, *words, "trainer.max_epochs=2") == found


# A full disk


def fails(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main([*TYPED, f"study.folder={folder}"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {folder}/synthetic: cannot be written: ")
    assert "make room, and type the same command again" in said


def test_a_disk_that_is_full_during_the_confirmation_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def append_one(folder: Path, row: ConfirmRow) -> None:
        path = Path("/dev/full") if read_rows(folder) else folder / "confirm.jsonl"
        path.write_text(json.dumps(asdict(row), default=str) + "\n")

    with monkeypatch.context() as patch:
        patch.setattr("sweep.confirm.training.append_row", append_one)
        fails(capsys, tmp_path)
    few = load_study(tmp_path / "synthetic").confirm
    assert len(few) == 1 and not recommended_path(tmp_path / "synthetic").exists()
    whole = command(tmp_path).confirm
    assert len(whole) == 8 and whole[0] == few[0]


def test_a_disk_that_is_full_before_the_confirmation_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = tmp_path / "synthetic" / ".confirm.jsonl.new"
    aside.parent.mkdir()
    aside.symlink_to("/dev/full")
    fails(capsys, tmp_path)  # between search and confirmation
    fails(capsys, tmp_path)  # at once
    aside.unlink()
    assert len(command(tmp_path).confirm) == 8


def test_a_search_that_could_not_be_written_is_not_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Scribe, last: bool = False) -> None:
        raise StudyError("full")

    monkeypatch.setattr(Scribe, "flush", full)
    with closing(Record(plan := make_plan([*TYPED, f"study.folder={tmp_path}"]))) as record:
        search = Conductor(plan, record, lambda *passed: None)
        search.total = 0
        study = Study(search, pytest.fail, 2)
        assert study.confirmation is None and study.halted and study.failure == "full"


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
