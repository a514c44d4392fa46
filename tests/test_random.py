"""Keyed draws: the masks are the published generators', fair in every bit, and nobody's stream.

Statistics are z-scores held to |z| < 5. A fair draw exceeds that once in 1.7 million; about 4,000
are looked at below, and their keys are fixed, so a test that passes once passes always. The faults
looked for are not subtle on this scale: a sign bit that never flips makes z > 500.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from dropnorm.random import (
    COARSE,
    LEVELS,
    dropping,
    dropping_on_device,
    keep_mask,
    keep_mask_on_device,
    seeded,
    threshold,
)
from dropnorm.seeds import derive

RATES = [0.01, 0.3, 0.5, 0.9]
SIGMAS = 5
Masks = Callable[[int, float, list[tuple[int, int]]], Tensor]


def on_cpu(units: int, rate: float, keys: list[tuple[int, int]]) -> Tensor:
    """One mask a (seed, step), [len(keys), units]."""
    return torch.stack([keep_mask((units,), rate, seed, step) for seed, step in keys])


def on_device(units: int, rate: float, keys: list[tuple[int, int]]) -> Tensor:
    """The same by the device's generator: one lane a key."""
    seeds, steps = torch.tensor(keys).unbind(1)
    rates = torch.full((len(keys),), rate)
    return keep_mask_on_device((len(keys), units), rates, seeds, steps)


@pytest.fixture(params=[on_cpu, on_device])
def masks(request: pytest.FixtureRequest) -> Masks:
    draw: Masks = request.param
    return draw


def keep_rate(rate: float) -> float:
    """What a mask of this rate keeps on the CPU: rates are multiples of 1/65,536.

    On a device it keeps 1 - rate, which at these counts is the same to a part of a sigma.
    """
    return 1 - threshold(rate) / LEVELS


def z_of_rate(kept: Tensor, draws: int, rate: float) -> Tensor:
    """How many standard deviations a count of kept units is from its binomial mean."""
    p = keep_rate(rate)
    return (kept.double() - draws * p) / (draws * p * (1 - p)) ** 0.5


def z_of_correlation(a: Tensor, b: Tensor, rate: float) -> float:
    """Standard normal if the masks are independent: products of centred draws, summed."""
    p = keep_rate(rate)
    return float(((a - p).double() * (b - p).double()).sum() / (p * (1 - p) * a.numel() ** 0.5))


# The generators themselves, against their definitions in Python's own integers


def sfc64(a: int, b: int, c: int, counter: int) -> Iterator[int]:
    """Doty-Humphrey's SFC64, as in PractRand."""
    m = (1 << 64) - 1
    while True:
        word = (a + b + counter) & m
        counter = (counter + 1) & m
        a = b ^ (b >> 11)
        b = (c + (c << 3)) & m
        c = (((c << 24) | (c >> 40)) + word) & m
        yield word


def lowbias32(x: int) -> int:
    """Wellons' hash of 32 bits."""
    m = (1 << 32) - 1
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & m
    x = ((x ^ (x >> 15)) * 0x846CA68B) & m
    return x ^ (x >> 16)


def test_mask_is_16_bit_thresholds_on_sfc64_started_at_the_key() -> None:
    seed, step, rate = derive(3, "dropout", 0), 17, 0.3
    words = islice(sfc64(seed, step, 0, 1), 12, 12 + 25)
    levels = [(word >> shift) & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    signed = [level - LEVELS if level >= LEVELS // 2 else level for level in levels]
    expected = [float(number >= threshold(rate) - LEVELS // 2) for number in signed]
    assert keep_mask((99,), rate, seed, step).tolist() == expected[:99]


def test_device_mask_is_thresholds_on_hashes_of_index_and_key() -> None:
    seed, step, rate = derive(3, "dropout", 0), 17, float(torch.tensor(0.3))
    key = lowbias32(lowbias32(seed & 0xFFFFFFFF) ^ (seed >> 32) ^ step)
    numbers = [lowbias32((lowbias32(i ^ key) + (key >> 7)) & 0xFFFFFFFF) for i in range(99)]
    expected = [float(number >= int(rate * 2**32)) for number in numbers]
    key_tensors = torch.tensor(rate), torch.tensor(seed), torch.tensor(step)
    assert keep_mask_on_device((99,), *key_tensors).tolist() == expected


# Keys


def test_same_key_gives_the_same_mask_and_every_other_key_another(masks: Masks) -> None:
    keys = [(7, 3), (7, 3), (7, 4), (8, 3), (3, 7), (7 + (1 << 40), 3), (0, 0)]
    same, again, *others = masks(1000, 0.5, keys)
    assert torch.equal(same, again)
    assert all(not torch.equal(same, other) for other in others)


def test_shape_only_arranges_the_units() -> None:
    flat = keep_mask((60,), 0.5, 1, 2)
    assert torch.equal(keep_mask((3, 4, 5), 0.5, 1, 2), flat.view(3, 4, 5))
    assert flat.dtype == torch.float32
    assert set(flat.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("double", "dtype"), [(False, torch.float32), (True, torch.float64)])
def test_kept_units_hold_the_value_asked_for(double: bool, dtype: torch.dtype) -> None:
    mask = keep_mask((60,), 0.5, 1, 2, 1 / 0.3, double)
    assert mask.dtype == dtype
    assert torch.equal(mask != 0, keep_mask((60,), 0.5, 1, 2) != 0)
    assert set(mask.tolist()) == {0.0, torch.tensor(1 / 0.3, dtype=dtype).item()}


def test_global_generators_neither_matter_nor_move() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = keep_mask((100,), 0.5, 1, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert torch.equal(keep_mask((100,), 0.5, 1, 2), first)


def test_threads_do_not_disturb_each_other() -> None:
    keys = [(seed, step) for seed in range(4) for step in range(50)]
    alone = [keep_mask((4000,), 0.5, *key) for key in keys]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: keep_mask((4000,), 0.5, *key), keys))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_lane_draws_what_it_draws_alone() -> None:
    rates = torch.tensor([0.0, 0.3, 0.5, 0.3, 0.9])
    seeds = torch.tensor([derive(k, "dropout", 0) for k in (0, 1, 2, 1, 4)])
    steps = torch.tensor([1, 5, 9, 5, 100_000])
    together = keep_mask_on_device((5, 32, 20), rates, seeds, steps)
    for lane in range(5):
        alone = keep_mask_on_device((32, 20), rates[lane], seeds[lane], steps[lane])
        assert torch.equal(together[lane], alone)


# Rates


@pytest.mark.parametrize("rate", RATES)
def test_every_sixteen_bits_of_every_word_drop_at_the_rate(masks: Masks, rate: float) -> None:
    """A generator whose top bit is stuck shows only here: the average over a word hides it."""
    words = 1 << 18
    kept = masks(words * 4, rate, [(5, 1)]).view(words, 4).sum(0)
    assert z_of_rate(kept, words, rate).abs().max() < SIGMAS


@pytest.mark.parametrize("rate", RATES)
def test_every_unit_drops_at_the_rate_over_the_steps(masks: Masks, rate: float) -> None:
    units, steps = 500, 4000
    kept = masks(units, rate, [(11, step) for step in range(1, steps + 1)]).sum(0)
    z = z_of_rate(kept, steps, rate)
    assert z.abs().max() < SIGMAS
    # Sum of squares: chi-square with `units` degrees. Too large: units differ; too small: the
    # steps take turns instead of being drawn.
    assert abs(float(z.square().sum()) - units) < SIGMAS * (2 * units) ** 0.5


def test_extreme_rates_keep_all_or_almost_none(masks: Masks) -> None:
    assert masks(10_000, 0.0, [(1, 1)]).all()
    kept = masks(1 << 22, 1 - 2**-16, [(1, 1)]).sum()  # 64 of 4 million are expected, ± 8
    assert abs(float(kept) - 64) < SIGMAS * 8


def test_the_highest_level_always_keeps_or_a_rate_below_one_could_drop_all() -> None:
    fewest = keep_mask((1 << 22,), 1 - 2**-16, 1, 1)
    assert torch.equal(keep_mask((1 << 22,), 1 - 1e-9, 1, 1), fewest)


def test_rates_are_rounded_to_the_nearest_level() -> None:
    for rate in (0.01, 0.3, 1 / 3, 0.5, 0.9, 0.999):
        assert abs(threshold(rate) / LEVELS - rate) <= 0.5 / LEVELS


# Independence


@pytest.mark.parametrize("rate", RATES)
def test_neighbouring_steps_and_seeds_are_uncorrelated(masks: Masks, rate: float) -> None:
    units, count = 4000, 200
    by_step = masks(units, rate, [(3, step) for step in range(1, count + 1)])
    by_seed = masks(units, rate, [(seed, 3) for seed in range(1, count + 1)])
    for drawn in (by_step, by_seed):
        for lag in (1, 2, 4):
            assert abs(z_of_correlation(drawn[:-lag], drawn[lag:], rate)) < SIGMAS
    # (seed, step) and (seed + 1, step - 1) would coincide if the two were merely added.
    diagonal = masks(units, rate, [(3 + i, count - i) for i in range(count)])
    assert abs(z_of_correlation(diagonal[:-1], diagonal[1:], rate)) < SIGMAS


@pytest.mark.parametrize("rate", RATES)
def test_neighbouring_units_are_uncorrelated(masks: Masks, rate: float) -> None:
    drawn = masks(1 << 20, rate, [(3, 1)])[0]
    for lag in (1, 2, 3, 4, 5, 8, 512):
        assert abs(z_of_correlation(drawn[:-lag], drawn[lag:], rate)) < SIGMAS


@pytest.mark.parametrize("rate", RATES)
def test_the_first_units_after_the_key_are_fair(masks: Masks, rate: float) -> None:
    """Seeds and steps are small numbers: too few rounds of mixing would show in the first words."""
    keys = [(seed, step) for seed in range(100) for step in range(1, 101)]
    drawn = masks(16, rate, keys)
    assert z_of_rate(drawn.sum(0), len(keys), rate).abs().max() < SIGMAS
    assert abs(z_of_correlation(drawn[:-1], drawn[1:], rate)) < SIGMAS


# Seeds for one purpose


def test_derived_seeds_are_pinned() -> None:
    """A study's record is worth something only while its seeds mean the same draws."""
    assert derive(7, "order", 3) == 1569714343349645784
    assert derive(0, "init") == 5621797835976536519


def test_derived_seeds_differ_by_every_part_of_their_purpose() -> None:
    keys = [(7,), (7, "a"), (7, "b"), (7, "a", 1), (7, "a", 2), (8, "a"), (7, "a1"), (-7, "a")]
    seeds = {derive(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_seeded_draws_by_key_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    with seeded(7, "init"):
        first = torch.randn(5)
    torch.rand(1)
    with seeded(7, "init"):
        again = torch.randn(5)
    with seeded(7, "other"):
        other = torch.randn(5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.set_rng_state(before)
    with seeded(1, "x"):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)


# Rates near 1


@pytest.mark.parametrize("rate", [0.3, 0.9, COARSE, 0.999, 0.9999, 0.99999, 1 - 2.0**-24])
def test_units_keep_their_mean_at_every_rate(rate: float) -> None:
    scale = dropping(rate, 1, 2)[1]
    assert keep_rate(rate) * scale == pytest.approx(1, rel=1e-3)
    if rate <= COARSE:
        assert scale == 1 / (1 - rate)
    key = torch.tensor(1), torch.tensor(2)
    for dtype in (torch.float64, torch.bfloat16):
        exact = torch.tensor(rate, dtype=torch.float64)
        scaled = dropping_on_device((3_000_000,), exact, *key, dtype)
        expected = torch.tensor(1 / (1 - rate), dtype=dtype).item()
        assert {0.0} <= set(scaled.unique().tolist()) <= {0.0, expected}
        assert float((scaled == 0).double().mean()) == pytest.approx(rate, abs=1e-3)


def test_a_rate_of_one_drops_everything() -> None:
    rates, keys = torch.tensor([1.0, 0.5]), torch.tensor([1, 2])
    scaled = dropping_on_device((2, 300_000), rates, keys, keys, torch.float32)
    assert scaled[0].unique().tolist() == [0]
    assert scaled[1].unique().tolist() == [0, 2]
