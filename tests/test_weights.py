"""Weight layers: max-norm as projected gradient steps in NumPy, and weights that are set free."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dropnorm.blocks import MaxNormConv2d, MaxNormLinear
from dropnorm.blocks.weights import unbounded, weight_layer

EXACT = {"rtol": 0.0, "atol": 1e-6}  # float32 after sums of a few dozen terms; see renorm's 1e-7

Bounded = MaxNormLinear | MaxNormConv2d


def made(name: str, max_norm: float) -> Bounded:
    if name == "linear":
        return MaxNormLinear(6, 4, max_norm)
    return MaxNormConv2d(6, 4, 3, max_norm)


def images(name: str) -> torch.Tensor:
    return torch.randn(8, 6) if name == "linear" else torch.randn(8, 6, 5, 5)


def norms(layer: nn.Module) -> np.ndarray:
    """Of the weights into each unit, in NumPy."""
    weight = layer.weight.detach().numpy()
    return np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1))


def projected(weight: np.ndarray, max_norm: float) -> np.ndarray:
    """Srivastava et al. 2014: what lies outside the ball goes to its surface, the rest stays."""
    lengths = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1))
    factors = np.where(lengths > max_norm, max_norm / lengths, 1)
    return weight * factors.reshape(-1, *[1] * (weight.ndim - 1))


def test_training_is_projected_gradient_descent() -> None:
    """By hand, y = W x + b and a loss of its squares: dW = 2 y x', each step and then the ball."""
    layer, max_norm = MaxNormLinear(6, 4, 0.8), 0.8
    sgd = torch.optim.SGD(layer.parameters(), lr=0.02)
    weight, bias = (p.detach().double().numpy().copy() for p in (layer.weight, layer.bias))
    for _ in range(5):
        x = torch.randn(8, 6)
        sgd.zero_grad()
        (-layer(x).square()).sum().backward()  # a loss that drives weights outwards
        sgd.step()
        weight = projected(weight, max_norm)
        inputs = x.double().numpy()
        y = inputs @ weight.T + bias
        weight, bias = weight + 0.02 * 2 * y.T @ inputs, bias + 0.02 * 2 * y.sum(0)
    assert norms(layer).max() > max_norm  # until the next forward
    layer(x)
    np.testing.assert_allclose(layer.weight.detach().numpy(), projected(weight, max_norm), 1e-4)
    np.testing.assert_allclose(layer.bias.detach().numpy(), bias, 1e-4)


def stretched(name: str) -> Bounded:
    """With every other row longer than its bound of 1."""
    layer = made(name, 1.0)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([0.1, 5, 0.2, 9]).view(4, *[1] * (layer.weight.dim() - 1)))
    assert (norms(layer) > 1).tolist() == [False, True, False, True]
    return layer


@pytest.mark.parametrize("name", ["linear", "convolution"])
@pytest.mark.parametrize("training", [True, False])
def test_only_long_weights_are_shortened_and_in_training_for_good(
    name: str, training: bool
) -> None:
    layer, x = stretched(name).train(training), images(name)
    before = layer.weight.detach().clone()
    expected = torch.from_numpy(projected(before.numpy(), 1.0))
    plain = F.linear if name == "linear" else F.conv2d
    padding = {} if name == "linear" else {"padding": "same"}
    y = layer(x)
    torch.testing.assert_close(y, plain(x, expected, layer.bias, **padding), rtol=0, atol=1e-5)
    kept = expected if training else before
    torch.testing.assert_close(layer.weight.detach(), kept, **EXACT)
    assert torch.equal(layer.weight[::2], before[::2])


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_gradients_are_those_of_the_projected_weights(name: str) -> None:
    layer, x = stretched(name), images(name)
    (ours,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    weight = layer.weight.detach().clone().requires_grad_()
    linear = name == "linear"
    y = F.linear(x, weight, layer.bias) if linear else F.conv2d(x, weight, layer.bias, padding=1)
    (theirs,) = torch.autograd.grad(y.square().sum(), weight)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_bounded_weights_can_be_exported(name: str) -> None:
    layer, x = stretched(name).eval(), images(name)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_two_passes_before_one_backward_are_allowed(name: str) -> None:
    layer, x = made(name, 0.1), images(name)
    (layer(x).sum() + layer(layer.weight.new_zeros(x.shape) + x).sum()).backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_state_is_that_of_torchs_layer(name: str) -> None:
    theirs = nn.Linear(6, 4) if name == "linear" else nn.Conv2d(6, 4, 3, padding="same")
    made(name, 1.0).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("kernel", [None, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_unbounded_layers_are_torchs_with_the_same_outputs(kernel: int | None, bias: bool) -> None:
    layer = weight_layer(6, 4, kernel=kernel, bias=bias, max_norm=0.5)
    assert isinstance(layer, Bounded)
    x = torch.randn(8, 6) if kernel is None else torch.randn(8, 6, 5, 5)
    state = torch.get_rng_state()
    plain = unbounded(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(plain) is (nn.Linear if kernel is None else nn.Conv2d)
    assert torch.equal(plain(x), layer(x))
    assert plain.weight is layer.weight and plain.bias is layer.bias


@pytest.mark.parametrize("kernel", [None, 3])
def test_without_a_bound_layers_are_torchs(kernel: int | None) -> None:
    kind = nn.Linear if kernel is None else nn.Conv2d
    assert type(weight_layer(6, 4, kernel=kernel)) is kind


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_bounds_that_leave_nothing_are_refused(max_norm: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm: expected None or a number above 0, got"):
        MaxNormLinear(6, 4, max_norm)
