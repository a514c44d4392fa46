"""Folding: the same outputs from fewer layers, and an original that nobody touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dropnorm import cnn, mlp
from dropnorm.blocks import BatchNorm, Dropout, GhostBatchNorm, Residual, RMSNorm
from dropnorm.blocks.variants import NOISES
from dropnorm.fold import fold

NORM_ACT, ACT_NORM = ["norm", "act", "drop"], ["act", "norm", "drop"]
SHAPE = (2, 12, 12)
Make = Callable[..., nn.Sequential]


def trained(network: nn.Sequential, shape: Sequence[int] = SHAPE) -> nn.Sequential:
    """With running statistics, weights and biases of norms that all do something."""
    for layer in network.modules():
        if isinstance(layer, BatchNorm) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    for _ in range(5):
        network(torch.randn(16, *shape) * 2 + 1)
    return network


def make(network: Make, **settings: Any) -> nn.Sequential:
    return trained(network(SHAPE, 5, **settings))


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in network]


def assert_same_outputs(network: nn.Module, shape: Sequence[int] = SHAPE) -> nn.Sequential:
    """In float64, where more than 1e-10 would be a wrong formula; returns the folded network."""
    network = copy.deepcopy(network).double().eval()
    folded, x = fold(network), torch.randn(16, *shape, dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-10)
    return folded


# The same outputs


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("order", [NORM_ACT, ACT_NORM])
def test_outputs_in_float32_are_equal_to_one_in_100_000(network: Make, order: list[str]) -> None:
    """Folding rounds each weight once more (6e-8) and sums some hundred products of about 1."""
    original = make(network, order=order, dropout=0.5).eval()
    x = torch.randn(64, *SHAPE)
    expected = original(x).detach()
    scale = float(expected.abs().max())
    torch.testing.assert_close(fold(original)(x), expected, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("order", list(permutations(NORM_ACT)))
def test_outputs_in_float64_are_equal_in_every_order(
    network: Make, order: Sequence[str], momentum: float | None
) -> None:
    assert_same_outputs(make(network, order=order, dropout=0.5, bn_momentum=momentum))


@pytest.mark.parametrize("affine", [True, False])
def test_norms_that_come_first_or_twice_or_without_affine_fold_too(affine: bool) -> None:
    first, second, third = (BatchNorm(6, affine=affine) for _ in range(3))
    network = trained(nn.Sequential(first, nn.Linear(6, 6, bias=False), second, third), (6,))
    assert kinds(assert_same_outputs(network, (6,))) == [nn.Linear]


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("norm", ["ghost", "layer", "group", "rms", "none"])
@pytest.mark.parametrize("order", [NORM_ACT, ACT_NORM, ["norm", "drop", "weight", "act"]])
def test_outputs_in_float64_are_equal_with_every_norm(
    network: Make, norm: str, order: list[str]
) -> None:
    settings = {"order": order, "dropout": 0.5, "ghost_batch": 4, "groups": 2}
    folded = assert_same_outputs(make(network, norm=norm, **settings))
    stays = {"layer": nn.LayerNorm, "group": nn.GroupNorm, "rms": RMSNorm}
    assert any(isinstance(m, stays.get(norm, ())) for m in folded) == (norm in stays)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("order", list(permutations(["weight", *NORM_ACT])))
def test_outputs_in_float64_are_equal_wherever_the_weights_come(
    network: Make, order: Sequence[str]
) -> None:
    assert_same_outputs(make(network, order=order, dropout=0.5))


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("order", [NORM_ACT, ACT_NORM])
def test_bounded_weights_fold_as_they_are_projected(network: Make, order: list[str]) -> None:
    """The norm's scale must not meet the bound, and weights just stepped on must."""
    bounded = make(network, order=order, max_norm=0.3)
    with torch.no_grad():
        for parameter in bounded.parameters():
            parameter.mul_(3)
    folded = fold(copy.deepcopy(bounded).double().eval())
    assert {type(m) for m in folded if hasattr(m, "weight")} <= {nn.Linear, nn.Conv2d, BatchNorm}
    assert_same_outputs(bounded)


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("order", [NORM_ACT, ACT_NORM])
def test_residual_branches_fold_each_by_itself(network: Make, order: list[str]) -> None:
    widths: dict[str, Any] = {"hidden": [12, 12, 12]}
    if network is cnn:
        widths["channels"] = [3, 3]
    settings = {"order": order, "dropout": 0.5, "residual": True, "drop_path": 0.5, **widths}
    folded = assert_same_outputs(make(network, **settings))
    branches = [m for m in folded if isinstance(m, Residual)]
    assert branches
    inside = [type(m) for branch in branches for m in branch.modules()]
    assert not any(issubclass(kind, Dropout) for kind in inside)
    assert order != NORM_ACT or BatchNorm not in inside


# Fewer layers


def test_mlp_folds_to_linear_layers_and_activations_in_both_orders() -> None:
    plain = [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    for order in (NORM_ACT, ACT_NORM):
        assert kinds(fold(make(mlp, order=order, dropout=0.5))) == plain


def test_cnn_folds_to_convolutions_and_linear_layers() -> None:
    stage, hidden = [nn.Conv2d, nn.ReLU, nn.MaxPool2d], [nn.Linear, nn.ReLU]
    folded = fold(make(cnn, channels=[3, 4], order=NORM_ACT))
    assert kinds(folded) == [*stage, *stage, nn.Flatten, *hidden, nn.Linear]


def test_norms_that_feed_a_convolution_stay_for_its_padding() -> None:
    folded = fold(make(cnn, channels=[3, 4], order=ACT_NORM, dropout=0.5))
    stage = [nn.Conv2d, nn.ReLU, BatchNorm, nn.MaxPool2d]
    assert kinds(folded) == [*stage, *stage, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear]


def test_norms_right_before_a_convolution_stay_too() -> None:
    norm, convolution = BatchNorm(2), nn.Conv2d(2, 4, 3, padding="same")
    folded = assert_same_outputs(trained(nn.Sequential(nn.Tanh(), norm, convolution)))
    assert kinds(folded) == [nn.Tanh, BatchNorm, nn.Conv2d]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("place", ["every_block", "head", "input"])
def test_noise_of_every_kind_goes_wherever_it_is(noise: str, place: str) -> None:
    settings = {"noise": noise, "dropout_at": place, "dropout": 0.5, "activation": "selu"}
    folded = assert_same_outputs(make(mlp, **settings))
    assert kinds(folded) == [nn.Flatten, nn.Linear, nn.SELU, nn.Linear, nn.SELU, nn.Linear]


def test_ghost_batch_norm_folds_as_batch_norm_does() -> None:
    network = nn.Sequential(nn.Linear(6, 6), GhostBatchNorm(6, ghost_batch=4))
    assert kinds(assert_same_outputs(trained(network, (6,)), (6,))) == [nn.Linear]


def test_dropout_goes_torchs_own_included() -> None:
    network = nn.Sequential(nn.Linear(6, 6), Dropout(0.5), nn.Dropout(0.5), nn.Dropout1d(0.5))
    folded = fold(network)
    assert not any(type(m) in (Dropout, nn.Dropout) for m in folded)
    assert not folded.training


# The original


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize("order", [NORM_ACT, ACT_NORM])
def test_original_is_untouched_and_shares_nothing(network: Make, order: list[str]) -> None:
    original = make(network, order=order)
    before = copy.deepcopy(original.state_dict())
    folded = fold(original)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    assert original.training
    assert all(torch.equal(v, before[name]) for name, v in original.state_dict().items())


# Errors


class Around(nn.Sequential):
    """A Sequential that does more than its layers in a row."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), BatchNorm(6)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("part", [Around(nn.Linear(6, 6), BatchNorm(6)), Own()])
def test_modules_that_are_no_sequence_are_refused(part: nn.Module) -> None:
    for network in (part, nn.Sequential(nn.Linear(6, 6), part)):
        with pytest.raises(TypeError, match=f"got {type(part).__name__} with norms or dropout"):
            fold(network)


def test_modules_of_ones_own_without_norms_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(6, 6), BatchNorm(6), Around(nn.Linear(6, 6)), BatchNorm(6))
    folded = assert_same_outputs(trained(network, (6,)), (6,))
    assert kinds(folded) == [nn.Linear, Around, BatchNorm]


def test_a_norm_whose_axis_is_not_that_of_the_next_layer_stays() -> None:
    """Linear works on the last axis of [B, C, L], a norm on the second."""
    network = trained(
        nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.ReLU(), BatchNorm(8), nn.Linear(8, 5)),
        (2, 8),
    )
    x = torch.randn(4, 2, 8)
    torch.testing.assert_close(fold(network)(x), network.eval()(x))


def test_a_norm_without_bias_folds() -> None:
    network = trained(nn.Sequential(nn.Linear(6, 8), BatchNorm(8), nn.ReLU()), (6,))
    network[1].bias = None
    x = torch.randn(4, 6)
    torch.testing.assert_close(fold(network)(x), network.eval()(x))
