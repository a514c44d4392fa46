"""Dropout's relatives: published formulas, on given draws, and what all of them share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm.blocks import (
    AlphaDropout,
    BatchNorm,
    ChannelDropout,
    Dropout,
    DropPath,
    GaussianDropout,
    UniformDropout,
    seed_dropout,
)
from dropnorm.blocks.variants import NOISES, noise_layer
from dropnorm.noise import normal, normal_on_device, uniform, uniform_on_device
from dropnorm.random import keep_mask, keep_mask_on_device

KINDS = [*NOISES.values(), DropPath]
RATES = [0.01, 0.3, 0.9]
EXACT = {"rtol": 0.0, "atol": 1e-10}
IMAGES = (8, 5, 7, 6)


def random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def on_device(layer: Dropout, x: Tensor) -> Tensor:
    """The pass of a GPU, run where there is none; keyed by (5, 1)."""
    return layer._noisy_on_device(x, torch.tensor(5), torch.tensor(1))


# Formulas


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(
    ("kind", "units"), [(ChannelDropout, (8, 5, 1, 1)), (DropPath, (8, 1, 1, 1))]
)
def test_whole_channels_or_examples_are_dropped(
    kind: type[Dropout], units: tuple[int, ...], rate: float
) -> None:
    x = random(IMAGES)
    keep = keep_mask(units, rate, 5, 1).bool()
    torch.testing.assert_close(kind(rate, seed=5)(x), torch.where(keep, x / (1 - rate), 0), **EXACT)
    key = torch.tensor(5), torch.tensor(1)
    keep = keep_mask_on_device(units, torch.tensor(rate), *key).bool()
    expected = torch.where(keep, x / (1 - rate), 0)
    torch.testing.assert_close(on_device(kind(rate), x), expected, **EXACT)


def test_channels_go_as_torchs_do() -> None:
    """torch's own draws its mask from elsewhere, but its channels too are all or nothing."""
    x = torch.ones(50, 40, 3, 3)
    for layer in (ChannelDropout(0.3, seed=5), nn.Dropout2d(0.3)):
        y = layer(x).flatten(2)
        assert torch.equal(y, y[..., :1].expand_as(y))
        # 2,000 channels: a standard deviation of 1 %.
        assert abs(float((y == 0).double().mean()) - 0.3) < 0.05


def test_channel_dropout_of_rows_is_dropout() -> None:
    x = random((64, 30))
    assert torch.equal(ChannelDropout(0.3, seed=5)(x), Dropout(0.3, seed=5)(x))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", RATES)
def test_gaussian_noise_is_srivastavas(rate: float) -> None:
    x, sigma = random(IMAGES), math.sqrt(rate / (1 - rate))
    noise = normal(IMAGES, 5, 1, torch.float64)
    torch.testing.assert_close(GaussianDropout(rate, seed=5)(x), x * (1 + sigma * noise), **EXACT)
    noise = normal_on_device(IMAGES, torch.tensor(5), torch.tensor(1), torch.float64)
    expected = x * (1 + sigma * noise)
    torch.testing.assert_close(on_device(GaussianDropout(rate), x), expected, **EXACT)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", RATES)
def test_uniform_noise_is_uout(rate: float) -> None:
    x = random(IMAGES)
    r = rate * uniform(IMAGES, 5, 1, torch.float64)
    torch.testing.assert_close(UniformDropout(rate, seed=5)(x), x * (1 + r), **EXACT)
    r = rate * uniform_on_device(IMAGES, torch.tensor(5), torch.tensor(1), torch.float64)
    torch.testing.assert_close(on_device(UniformDropout(rate), x), x * (1 + r), **EXACT)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", RATES)
def test_alpha_dropout_is_torchs(rate: float) -> None:
    """torch's output tells its mask: what is dropped is the same everywhere. Ours gets that mask.

    Its constant has 17 digits, ours is the product of SELU's two; the rest is rounding.
    """
    x = random((64, 30))
    theirs = F.alpha_dropout(x, rate, training=True)
    s, q = -1.0507009873554805 * 1.6732632423543772, 1 - rate
    a = (q + s**2 * q * (1 - q)) ** -0.5
    b = -a * (1 - q) * s
    keep = (theirs - (a * s + b)).abs() > 1e-9
    torch.testing.assert_close(theirs, a * torch.where(keep, x, s) + b, **EXACT)
    keep = keep_mask(x.shape, rate, 5, 1).bool()
    expected = a * torch.where(keep, x, s) + b
    torch.testing.assert_close(AlphaDropout(rate, seed=5)(x), expected, **EXACT)
    key = torch.tensor(5), torch.tensor(1)
    keep = keep_mask_on_device(x.shape, torch.tensor(rate), *key).bool()
    expected = a * torch.where(keep, x, s) + b
    torch.testing.assert_close(on_device(AlphaDropout(rate), x), expected, **EXACT)


# Moments, over some 10^6 units


@pytest.mark.parametrize(
    ("kind", "variance"),
    [(Dropout, 0.25), (GaussianDropout, 0.25), (UniformDropout, 0.2**2 / 3)],
)
def test_units_keep_their_mean_and_get_the_variance_promised(
    kind: type[Dropout], variance: float
) -> None:
    y = kind(0.2, seed=5)(torch.ones(1000, 1000)).double()
    assert abs(float(y.mean()) - 1) < 5 * (variance / 1e6) ** 0.5
    assert float(y.var()) == pytest.approx(variance, rel=0.01)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_alpha_dropout_keeps_the_mean_and_variance_of_selu(rate: float) -> None:
    """A mean and variance of n = 10^6 units: 5 / sqrt(n), and some more for SELU's tail."""
    x = F.selu(random((1000, 1000)))
    y = AlphaDropout(rate, seed=5)(x)
    assert abs(float(x.mean())) < 0.01 and abs(float(x.var()) - 1) < 0.01  # SELU's fixed point
    assert abs(float(y.mean())) < 0.01
    assert abs(float(y.var()) - 1) < 0.02


def test_uout_shifts_the_variance_that_batch_norm_learns_by_3_over_3_and_beta_squared() -> None:
    """Li et al. 2019: running (training) variance against that of evaluation, which has no noise.

    At a mean of 0 the shift is 3 / (3 + 0.25) = 0.923; dropout's at the same rate would be 0.5.
    """
    x = random((100_000, 4))
    norm = BatchNorm(4, momentum=1.0)
    norm(UniformDropout(0.5, seed=5)(x))
    shift = x.var(0) / norm.running_var
    torch.testing.assert_close(shift, torch.full((4,), 3 / 3.25), rtol=0.01, atol=0)


@pytest.mark.parametrize("kind", [ChannelDropout, DropPath, AlphaDropout])
def test_a_rate_of_one_written_into_a_layer_leaves_zeros(kind: type[Dropout]) -> None:
    layer, x = kind(0.5, seed=5), random(IMAGES).requires_grad_()
    layer.rate.fill_(1.0)
    for y in (layer(x), on_device(layer, x)):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert not y.any()
        assert not gradient.any()


# What all share


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_the_identity_and_counts_no_step(kind: type[Dropout]) -> None:
    layer, x = kind(0.5, seed=5).eval(), random(IMAGES)
    assert layer(x) is x
    assert layer.step == 0


@pytest.mark.parametrize("kind", KINDS)
def test_rate_zero_changes_nothing_on_any_device(kind: type[Dropout]) -> None:
    layer, x = kind(0.0, seed=5), random(IMAGES)
    assert torch.equal(layer(x), x)
    assert layer.step == 1
    torch.testing.assert_close(on_device(layer, x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_a_function_of_seed_and_step_and_starts_again_when_seeded(
    kind: type[Dropout],
) -> None:
    x = torch.ones(64, 30)
    network = nn.Sequential(kind(0.5), kind(0.5))
    seed_dropout(network, 7)
    first, second = network[0], network[1]
    drawn = [first(x) for _ in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(second(x), drawn[0])
    seed_dropout(network, 7)
    assert all(torch.equal(first(x), again) for again in drawn)
    first.step = 1
    assert torch.equal(first(x), drawn[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_output_and_gradient_have_the_dtype_of_the_input(
    kind: type[Dropout], dtype: torch.dtype
) -> None:
    x = random((64, 30)).to(dtype).requires_grad_()
    for y in (kind(0.3, seed=5)(x), on_device(kind(0.3), x)):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert y.dtype == gradient.dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_changing_the_rate_changes_the_next_noise(kind: type[Dropout]) -> None:
    layer, steady, x = kind(0.9, seed=5), kind(0.2, seed=5), random((64, 30))
    for each in (layer, steady):
        each(x)
    layer.rate.fill_(0.2)
    assert torch.equal(layer(x), steady(x))


# By name


@pytest.mark.parametrize("noise", NOISES)
def test_every_name_has_its_layer(noise: str) -> None:
    layer = noise_layer(noise, 0.25, "selu")
    assert type(layer) is NOISES[noise]
    assert layer.rate == 0.25


def test_alpha_is_refused_where_selu_is_not() -> None:
    with pytest.raises(ValueError, match=r"expected activation selu with alpha, .*, got 'relu'"):
        noise_layer("alpha", 0.1, "relu")


def test_unknown_noise_is_refused_with_what_there_is() -> None:
    known = "dropout, channel, gaussian, alpha, uniform"
    with pytest.raises(ValueError, match=f"noise: expected one of {known}, got 'gauss'"):
        noise_layer("gauss", 0.1, "relu")


@pytest.mark.parametrize("kind", KINDS)
def test_rates_outside_zero_to_one_are_refused(kind: type[Dropout]) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= rate < 1, got 1.0"):
        kind(1.0)


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_passes_are_those_of_the_same_hash_on_the_cpu(kind: type[Dropout]) -> None:
    x = random(IMAGES)
    drawn = kind(0.3, seed=5).cuda()(x.cuda()).cpu()
    torch.testing.assert_close(drawn, on_device(kind(0.3), x), rtol=1e-5, atol=1e-5)
