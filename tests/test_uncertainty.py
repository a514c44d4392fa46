"""Monte Carlo dropout: the mean and entropies of passes that are dropped out in the known way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dropnorm import mlp
from dropnorm.blocks import BatchNorm, Dropout, seed_dropout
from dropnorm.uncertainty import mc_dropout

SAMPLES = 20


@pytest.fixture
def network() -> nn.Sequential:
    network = mlp((6,), 3, hidden=[16, 16], dropout=0.5)
    for _ in range(3):  # so that running statistics are not those of the start
        network(torch.randn(32, 6) + 1)
    seed_dropout(network, 7)
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(10, 6)


def passes_by_hand(network: nn.Sequential, x: Tensor) -> np.ndarray:
    """Probabilities [SAMPLES, B, classes] in float64, dropout on and all else in evaluation."""
    network.eval()
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.train()
    logits = np.stack([network(x).detach().double().numpy() for _ in range(SAMPLES)])
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(-1)


def test_means_and_entropies_are_those_of_the_passes(network: nn.Sequential, x: Tensor) -> None:
    got = mc_dropout(network, x, SAMPLES)
    seed_dropout(network, 7)  # the same masks once more
    passes = passes_by_hand(network, x)
    mean = passes.mean(0)
    information = entropy(mean) - entropy(passes).mean(0)
    # Float32 against float64: numbers up to log 3, sums of a few dozen terms, 1e-7 each.
    np.testing.assert_allclose(got["probabilities"], mean, atol=3e-6)
    np.testing.assert_allclose(got["entropy"], entropy(mean), atol=3e-6)
    np.testing.assert_allclose(got["mutual_information"], information, atol=3e-6)
    assert (information > 0.001).all()  # or the last comparison would say little


def test_masks_that_agree_carry_no_information(network: nn.Sequential, x: Tensor) -> None:
    for layer in network.modules():
        if isinstance(layer, Dropout):
            layer.rate.zero_()
    got = mc_dropout(network, x, SAMPLES)
    expected = network.eval()(x).softmax(-1)
    torch.testing.assert_close(got["probabilities"], expected)
    torch.testing.assert_close(got["mutual_information"], torch.zeros(10), rtol=0, atol=1e-6)


def test_modes_and_running_statistics_are_as_before(network: nn.Sequential, x: Tensor) -> None:
    network.train()
    network[1].eval()  # a part that was frozen on purpose stays frozen
    modes = [m.training for m in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    mc_dropout(network, x, 3)
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_modes_are_as_before_after_an_error(network: nn.Sequential) -> None:
    network.train()
    with pytest.raises(RuntimeError):
        mc_dropout(network, torch.ones(2, 99), 3)
    assert all(m.training for m in network.modules())


def test_torchs_own_dropout_counts_too(x: Tensor) -> None:
    network = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    assert mc_dropout(network, x, SAMPLES)["mutual_information"].min() > 0


def test_a_network_without_dropout_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="expected a network with dropout, got none; set mc_"):
        mc_dropout(nn.Sequential(nn.Linear(6, 3), BatchNorm(3)), x, 3)
