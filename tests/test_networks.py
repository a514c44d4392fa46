"""The networks: their layers, in order, and the shapes they take and give."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dropnorm import cnn, mlp
from dropnorm.blocks import BatchNorm, Block, Dropout
from dropnorm.networks import NETWORKS, settings_of


def leaves(network: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which they run."""
    for layer in network:
        if isinstance(layer, nn.Sequential):
            yield from leaves(layer)
        else:
            yield layer


def kinds(network: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in leaves(network)]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# The two networks of the tutorial that started the project, in its code's order


def test_tutorials_dropout_network() -> None:
    network = mlp(hidden=[512], norm="none", dropout=0.5)
    _, hidden, _, drop, head = leaves(network)
    assert kinds(network) == [nn.Flatten, nn.Linear, nn.ReLU, Dropout, nn.Linear]
    assert (hidden.in_features, hidden.out_features) == (784, 512)
    assert (head.in_features, head.out_features) == (512, 10)
    assert drop.rate == 0.5
    assert parameters(network) == (784 + 1) * 512 + (512 + 1) * 10


def test_tutorials_batchnorm_network() -> None:
    network = mlp(hidden=[512], order=["act", "norm", "drop"])
    *_, norm, drop, _ = leaves(network)
    assert kinds(network) == [nn.Flatten, nn.Linear, nn.ReLU, BatchNorm, Dropout, nn.Linear]
    assert drop.rate == 0  # passes everything
    assert norm.num_features == 512
    assert parameters(network) == (784 + 1) * 512 + 2 * 512 + (512 + 1) * 10


# mlp


def test_mlp_has_a_block_for_each_width_and_a_head() -> None:
    network = mlp((2, 3, 3), 7, hidden=[20, 30], activation="tanh")
    block = [nn.Linear, BatchNorm, nn.Tanh, Dropout]
    assert kinds(network) == [nn.Flatten, *block, *block, nn.Linear]
    widths = [(m.in_features, m.out_features) for m in leaves(network) if type(m) is nn.Linear]
    assert widths == [(18, 20), (20, 30), (30, 7)]
    assert network(torch.ones(4, 2, 3, 3)).shape == (4, 7)


def test_mlp_without_hidden_layers_is_linear() -> None:
    assert kinds(mlp((5,), 3, hidden=[])) == [nn.Flatten, nn.Linear]


# cnn


def test_cnn_halves_the_image_after_every_convolution_and_ends_as_an_mlp() -> None:
    network = cnn((3, 12, 9), 7, channels=[4, 8], kernel=5, hidden=[16])
    block = [BatchNorm, nn.ReLU, Dropout]
    stage = [nn.Conv2d, *block, nn.MaxPool2d]
    assert kinds(network) == [*stage, *stage, nn.Flatten, nn.Linear, *block, nn.Linear]
    assert all(m.kernel_size == (5, 5) for m in leaves(network) if type(m) is nn.Conv2d)
    linear = next(m for m in leaves(network) if type(m) is nn.Linear)
    assert linear.in_features == 8 * 3 * 2
    assert network(torch.ones(4, 3, 12, 9)).shape == (4, 7)


def test_cnn_refuses_more_poolings_than_the_image_can_halve() -> None:
    assert cnn((1, 8, 8), channels=[2, 2, 2])(torch.ones(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(ValueError, match="channels: 4 poolings leave nothing of 8x8"):
        cnn((1, 8, 8), channels=[2, 2, 2, 2])
    with pytest.raises(ValueError, match="channels: 2 poolings leave nothing of 8x3"):
        cnn((1, 8, 3), channels=[2, 2])


def test_cnn_refuses_what_is_not_an_image() -> None:
    with pytest.raises(ValueError, match=r"expected \(channels, height, width\), got \(784,\)"):
        cnn((784,))


# Both


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_settings_reach_every_block(network: type[nn.Module]) -> None:
    order = ["act", "drop", "norm"]
    built = network(dropout=0.25, bn_momentum=0.5, activation="silu", order=order)
    blocks = [m for m in built.modules() if isinstance(m, Block)]
    assert len(blocks) >= 2
    for block in blocks:
        assert [name for name, _ in block.named_children()] == ["weight", *order]
        assert block.drop.rate == 0.25
        assert block.norm.momentum == 0.5
        assert isinstance(block.act, nn.SiLU)


@pytest.mark.parametrize("name", NETWORKS)
def test_known_settings_are_those_that_the_network_takes(name: str) -> None:
    shared = {"norm", "activation", "dropout", "bn_momentum", "order"}
    own = {"mlp": {"hidden"}, "cnn": {"channels", "kernel", "hidden"}}[name]
    assert set(settings_of(name)) == shared | own


def test_a_width_that_is_not_a_list_is_refused_with_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"hidden: expected a list of widths, got 512; type \[512"):
        mlp(hidden=512)
    with pytest.raises(ValueError, match=r"channels: .*, got 32; type \[32\]"):
        cnn(channels=32)
