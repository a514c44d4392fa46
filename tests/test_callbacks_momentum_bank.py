"""MomentumBank: one training has the scores that a training with each momentum would have."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dropnorm.bank import Bank
from dropnorm.blocks import BatchNorm, GhostBatchNorm
from dropnorm.callbacks import MomentumBank
from dropnorm.callbacks.watch import watch
from dropnorm.retrofitting import retrofit
from tests.plain_modules import CLASSES, INPUTS, PACKAGES, loaders, network, plain_module, trainer

MOMENTA = (0.001, 0.03, 0.1, 0.5, 1.0, None)
METRICS = {"val_accuracy", "val_nll", "val_by_hand"}


def fitted(
    package: Any, folder: Path, *callbacks: Any, momentum: float | None = 0.1, **settings: Any
) -> tuple[Any, Any]:
    """A plain module after a training, and its Trainer; the same draws whatever the callbacks."""
    torch.manual_seed(0)
    module = plain_module(package)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.momentum = momentum
    fit = trainer(package, folder, *callbacks, **settings)
    fit.fit(module, **loaders())
    return module, fit


@pytest.mark.parametrize("package", PACKAGES)
def test_curve_is_that_of_as_many_trainings(tmp_path: Path, package: Any) -> None:
    bank = MomentumBank(MOMENTA)
    fitted(package, tmp_path, bank)
    assert set(bank.curve) == METRICS
    for momentum in MOMENTA:
        _, fit = fitted(package, tmp_path, momentum=momentum)
        for metric in METRICS:
            expected = fit.callback_metrics[metric].item()
            # torch rounds its own running averages otherwise than a bank does.
            assert bank.curve[metric][momentum] == pytest.approx(expected, rel=1e-5), metric
    nll = bank.curve["val_nll"]
    assert max(nll.values()) > 1.1 * min(nll.values())  # or the curve would say nothing


def test_with_our_norms_the_averages_are_those_of_the_trainings_bit_for_bit(tmp_path: Path) -> None:
    package = PACKAGES[0]
    bank = MomentumBank(MOMENTA)
    modules = []
    for momentum in (0.1, *MOMENTA):
        torch.manual_seed(0)
        module = plain_module(package)
        retrofit(module, bn_momentum={"*": momentum})
        callbacks = [bank] if not modules else []
        trainer(package, tmp_path, *callbacks).fit(module, **loaders())
        modules.append(module)
    with_bank, *alone = modules
    assert_same_state(with_bank, alone[MOMENTA.index(0.1)])
    for momentum, module in zip(MOMENTA, alone, strict=True):
        bank.use(with_bank, momentum)
        assert_same_state(with_bank, module)


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    theirs = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("package", PACKAGES)
def test_training_is_the_same_with_and_without(tmp_path: Path, package: Any) -> None:
    with_bank, fit = fitted(package, tmp_path, MomentumBank(MOMENTA))
    alone, plain = fitted(package, tmp_path)
    for (name, value), expected in zip(
        with_bank.state_dict().items(), alone.state_dict().values(), strict=True
    ):
        if "running" in name:  # to rounding, as above
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(value, expected), name
    for metric in METRICS:
        torch.testing.assert_close(fit.callback_metrics[metric], plain.callback_metrics[metric])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in with_bank.modules())
    assert [m.momentum for m in with_bank.modules() if isinstance(m, nn.BatchNorm1d)] == [0.1] * 2


def test_curve_is_logged_for_callbacks_and_loggers(tmp_path: Path) -> None:
    logger = PACKAGES[0].loggers.CSVLogger(tmp_path)
    bank = MomentumBank([0.1, None])
    _, fit = fitted(PACKAGES[0], tmp_path, bank, logger=logger, max_epochs=1)
    curve = bank.curve["val_nll"]
    logged = fit.callback_metrics
    assert logged["val_nll/bn_momentum_0.1"].item() == pytest.approx(curve[0.1])
    assert logged["val_nll/bn_momentum_none"].item() == pytest.approx(curve[None])
    header, *rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    names = header.split(",")
    assert "val_accuracy/bn_momentum_0.1" in names
    assert sum(bool(row.split(",")[names.index("val_nll")]) for row in rows) == 1  # not thrice


def test_module_of_ours_reports_its_own_scores_in_the_bank(tmp_path: Path) -> None:
    """The column with the module's momentum is what its own validation says."""
    bank = MomentumBank([0.01, 0.1])
    _, fit = fitted(PACKAGES[0], tmp_path, bank)
    for metric in METRICS:
        assert bank.curve[metric][0.1] == pytest.approx(fit.callback_metrics[metric].item())


def test_best_is_highest_or_lowest_and_can_be_used(tmp_path: Path) -> None:
    bank = MomentumBank(MOMENTA)
    module, fit = fitted(PACKAGES[0], tmp_path, bank)
    best = bank.best("val_nll", "min")
    assert bank.curve["val_nll"][best] == min(bank.curve["val_nll"].values())
    assert bank.curve["val_accuracy"][bank.best("val_accuracy")] == max(
        bank.curve["val_accuracy"].values()
    )
    bank.use(module, best)
    (scores,) = fit.validate(module, loaders()["val_dataloaders"], verbose=False)
    assert scores["val_nll"] == pytest.approx(bank.curve["val_nll"][best])


def test_scores_are_taken_every_so_many_epochs(tmp_path: Path) -> None:
    bank = MomentumBank([0.1], every_n_epochs=2)
    fitted(PACKAGES[0], tmp_path, bank, max_epochs=1)
    assert bank.curve == {}
    fitted(PACKAGES[0], tmp_path, bank, max_epochs=2)
    assert set(bank.curve) == METRICS


def test_resumed_training_ends_with_the_same_curve(tmp_path: Path) -> None:
    package, whole, halves = PACKAGES[0], MomentumBank(MOMENTA), MomentumBank(MOMENTA)
    data = loaders(shuffle=False)
    curves = []
    for parts in ([(whole, 2)], [(halves, 1), (MomentumBank(MOMENTA), 2)]):
        resume = None
        for bank, epochs in parts:
            torch.manual_seed(0)
            module = plain_module(package, network(dropout=0.0))
            fit = trainer(package, tmp_path, bank, max_epochs=epochs)
            fit.fit(module, **data, ckpt_path=resume, weights_only=True)
            resume = tmp_path / "resume.ckpt"
            fit.save_checkpoint(resume)
        curves.append(bank.curve)
    assert curves[0] == curves[1]


def test_norm_that_is_frozen_keeps_its_averages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = plain_module(PACKAGES[0])

    class Freeze(PACKAGES[0].Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.network[1].eval()

    before = module.network[1].running_var.clone()
    bank = MomentumBank([0.5])
    trainer(PACKAGES[0], tmp_path, bank, Freeze()).fit(module, **loaders())
    assert torch.equal(module.network[1].running_var, before)
    assert set(bank.curve) == METRICS


def test_images_are_scored_too(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(12 * 4, 8), BatchNorm(8), nn.Linear(8, CLASSES),
    )  # fmt: skip
    assert INPUTS == 12
    bank = MomentumBank([0.1, 0.01])
    module = plain_module(PACKAGES[0], net)
    fit = trainer(PACKAGES[0], tmp_path, bank)
    fit.fit(module, **loaders())
    own = fit.callback_metrics["val_nll"].item()
    assert bank.curve["val_nll"][0.1] == pytest.approx(own, rel=1e-5)
    assert bank.curve["val_nll"][0.01] != pytest.approx(own, rel=1e-3)


def test_ghost_batches_count_one_by_one(tmp_path: Path) -> None:
    """As for the norm itself: M parts move its averages as M batches would."""
    net = nn.Sequential(
        nn.Linear(INPUTS, 8), GhostBatchNorm(8, ghost_batch=4), nn.Linear(8, CLASSES)
    )
    bank = MomentumBank([0.1])
    module = plain_module(PACKAGES[0], net)
    trainer(PACKAGES[0], tmp_path, bank).fit(module, **loaders())
    own = copy.deepcopy(module.state_dict())
    bank.use(module, 0.1)
    assert all(torch.equal(value, own[name]) for name, value in module.state_dict().items())
    assert module.network[1].num_batches_tracked == 2 * 8 * 4


def test_an_error_in_training_leaves_the_norms_as_they_were(tmp_path: Path) -> None:
    module = plain_module(PACKAGES[0])
    module.network.append(nn.Linear(99, 1))  # does not fit, after the norms have run
    with pytest.raises(RuntimeError):
        trainer(PACKAGES[0], tmp_path, MomentumBank([0.5]), num_sanity_val_steps=0).fit(
            module, **loaders()
        )
    assert [m.momentum for m in module.modules() if isinstance(m, nn.BatchNorm1d)] == [0.1] * 2
    assert not any(m._forward_hooks for m in module.modules())


def test_what_cannot_be_banked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 0 < momentum <= 1 or None, got 0"):
        MomentumBank([0.0])
    with pytest.raises(ValueError, match="every_n_epochs: expected 1 or more, got 0"):
        MomentumBank(every_n_epochs=0)
    with pytest.raises(ValueError, match="metric: expected one of none before a validation"):
        MomentumBank().best("val_accuracy")
    with pytest.raises(ValueError, match="got none; fit first"):
        MomentumBank().use(nn.BatchNorm1d(3), 0.1)
    module = plain_module(PACKAGES[0], nn.Linear(INPUTS, CLASSES))
    with pytest.raises(ValueError, match=r"MomentumBank: expected batch norm layers .* in Mine"):
        trainer(PACKAGES[0], tmp_path, MomentumBank()).fit(module, **loaders())


def test_other_momenta_than_the_checkpoints_are_refused(tmp_path: Path) -> None:
    bank = MomentumBank([0.001, 0.5])
    fitted(PACKAGES[0], tmp_path, bank)
    with pytest.raises(ValueError, match=r"expected the checkpoint's \(0.001, 0.5\), got"):
        MomentumBank([0.5, 0.001]).load_state_dict(bank.state_dict())


def test_momenta_whose_metric_is_no_number_are_never_best() -> None:
    bank = MomentumBank([0.001, 0.1])
    bank.curve = {"val_nll": {0.001: float("nan"), 0.1: 0.5}, "val_x": {0.1: float("nan")}}
    assert bank.best("val_nll", "min") == bank.best("val_nll") == 0.1
    with pytest.raises(ValueError, match="got NaN for val_x"):
        bank.best("val_x")


@pytest.mark.parametrize("ours", [False, True])
def test_a_copy_made_meanwhile_moves_no_averages_but_its_own(tmp_path: Path, ours: bool) -> None:
    module = plain_module(PACKAGES[0])
    if ours:
        retrofit(module)
    copies: list[Any] = []

    class Copies(PACKAGES[0].Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if not copies:
                copies.append(copy.deepcopy(pl_module.network))

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            copied, norm = copies[0], pl_module.network[1]
            before = norm.running_mean.clone(), copied[1].running_mean.clone()
            counts = dict(bank.state_dict()["counts"])
            copied.train()(torch.randn(8, INPUTS) + 9)
            assert bank.state_dict()["counts"] == counts
            assert torch.equal(norm.running_mean, before[0])
            assert not torch.equal(copied[1].running_mean, before[1])

    bank = MomentumBank([0.1])
    trainer(PACKAGES[0], tmp_path, bank, Copies(), max_epochs=1).fit(module, **loaders())
    assert copies


def test_a_forward_that_fails_and_is_caught_costs_a_norm_nothing() -> None:
    norm = nn.BatchNorm1d(3)
    mean, watching = norm.running_mean, watch(Bank.of(nn.Sequential(norm)), "0", norm)
    with pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.randn(1, 3))
    norm(torch.randn(8, 3) + 9)
    watching.end()
    assert norm.momentum == 0.1
    assert norm.running_mean is mean
    assert mean.min() > 0.5


def test_averages_are_not_put_into_a_module_of_other_names(tmp_path: Path) -> None:
    bank = MomentumBank([0.1])
    module, _ = fitted(PACKAGES[0], tmp_path, bank, max_epochs=1)
    with pytest.raises(ValueError, match=r"got Sequential without network.1.running_mean"):
        bank.use(module.network, 0.1)
