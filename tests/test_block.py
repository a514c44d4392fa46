"""Block: which layers it has, in which order, and what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropnorm.blocks import (
    BatchNorm,
    Block,
    Dropout,
    GhostBatchNorm,
    MaxNormConv2d,
    MaxNormLinear,
    seed_dropout,
)
from dropnorm.blocks.block import ACTIVATIONS, NORMS, ORDER
from dropnorm.blocks.variants import NOISES
from dropnorm.random import keep_mask

ORDERS = list(permutations(ORDER))
IC = ("norm", "drop", "weight", "act")


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


@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norms_take_the_bias_out(norm: str) -> None:
    """Others take a mean over channels, which leaves each channel's bias its own effect."""
    block = Block(6, 4, norm=norm, groups=2)
    assert (block.weight.bias is None) == (norm in ("batch", "ghost"))
    assert Block(6, 4, norm=norm, groups=2, order=["act", "norm", "drop"]).weight.bias is not None


def test_without_norm_there_is_none() -> None:
    assert names(Block(6, 4, norm="none")) == ["weight", "act", "drop"]


def test_dropout_none_leaves_the_layer_out() -> None:
    assert names(Block(6, 4, dropout=None)) == ["weight", "norm", "act"]


@pytest.mark.parametrize("order", list(permutations(IC)))
@pytest.mark.parametrize("kernel", [None, 3])
def test_weights_may_come_anywhere_and_the_norm_fits_what_reaches_it(
    order: Sequence[str], kernel: int | None
) -> None:
    block = Block(6, 4, kernel=kernel, order=order)
    assert names(block) == list(order)
    after = order.index("norm") - order.index("weight")
    assert block.norm.num_features == (4 if after > 0 else 6)
    assert (block.weight.bias is None) == (after == 1)
    shape = (8, 6) if kernel is None else (8, 6, 5, 5)
    assert block(torch.randn(shape)).shape == (8, 4, *shape[2:])


def test_ic_layers_give_the_weights_independent_inputs() -> None:
    """Chen et al. 2019: batch norm, dropout, weights, activation; computed step by step."""
    block, x = Block(6, 4, order=IC, dropout=0.5), torch.randn(32, 6) * 3 + 1
    block.drop.seed = 5
    keep = keep_mask((32, 6), 0.5, 5, 1)
    whitened = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() * keep * 2
    expected = (whitened @ block.weight.weight.T + block.weight.bias).relu()
    torch.testing.assert_close(block(x), expected)


def test_settings_reach_the_layers() -> None:
    block = Block(6, 4, dropout=0.25, bn_momentum=0.5, activation="gelu")
    assert block.drop.rate == 0.25
    assert block.norm.momentum == 0.5
    assert isinstance(block.act, nn.GELU)
    assert Block(6, 4, bn_momentum=None).norm.momentum is None  # the cumulative average
    ghost = Block(6, 4, norm="ghost", ghost_batch=16, bn_momentum=0.5).norm
    assert isinstance(ghost, GhostBatchNorm)
    assert (ghost.ghost_batch, ghost.momentum) == (16, 0.5)
    assert Block(6, 4, norm="group", groups=2).norm.num_groups == 2
    for kernel, kind in ((None, MaxNormLinear), (3, MaxNormConv2d)):
        weight = Block(6, 4, kernel=kernel, max_norm=3.0).weight
        assert type(weight) is kind
        assert weight.max_norm == 3.0


@pytest.mark.parametrize("noise", NOISES)
def test_dropouts_rate_is_that_of_the_noise_chosen(noise: str) -> None:
    drop = Block(6, 4, noise=noise, dropout=0.25, activation="selu").drop
    assert type(drop) is NOISES[noise]
    assert drop.rate == 0.25


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


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_on_the_cpu_run_with_channels_last(channels: int) -> None:
    """Bitwise as with image and weights turned by hand, the gradients too."""
    block = Block(channels, 8, kernel=3, norm="none", activation="tanh")
    x = torch.randn(4, channels, 9, 7, requires_grad=True)
    last = torch.channels_last
    turned, weight = x.to(memory_format=last), block.weight.weight.to(memory_format=last)
    expected = F.conv2d(turned, weight, block.weight.bias, padding="same").tanh()
    y = block(x)
    assert y.is_contiguous(memory_format=last)
    assert torch.equal(y, expected)
    inputs = (x, *block.parameters())
    ours, theirs = (torch.autograd.grad(z.square().sum(), inputs) for z in (y, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_convolutions_can_be_mapped_over_trials() -> None:
    block = Block(3, 8, kernel=3, norm="none", dropout=None)
    state = {name: value.expand(2, *value.shape) for name, value in block.state_dict().items()}
    x = torch.randn(2, 4, 3, 9, 7)
    y = torch.func.vmap(lambda s, images: torch.func.functional_call(block, s, images))(state, x)
    torch.testing.assert_close(y, torch.stack([block(images) for images in x]))


@pytest.mark.parametrize(
    "order",
    [
        ["norm", "act"],
        ["norm", "act", "act"],
        ["norm", "act", "drop", "drop"],
        ["a"],
        [*IC, "weight"],
    ],
)
def test_incomplete_orders_are_refused(order: list[str]) -> None:
    with pytest.raises(ValueError, match=r"order: expected norm, act and drop, each once, got \["):
        Block(6, 4, order=order)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"norm": "bacth"}, "norm: expected one of batch, .*, none, got 'bacth'"),
        ({"norm": "group", "groups": 3}, "groups: expected a divisor of 4, got 3"),
        ({"norm": "ghost", "ghost_batch": 1}, "ghost_batch: expected 2 or more examples, got 1"),
        ({"noise": "gauss"}, "noise: expected one of dropout, .*, got 'gauss'"),
        ({"noise": "alpha"}, "noise: expected activation selu with alpha, .*, got 'relu'"),
        ({"max_norm": 0.0}, "max_norm: expected None or a number above 0, got 0.0"),
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


@pytest.mark.parametrize(
    ("norm", "listened"),
    [("batch", "norm"), ("batch", "act"), ("batch", "drop"), ("none", "act"), ("none", "drop")],
)
@pytest.mark.parametrize("kernel", [None, 3])
def test_whoever_listens_to_a_stage_hears_it_and_changes_nothing(
    norm: str, listened: str, kernel: int | None
) -> None:
    """One loop for all stages, or one stage after the other: the same bits, there and back."""
    heard: list[nn.Module] = []
    x, results = torch.randn(6, 5, *[] if kernel is None else [9, 7]), []
    for hooked in (False, True):
        torch.manual_seed(0)  # for equal weights
        block = Block(5, 7, norm=norm, dropout=0.3, kernel=kernel)
        seed_dropout(block, 3)
        if hooked:
            block.get_submodule(listened).register_forward_hook(lambda m, *_: heard.append(m))
        inputs = x.clone().requires_grad_()
        y = block(inputs)
        y.square().sum().backward()
        gradients = [parameter.grad for parameter in block.parameters()]
        results.append([y, inputs.grad, *gradients, *block.state_dict().values()])
        assert len(heard) == hooked
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_changing_the_output_in_place_is_refused_and_never_wrong(norm: str) -> None:
    block, x = Block(4, 4, norm=norm, dropout=0.5), torch.randn(8, 4)
    changed, summed = block(x), block(x)
    changed += x
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.sum().backward()
    (summed + x).sum().backward()
