"""PreciseBatchNorm: the averages become those of all training batches under today's weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from dropnorm import Classifier
from dropnorm.callbacks import PreciseBatchNorm
from dropnorm.draws import seed_draws
from dropnorm.retrofitting import retrofit
from tests.packs import MLP, data, quiet_trainer
from tests.plain_modules import CLASSES, INPUTS, PACKAGES, examples, loaders, plain_module, trainer


def first_norms_input(module: Any) -> Tensor:
    x: Tensor = module.network[0](examples(128, 1).tensors[0]).detach()
    return x


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("when", ["validation", "end"])
def test_averages_are_the_statistics_of_the_training_set(
    tmp_path: Path, package: Any, when: Any
) -> None:
    module = plain_module(package)
    trainer(package, tmp_path, PreciseBatchNorm(when=when)).fit(module, **loaders())
    x = first_norms_input(module)
    norm = module.network[1]
    torch.testing.assert_close(norm.running_mean, x.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, x.var(0, unbiased=False), rtol=1e-4, atol=1e-5)


def test_validation_and_checkpoints_have_the_precise_statistics(tmp_path: Path) -> None:
    module = plain_module(PACKAGES[0])
    fit = trainer(PACKAGES[0], tmp_path, PreciseBatchNorm())
    data = loaders()
    fit.fit(module, **data)
    logged = fit.callback_metrics["val_nll"].item()
    (again,) = fit.validate(module, data["val_dataloaders"], verbose=False)
    assert logged == pytest.approx(again["val_nll"])


def test_dropout_on_keeps_the_shift_and_dropout_off_removes_it(tmp_path: Path) -> None:
    """Dropout straight before a norm: its variance in training is v + (c^2 + v) rate / keep."""
    variances = []
    for dropout in (True, False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(INPUTS), nn.Linear(INPUTS, CLASSES))
        retrofit(net)
        module = plain_module(PACKAGES[0], net)
        callback = PreciseBatchNorm(dropout=dropout)
        trainer(PACKAGES[0], tmp_path, callback).fit(module, **loaders())
        variances.append(module.network[1].running_var.clone())
    x = examples(128, 1).tensors[0]
    torch.testing.assert_close(variances[1], x.var(0, unbiased=False))
    expected = x.var(0, unbiased=False) + x.square().mean(0)
    # 128 masks, each 0 or 2: the estimate of each channel is within about a quarter.
    torch.testing.assert_close(variances[0], expected, rtol=0.4, atol=0)
    assert (variances[0].mean() / expected.mean() - 1).abs() < 0.1


@pytest.mark.parametrize("package", PACKAGES)
def test_weights_and_logs_are_those_of_a_training_without(tmp_path: Path, package: Any) -> None:
    trained = []
    for callbacks in ([], [PreciseBatchNorm(batches=3, dropout=True)]):
        torch.manual_seed(0)
        module = plain_module(package)
        retrofit(module)
        fit = trainer(package, tmp_path, *callbacks)
        fit.fit(module, **loaders())
        trained.append((dict(module.named_parameters()), set(fit.callback_metrics), fit))
    (alone, names, plain), (precise, precise_names, fit) = trained
    assert all(torch.equal(value, precise[name]) for name, value in alone.items())
    assert names == precise_names
    nll = [t.callback_metrics["train_loss"] for t in (plain, fit)]
    assert torch.equal(*nll)


def test_persistent_workers_are_not_disturbed(tmp_path: Path) -> None:
    """Their loader has one iterator, which a validation inside the epoch must leave where it is."""
    steps = []
    for callbacks in ([], [PreciseBatchNorm(batches=2)]):
        data = loaders(shuffle=False)
        train = data["train_dataloaders"]
        busy = type(train)(train.dataset, 16, num_workers=1, persistent_workers=True)
        torch.manual_seed(0)
        module = plain_module(PACKAGES[0])
        fit = trainer(PACKAGES[0], tmp_path, *callbacks, max_epochs=1, val_check_interval=3)
        fit.fit(module, busy, data["val_dataloaders"])
        steps.append((fit.global_step, module.network[0].weight.detach()))
    assert steps[0][0] == steps[1][0] == 8
    assert torch.equal(steps[0][1], steps[1][1])


def test_what_cannot_be_recalibrated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="when: expected one of validation, end, got 'epoch'"):
        PreciseBatchNorm(when="epoch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batches: expected 1 or more, got 0"):
        PreciseBatchNorm(0)
    bare = plain_module(PACKAGES[0], nn.Linear(INPUTS, CLASSES))
    with pytest.raises(ValueError, match="PreciseBatchNorm: expected batch norm layers"):
        trainer(PACKAGES[0], tmp_path, PreciseBatchNorm()).fit(bare, **loaders())

    class Unvalidated(PACKAGES[0].LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            """Skips the step."""

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="expected a validation_step in Unvalidated, got none"):
        trainer(PACKAGES[0], tmp_path, PreciseBatchNorm()).fit(
            Unvalidated(), loaders()["train_dataloaders"]
        )


class Noisy(Dataset[Any]):
    """Augments with the generators of numpy and Python."""

    def __init__(self) -> None:
        self.examples = examples(128, 1)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        x, y = self.examples[index]
        return x + float(np.random.rand() + random.random()), y


@pytest.mark.parametrize("where", ["sampler", "batch_sampler"])
def test_draws_of_every_generator_are_not_disturbed(tmp_path: Path, where: str) -> None:
    weights = []
    for callbacks in ([], [PreciseBatchNorm(batches=2)]):
        sampler = RandomSampler(Noisy(), generator=torch.Generator().manual_seed(3))
        own: dict[str, Any] = {"sampler": sampler, "batch_size": 16}
        if where == "batch_sampler":
            own = {"batch_sampler": BatchSampler(sampler, 16, drop_last=True)}
        seed_draws(1)
        module = plain_module(PACKAGES[0])
        fit = trainer(PACKAGES[0], tmp_path, *callbacks, val_check_interval=3)
        fit.fit(module, DataLoader(Noisy(), **own), loaders()["val_dataloaders"])
        weights.append(module.network[0].weight.detach())
    assert torch.equal(*weights)


def test_a_training_resumed_within_an_epoch_goes_on_where_it_was(tmp_path: Path) -> None:
    """The replays in between iterate the training batches too, and say nothing of where it is."""
    firsts = []
    for callbacks in ([], [PreciseBatchNorm(batches=2)]):
        file = tmp_path / f"{len(callbacks)}.ckpt"
        settings: dict[str, Any] = {"val_check_interval": 1, "callbacks": [*callbacks, Half(file)]}
        quiet_trainer(tmp_path, 1, **settings).fit(Classifier(**MLP), data())
        seen = Seen()
        resumed = quiet_trainer(tmp_path, 1, callbacks=[seen])
        resumed.fit(Classifier(**MLP), data(), ckpt_path=file)
        firsts.append(seen.labels)
    assert len(firsts[0]) == 2
    assert all(map(torch.equal, *firsts))


class Half(pl.Callback):
    """Saves a checkpoint at half of the epoch's four batches, after a validation."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_validation_end(self, trainer: pl.Trainer, _: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.file)


class Seen(pl.Callback):
    """The labels of the batches that are trained on."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def on_train_batch_start(self, _: Any, __: Any, batch: Any, index: int) -> None:
        self.labels.append(batch[1])
