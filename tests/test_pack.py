"""Pack: its metrics, checkpoints and data, what packs, and what it says when something does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dropnorm import MNIST, Classifier
from dropnorm.data import epoch_order
from dropnorm.pack import LaneBatches, Pack, batches, signature, stack
from dropnorm.pack.batches import orders_on_device
from dropnorm.pack.losses import lane_loss, losses_together
from tests.packs import (
    BATCH,
    CNN,
    MLP,
    AfterEpoch,
    data,
    fit_pack,
    quiet_trainer,
    same,
    state,
    trials,
)

# Metrics


def test_every_lane_learns_and_has_the_four_metrics(tmp_path: Path) -> None:
    pack = fit_pack(tmp_path, Pack(trials(MLP, [3, 3])), 8)
    for lane in range(2):
        assert set(pack.metrics(lane)) == {"val_accuracy", "val_nll", "val_ece", "train_loss"}
        assert pack.metrics(lane)["val_accuracy"] > 0.4  # one of ten classes at random: 0.1
        assert not pack.failed(lane)


def test_mixed_precision_learns(tmp_path: Path) -> None:
    pack = fit_pack(tmp_path, Pack(trials(CNN, [3, 3])), 8, precision="bf16-mixed")
    assert min(pack.metrics(lane)["val_accuracy"] for lane in range(2)) > 0.3


def test_losses_are_the_same_in_turn_and_together() -> None:
    logits, y = torch.randn(3, 20, 10), torch.randint(10, (3, 20))
    for shares in ([0.0, 0.0, 0.0], [0.0, 0.1, 0.5]):
        smoothing = torch.tensor(shares, dtype=torch.float64) if any(shares) else None
        in_turn = [lane_loss(*lane)[0] for lane in zip(logits, y, shares, strict=True)]
        torch.testing.assert_close(torch.stack(in_turn), losses_together(logits, y, smoothing))


def test_smoothing_is_that_of_the_trials_in_the_lanes(tmp_path: Path) -> None:
    pack = Pack(trials(MLP, [0, 1, 4]))  # smoothed by 0, 0.1 and 0.2
    images, y = torch.rand(3, 20, 1, 28, 28), torch.randint(10, (3, 20))

    def losses() -> list[float]:
        pack._loss_sum.zero_()
        pack.eval().training_step((images[: len(pack.lanes)], y[: len(pack.lanes)]), 0)
        return pack._loss_sum.tolist()

    def expected() -> list[float]:
        trials = [pack.classifier(lane).eval() for lane in range(len(pack.lanes))]
        found = zip(trials, images, y, strict=False)
        return [trial.training_step((x, t), 0).item() for trial, x, t in found]

    pack.trainer = quiet_trainer(tmp_path, 1)
    assert losses() == expected()
    pack.refill(1, trials(MLP, [4])[0])
    assert losses() == expected()
    pack.shrink([2, 0])
    assert losses() == expected()


def test_test_metrics_are_those_of_the_plain_module(tmp_path: Path) -> None:
    pack = Pack(trials(MLP, [0, 1]))
    images = data().test_dataloader()
    trainer = quiet_trainer(tmp_path, 1, limit_test_batches=1)
    trainer.test(pack, images, verbose=False)
    for lane in range(2):
        (expected,) = trainer.test(pack.classifier(lane), images, verbose=False)
        assert pack.metrics(lane) == pytest.approx(expected, abs=1e-6)


# Lanes


@pytest.mark.parametrize("network", [MLP, CNN])
def test_checkpoint_of_a_lane_is_a_plain_one(tmp_path: Path, network: dict[str, Any]) -> None:
    pack = fit_pack(tmp_path, Pack(trials(network, [0, 1, 3])))
    for lane in range(3):
        path = tmp_path / f"{lane}.ckpt"
        torch.save(pack.checkpoint(lane), path)
        model = Classifier.load_from_checkpoint(path, weights_only=True)
        assert same(state(model.network), pack.lane_state(lane))
        assert torch.load(path, weights_only=True)["epoch"] == 2
        (metrics,) = quiet_trainer(tmp_path, 1).validate(model, data(), verbose=False)
        known = pack.metrics(lane)
        assert metrics["val_accuracy"] == pytest.approx(known["val_accuracy"], abs=2e-3)
        assert metrics["val_nll"] == pytest.approx(known["val_nll"], abs=1e-5)


def test_checkpoint_remembers_the_dropout_steps(tmp_path: Path) -> None:
    pack = fit_pack(tmp_path, Pack(trials(MLP, [0])), 1)
    assert pack.checkpoint(0)["dropout_steps"] == [4, 4]


def test_refilled_lane_has_no_metrics_before_it_is_validated(tmp_path: Path) -> None:
    pack = fit_pack(tmp_path, Pack(trials(MLP, [0, 1])))
    pack.refill(0, trials(MLP, [2])[0])
    assert pack.metrics(0) == {}
    assert pack.metrics(1)
    assert [epoch for _, epoch in pack.ages()] == [0, 2]


def test_lanes_that_are_not_watched_are_not_validated(tmp_path: Path) -> None:
    """Once: the validation after that looks at all lanes again."""
    whole, watched = (Pack(trials(MLP, [0, 1, 2])) for _ in range(2))
    seen: list[list[dict[str, float]]] = []

    class Watch(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch < 2:
                watched.watch([[2, 0], []][trainer.current_epoch])

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            seen.append([watched.metrics(lane) for lane in range(3)])

    fit_pack(tmp_path, whole, 3)
    fit_pack(tmp_path, watched, 3, callbacks=[Watch()])
    validated = [["val_accuracy" in metrics for metrics in epoch] for epoch in seen]
    assert validated == [[True, False, True], [False] * 3, [True] * 3]
    assert all("train_loss" in metrics for epoch in seen for metrics in epoch)
    assert seen[2] == [whole.metrics(lane) for lane in range(3)]


def test_lanes_of_another_signature_are_refused() -> None:
    wider = {**MLP, "hidden": [64, 24]}
    with pytest.raises(ValueError, match=r"hidden=\(37, 24\) in every lane, got \(64, 24\)"):
        Pack([MLP, wider])
    with pytest.raises(ValueError, match="another pack"):
        Pack([MLP]).refill(0, {**MLP, "optimizer": {"name": "sgd"}})


def test_packs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one lane"):
        Pack([])
    with pytest.raises(ValueError, match="at least one lane"):
        Pack([MLP]).shrink([])


def test_float16_is_refused(tmp_path: Path) -> None:
    pack = Pack([MLP])
    pack.trainer = quiet_trainer(tmp_path, 1, precision="bf16-mixed")
    pack.trainer.precision_plugin.precision = "16-mixed"  # a GPU would be needed
    with pytest.raises(ValueError, match="bf16-mixed or 32-true, got 16-mixed"):
        pack.configure_optimizers()


# Signatures


def test_only_what_shapes_tensors_is_in_the_signature() -> None:
    known = {signature(trial) for trial in trials(MLP)}
    assert len(known) == 1
    defaults = {
        "hidden": [256, 256],
        "norm": "batch",
        "classes": 10,
        "order": ("norm", "act", "drop"),
    }
    assert signature({}) == signature(defaults)
    others: list[dict[str, Any]] = [
        {"network": "cnn"}, {"input_shape": [1, 8, 8]}, {"classes": 4}, {"hidden": [8]},
        {"norm": "none"}, {"activation": "tanh"}, {"order": ["act", "norm", "drop"]},
        {"optimizer": {"name": "sgd"}}, {"dropout": None},
    ]  # fmt: skip
    assert len({signature({}), *(signature(other) for other in others)}) == 1 + len(others)


def test_networks_of_others_have_no_signature() -> None:
    with pytest.raises(TypeError, match="got Linear; train this network one trial at a time"):
        signature({"network": nn.Linear(3, 3)})


# Data


def test_each_lane_sees_its_own_order() -> None:
    source = MNIST(train_size=100, batch_size=30)
    ages = [(1, 0), (2, 5)]
    part, rows = source.part("train"), source.train_rows()
    passes = LaneBatches(part, rows, 30, lambda: ages)
    assert len(passes) == len(list(passes)) == 3
    for number, (x, y) in enumerate(passes):
        assert x.shape == (2, 30, 1, 28, 28)
        for lane, (seed, epoch) in enumerate(ages):
            order = epoch_order(rows, seed, epoch)[30 * number : 30 * (number + 1)]
            alone = part.gather(order)
            assert torch.equal(x[lane], alone[0])
            assert torch.equal(y[lane], alone[1])


def test_orders_made_on_a_device_are_permutations_of_the_rows() -> None:
    rows = torch.randperm(1000)[:700]
    ages = [(seed, epoch) for seed in range(20) for epoch in range(3)]
    orders = orders_on_device(rows, ages)
    assert torch.equal(orders.sort(1).values, rows.sort().values.expand(60, -1))
    assert len({tuple(order.tolist()) for order in orders}) == 60


def test_orders_made_on_a_device_are_those_of_seed_and_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows, ages = torch.arange(500), [(1, 0), (2**62 + 1, 7), (1, 3)]
    orders = orders_on_device(rows, ages)
    assert torch.equal(orders_on_device(rows, ages[::-1]), orders.flip(0))
    assert torch.equal(orders_on_device(rows, ages[1:2]), orders[1:2])
    assert torch.equal(orders_on_device(rows + 9, ages), orders + 9)
    monkeypatch.setattr(batches, "_SORTED", 1100)  # two lanes at a time
    assert torch.equal(orders_on_device(rows, ages), orders)


def test_orders_made_on_a_device_have_nothing_in_common() -> None:
    """Ranks of neighbouring seeds and epochs, and of places beside each other, are uncorrelated.

    Of N ranks a correlation has a standard deviation of 1 / sqrt(N); 5 are allowed, of 800 pairs.
    """
    size, ages = 4000, [(seed, epoch) for seed in range(20) for epoch in range(2)]
    orders = orders_on_device(torch.arange(size), ages).double()
    between = torch.corrcoef(orders)
    assert (between - torch.eye(40)).abs().max() < 5 / size**0.5
    ranks = orders - orders.mean()
    along = (ranks[:, 1:] * ranks[:, :-1]).mean(1) / ranks.square().mean()
    assert along.abs().max() < 5 / size**0.5
    first = orders[:, :1000].mean(1) / size  # every part of an epoch is drawn from everywhere
    assert (first - 0.5).abs().max() < 5 * (0.75 / 12 / 1000) ** 0.5


def test_bursts_have_all_batches_once_and_in_order() -> None:
    source = data()
    source.setup("fit")
    given = source.part("train"), source.train_rows(), BATCH, lambda: [(1, 0), (2, 5)]
    single, bursts = LaneBatches(*given), LaneBatches(*given, at_once=3)
    assert (len(single), len(bursts)) == (4, 2)
    assert [bursts.batches_in(count) for count in (0, 1, 2, 3)] == [0, 3, 4, 4]
    assert [len(burst) for burst in bursts] == [3, 1]
    together = [batch for burst in bursts for batch in burst]
    for (x, y), (a, b) in zip(single, together, strict=True):
        assert torch.equal(x, a) and torch.equal(y, b)
    for lane in range(2):
        apart = [batch for burst in bursts for batch in burst.of(lane)]
        for (x, y), (a, b) in zip(together, apart, strict=True):
            assert torch.equal(x[lane], a) and torch.equal(y[lane], b)
    with pytest.raises(ValueError, match="at_once: expected 1 or more batches, got 0"):
        LaneBatches(*given, at_once=0)


def test_lanes_of_different_ages_share_an_epoch(tmp_path: Path) -> None:
    seen = []

    def refill(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(0, trials(MLP, [2])[0])
        seen.append(pack.ages())

    fit_pack(tmp_path, Pack(trials(MLP, [0, 4]), epochs=3), 3, callbacks=[AfterEpoch(refill)])
    assert seen == [[(3, 0), (5, 1)], [(3, 1), (5, 2)], [(3, 2), (5, 3)]]


def test_what_packs_cannot_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bf16-mixed or 32-true, got bf16-true"):
        fit_pack(tmp_path, Pack([MLP]), precision="bf16-true")


def test_only_layers_without_weights_may_come_twice() -> None:
    act, layer = nn.ReLU(), nn.Linear(4, 4)
    twice = [nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act) for _ in range(2)]
    x = torch.randn(5, 4)
    found = stack(twice)(x.expand(2, 5, 4))
    assert torch.equal(found, torch.stack([network(x) for network in twice]))
    with pytest.raises(TypeError, match=r"got 1\.0, which is 0 too; train this network one trial"):
        stack([nn.Sequential(layer, nn.Sequential(layer))] * 2)


@pytest.mark.parametrize("every", [1, 2])
def test_losses_of_a_refilled_lane_are_its_own(tmp_path: Path, every: int) -> None:
    """Refilled after the first epoch, whether or not that was validated."""
    (trial,) = trials(MLP, [0])

    def refill(pack: Pack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(1, trial)

    pack = Pack(trials(MLP, [1, 2]), epochs=2)
    settings = {"check_val_every_n_epoch": every, "callbacks": [AfterEpoch(refill)]}
    fit_pack(tmp_path, pack, 2, **settings)
    alone = fit_pack(tmp_path, Pack([trial], epochs=2), 1)
    assert pack.metrics(1)["train_loss"] == alone.metrics(0)["train_loss"]
