"""The fused kernels against torch; `test_kernels` runs this file in processes of its own.

There Triton interprets the kernels on the CPU (TRITON_INTERPRET=1, which must be set before they
are imported), or compiles them where there is a GPU.
"""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.blocks import Block, seed_dropout
from dropnorm.blocks.block import ACTIVATIONS
from dropnorm.kernels import fused
from dropnorm.kernels.fused import Keys, activation_name, norm_act_drop
from dropnorm.kernels.updates import update_fused
from dropnorm.optimizers import Optimizer
from dropnorm.pack import stack
from dropnorm.pack.fusing import fused as fused_layers
from dropnorm.pack.fusing import run_fused
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.norm import LaneBatchNorm
from dropnorm.pack.sequential import LaneSequential
from dropnorm.pack.updates import STATE, Numbers, update_together
from dropnorm.random import dropping_on_device, keep_mask_on_device

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
EPS = 1e-5
SHAPES = {
    "linear": (3, 20, 7),
    "one lane": (1, 5, 40),
    "one channel": (2, 9, 1),
    "convolution": (2, 4, 3, 5, 6),
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are made on the device, and blocks are so small that a lane takes several."""
    torch.set_default_device(DEVICE)
    torch.manual_seed(0)
    monkeypatch.setattr(fused, "_TILE", 128)


def keys(lanes: int) -> Keys:
    rate = torch.tensor([0.3, 0.0, 0.6, 0.97])[:lanes]
    seed = torch.tensor([2**62 + 12345, 1, 7, 2**33])[:lanes]
    return Keys(rate, seed, torch.arange(1, lanes + 1))


def operands(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias."""
    lanes, channels = shape[0], shape[2]
    x, w, b = 3 * torch.randn(shape) + 2, torch.rand(lanes, channels), torch.randn(lanes, channels)
    return x.requires_grad_(), (w + 0.5).requires_grad_(), b.requires_grad_()


def plainly(
    x: Tensor, w: Tensor | None, b: Tensor | None, activation: nn.Module, keys: Keys | None
) -> Tensor:
    """The same by torch, a lane at a time."""
    lanes = range(len(x))
    y = torch.stack(
        [
            F.batch_norm(
                x[k], None, None, None if w is None else w[k], None if b is None else b[k], True,
                0.0, EPS,
            )
            for k in lanes
        ]
    )  # fmt: skip
    y = activation(y)
    if keys is None:
        return y
    scale = (1 - keys.rate).view(-1, *[1] * (x.dim() - 1))
    return y * keep_mask_on_device(x.shape, *keys) / scale


def assert_same(mine: Any, torchs: Any) -> None:
    """Both sum in float32, in another order: a few units of rounding of values around 10."""
    torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=2e-5)


CASES = [
    *((name, SHAPES["linear"]) for name in ("none", *ACTIVATIONS)),
    *(("gelu", shape) for shape in SHAPES.values()),
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_values_and_gradients_are_torchs(name: str, shape: tuple[int, ...]) -> None:
    layer = nn.Identity() if name == "none" else ACTIVATIONS[name]()
    assert activation_name(layer) == (None if name == "none" else name)
    given, key = operands(shape), keys(shape[0])
    y, mean, var = norm_act_drop(*given, EPS, name, key)
    expected = plainly(*given, layer, key)
    dy = torch.randn_like(y)
    assert_same(y, expected)
    assert_same(torch.autograd.grad(y, given, dy), torch.autograd.grad(expected, given, dy))
    dims = [1, *range(3, len(shape))]
    assert_same([mean, var], [given[0].mean(dims), given[0].var(dims)])
    assert not mean.requires_grad


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_affine_and_dropout_can_be_left_out(affine: bool, drops: bool) -> None:
    x, *both = operands(SHAPES["linear"])
    weight, bias = both if affine else (None, None)
    key = keys(3) if drops else None
    y, *_ = norm_act_drop(x, weight, bias, EPS, "relu", key)
    expected = plainly(x, weight, bias, nn.ReLU(), key)
    given = [x, *both] if affine else [x]
    assert_same(y, expected)
    dy = torch.randn_like(y)
    assert_same(torch.autograd.grad(y, given, dy), torch.autograd.grad(expected, given, dy))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_masks_are_the_keyed_ones_bit_for_bit(shape: tuple[int, ...]) -> None:
    x, key = torch.randn(shape), keys(shape[0])
    y, *_ = norm_act_drop(x, None, None, EPS, "sigmoid", key)  # which is never 0
    assert torch.equal(y != 0, keep_mask_on_device(shape, *key) != 0)


def test_rates_from_0_to_1_drop_as_the_masks_do() -> None:
    rate = torch.tensor([0, 2**-40, 1e-7, 1e-3, 0.3, 0.5, 0.99, 0.9999, 1 - 2**-24, 1])
    lanes = len(rate)
    key = Keys(rate, torch.arange(lanes), torch.arange(lanes))
    x = torch.randn(lanes, 40, 80)
    y, *_ = norm_act_drop(x, None, None, EPS, "sigmoid", key)
    kept, *_ = norm_act_drop(x, None, None, EPS, "sigmoid")
    assert_same(y, kept * dropping_on_device(x.shape, *key, x.dtype))


def strided(x: Tensor, kind: str) -> Tensor:
    """The same values, laid out otherwise."""
    lanes, rows, channels, *image = x.shape
    if kind == "lanes as groups":  # what a grouped convolution gives
        flat = x.detach().transpose(0, 1).reshape(rows, lanes * channels, *image)
        return flat.view(rows, lanes, channels, *image).transpose(0, 1)
    if kind == "channels last":
        flat = x.detach().transpose(0, 1).reshape(rows, lanes * channels, *image)
        flat = flat.to(memory_format=torch.channels_last)
        return flat.unflatten(1, (lanes, channels)).transpose(0, 1)
    return x.detach().repeat_interleave(2, dim=2)[:, :, ::2]


@pytest.mark.parametrize("kind", ["lanes as groups", "channels last", "with gaps"])
def test_layout_of_values_changes_nothing(kind: str) -> None:
    x, w, b = operands(SHAPES["convolution"])
    other = strided(x, kind).requires_grad_()
    results = []
    for one in (x, other):
        y, mean, _ = norm_act_drop(one, w, b, EPS, "relu", keys(2))
        (y.square().sum() + y[:, :, 0].sum()).backward()
        results.append([y, mean, one.grad])
    assert_same(*results)


def test_half_precision_is_rounded_once() -> None:
    x, w, b = operands(SHAPES["linear"])
    low = x.detach().bfloat16().requires_grad_()
    y, mean, _ = norm_act_drop(low, w, b, EPS, "gelu", keys(3))
    exact, *_ = norm_act_drop(low.float(), w, b, EPS, "gelu", keys(3))
    assert y.dtype == torch.bfloat16
    assert mean.dtype == torch.float32
    torch.testing.assert_close(y, exact.bfloat16(), rtol=2**-7, atol=0)  # interpreted: cut off
    y.sum().backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


def test_step_may_be_counted_on_before_backward() -> None:
    gradients = []
    for counts in (0, 1):
        torch.manual_seed(1)
        given, key = operands(SHAPES["linear"]), keys(3)
        y, *_ = norm_act_drop(*given, EPS, "relu", key)
        key.step.add_(counts)
        gradients.append(torch.autograd.grad(y.square().sum(), given))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, when interpreted
def test_diverged_lane_stays_diverged_and_alone() -> None:
    x, w, b = operands(SHAPES["linear"])
    lost = x.detach().clone()
    lost[1, 3] = torch.inf
    y, *_ = norm_act_drop(lost, w, b, EPS, "relu", keys(3))
    expected, *_ = norm_act_drop(x, w, b, EPS, "relu", keys(3))
    assert y[1].isnan().all()
    torch.testing.assert_close(y[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


def test_batch_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act_drop(torch.randn(2, 1, 3), None, None, EPS)


ORDERS = {"norm act drop": 3, "norm drop act": 2, "act norm drop": 0}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", [None, 3])
def test_block_is_fused_from_its_norm_on(kernel: int | None, order: str) -> None:
    """Against the same layers one by one, the running averages and step counts included."""

    def block() -> LaneSequential:
        torch.manual_seed(0)
        plain = [
            Block(4, 6, kernel=kernel, dropout=0.3, bn_momentum=m, order=order.split())
            for m in (0.1, None)
        ]
        for seed, one in enumerate(plain):
            seed_dropout(one, seed)
        packed = stack(plain)
        assert isinstance(packed, LaneSequential)
        return packed

    one_by_one, at_once = block(), block()
    x = torch.randn(2, 5, 4, *([3, 3] if kernel else []))
    expected = one_by_one.together(x)
    layers = [child for child in at_once.children() if isinstance(child, LaneLayer)]
    y = layers.pop(0).together(x)
    if not ORDERS[order]:
        assert fused_layers(layers, y) == (y, 0)
        y = layers.pop(0).together(y)
    norm = layers.pop(0)
    assert isinstance(norm, LaneBatchNorm)
    y, taken = run_fused(norm, layers, y)
    assert taken == (ORDERS[order] or 2)
    for layer in layers[taken - 1 :]:
        y = layer.together(y)
    assert_same(y, expected)
    assert_same(dict(at_once.named_buffers()), dict(one_by_one.named_buffers()))


LANES: list[dict[str, Any]] = [
    {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99), "momentum": 0.9, "nesterov": True},
    {"lr": 1e-3, "betas": (0.5, 0.9), "momentum": 0.0},
    {"lr": 3e-2, "weight_decay": 0.3, "momentum": 0.5},
]


@pytest.mark.parametrize("shape", [(3, 50, 30), (3, 7)])
@pytest.mark.parametrize("name", STATE)
def test_updates_are_those_of_many_kernels(name: str, shape: tuple[int, ...]) -> None:
    """`update_together` is held against `torch.optim` elsewhere."""
    settings = [Optimizer(name, **lane) for lane in LANES]
    start, states = torch.randn(shape), [{n: torch.zeros(shape) for n in STATE[name]} for _ in "ab"]
    mine, known = start.clone(), start.clone()
    numbers = Numbers(torch.device(DEVICE))
    for _ in range(5):
        n = numbers.next(settings, lambda: [0] * 3, lambda: math.inf)
        gradient = torch.randn(shape)
        update_fused(mine, gradient, states[0], n)
        update_together(known, gradient, states[1], n)
    torch.testing.assert_close([mine, states[0]], [known, states[1]], rtol=1e-5, atol=1e-6)


def test_activations_without_a_kernel_have_no_name() -> None:
    assert activation_name(nn.GELU(approximate="tanh")) is None
    assert activation_name(nn.Mish()) is None
