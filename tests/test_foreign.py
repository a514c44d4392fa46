"""Modules of published libraries: chemprop (lightning.pytorch), neuralforecast (pytorch_lightning).

They come with `pip install -c constraints.txt -e '.[foreign]'`, 360 MB, and are skipped without.
One of Lightning's own demonstrations is studied in test_own_demonstration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as unified
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import nn

from dropnorm import MomentumBank, retrofit
from dropnorm.blocks import BatchNorm, Dropout, seed_dropout
from dropnorm.retrofitting import unretrofit
from sweep.__main__ import main
from sweep.confirm.checkpoints import recommended_row
from tests.own_modules import studied, typed
from tests.plain_modules import trainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of their making

MOMENTA = (0.01, 0.1, 0.5, None)
ALCOHOLS = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "Cl", "F", "C(=O)O")]


def molecules(batch: int, shuffle: bool) -> Any:
    """A loader of small molecules, whose target is their length and whether they end in oxygen."""
    from chemprop import data

    targets = [[len(smiles) / 10 + 0.5 * smiles.endswith("O")] for smiles in ALCOHOLS]
    points = [
        data.MoleculeDatapoint.from_smi(smiles, np.array(target))
        for smiles, target in zip(ALCOHOLS, targets, strict=True)
    ]
    dataset = data.MoleculeDataset(points)
    return data.build_dataloader(
        dataset, batch_size=batch, seed=0 if shuffle else None, shuffle=shuffle
    )


class Molecules(unified.LightningDataModule):
    def train_dataloader(self) -> Any:
        return molecules(8, shuffle=True)

    def val_dataloader(self) -> Any:
        return molecules(20, shuffle=False)


def message_passing() -> tuple[Any, dict[str, Any]]:
    from chemprop import models, nn

    passing = nn.BondMessagePassing(d_h=16, dropout=0.2)
    head = nn.RegressionFFN(input_dim=16, hidden_dim=16, dropout=0.3)
    module = models.MPNN(passing, nn.MeanAggregation(), head, batch_norm=True)
    return module, {"datamodule": Molecules()}


class Waves(pytorch_lightning.LightningDataModule):
    """Three waves of 60 steps, at levels of their own; the last twelve steps are for validation.

    A model of neuralforecast is told how many by whoever trains it.
    """

    def __init__(self) -> None:
        super().__init__()
        import pandas as pd
        from neuralforecast.tsdataset import TimeSeriesDataModule, TimeSeriesDataset

        steps = np.arange(60)
        frames = [
            pd.DataFrame({"unique_id": k, "ds": steps, "y": np.sin(steps / (k + 1)) + 3.0 * k})
            for k in range(3)
        ]
        dataset = TimeSeriesDataset.from_df(pd.concat(frames))[0]
        self.series = TimeSeriesDataModule(dataset, batch_size=32)

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        module.val_size, module.test_size = 12, 0

    def train_dataloader(self) -> Any:
        return self.series.train_dataloader()

    def val_dataloader(self) -> Any:
        return self.series.val_dataloader()


def mixer() -> tuple[Any, dict[str, Any]]:
    """Without its own normalisation in front, so that batch norm's averages have a way to go."""
    from neuralforecast.models import TSMixer

    settings = {"h": 4, "input_size": 8, "n_series": 3, "ff_dim": 8, "dropout": 0.3}
    module = TSMixer(**settings, revin=False, max_steps=20)
    return module, {"datamodule": Waves()}


def patches() -> tuple[Any, dict[str, Any]]:
    """A Transformer over patches of a series, with batch norm where others have layer norm."""
    from neuralforecast.models import PatchTST

    sizes = {"hidden_size": 8, "linear_hidden_size": 8, "n_heads": 2, "encoder_layers": 1}
    settings = {"h": 4, "input_size": 8, "patch_len": 4, "stride": 2, "revin": False, **sizes}
    return PatchTST(**settings, dropout=0.3, max_steps=20), {"datamodule": Waves()}


KINDS = [
    pytest.param(message_passing, unified, "chemprop", 1e-4, id="MPNN"),
    pytest.param(mixer, pytorch_lightning, "neuralforecast", 1e-4, id="TSMixer"),
    pytest.param(patches, pytorch_lightning, "neuralforecast", 1e-4, id="PatchTST"),
]
BUILD = Callable[[], tuple[Any, dict[str, Any]]]


def fitted(
    build: BUILD, package: Any, folder: Path, momentum: float | None, *callbacks: Any
) -> tuple[Any, dict[str, float]]:
    torch.manual_seed(0)
    np.random.seed(0)
    module, data = build()
    changes = retrofit(module, dropout=0.1, bn_momentum={"*": momentum})
    assert any("BatchNorm" in text for text in changes.made.values())
    assert any("-> Dropout(0.1)" in text for text in changes.made.values())
    seed_dropout(module, 1)
    torch.manual_seed(0)
    fit = trainer(package, folder, *callbacks, max_epochs=6)
    fit.fit(module, **data)
    return module, {name: value.item() for name, value in fit.callback_metrics.items()}


@pytest.mark.parametrize(("build", "package", "library", "rel"), KINDS)
def test_curve_of_the_bank_is_that_of_as_many_trainings(
    tmp_path: Path, build: BUILD, package: Any, library: str, rel: float
) -> None:
    pytest.importorskip(library)
    bank = MomentumBank(MOMENTA)
    module, _ = fitted(build, package, tmp_path, 0.1, bank)
    metric = "val_loss" if "val_loss" in bank.curve else "ptl/val_loss"
    curve = bank.curve[metric]
    for momentum in MOMENTA:
        _, logged = fitted(build, package, tmp_path, momentum)
        assert curve[momentum] == pytest.approx(logged[metric], rel=rel), momentum
    print(library, metric, curve)
    assert max(curve.values()) > 1.05 * min(curve.values())  # or it would say nothing
    assert any(isinstance(m, BatchNorm) for m in module.modules())
    unretrofit(module)
    assert not any(isinstance(m, Dropout | BatchNorm) for m in module.modules())
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


MOLECULES = """\
# @package _global_
defaults:
  - override /model: own
  - override /data: own
study: {name: molecules, trials: 2, metric: val_loss, direction: minimize}
model:
  _target_: chemprop.models.MPNN
  batch_norm: true
  message_passing: {_target_: chemprop.nn.BondMessagePassing, d_h: 16, dropout: 0.2}
  agg: {_target_: chemprop.nn.MeanAggregation}
  predictor: {_target_: chemprop.nn.RegressionFFN, input_dim: 16, hidden_dim: 16}
data: {_target_: tests.test_foreign.Molecules}
search:
  retrofit.dropout: interval(0, 0.5)
  retrofit.bn_momentum: tag(log, interval(0.001, 1))
"""
WAVES = """\
# @package _global_
defaults:
  - override /model: own
  - override /data: own
study: {name: waves, trials: 3, metric: ptl/val_loss, direction: minimize}
model:
  _target_: neuralforecast.models.TSMixer
  h: 4
  input_size: 8
  n_series: 3
  ff_dim: 8
  revin: false
  max_steps: 20
  optimizer: null  # its own: it wants a class here, not the study's settings
data: {_target_: tests.test_foreign.Waves}
search:
  retrofit.dropout: interval(0, 0.5)
  retrofit.bn_momentum: tag(log, interval(0.001, 1))
"""
PATCHES = (
    WAVES.replace("TSMixer", "PatchTST")
    .replace("name: waves", "name: patches")
    .replace("  n_series: 3\n  ff_dim: 8\n", "  patch_len: 4\n  stride: 2\n  encoder_layers: 1\n")
)
STUDIES = [
    pytest.param(MOLECULES, unified, "chemprop", Molecules, id="MPNN"),
    pytest.param(WAVES, pytorch_lightning, "neuralforecast", Waves, id="TSMixer"),
    pytest.param(PATCHES, pytorch_lightning, "neuralforecast", Waves, id="PatchTST"),
]


@pytest.mark.parametrize(("text", "package", "library", "data"), STUDIES)
def test_a_study_of_a_published_module(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    package: Any,
    library: str,
    data: Any,
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])
    words = ("executor=inline", "confirm.seeds=2", "confirm.top=1", "trainer.max_epochs=4")
    study = studied(tmp_path, text, *words, "pruner=none")
    assert {t.status for t in study.trials} == {"complete"}
    assert all(t.momentum is not None and len(t.momentum.values) == 14 for t in study.trials)
    assert sorted(row.arm for row in study.confirm) == ["1st"] * 2 + ["default"] * 2
    assert all("variance_shift" in row.diagnostics for row in study.confirm)
    capsys.readouterr()
    assert main(["best", study.name]) == 0
    model = typed(capsys.readouterr().out)["model"]
    row = recommended_row(study)
    assert row is not None
    fit = trainer(package, tmp_path)
    (found,) = fit.validate(model, datamodule=data(), verbose=False)
    assert found[study.metric] == pytest.approx(row.metrics[study.metric], rel=1e-5)
    rates = {m.extra_repr() for m in model.modules() if isinstance(m, Dropout)}
    wanted = row.params["retrofit.dropout"]
    assert rates == (set() if wanted is None else {f"rate={wanted:g}"})
