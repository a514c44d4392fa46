"""Packs with a bank: a lane's columns are the trials with those momenta, trained alone."""

from __future__ import annotations

import copy
import io
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from torch import nn

from dropnorm import BatchNorm, Classifier, MomentumBank
from dropnorm.bank import Bank, score
from dropnorm.data import EvalBatches
from dropnorm.pack import Pack, stack
from dropnorm.pack import banks as pack_banks
from dropnorm.pack.norm import LaneBatchNorm
from tests.packs import CNN, MLP, AfterEpoch, data, fit_alone, fit_pack, same, state, trials

NETWORKS = {"mlp": MLP, "cnn": CNN}
SOME = (0.001, 0.178, 1.0, None)


@cache
def alone(network: str, which: int) -> Bank:
    """The bank of one trial in a pack of one, after two epochs."""
    pack = Pack(trials(NETWORKS[network], [which]), momenta=SOME)
    return fit_pack(Path(gettempdir()), pack).bank(0)


def same_bank(a: Bank, b: Bank) -> bool:
    return a.momenta == b.momenta and a.counts == b.counts and same(a.averages, b.averages)


# Against separate trainings


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("network", NETWORKS)
def test_columns_are_separate_trainings_with_that_momentum(
    tmp_path: Path, network: str, precision: Any
) -> None:
    trial = trials(NETWORKS[network], [3])[0]
    pack = fit_pack(tmp_path, Pack([trial], momenta=SOME), precision=precision)
    for momentum in SOME:
        plain, _ = fit_alone(tmp_path, {**trial, "bn_momentum": momentum}, precision=precision)
        mine = pack.classifier(0, momentum)
        assert same(state(mine.network), state(plain.network))  # weights, averages and counts
        assert mine.hparams["bn_momentum"] == momentum


@pytest.mark.parametrize("network", NETWORKS)
def test_bank_of_a_lane_is_that_of_the_plain_network(tmp_path: Path, network: str) -> None:
    trial = trials(NETWORKS[network], [3])[0]
    pack = fit_pack(tmp_path, Pack(trials(NETWORKS[network], [3, 5]), momenta=SOME))
    callback = MomentumBank(SOME, every_n_epochs=100)
    fit_alone(tmp_path, trial, callbacks=[callback])
    assert same_bank(pack.bank(0), Bank(**_named(callback.state_dict())))


def _named(bank: dict[str, Any]) -> dict[str, Any]:
    """With the names that the norms have in the network, not in the module around it."""
    names = {name: name.removeprefix("network.") for name in bank["counts"]}
    return bank | {
        part: {names[name]: value for name, value in bank[part].items()}
        for part in ("averages", "counts")
    }


# Whatever the neighbours


@pytest.mark.parametrize("which", [[0, 1], [7, 6, 5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("network", NETWORKS)
def test_bank_is_the_same_whatever_its_neighbours_and_its_place(
    tmp_path: Path, network: str, which: list[int]
) -> None:
    pack = fit_pack(tmp_path, Pack(trials(NETWORKS[network], which), momenta=SOME))
    for lane, k in enumerate(which):
        assert same_bank(pack.bank(lane), alone(network, k))


def test_bank_does_not_change_the_training(tmp_path: Path) -> None:
    some = trials(MLP, [0, 1])
    with_bank = fit_pack(tmp_path, Pack(some, momenta=SOME))
    without = fit_pack(tmp_path, Pack(some))
    for lane in range(2):
        assert same(with_bank.lane_state(lane), without.lane_state(lane))
        assert with_bank.metrics(lane) == without.metrics(lane)


def test_refilled_lane_begins_its_bank_anew(tmp_path: Path) -> None:
    some = trials(MLP)

    def refill(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(1, some[3])

    pack = Pack([some[5], some[2], some[6]], epochs=2, momenta=SOME)
    fit_pack(tmp_path, pack, 3, callbacks=[AfterEpoch(refill)])
    assert same_bank(pack.bank(1), alone("mlp", 3))
    assert pack.bank(0).counts == {"1.norm": 12, "2.norm": 12}


def test_kept_lanes_keep_their_banks(tmp_path: Path) -> None:
    def shrink(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.shrink([3, 0])

    pack = Pack(trials(MLP, [0, 1, 2, 3]), epochs=2, momenta=SOME)
    fit_pack(tmp_path, pack, callbacks=[AfterEpoch(shrink)])
    assert same_bank(pack.bank(0), alone("mlp", 3))
    assert same_bank(pack.bank(1), alone("mlp", 0))


def test_diverged_lane_does_not_spoil_its_neighbours_banks(tmp_path: Path) -> None:
    some = trials(MLP)
    lost = {**some[2], "optimizer": {"name": "adam", "lr": 1e30}}
    pack = fit_pack(tmp_path, Pack([some[5], lost, some[6]], momenta=SOME))
    assert pack.failed(1)
    assert not all(average.isfinite().all() for average in pack.bank(1).averages.values())
    assert same_bank(pack.bank(0), alone("mlp", 5))
    assert same_bank(pack.bank(2), alone("mlp", 6))


def test_banks_together_are_those_in_turn() -> None:
    """What CUDA does, on the CPU; in two shapes of images."""
    for shape in ((20, 5), (20, 5, 4, 4)):
        turn = stack([BatchNorm(5, momentum) for momentum in (0.1, None, 1.0)])
        assert isinstance(turn, LaneBatchNorm)
        turn.carry(SOME)
        together = copy.deepcopy(turn)
        for x in torch.randn(4, 3, *shape):
            turn(x)
            together.together(x)
        torch.testing.assert_close(together.bank, turn.bank)
        torch.testing.assert_close(together.running_var, turn.running_var)


# Scores


@pytest.mark.parametrize("network", NETWORKS)
def test_scores_on_the_cpu_are_those_of_each_lane_by_itself(tmp_path: Path, network: str) -> None:
    pack = fit_pack(tmp_path, Pack(trials(NETWORKS[network], [0, 3, 5]), momenta=SOME))
    before = {name: tensor.clone() for name, tensor in state(pack).items()}
    batches = [*EvalBatches(data().part("val"), 300)][:2]
    expected = [score(pack.classifier(lane).network, pack.bank(lane), batches) for lane in (2, 0)]
    assert pack.score([2, 0], batches) == expected
    assert same(state(pack), before)


@pytest.mark.parametrize("values", [1 << 27, 20_000])
@pytest.mark.parametrize("network", NETWORKS)
def test_scores_together_are_those_of_each_lane_by_itself(
    tmp_path: Path, network: str, values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA does, on the CPU; with 20,000 values at a time a batch takes many parts."""
    pack = fit_pack(tmp_path, Pack(trials(NETWORKS[network], [0, 3, 5]), momenta=SOME))
    banks, lanes = [pack.bank(lane) for lane in range(3)], [2, 0]
    batches = [*EvalBatches(data().part("val"), 300)][:2]
    monkeypatch.setattr(pack_banks, "_VALUES", values)
    found = pack_banks.score_together(pack.network, lanes, batches)
    for lane, scores in zip(lanes, found, strict=True):
        expected = score(pack.classifier(lane).network, banks[lane], batches)
        # Products are rounded otherwise, by about 1e-6 of logits of about 1. An image or two of
        # the 600 may change its class or its bin thereby.
        assert scores["val_nll"] == pytest.approx(expected["val_nll"], rel=1e-5)
        for name in ("val_accuracy", "val_ece"):
            assert scores[name] == pytest.approx(expected[name], abs=2.1 / 600)
        assert len(set(scores["val_nll"])) == len(SOME), "the momenta are not told apart"
    assert all(same_bank(pack.bank(lane), bank) for lane, bank in enumerate(banks))


def test_scores_of_networks_without_norms_are_empty(tmp_path: Path) -> None:
    pack = Pack([{**MLP, "norm": "none"}] * 2, momenta=SOME)
    assert pack.score([1], []) == pack_banks.score_together(pack.network, [1], []) == [{}]


def test_packs_that_cannot_be_scored_say_why() -> None:
    with pytest.raises(ValueError, match=r"type Pack\(\.\.\., momenta=MOMENTA\)"):
        Pack([MLP]).score([0], [])
    with pytest.raises(ValueError, match="expected at least one to score"):
        pack_banks.score_together(Pack([MLP], momenta=SOME).network, [0], [])


# Taking a lane out


def test_copy_of_a_bank_stays_as_it_is(tmp_path: Path) -> None:
    banks = list[Bank]()

    def take(pack: Pack, epoch: int) -> None:
        banks.append(pack.bank(0))

    pack = Pack(trials(MLP, [0]), momenta=SOME)
    fit_pack(tmp_path, pack, callbacks=[AfterEpoch(take)])
    assert not same_bank(banks[0], banks[1])
    assert same_bank(banks[1], pack.bank(0))


def test_checkpoint_with_a_momentum_is_that_of_its_trial(tmp_path: Path) -> None:
    pack, file = fit_pack(tmp_path, Pack(trials(MLP, [0]), momenta=SOME)), io.BytesIO()
    torch.save(pack.checkpoint(0, momentum=None), file)
    file.seek(0)
    model = Classifier.load_from_checkpoint(file, weights_only=True)
    assert model.hparams["bn_momentum"] is None
    assert same(state(model.network), state(pack.classifier(0, None).network))
    assert pack.checkpoint(0)["hyper_parameters"]["bn_momentum"] == 0.1
    assert not same(state(model.network), pack.lane_state(0))


def test_networks_without_norms_have_empty_banks() -> None:
    pack = Pack([{**MLP, "norm": "none"}], momenta=SOME)
    assert pack.bank(0).averages == {}
    assert isinstance(pack.classifier(0, 1.0).network, nn.Sequential)


def test_packs_without_momenta_say_how_to_have_a_bank() -> None:
    with pytest.raises(ValueError, match=r"type Pack\(\.\.\., momenta=MOMENTA\)"):
        Pack([MLP]).bank(0)
    with pytest.raises(ValueError, match=r"type Pack\(\.\.\., momenta=MOMENTA\)"):
        Pack([MLP]).classifier(0, momentum=0.1)


def test_momenta_that_no_bank_has_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one, got none"):
        Pack([MLP], momenta=[])
    with pytest.raises(ValueError, match=r"0 < momentum <= 1 or None, got 2\.0"):
        Pack([MLP], momenta=[0.1, 2.0])
    with pytest.raises(ValueError, match=r"got 0\.2"):
        Pack([MLP], momenta=SOME).checkpoint(0, momentum=0.2)
