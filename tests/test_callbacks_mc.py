"""MCDropout: predictions of any module's own predict_step, with what the masks disagree about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dropnorm.blocks import seed_dropout
from dropnorm.callbacks import MCDropout
from dropnorm.retrofitting import retrofit
from tests.plain_modules import CLASSES, INPUTS, PACKAGES, examples, plain_module, trainer

SAMPLES = 30


@pytest.fixture
def data() -> DataLoader[Any]:
    return DataLoader(examples(40, 3), batch_size=25)


def predictions(package: Any, folder: Path, module: Any, data: Any, **settings: Any) -> list[Any]:
    callback = MCDropout(SAMPLES, **settings)
    found: list[Any] = trainer(package, folder, callback).predict(module, data)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_predictions_are_the_means_and_entropies_of_the_passes(
    tmp_path: Path, package: Any, data: DataLoader[Any]
) -> None:
    module = plain_module(package)
    retrofit(module, dropout=0.5)
    seed_dropout(module, 7)
    module.train()
    module(examples(40, 3).tensors[0])  # so that running averages are not those of the start
    first, second = predictions(package, tmp_path, module, data)
    assert len(second["entropy"]) == 15
    seed_dropout(module, 7)
    module.eval()
    module.network[3].train()
    module.network[3].step = 1
    x = examples(40, 3).tensors[0][:25]
    logits = np.stack([module(x).detach().double().numpy() for _ in range(SAMPLES)])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean = p.mean(0)
    entropy = -(mean * np.log(mean)).sum(-1)
    information = entropy + (p * np.log(p)).sum(-1).mean(0)
    # Float32 against float64: numbers up to log 3, sums of a few dozen terms, 1e-7 each.
    np.testing.assert_allclose(first["probabilities"], mean, atol=3e-6)
    np.testing.assert_allclose(first["entropy"], entropy, atol=3e-6)
    np.testing.assert_allclose(first["mutual_information"], information, atol=3e-6)
    assert (information > 1e-4).all()


def test_module_is_afterwards_as_before(tmp_path: Path, data: DataLoader[Any]) -> None:
    module = plain_module(PACKAGES[0]).train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    predictions(PACKAGES[0], tmp_path, module, data)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    (first, _) = trainer(PACKAGES[0], tmp_path).predict(module, data)
    assert torch.equal(first, module.eval()(examples(40, 3).tensors[0][:25]))


@pytest.mark.parametrize("package", PACKAGES)
def test_regression_has_mean_and_spread(
    tmp_path: Path, package: Any, data: DataLoader[Any]
) -> None:
    first, _ = predictions(package, tmp_path, plain_module(package), data, kind="values")
    assert set(first) == {"mean", "std"}
    assert first["mean"].shape == (25, CLASSES)
    assert (first["std"] > 0).all()


def test_probabilities_and_dictionaries_are_understood(
    tmp_path: Path, data: DataLoader[Any]
) -> None:
    class Wrapped(PACKAGES[0].LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Dropout(0.5), nn.Linear(INPUTS, CLASSES))

        def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            return {"probabilities": self.network(batch[0]).softmax(-1)}

    settings = {"kind": "probabilities", "key": "probabilities"}
    first, _ = predictions(PACKAGES[0], tmp_path, Wrapped(), data, **settings)
    torch.testing.assert_close(first["probabilities"].sum(-1), torch.ones(25))
    assert (first["mutual_information"] > 0).all()
    with pytest.raises(TypeError, match="got dict with keys probabilities; type key="):
        predictions(PACKAGES[0], tmp_path, Wrapped(), data)


def test_what_has_no_uncertainty_is_refused(tmp_path: Path, data: DataLoader[Any]) -> None:
    with pytest.raises(ValueError, match="samples: expected 2 or more passes, got 1"):
        MCDropout(1)
    with pytest.raises(ValueError, match="kind: expected one of logits, probabilities, values"):
        MCDropout(kind="logit")  # type: ignore[arg-type]
    bare = plain_module(PACKAGES[0], nn.Linear(INPUTS, CLASSES))
    with pytest.raises(ValueError, match="MCDropout: expected dropout layers, got none in Mine"):
        predictions(PACKAGES[0], tmp_path, bare, data)
