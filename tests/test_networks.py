"""The networks: their layers, in order, and the shapes they take and give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropnorm import cnn, mlp
from dropnorm.blocks import (
    AlphaDropout,
    BatchNorm,
    Block,
    ChannelDropout,
    Dropout,
    DropPath,
    GhostBatchNorm,
    MaxNormConv2d,
    MaxNormLinear,
    Residual,
    seed_dropout,
)
from dropnorm.networks import NETWORKS, PLACES, settings_of
from dropnorm.pack.sequential import stack


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
    shared |= {"noise", "dropout_at", "groups", "ghost_batch", "max_norm", "residual", "drop_path"}
    own = {"mlp": {"hidden"}, "cnn": {"channels", "kernel", "hidden"}}[name]
    assert set(settings_of(name)) == shared | own


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_new_settings_reach_every_block(network: type[nn.Module]) -> None:
    built = network(noise="channel", dropout=0.25, norm="ghost", ghost_batch=16, max_norm=3.0)
    blocks = [m for m in built.modules() if isinstance(m, Block)]
    for block in blocks:
        assert type(block.drop) is ChannelDropout
        assert isinstance(block.norm, GhostBatchNorm)
        assert block.norm.ghost_batch == 16
        assert isinstance(block.weight, MaxNormLinear | MaxNormConv2d)
    assert type(built[-1]) is nn.Linear  # the head is free
    assert network(norm="group", groups=4)[1 if network is mlp else 0].norm.num_groups == 4


# Where dropout is

BLOCK = [nn.Linear, BatchNorm, nn.ReLU]
IMAGE = [nn.Conv2d, BatchNorm, nn.ReLU]
MLP_AT = {
    "every_block": [nn.Flatten, *BLOCK, Dropout, *BLOCK, Dropout, nn.Linear],
    "last_block": [nn.Flatten, *BLOCK, *BLOCK, Dropout, nn.Linear],
    "head": [nn.Flatten, *BLOCK, *BLOCK, Dropout, nn.Linear],
    "input": [Dropout, nn.Flatten, *BLOCK, *BLOCK, nn.Linear],
}
CNN_AT = {
    "every_block": [*IMAGE, Dropout, nn.MaxPool2d, nn.Flatten, *BLOCK, Dropout, nn.Linear],
    "last_block": [*IMAGE, nn.MaxPool2d, nn.Flatten, *BLOCK, Dropout, nn.Linear],
    "head": [*IMAGE, nn.MaxPool2d, nn.Flatten, *BLOCK, Dropout, nn.Linear],
    "input": [Dropout, *IMAGE, nn.MaxPool2d, nn.Flatten, *BLOCK, nn.Linear],
}


@pytest.mark.parametrize("place", PLACES)
def test_dropout_is_where_it_is_asked_for(place: str) -> None:
    settings = {"dropout_at": place, "dropout": 0.25}
    row = mlp((5,), 3, hidden=[7, 8], **settings)
    image = cnn((2, 6, 6), 3, channels=[4], hidden=[8], **settings)
    assert kinds(row) == MLP_AT[place]
    assert kinds(image) == CNN_AT[place]
    for network in (row, image):
        assert all(m.rate == 0.25 for m in leaves(network) if isinstance(m, Dropout))


def test_head_is_after_the_last_norm_in_any_order_and_last_block_where_the_order_has_it() -> None:
    settings = {"hidden": [7, 8], "order": ["drop", "act", "norm"]}
    stages = [nn.Linear, nn.ReLU, BatchNorm]
    head = mlp((5,), 3, dropout_at="head", **settings)
    assert kinds(head) == [nn.Flatten, *stages, *stages, Dropout, nn.Linear]
    last = mlp((5,), 3, dropout_at="last_block", **settings)
    dropped = [nn.Linear, Dropout, nn.ReLU, BatchNorm]
    assert kinds(last) == [nn.Flatten, *stages, *dropped, nn.Linear]


def test_last_block_without_hidden_layers_is_the_last_convolution() -> None:
    network = cnn((2, 8, 8), 3, channels=[4, 4], hidden=[], dropout_at="last_block")
    end = [*IMAGE, Dropout, nn.MaxPool2d, nn.Flatten, nn.Linear]
    assert kinds(network) == [*IMAGE, nn.MaxPool2d, *end]


@pytest.mark.parametrize("place", ["head", "input"])
def test_noise_outside_blocks_is_of_the_kind_chosen(place: str) -> None:
    network = mlp((5,), 3, hidden=[7], dropout_at=place, noise="alpha", activation="selu")
    assert [type(m) for m in leaves(network) if isinstance(m, Dropout)] == [AlphaDropout]
    with pytest.raises(ValueError, match="noise: expected activation selu with alpha"):
        mlp((5,), 3, hidden=[7], dropout_at=place, noise="alpha")


def test_unknown_places_are_refused() -> None:
    known = "every_block, last_block, head, input"
    with pytest.raises(ValueError, match=f"dropout_at: expected one of {known}, got 'all'"):
        mlp(dropout_at="all")


# Ways around blocks


def test_blocks_with_as_many_outputs_as_inputs_become_residual() -> None:
    network = mlp((5,), 3, hidden=[7, 7, 8, 8, 8], residual=True)
    assert [type(m) for m in network[1:-1]] == [Block, Residual, Block, Residual, Residual]
    image = cnn((2, 9, 9), 3, channels=[4, 4], hidden=[4, 8], residual=True)
    kinds_of_stages = [type(m) for m in image]
    assert kinds_of_stages[:4] == [Block, nn.MaxPool2d, Residual, nn.MaxPool2d]
    assert image(torch.randn(6, 2, 9, 9)).shape == (6, 3)


def test_drop_path_grows_linearly_to_the_last_residual_block() -> None:
    """Huang et al. 2016: the l-th of L branches survives with 1 - l / L (1 - p_L)."""
    network = mlp((5,), 3, hidden=[7, 7, 8, 8, 8], residual=True, drop_path=0.3)
    rates = [m.rate.item() for m in network.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("hidden", [[], [8], [8, 16]])
def test_residual_without_a_block_to_go_around_is_refused(hidden: list[int]) -> None:
    with pytest.raises(ValueError, match=r"residual: expected a block .*; type for example hidden"):
        mlp((5,), 3, hidden=hidden, residual=True)


def test_drop_path_without_residual_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_path: expected 0 .*, got 0.2; set residual=True"):
        mlp(drop_path=0.2)


def test_a_width_that_is_not_a_list_is_refused_with_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"hidden: expected a list of widths, got 512; type \[512"):
        mlp(hidden=512)
    with pytest.raises(ValueError, match=r"channels: .*, got 32; type \[32\]"):
        cnn(channels=32)


# All options together, and packs


WITHOUT_A_PACKED_FORM: list[dict[str, Any]] = [
    {"noise": "channel"},
    {"noise": "gaussian"},
    {"noise": "uniform"},
    {"noise": "alpha", "activation": "selu"},
    {"norm": "ghost"},
    {"norm": "layer"},
    {"norm": "group", "groups": 2},
    {"norm": "rms"},
    {"max_norm": 3.0},
    {"residual": True, "drop_path": 0.2},
]
WIDTHS = {"mlp": {"hidden": [16, 16]}, "cnn": {"channels": [8, 8], "hidden": [16]}}


@pytest.mark.parametrize("options", WITHOUT_A_PACKED_FORM, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_trains_and_is_saved_and_loaded(name: str, options: dict[str, Any]) -> None:
    def made() -> nn.Sequential:
        network = NETWORKS[name]((1, 8, 8), 4, **WIDTHS[name], dropout=0.2, **options)
        seed_dropout(network, 7)
        return network

    network, x, y = made(), torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(network(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    expected = network.eval()(x)
    other = made().eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("options", WITHOUT_A_PACKED_FORM, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_packs_refuse_what_has_no_packed_form(name: str, options: dict[str, Any]) -> None:
    """And never train it as something else."""
    networks = [NETWORKS[name](**WIDTHS[name], **options) for _ in range(2)]
    for network in networks:
        seed_dropout(network, 7)
    with pytest.raises(TypeError, match="train this network one trial at a time"):
        stack(networks)
