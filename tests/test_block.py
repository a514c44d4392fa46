"""Block: which layers it has, in which order, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
from torch import nn

from dropnorm.blocks import BatchNorm, Block, Dropout
from dropnorm.blocks.block import ACTIVATIONS, ORDER

ORDERS = list(permutations(ORDER))


def names(block: Block) -> list[str]:
    return [name for name, _ in block.named_children()]


def test_default_order_is_weight_norm_activation_dropout() -> None:
    kinds = [type(layer) for layer in Block(6, 4)]
    assert kinds == [nn.Linear, BatchNorm, nn.ReLU, Dropout]


@pytest.mark.parametrize("order", ORDERS)
def test_layers_run_in_the_order_asked_for(order: Sequence[str]) -> None:
    block = Block(6, 4, order=order, dropout=0.5)
    assert names(block) == ["weight", *order]
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    step_by_step = x
    for name in ("weight", *order):
        step_by_step = getattr(block.eval(), name)(step_by_step)
    assert torch.equal(block(x), step_by_step)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [None, 3])
def test_bias_is_left_out_only_right_before_a_norm(
    order: Sequence[str], kernel: int | None
) -> None:
    with_norm = Block(6, 4, kernel=kernel, order=order)
    without = Block(6, 4, kernel=kernel, order=order, norm="none")
    assert (with_norm.weight.bias is None) == (order[0] == "norm")
    assert without.weight.bias is not None


def test_a_bias_before_a_norm_would_have_no_gradient_but_rounding() -> None:
    """Why it is left out. The sum of 64 terms of about 1 rounds at 64 * 6e-8 = 4e-6."""
    linear, norm = nn.Linear(6, 4), BatchNorm(4)
    generator = torch.Generator().manual_seed(0)
    y = norm(linear(torch.randn(64, 6, generator=generator)))
    y.backward(torch.randn(64, 4, generator=generator))
    assert linear.bias.grad.abs().max() < 1e-5 < linear.weight.grad.abs().max()


def test_without_norm_there_is_none() -> None:
    assert names(Block(6, 4, norm="none")) == ["weight", "act", "drop"]


def test_settings_reach_the_layers() -> None:
    block = Block(6, 4, dropout=0.25, bn_momentum=0.5, activation="gelu")
    assert block.drop.rate == 0.25
    assert block.norm.momentum == 0.5
    assert isinstance(block.act, nn.GELU)
    assert Block(6, 4, bn_momentum=None).norm.momentum is None  # the cumulative average


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_its_namesake(activation: str) -> None:
    x = torch.linspace(-3, 3, 20)
    expected = getattr(torch.nn.functional, activation)(x)
    torch.testing.assert_close(Block(6, 4, activation=activation).act(x), expected)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolutions_keep_the_size_of_the_image(kernel: int) -> None:
    block = Block(3, 8, kernel=kernel)
    assert isinstance(block.weight, nn.Conv2d)
    assert block(torch.ones(2, 3, 9, 7)).shape == (2, 8, 9, 7)


@pytest.mark.parametrize(
    "order", [["norm", "act"], ["norm", "act", "act"], ["norm", "act", "drop", "drop"], ["a"]]
)
def test_incomplete_orders_are_refused(order: list[str]) -> None:
    with pytest.raises(ValueError, match=r"order: expected norm, act and drop, each once, got \["):
        Block(6, 4, order=order)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "layer"}, "norm: expected one of batch, none, got 'layer'"),
        ({"activation": "rleu"}, "activation: expected one of relu, .*, got 'rleu'"),
        ({"dropout": 1.0}, "dropout: expected 0 <= rate < 1, got 1.0"),
        ({"bn_momentum": 0.0}, "bn_momentum: expected 0 < momentum <= 1 or None, got 0.0"),
    ],
)
def test_unknown_names_and_values_out_of_range_are_refused(
    setting: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Block(6, 4, **setting)
