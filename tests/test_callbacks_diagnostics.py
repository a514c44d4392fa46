"""Diagnostics: known shifts, costs, dead units and calibration errors come out as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.functional.classification import multiclass_calibration_error

from dropnorm import BatchNorm, Dropout
from dropnorm.blocks import Block
from dropnorm.callbacks import Diagnostics
from dropnorm.callbacks.diagnostics import dead_units, largest_outputs, variance_shifts
from dropnorm.precise import recalibrate
from tests.plain_modules import CLASSES, INPUTS, PACKAGES, examples, loaders, plain_module, trainer


def logits_of(module: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return module(batch[0]), batch[1]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(("keep", "ratio"), [(0.9, 0.860), (0.8, 0.732), (0.5, 0.405)])
def test_variance_shift_of_dropout_before_batch_norm(
    tmp_path: Path, package: Any, keep: float, ratio: float
) -> None:
    """ReLU(N(0, 1)), dropout, batch norm: v / ((c^2 + v) / keep - c^2) (Li et al. 2019)."""
    net = nn.Sequential(
        nn.ReLU(), Dropout(1 - keep, seed=1), BatchNorm(32, None), nn.Linear(32, CLASSES)
    )
    # 32 channels of 16,384 values: the ratio's standard error is about 0.2 %.
    x = torch.randn(16384, 32)
    data = DataLoader(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)), 2048)
    diagnostics = Diagnostics(batches=8)
    module = plain_module(package, net, lr=0.0)
    trainer(package, tmp_path, diagnostics, max_epochs=1).fit(module, data, data)
    found = diagnostics.values
    assert found["variance_ratio/network.2"] == pytest.approx(ratio, rel=0.01)
    assert found["variance_shift"] == pytest.approx(1 / ratio, rel=0.01)
    assert found["mean_shift/network.2"] < 0.02  # dropout keeps the mean


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Any, Any, Diagnostics]:
    """A module with a dead unit, its Trainer and its diagnostics, after two epochs."""
    net = nn.Sequential(
        nn.Linear(INPUTS, 8), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)
    )
    with torch.no_grad():
        net[0].weight[:2] = 0
        net[0].bias[:2] = -1
    module = plain_module(PACKAGES[0], net)
    diagnostics = Diagnostics(batches=8, logits=logits_of)
    fit = trainer(PACKAGES[0], tmp_path, diagnostics)
    fit.fit(module, **loaders(shuffle=False))
    return module, fit, diagnostics


def test_calibration_is_that_of_the_validation_set(fitted: Any) -> None:
    module, _, diagnostics = fitted
    x, y = examples(90, 2).tensors
    with torch.no_grad():
        p = module.eval()(x).softmax(-1)
    found = diagnostics.values
    ece = multiclass_calibration_error(p, y, CLASSES, n_bins=15)
    assert found["ece"] == pytest.approx(ece.item())
    assert found["nll"] == pytest.approx(F.nll_loss(p.log(), y).item())
    assert found["brier"] == pytest.approx((p - F.one_hot(y)).square().sum(-1).mean().item())


def test_dead_units_are_counted(fitted: Any) -> None:
    assert fitted[2].values["dead_units/network.1"] == 2 / 8


def test_costs_are_differences_of_validations(fitted: Any) -> None:
    """Shift and lag together are what recalibrating with dropout off changes."""
    module, fit, diagnostics = fitted
    found = diagnostics.values
    x, y = examples(90, 2).tensors
    hidden = module.network[:3].eval()(examples(128, 1).tensors[0]).detach()
    module.eval()
    before = fit.callback_metrics["val_nll"].item()
    module.network[3].running_mean = hidden.mean(0)
    module.network[3].running_var = hidden.var(0, unbiased=False)
    after = F.cross_entropy(module(x), y).item()
    both = found["lag_cost/val_nll"] + found["shift_cost/val_nll"]
    assert both == pytest.approx(after - before, abs=1e-5)
    assert abs(both) > 1e-3  # or the comparison would say little


def test_gap_is_training_minus_validation_in_eval_mode(fitted: Any) -> None:
    module, fit, diagnostics = fitted
    x, y = examples(128, 1).tensors
    expected = F.cross_entropy(module.eval()(x), y) - fit.callback_metrics["val_nll"]
    assert diagnostics.values["gap/val_nll"] == pytest.approx(expected.item(), abs=1e-5)


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [Diagnostics(batches=2)]):
        torch.manual_seed(0)
        module = plain_module(PACKAGES[0])
        trainer(PACKAGES[0], tmp_path, *callbacks).fit(module, **loaders())
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_values_are_in_tensorboard(tmp_path: Path) -> None:
    package = PACKAGES[0]
    logger = package.loggers.TensorBoardLogger(tmp_path, default_hp_metric=False)
    diagnostics = Diagnostics(batches=2)
    fit = trainer(package, tmp_path, diagnostics, logger=logger)
    fit.fit(plain_module(package), **loaders())
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    scalars = events.Scalars("diagnostics/variance_shift")
    assert len(scalars) == 2
    assert scalars[-1].value == pytest.approx(diagnostics.values["variance_shift"])
    assert "diagnostics/dead_units/network.2" in events.Tags()["scalars"]


def test_diagnosed_every_so_many_epochs(tmp_path: Path) -> None:
    diagnostics = Diagnostics(batches=1, every_n_epochs=2)
    trainer(PACKAGES[0], tmp_path, diagnostics, max_epochs=1).fit(
        plain_module(PACKAGES[0]), **loaders()
    )
    assert diagnostics.values == {}


def test_what_cannot_be_diagnosed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected numbers from 1, got batches=0"):
        Diagnostics(0)
    blind = plain_module(PACKAGES[0])
    type(blind).validation_step = PACKAGES[0].LightningModule.validation_step
    with pytest.raises(ValueError, match="Diagnostics: expected a validation_step in Mine"):
        Diagnostics().on_fit_start(trainer(PACKAGES[0], tmp_path), blind)


def test_without_batch_norm_there_are_no_shifts_and_no_costs(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))
    diagnostics = Diagnostics(batches=8)
    fit = trainer(PACKAGES[0], tmp_path, diagnostics)
    fit.fit(plain_module(PACKAGES[0], net), **loaders())
    kinds = {name.partition("/")[0] for name in diagnostics.values}
    assert kinds == {"dead_units", "gap"}


def test_each_layer_counts_by_its_channels_in_the_whole(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES),
    )  # fmt: skip
    with torch.no_grad():
        net[1].bias[:2] = -100  # two dead units of the first, and none of the second
    diagnostics = Diagnostics(batches=8)
    fit = trainer(PACKAGES[0], tmp_path, diagnostics, max_epochs=1)
    fit.fit(plain_module(PACKAGES[0], net, lr=0.0), **loaders())
    found = diagnostics.values
    first, second = (found[f"variance_shift/network.{place}"] for place in (1, 5))
    assert first >= found["variance_ratio/network.1"] and first >= 1 <= second != first
    assert found["variance_shift"] == pytest.approx((4 * first + 12 * second) / 16)
    dead, others = (found[f"dead_units/network.{place}"] for place in (2, 6))
    assert dead == 0.5 and found["dead_units"] == pytest.approx((4 * dead + 12 * others) / 16)


def test_values_can_be_kept_out_of_the_log(tmp_path: Path) -> None:
    diagnostics = Diagnostics(batches=2, log=False)
    fit = trainer(PACKAGES[0], tmp_path, diagnostics)
    fit.fit(plain_module(PACKAGES[0]), **loaders())
    assert diagnostics.values
    assert not [name for name in fit.callback_metrics if name.startswith("diagnostics")]


def test_a_relu_at_places_of_several_widths_counts_the_units_of_all() -> None:
    """As in a ResNet's bottleneck."""
    relu = nn.ReLU()
    network = nn.Sequential(nn.Linear(4, 5), relu, nn.Linear(5, 3), relu)
    with torch.no_grad():
        network[0].bias[:2] = -100
        network[2].bias[:1] = -100
    with largest_outputs(network) as largest:
        network(torch.rand(8, 4))
        network(torch.rand(8, 4))
    assert len(largest["1"]) == 8
    assert dead_units(largest)["dead_units/1"] >= 3 / 8


def test_a_channel_that_is_always_the_same_is_not_infinitely_far_off() -> None:
    block = Block(4, 6, order=["act", "norm", "drop"])
    with torch.no_grad():
        block.weight.bias[0] = -100  # dead, and so is what batch norm gets
    for _ in range(200):
        block(torch.randn(32, 4))
    shifts = variance_shifts(block, recalibrate(block, [torch.randn(1000, 4)]))
    assert 1 <= shifts["variance_shift/norm"] < 2.5
