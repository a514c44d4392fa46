"""Modules of somebody else's in a study: retrofitted, their momentum scored whole, confirmed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from dropnorm import Synthetic
from dropnorm.pack import VmappedPack
from sweep import load_study
from sweep.__main__ import main
from sweep.messages import TrialSpec
from sweep.results import ResultSet
from sweep.trial_config import retrofit_settings
from sweep.worker.build import build, can_test, check_validated
from tests.plain_modules import PACKAGES, plain_module

# As written long ago, with torch's layers, for either of Lightning's packages.
MODULE = """
import torch
import torch.nn.functional as F
from torch import nn
import {lightning} as pl

class Old(pl.LightningModule):
    def __init__(self, width=32, lr=3e-3):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(width, 4),
        )
        self.lr = lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch, index):
        self.log("test_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)
"""
STUDY = """\
# @package _global_
defaults:
  - override /model: own
  - override /data: synthetic
study:
  name: mine
  trials: 3
  metric: val_acc
model:
  _target_: {name}.Old
search:
  retrofit.dropout: interval(0, 0.5)
  retrofit.bn_momentum: tag(log, interval(0.001, 1))
  model.width: choice(16, 32)
"""
QUICK = (
    "trainer.max_epochs=3",
    "executor=inline",
    "confirm.seeds=2",
    "confirm.top=1",
    "pruner=none",
)


@pytest.fixture(scope="module", params=["pytorch_lightning", "lightning.pytorch"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    """What a study of such a module brings, with the study's file in a folder of its own."""
    pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp("own")
    name = f"old_{request.param.replace('.', '_')}"
    (folder / f"{name}.py").write_text(MODULE.format(lightning=request.param))
    (folder / "conf" / "study").mkdir(parents=True)
    (folder / "conf" / "study" / "mine.yaml").write_text(STUDY.format(name=name))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        assert main(["+study=mine", "--config-dir", "conf", *QUICK]) == 0
        yield load_study(folder / "sweeps" / "mine")


def test_every_trial_trains_and_scores_all_momenta(own: ResultSet) -> None:
    assert [t.status for t in own.trials] == ["complete"] * 3
    for trial in own.trials:
        assert trial.momentum is not None and len(trial.momentum.values) == 14
        curve = dict(zip(trial.momentum.momenta, trial.momentum.values, strict=True))
        best = max(v for momentum, v in curve.items() if momentum is not None)
        assert trial.value == best == curve[trial.params["retrofit.bn_momentum"]]  # type: ignore[index]
        assert set(trial.metrics) == {"val_acc"}


def test_the_best_is_confirmed_with_a_look_at_the_test_set(own: ResultSet) -> None:
    assert len(own.confirm) == 2  # there is no default: the configuration leaves it open
    assert all({"val_acc", "test_acc"} <= row.metrics.keys() for row in own.confirm)


def test_the_checkpoint_is_the_modules_own_and_has_the_recorded_value(own: ResultSet) -> None:
    assert own.best is not None
    target = own.config["model"]["_target_"]
    module = importlib.import_module(target.rpartition(".")[0]).Old
    loaded = module.load_from_checkpoint(own.folder / "checkpoints" / "best.ckpt").eval()
    part = Synthetic().part("val")
    with torch.inference_mode():
        x, y = part.between(0, len(part))
        accuracy = (loaded(x).argmax(1) == y).float().mean().item()
    assert accuracy == pytest.approx(own.best.value, abs=1e-6)


def test_a_default_without_a_rate_is_confirmed_with_nothing_inserted(own: ResultSet) -> None:
    folder = own.folder.parent.parent
    words = [*QUICK, "study.trials=1", "study.name=inserted", "retrofit.insert=ReLU"]
    words += ["model.width=16", f"study.folder={folder}/other"]
    assert main(["+study=mine", "--config-dir", str(folder / "conf"), *words]) == 0
    found = load_study(folder / "other" / "inserted")
    assert [row.arm for row in found.confirm] == ["1st", "default"] * 2
    assert found.confirm[1].params == {"retrofit.dropout": None, "retrofit.bn_momentum": None}
    log = (found.folder / "logs" / "inline-0.log").read_text()
    assert log.count("ReLU, then Dropout(") == 3  # the search's, and the 1st's two


def test_a_rate_is_needed_to_insert_unless_it_is_the_search_that_leaves_it_out() -> None:
    nothing = {"dropout": None, "bn_momentum": None, "where": "net.*", "insert": "ReLU"}
    assert retrofit_settings(nothing, ["retrofit.dropout"]) == {}
    assert retrofit_settings(nothing, []) == {"where": "net.*", "insert": "ReLU"}  # is refused
    momentum = {**nothing, "bn_momentum": 0.1}
    searched = retrofit_settings(momentum, ["retrofit.dropout"])
    assert searched == {"bn_momentum": 0.1, "where": "net.*"}
    rate = {**nothing, "dropout": 0.0}
    assert retrofit_settings(rate, ["retrofit.dropout"])["insert"] == "ReLU"


def test_an_optimizer_that_the_module_never_sees_is_not_searched(
    own: ResultSet, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = own.folder.parent.parent
    words = ["--config-dir", str(folder / "conf"), *QUICK, f"study.folder={folder}/other"]
    assert main(["+study=mine", *words, "optimizer.lr=interval(0.001,0.01)"]) == 1
    assert "takes no argument `optimizer`" in capsys.readouterr().err


class Picky(pl.LightningModule):
    """Has a parameter of a name that the study fills, and means something else by it."""

    def __init__(self, optimizer: type | None = None) -> None:
        super().__init__()
        if optimizer is not None:
            assert issubclass(optimizer, torch.optim.Optimizer)

    def test_step(self, batch: Any, index: int) -> None: ...


class Untested(pl.LightningDataModule):
    """Has no test set."""


def spec_of(**model: Any) -> TrialSpec:
    config = {
        "model": {"_target_": "tests.test_own_modules.Picky", **model},
        "data": {"_target_": "dropnorm.Synthetic"},
        "optimizer": {"name": "adam"},
        "retrofit": {},
        "trainer": {},
    }
    return TrialSpec(0, 1, {}, config)


def test_a_parameter_that_means_something_else_is_named_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"its parameters optimizer were .* optimizer: null below"):
        build(spec_of())
    assert isinstance(build(spec_of(optimizer=None))[1], Picky)


@pytest.mark.parametrize("package", PACKAGES)
def test_only_what_has_a_test_set_and_a_step_for_it_is_tested(package: Any) -> None:
    """Else a confirmation would fail at its very end."""
    assert can_test(Picky(), Synthetic())
    assert not can_test(Picky(), Untested()) and not can_test(
        Picky(), package.LightningDataModule()
    )
    assert not can_test(plain_module(package), Synthetic())


@pytest.mark.parametrize("package", PACKAGES)
def test_data_without_a_validation_loader_are_named_with_what_to_write(package: Any) -> None:
    module, data = plain_module(package), package.LightningDataModule()
    said = r"LightningDataModule has no val_dataloader, so val_acc is never logged; write one: def"
    with pytest.raises(ValueError, match=said):
        check_validated(module, data, "val_acc")
    check_validated(module, data, "train_loss")
    check_validated(module, Synthetic(), "val_acc")


def test_arguments_of_one_argument_come_back_from_a_lane(tmp_path: Path) -> None:
    """Lightning then gives the constructor all hyperparameters as that one."""
    pack = VmappedPack([OneArgument({"width": 3})], seeds=[0])
    torch.save(pack.checkpoint(0), tmp_path / "one.ckpt")
    loaded = OneArgument.load_from_checkpoint(tmp_path / "one.ckpt")
    assert torch.equal(loaded.layer.weight, pack.module(0).layer.weight)  # type: ignore[union-attr]


class OneArgument(pl.LightningModule):
    def __init__(self, settings: dict[str, int]) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.layer = torch.nn.Linear(2, settings["width"])

    def loss(self, batch: Any) -> torch.Tensor:
        return self.layer(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
