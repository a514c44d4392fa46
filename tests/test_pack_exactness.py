"""A lane of a pack is, bitwise on the CPU, the trial trained alone."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import torch
from torch import Tensor

from dropnorm.pack import Pack
from dropnorm.pack.batches import Burst
from dropnorm.pack.bursts import Steps
from tests.packs import CNN, MLP, AfterEpoch, fit_alone, fit_pack, same, state, trials

NETWORKS = {"mlp": MLP, "cnn": CNN, "no norm": {**MLP, "norm": "none"},
            "act first": {**MLP, "order": ["act", "norm", "drop"]}}  # fmt: skip


@cache
def alone(network: str, which: int) -> Pack:
    """One trial in a pack of one, after two epochs."""
    return fit_pack(Path(gettempdir()), Pack(trials(NETWORKS[network], [which])))


def same_trial(pack: Pack, lane: int, other: Pack, other_lane: int = 0) -> bool:
    """Weights, running statistics and every metric."""
    metrics = pack.metrics(lane) == other.metrics(other_lane)
    return metrics and same(pack.lane_state(lane), other.lane_state(other_lane))


@pytest.mark.parametrize("which", [[0, 1], [3, 0, 2, 1], [7, 6, 5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_lane_is_the_trial_alone_whatever_its_neighbours_and_its_place(
    tmp_path: Path, network: str, which: list[int]
) -> None:
    pack = fit_pack(tmp_path, Pack(trials(NETWORKS[network], which)))
    assert [same_trial(pack, lane, alone(network, k)) for lane, k in enumerate(which)] == [
        True for _ in which
    ]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("network", NETWORKS)
def test_lane_is_the_plain_classifier_under_a_trainer(
    tmp_path: Path, network: str, precision: Any, at_once: int
) -> None:
    some = trials(NETWORKS[network], [0, 1, 3])
    pack = fit_pack(tmp_path, Pack(some), at_once=at_once, precision=precision)
    for lane, trial in enumerate(some):
        plain, metrics = fit_alone(tmp_path, trial, precision=precision)
        assert same(pack.lane_state(lane), state(plain.network))
        mine = pack.metrics(lane)
        assert mine["val_accuracy"] == metrics["val_accuracy"]
        assert mine["train_loss"] == metrics["train_loss"]
        assert mine == pytest.approx(metrics, abs=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_other_optimizers_are_the_plain_ones_too(tmp_path: Path, optimizer: str) -> None:
    settings = {"name": optimizer, "lr": 0.01, "weight_decay": 0.1, "nesterov": True}
    some = [{**trial, "optimizer": settings} for trial in trials(MLP, [0, 2])]
    pack = fit_pack(tmp_path, Pack(some))
    for lane, trial in enumerate(some):
        plain, _ = fit_alone(tmp_path, trial)
        assert same(pack.lane_state(lane), state(plain.network))


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize(
    ("network", "clipped"), [("mlp", "norm"), ("cnn", "norm"), ("mlp", "value")]
)
def test_gradients_are_clipped_as_if_alone(
    tmp_path: Path, network: str, clipped: str, at_once: int
) -> None:
    some = trials(NETWORKS[network], [0, 6])
    how = {"gradient_clip_val": 0.1 if clipped == "norm" else 1e-3}
    how |= {"gradient_clip_algorithm": clipped}
    pack = fit_pack(tmp_path, Pack(some), at_once=at_once, **how)
    for lane, trial in enumerate(some):
        plain, _ = fit_alone(tmp_path, trial, **how)
        assert same(pack.lane_state(lane), state(plain.network))


def test_gradients_are_accumulated_as_if_alone(tmp_path: Path) -> None:
    some = trials(MLP, [1, 6])
    pack = fit_pack(tmp_path, Pack(some), at_once=1, accumulate_grad_batches=2)
    for lane, trial in enumerate(some):
        plain, _ = fit_alone(tmp_path, trial, accumulate_grad_batches=2)
        assert same(pack.lane_state(lane), state(plain.network))


def test_gradients_of_several_batches_at_once_cannot_be_accumulated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 2; type LaneBatches\(\.\.\., at_once=1\)"):
        fit_pack(tmp_path, Pack(trials(MLP, [1])), accumulate_grad_batches=2)


class AllAtOnce(Pack):
    """Trains bursts as on other devices than the CPU."""

    def _train(self, burst: Burst) -> Tensor:
        assert self._optimizer is not None
        how = Steps.of(self.trainer, self._optimizer)
        return how.together(burst, self._losses, self._count).sum()


def test_bursts_step_by_step_are_those_lane_by_lane(tmp_path: Path) -> None:
    some = trials(MLP, [0, 1, 6])
    one, other = (
        fit_pack(tmp_path, kind(some), gradient_clip_val=0.1) for kind in (Pack, AllAtOnce)
    )
    assert all(same_trial(one, lane, other, lane) for lane in range(3))


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_refilled_lane_is_the_new_trial_alone_and_disturbs_nobody(
    tmp_path: Path, network: str
) -> None:
    some = trials(NETWORKS[network])

    def refill(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(1, some[3])

    pack = Pack([some[5], some[2], some[6]], epochs=2)
    fit_pack(tmp_path, pack, 3, callbacks=[AfterEpoch(refill)])
    assert same_trial(pack, 1, alone(network, 3))
    longer = fit_pack(tmp_path, Pack([some[6]], epochs=2), 3)
    assert same_trial(pack, 2, longer)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_lanes_that_are_kept_go_on_as_before(tmp_path: Path, network: str) -> None:
    def shrink(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.shrink([3, 0])

    pack = Pack(trials(NETWORKS[network], [0, 1, 2, 3]), epochs=2)
    fit_pack(tmp_path, pack, callbacks=[AfterEpoch(shrink)])
    assert same_trial(pack, 0, alone(network, 3))
    assert same_trial(pack, 1, alone(network, 0))


def test_diverged_lane_fails_alone_and_can_be_refilled(tmp_path: Path) -> None:
    some = trials(MLP)
    lost = {**some[2], "optimizer": {"name": "adam", "lr": 1e30}}
    failed = []

    def refill(pack: Pack, epoch: int) -> None:
        failed.append([pack.failed(lane) for lane in range(3)])
        if epoch == 1:
            pack.refill(1, some[3])

    pack = Pack([some[5], lost, some[6]], epochs=2)
    fit_pack(tmp_path, pack, 3, callbacks=[AfterEpoch(refill)])
    assert failed == [[False, True, False], [False] * 3, [False] * 3]
    assert same_trial(pack, 1, alone("mlp", 3))
    assert same_trial(pack, 0, fit_pack(tmp_path, Pack([some[5]], epochs=2), 3))


def test_convolutions_follow_a_contiguous_plain_network_to_rounding(tmp_path: Path) -> None:
    """Without channels_last torch sums in another order, which Adam, dividing small gradients by
    their own size, would blow up: compared are the gradients of a first step."""
    pack = Pack(trials(CNN, [5]))
    plain = pack.classifier(0)
    x, y = torch.randn(1, 20, 1, 28, 28), torch.randint(10, (1, 20))
    pack.training_step((x, y), 0).backward()
    plain.training_step((x[0], y[0]), 0).backward()
    for packed, alone in zip(pack.parameters(), plain.parameters(), strict=True):
        assert packed.grad is not None
        assert alone.grad is not None
        torch.testing.assert_close(packed.grad[0], alone.grad, rtol=1e-4, atol=1e-6)
