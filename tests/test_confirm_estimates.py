"""Intervals cover at their level, corrected tests are wrong as seldom as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweep.confirm.estimates import (
    ALPHA,
    difference_of,
    holm,
    luck_of_best,
    mean_of,
    seeds_to_tell,
)
from tests.confirmations import most_of

STUDIES = 20_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("seeds", [2, 5, 20])
def test_interval_of_a_mean_holds_the_truth_in_95_of_100_studies(
    rng: np.random.Generator, seeds: int
) -> None:
    found = mean_of(rng.normal(0.98, 0.001, (STUDIES, seeds)))
    missed = np.mean(abs(found.mean - 0.98) > found.half)
    assert 2 * ALPHA - most_of(STUDIES, ALPHA) <= missed <= most_of(STUDIES, ALPHA)


def test_interval_of_unpaired_arms_holds_the_truth_though_one_is_noisier(
    rng: np.random.Generator,
) -> None:
    found = difference_of(rng.normal(2, 1, (STUDIES, 5)), rng.normal(0, 4, (STUDIES, 4)))
    # Welch's degrees of freedom are an approximation, good to half a percent here.
    assert np.mean(abs(found.mean - 2) > found.half) == pytest.approx(ALPHA, abs=0.01)


def test_unpaired_difference_is_that_of_scipy(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=5), rng.normal(1, 3, size=7)
    found, known = difference_of(a, b), stats.ttest_ind(a, b, equal_var=False)
    interval = found.interval(5)
    assert float(found.p_not_zero()) == pytest.approx(known.pvalue)
    expected = known.confidence_interval(0.95)
    assert [interval.low, interval.high] == pytest.approx([expected.low, expected.high])


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_family_of_equal_arms_is_seldom_told_of_a_difference(
    rng: np.random.Generator, shared: float
) -> None:
    """Against one default, so the differences depend on each other."""
    seed = shared * rng.normal(size=(STUDIES, 1, 5))
    values = seed + rng.normal(size=(STUDIES, 6, 5))
    p = mean_of(values[:, 1:] - values[:, :1]).p_not_zero()
    wrong = np.mean((holm(p) <= ALPHA).any(-1))
    assert wrong <= most_of(STUDIES, ALPHA)
    assert np.mean((p <= ALPHA).any(-1)) > 2 * ALPHA  # uncorrected it would be


def test_arms_that_differ_by_the_margin_are_seldom_called_equal(rng: np.random.Generator) -> None:
    """The worst case of equivalence. A 95 % interval inside is wrong in 2.5 of 100."""
    found = mean_of(rng.normal(0.5, 0.2, (STUDIES, 5)))
    claims = found.p_within(0.5) <= ALPHA / 2
    assert np.mean(claims) <= most_of(STUDIES, ALPHA / 2)
    inside = (found.mean - found.half > -0.5) & (found.mean + found.half < 0.5)
    assert (claims == inside).all()


def test_holm_is_the_textbooks() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([1.0, 0.02, 0.01]), idle=1) == pytest.approx([1, 0.02, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


def test_one_value_proves_nothing() -> None:
    one = mean_of(np.array([0.3]))
    assert math.isinf(one.interval(1).half)
    assert float(one.p_not_zero()) == 1.0
    assert float(one.p_within(10.0)) == 0.5
    assert float(difference_of(np.array([1.0]), np.array([0.0, 0.1])).p_not_zero()) == 1.0


def test_values_without_any_spread_have_an_interval_of_no_width() -> None:
    same = mean_of(np.full(5, 0.25))
    assert same.interval(5).half == 0.0
    assert float(same.p_not_zero()) == 0.0
    nothing = mean_of(np.zeros(5))
    assert float(nothing.p_not_zero()) == 1.0
    assert float(nothing.p_within(0.1)) == 0.0


def test_advised_seeds_find_the_margin_in_four_of_five_studies(rng: np.random.Generator) -> None:
    seeds = seeds_to_tell(0.001, 0.0005)
    assert seeds == 63
    studies = 4000
    gain = difference_of(
        rng.normal(0.0005, 0.001, (studies, seeds)), rng.normal(0, 0.001, (studies, seeds))
    )
    found = np.mean(gain.p_not_zero() <= ALPHA)
    assert found == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / studies))


def test_no_number_of_seeds_tells_a_difference_of_nothing() -> None:
    assert seeds_to_tell(0.001, 0.0) is None
    assert seeds_to_tell(math.inf, 0.0005) is None
    assert seeds_to_tell(0.0, 0.0005) == 2


@pytest.mark.parametrize(("count", "sigmas"), [(10, 1.54), (50, 2.25), (100, 2.51), (1, 0.0)])
def test_best_of_many_equals_is_lucky_by_so_many_sigmas(count: int, sigmas: float) -> None:
    assert luck_of_best(count) == pytest.approx(sigmas, abs=0.005)
