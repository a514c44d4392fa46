"""Keyed draws: definitions in Python's own numbers, their distributions, and lanes.

Statistics are z-scores held to |z| < 5, which a fair draw exceeds once in 1.7 million; the keys are
fixed, so a test that passes once passes always.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dropnorm.noise import _box_muller, normal, normal_on_device, uniform, uniform_on_device
from dropnorm.random import words
from dropnorm.seeds import derive
from tests.test_random import lowbias32

SEED, STEP = derive(3, "dropout", 0), 17
M = (1 << 32) - 1
Draw = Callable[[tuple[int, ...], int, int], Tensor]


def on_device(draw: Callable[..., Tensor]) -> Draw:
    def drawn(shape: tuple[int, ...], seed: int, step: int) -> Tensor:
        return draw(shape, torch.tensor(seed), torch.tensor(step))

    return drawn


UNIFORM: dict[str, Draw] = {"cpu": uniform, "device": on_device(uniform_on_device)}
NORMAL: dict[str, Draw] = {"cpu": normal, "device": on_device(normal_on_device)}
ALL = [*UNIFORM.values(), *NORMAL.values()]


def words_by_hand(count: int) -> list[int]:
    return [int(word) for word in words(SEED, STEP, count)]  # themselves tested in test_random


def hashes_by_hand(count: int) -> list[int]:
    key = lowbias32(lowbias32(SEED & M) ^ (SEED >> 32) ^ STEP)
    return [lowbias32((lowbias32(i ^ key) + (key >> 7)) & M) for i in range(count)]


def box_muller(pairs: list[tuple[int, int]]) -> list[float]:
    """The cosines of all pairs, then the sines."""
    radii = [math.sqrt(-2 * math.log((first + 0.5) / 2**32)) for first, _ in pairs]
    angles = [2 * math.pi * second / 2**32 for _, second in pairs]
    return [
        radius * wave(angle)
        for wave in (math.cos, math.sin)
        for radius, angle in zip(radii, angles, strict=True)
    ]


# Definitions


def test_uniform_numbers_are_the_16_bit_parts_of_the_words() -> None:
    levels = [(word >> shift) & 0xFFFF for word in words_by_hand(25) for shift in (0, 16, 32, 48)]
    signed = [level - 65536 if level >= 32768 else level for level in levels]
    expected = [(level + 0.5) / 32768 for level in signed]
    assert uniform((99,), SEED, STEP).tolist() == expected[:99]


def test_uniform_numbers_of_a_device_are_the_upper_bits_of_the_hashes() -> None:
    expected = [((number >> 16) + 0.5) / 32768 - 1 for number in hashes_by_hand(99)]
    assert UNIFORM["device"]((99,), SEED, STEP).tolist() == expected


def test_normal_numbers_are_box_and_mullers_of_both_halves_of_a_word() -> None:
    pairs = [(word & M, word >> 32) for word in words_by_hand(50)]
    drawn = normal((99,), SEED, STEP, torch.float64)
    torch.testing.assert_close(drawn, torch.tensor(box_muller(pairs)[:99], dtype=torch.float64))


def test_normal_numbers_of_a_device_are_box_and_mullers_of_two_hashes() -> None:
    numbers = hashes_by_hand(100)
    expected = box_muller(list(zip(numbers[::2], numbers[1::2], strict=True)))[:99]
    key = torch.tensor(SEED), torch.tensor(STEP)
    drawn = normal_on_device((99,), *key, torch.float64)
    torch.testing.assert_close(drawn, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("draw", [normal, uniform])
def test_float32_is_float64_rounded(draw: Callable[..., Tensor]) -> None:
    """The angle has 24 bits of 2 pi left, 4e-7, times a radius of up to 7."""
    single, double = (draw((1000,), SEED, STEP, t) for t in (torch.float32, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=3e-6)


def test_the_lowest_and_the_highest_32_bits_make_finite_numbers() -> None:
    first, second = torch.tensor([[0, 0, M, M], [0, M, 0, M]], dtype=torch.float32)
    drawn = _box_muller(first, second)
    assert drawn.isfinite().all()
    assert 6.7 < drawn.abs().max() < 6.8


# Distributions


@pytest.mark.parametrize("draw", UNIFORM.values(), ids=UNIFORM)
def test_uniform_numbers_fill_the_interval_evenly(draw: Draw) -> None:
    drawn = draw((1 << 18,), 5, 1).double().numpy()
    assert stats.kstest(drawn, stats.uniform(-1, 2).cdf).pvalue > 1e-6
    assert abs(drawn.mean()) * math.sqrt(3 * len(drawn)) < 5
    assert np.abs(drawn).max() < 1


@pytest.mark.parametrize("draw", NORMAL.values(), ids=NORMAL)
def test_normal_numbers_are_normal(draw: Draw) -> None:
    drawn = draw((1 << 18,), 5, 1).double().numpy()
    n = len(drawn)
    assert stats.kstest(drawn, stats.norm.cdf).pvalue > 1e-6
    assert abs(drawn.mean()) * math.sqrt(n) < 5
    assert abs(drawn.var() - 1) * math.sqrt(n / 2) < 5
    assert abs((drawn**4).mean() - 3) * math.sqrt(n / 96) < 5  # the variance of z^4 is 96


@pytest.mark.parametrize("draw", NORMAL.values(), ids=NORMAL)
def test_the_two_numbers_of_a_pair_are_independent(draw: Draw) -> None:
    cosines, sines = draw((1 << 18,), 5, 1).double().view(2, -1).numpy()
    for a, b in ((cosines, sines), (np.abs(cosines), np.abs(sines))):
        assert abs(np.corrcoef(a, b)[0, 1]) * math.sqrt(len(a)) < 5


@pytest.mark.parametrize("draw", ALL)
def test_neighbouring_steps_seeds_and_units_are_uncorrelated(draw: Draw) -> None:
    start = draw((40_000,), 3, 7).double().numpy()
    others = [draw((40_000,), seed, step).double().numpy() for seed, step in ((3, 8), (4, 7))]
    for a, b in ((start, others[0]), (start, others[1]), (start[:-1], start[1:])):
        assert abs(np.corrcoef(a, b)[0, 1]) * math.sqrt(len(a)) < 5


# Keys


@pytest.mark.parametrize("draw", ALL)
def test_same_key_gives_the_same_numbers_and_shape_only_arranges_them(draw: Draw) -> None:
    flat = draw((60,), 7, 3)
    assert torch.equal(draw((60,), 7, 3), flat)
    assert torch.equal(draw((3, 4, 5), 7, 3), flat.view(3, 4, 5))
    assert not torch.equal(draw((60,), 7, 4), flat)
    assert not torch.equal(draw((60,), 8, 3), flat)


@pytest.mark.parametrize("draw", [uniform_on_device, normal_on_device])
def test_a_lane_draws_what_it_draws_alone(draw: Callable[..., Tensor]) -> None:
    seeds = torch.tensor([derive(k, "dropout", 0) for k in (0, 1, 2)])
    steps = torch.tensor([1, 5, 100_000])
    together = draw((3, 7, 5), seeds, steps)
    for lane in range(3):
        assert torch.equal(together[lane], draw((7, 5), seeds[lane], steps[lane]))
