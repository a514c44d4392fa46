"""The compiled loops against numpy and torch, and that their bits depend on nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dropnorm.blocks import BatchNorm
from dropnorm.kernels import loops
from dropnorm.kernels.averages import track
from dropnorm.kernels.compiled import compiled
from dropnorm.kernels.cpu import NO_DROP, NO_FLOOR, fits, rows
from dropnorm.random import dropping, keep_mask

EPS = 1e-5
DROP = dropping(0.3, 5, 7)


def random(*shape: int, seed: int = 0, dtype: type = np.float64) -> np.ndarray:
    """Off centre and off scale, so that wrong statistics show."""
    return (np.random.default_rng(seed).normal(size=shape) * 3 + 2).astype(dtype)


def affine(channels: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(0.5, 2, channels, dtype=dtype), np.linspace(-1, 1, channels, dtype=dtype)


def there_and_back(
    x: np.ndarray, dy: np.ndarray, floor: float, drop: loops.Drop, pixels: int = 1
) -> list[np.ndarray]:
    """y, dx, the gradients of weight and bias, and the mean and variance."""
    weight, bias = affine(x.shape[1], x.dtype.type)
    y, dx = np.empty_like(x), np.empty_like(x)
    mean, var, inverse = loops.normalise(x, y, weight, bias, EPS, floor, drop, pixels)
    d_weight, d_bias = np.empty_like(weight), np.empty_like(bias)
    loops.backward(dy, x, y, dx, weight, mean, inverse, floor, drop[1], d_weight, d_bias)
    return [y, dx, d_weight, d_bias, mean, var]


def by_torch(x: Tensor, dy: Tensor, floor: float, mask: Tensor | float) -> list[Tensor]:
    weight, bias = (torch.from_numpy(a).requires_grad_() for a in affine(x.shape[1]))
    x = x.clone().requires_grad_()
    mean, var = torch.zeros(2, x.shape[1], dtype=x.dtype)
    y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, EPS).clamp(min=floor) * mask
    y.backward(dy)
    assert x.grad is not None and weight.grad is not None and bias.grad is not None
    return [y.detach(), x.grad, weight.grad, bias.grad, mean, var]


@pytest.mark.parametrize(("seed", "step"), [(0, 1), (5, 7), (2**63 - 1, 10**9)])
def test_draws_are_those_of_numpys_sfc64(seed: int, step: int) -> None:
    generator = np.random.SFC64(0)
    state = generator.state
    state["state"]["state"][:] = (seed, step, 0, 1)
    generator.state = state
    expected = generator.random_raw(12 + 100)[12:].view(np.int16)
    assert np.array_equal(loops.draw(399, seed, step), expected[:399])


@pytest.mark.parametrize("drop", [NO_DROP, DROP])
@pytest.mark.parametrize("floor", [NO_FLOOR, 0.0])
@pytest.mark.parametrize("shape", [(128, 37), (70, 8), (2, 3)])
def test_rows_go_there_and_back_as_by_torch(
    shape: tuple[int, int], floor: float, drop: loops.Drop
) -> None:
    """In float64, so that 1e-10 leaves room for another order of sums and for nothing else."""
    if drop is DROP and floor == NO_FLOOR:
        pytest.skip("a dropped unit cannot be told from another without a floor")
    x, dy = random(*shape), random(*shape, seed=1)
    mask = keep_mask(shape, 0.3, 5, 7, drop[1], double=True) if drop is DROP else 1.0
    mine = there_and_back(x, dy, floor, drop)
    theirs = by_torch(torch.from_numpy(x), torch.from_numpy(dy), floor, mask)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-10, atol=1e-10)


def test_images_go_there_and_back_as_by_torch() -> None:
    """Their masks are drawn with channels first, as everywhere."""
    shape = (6, 5, 4, 3)
    x, dy = (
        torch.from_numpy(random(*shape, seed=s)).to(memory_format=torch.channels_last)
        for s in (0, 1)
    )
    assert fits(x)
    mask = keep_mask(shape, 0.3, 5, 7, DROP[1], double=True)
    mine = there_and_back(rows(x), rows(dy), 0.0, DROP, pixels=12)
    y, dx, *others = by_torch(x, dy, 0.0, mask)
    theirs = [rows(t.contiguous(memory_format=torch.channels_last)) for t in (y, dx)]
    for a, b in zip(mine, [*theirs, *(t.numpy() for t in others)], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_loop_has_the_bits_of_one_layer_after_the_other(dtype: type) -> None:
    """Whatever the compiler makes of them: it contracts nothing, and sums in the same order."""
    x, dy = random(50, 37, dtype=dtype), random(50, 37, seed=1, dtype=dtype)
    y, dx, *others = there_and_back(x, dy, 0.0, DROP)
    z, *_ = there_and_back(x, dy, NO_FLOOR, NO_DROP)
    mask = keep_mask(x.shape, 0.3, 5, 7, DROP[1], double=dtype is np.float64).numpy()
    assert np.array_equal(y, np.maximum(z, 0) * mask)
    slopes = dy * mask * (z > 0)
    _, *apart = there_and_back(x, slopes, NO_FLOOR, NO_DROP)
    assert all(np.array_equal(a, b) for a, b in zip([dx, *others], apart, strict=True))


@pytest.mark.parametrize("channels", [3, 8, 37])
def test_bits_of_a_channel_depend_on_no_other_and_on_no_address(channels: int) -> None:
    x, dy = random(50, 64, dtype=np.float32), random(50, 64, seed=1, dtype=np.float32)
    whole = there_and_back(x[:, :channels].copy(), dy[:, :channels].copy(), 0.0, NO_DROP)
    memory = np.empty(50 * channels + 1, np.float32)
    moved = memory[1:].reshape(50, channels)
    moved[:] = x[:, :channels]
    again = there_and_back(moved, dy[:, :channels].copy(), 0.0, NO_DROP)
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


def test_variance_of_a_channel_far_from_zero_keeps_its_digits() -> None:
    """Sums of 50,000 squares in float32 alone would keep three; 1e-4 is a few float32 roundings of
    values a thousand times their deviation."""
    x = (1000 + random(50_000, 4)).astype(np.float32)
    mean, var = np.empty(4, np.float32), np.empty(4, np.float32)
    loops.statistics(x, mean, var)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(var, x.var(0, dtype=np.float64), rtol=1e-4)


def test_averages_follow_their_momenta() -> None:
    momenta = np.array([0.001, 0.3, 0.7, 1.0, 0.0])
    means, variances = random(5, 6), random(5, 6, seed=1)
    mean, var = random(6, seed=2), random(6, seed=3)
    shares = np.where(momenta > 0, momenta, 1 / 4)[:, None]
    expected = [(1 - shares) * a + shares * b for a, b in ((means, mean), (variances, var))]
    track(means, variances, momenta, mean, var, 4)
    np.testing.assert_allclose(means, expected[0], rtol=1e-14)
    np.testing.assert_allclose(variances, expected[1], rtol=1e-14)
    assert np.array_equal(means[3], mean) and np.array_equal(variances[3], var)


def test_a_loop_that_cannot_be_kept_on_disk_is_compiled_all_the_same() -> None:
    """As one whose source is no file, or lies where nothing can be written."""
    names: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", names)
    assert compiled(names["double"])(21) == 42


# The layer that is made of them


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", [(6, 4), (5, 4, 3, 2)])
def test_batch_norm_has_gradients_of_gradients(shape: tuple[int, ...]) -> None:
    norm, x = BatchNorm(4), torch.randn(shape)
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    assert torch.autograd.gradcheck(norm, (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(norm, (x,))


@pytest.mark.usefixtures("double")
def test_batch_norm_of_images_in_either_order_is_the_same() -> None:
    x = torch.randn(6, 4, 5, 3)
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        norm, inputs = BatchNorm(4), x.clone(memory_format=order).requires_grad_()
        norm(inputs).square().sum().backward()
        results.append((norm.running_mean, norm.running_var, inputs.grad, norm.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
