"""A lane that goes on elsewhere is bitwise the one that was never interrupted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dropnorm import Classifier
from dropnorm.pack import Pack
from tests.packs import CNN, MLP, AfterEpoch, fit_pack, trials

NETWORKS = {"mlp": MLP, "cnn": CNN}
SOME = (0.003, 0.3, None)
EPOCHS = 3


def through_a_file(snapshot: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(snapshot, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def taken(folder: Path, some: list[dict[str, Any]], after: int) -> list[dict[str, Any]]:
    """Snapshots of trials that share a pack, which then stops."""
    taken: list[dict[str, Any]] = []

    def take(pack: Pack, epoch: int) -> None:
        if epoch == after:
            taken.extend(through_a_file(pack.lane_snapshot(k)) for k in range(len(some)))

    pack = Pack(some, epochs=EPOCHS, momenta=SOME)
    fit_pack(folder, pack, after, callbacks=[AfterEpoch(take)])
    return taken


def never_interrupted(folder: Path, trial: dict[str, Any]) -> dict[str, Any]:
    pack = fit_pack(folder, Pack([trial], epochs=EPOCHS, momenta=SOME), EPOCHS)
    return pack.lane_snapshot(0)


def equal(a: Any, b: Any) -> bool:
    """Bitwise, whatever it is made of."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize("network", NETWORKS)
def test_restored_before_training_it_goes_on_as_if_never_interrupted(
    tmp_path: Path, network: str
) -> None:
    """Weights, bank, moments, masks, data order, schedule and metrics; beside fresh neighbours."""
    some = trials(NETWORKS[network], [0, 1, 3])
    snapshots = taken(tmp_path, some, after=1)
    other = Pack(trials(NETWORKS[network], [4, 5, 6, 7]), epochs=EPOCHS, momenta=SOME)
    for lane, k in ((3, 0), (1, 1), (0, 2)):
        other.refill(lane, some[k], snapshots[k])
    fit_pack(tmp_path, other, EPOCHS - 1)
    for lane, k in ((3, 0), (1, 1), (0, 2)):
        assert equal(other.lane_snapshot(lane), never_interrupted(tmp_path, some[k]))
    assert [epoch for _, epoch in other.ages()] == [3, 3, 2, 3]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_restored_between_epochs_it_goes_on_as_if_never_interrupted(
    tmp_path: Path, optimizer: str
) -> None:
    settings = {"name": optimizer, "lr": 0.01, "weight_decay": 0.1, "schedule": "one_cycle"}
    some = [{**trial, "optimizer": settings} for trial in trials(MLP, [0, 2, 5])]
    (snapshot,) = taken(tmp_path, some[:1], after=2)

    def refill(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(1, some[0], snapshot)
        if epoch == 2:
            found.append(pack.lane_snapshot(1))

    found: list[dict[str, Any]] = []
    pack = Pack(some[1:], epochs=EPOCHS, momenta=SOME)
    fit_pack(tmp_path, pack, 2, callbacks=[AfterEpoch(refill)])
    assert equal(found[0], never_interrupted(tmp_path, some[0]))


def test_interrupted_again_and_again_it_ends_the_same(tmp_path: Path) -> None:
    (trial,) = trials(MLP, [3])
    (snapshot,) = taken(tmp_path, [trial], after=1)
    for _ in range(EPOCHS - 1):
        pack = Pack(trials(MLP, [5, 6]), epochs=EPOCHS, momenta=SOME)
        pack.refill(1, trial, snapshot)
        snapshot = through_a_file(fit_pack(tmp_path, pack, 1).lane_snapshot(1))
    assert equal(snapshot, never_interrupted(tmp_path, trial))


def test_snapshot_is_also_a_checkpoint(tmp_path: Path) -> None:
    (trial,) = trials(MLP, [3])
    (snapshot,) = taken(tmp_path, [trial], after=1)
    path = tmp_path / "lane.ckpt"
    torch.save(snapshot, path)
    model = Classifier.load_from_checkpoint(path, weights_only=True)
    assert model.hparams["seed"] == trial["seed"]
    assert equal(dict(model.state_dict()), dict(snapshot["state_dict"]))


def test_restored_lane_has_the_metrics_of_its_last_epoch(tmp_path: Path) -> None:
    (trial,) = trials(MLP, [3])
    (snapshot,) = taken(tmp_path, [trial], after=1)
    pack = Pack(trials(MLP, [5, 6]), momenta=SOME)
    pack.refill(1, trial, snapshot)
    assert pack.metrics(1) == snapshot["metrics"]
    assert set(pack.metrics(1)) == {"val_accuracy", "val_nll", "val_ece", "train_loss"}
    pack.refill(1, trial)
    assert pack.metrics(1) == {}


def test_lane_refilled_after_a_restored_one_begins_anew(tmp_path: Path) -> None:
    """Before training: what the restored one left for the optimizer is gone too."""
    some = trials(MLP, [3, 0])
    (snapshot,) = taken(tmp_path, some[:1], after=1)
    pack = Pack(some[:1], epochs=EPOCHS, momenta=SOME)
    pack.refill(0, some[0], snapshot)
    pack.refill(0, some[1])
    fit_pack(tmp_path, pack, EPOCHS)
    assert equal(pack.lane_snapshot(0), never_interrupted(tmp_path, some[1]))


def test_kept_lane_that_was_restored_before_training_goes_on(tmp_path: Path) -> None:
    some = trials(MLP, [3, 0])
    (snapshot,) = taken(tmp_path, some[:1], after=1)
    pack = Pack(some, epochs=EPOCHS, momenta=SOME)
    pack.refill(1, some[0], snapshot)
    pack.shrink([1])
    fit_pack(tmp_path, pack, EPOCHS - 1)
    assert equal(pack.lane_snapshot(0), never_interrupted(tmp_path, some[0]))


def test_snapshots_without_a_bank_go_on_in_packs_without(tmp_path: Path) -> None:
    some = trials(MLP, [3])
    first = fit_pack(tmp_path, Pack(some, epochs=2), 1).lane_snapshot(0)
    assert first["bank"] is None
    pack = Pack(some, epochs=2)
    pack.refill(0, some[0], first)
    fit_pack(tmp_path, pack, 1)
    whole = fit_pack(tmp_path, Pack(some, epochs=2), 2)
    assert equal(pack.lane_snapshot(0), whole.lane_snapshot(0))


def test_other_momenta_than_the_snapshots_are_refused_and_change_nothing(tmp_path: Path) -> None:
    some = trials(MLP, [3, 0])
    (snapshot,) = taken(tmp_path, some[:1], after=1)
    for momenta in (None, (0.1,)):
        pack = Pack(some[1:], momenta=momenta)
        before = pack.lane_state(0)
        with pytest.raises(ValueError, match=r"got \(0\.003, 0\.3, None\); go on with it in"):
            pack.refill(0, some[0], snapshot)
        assert equal(pack.lane_state(0), before)
        assert pack.ages() == [(some[1]["seed"], 0)]


def test_a_trainers_checkpoint_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    """All of it: weights, moments and step counts, masks, data order, banks."""
    some = trials(MLP, [0, 1, 3])
    file = tmp_path / "first.ckpt"

    def save(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.trainer.save_checkpoint(file)

    whole = Pack(some, epochs=EPOCHS, momenta=SOME)
    fit_pack(tmp_path, whole, EPOCHS, callbacks=[AfterEpoch(save)])
    pack = Pack(some, epochs=EPOCHS, momenta=SOME)
    fit_pack(tmp_path, pack, EPOCHS, ckpt_path=file)
    for lane in range(3):
        assert equal(pack.lane_snapshot(lane), whole.lane_snapshot(lane))
    with pytest.raises(ValueError, match="a checkpoint of 2 lanes, got one of 3"):
        fit_pack(tmp_path, Pack(some[:2]), EPOCHS, ckpt_path=file)
