"""Values on the same weights: nothing is found where nothing is, and what is there is found."""

from __future__ import annotations

import numpy as np
import pytest

from sweep.confirm.ranking import rank
from tests.confirmations import most_of

STUDIES, SEEDS, VALUES = 2000, 5, 14
MARGIN = 0.5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2)


@pytest.mark.parametrize("expected", [True, False])
@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_equal_values_are_seldom_told_apart(
    rng: np.random.Generator, expected: bool, noise: float
) -> None:
    values = noise * rng.normal(size=(STUDIES, VALUES, SEEDS))
    anchor = rng.integers(0, VALUES - 1, STUDIES) if expected else None
    found = rank(values, 0.0, VALUES - 1, anchor)  # no margin to hide behind
    assert found.worse.any(-1).mean() <= most_of(STUDIES, 0.05)


@pytest.mark.parametrize("expected", [True, False])
def test_values_worse_by_the_margin_are_seldom_called_as_good(
    rng: np.random.Generator, expected: bool
) -> None:
    """The worst case: every other value is just not as good, of independent noise."""
    truth = np.full((VALUES, 1), -MARGIN)
    truth[3] = 0.0
    values = truth + 0.1 * rng.normal(size=(STUDIES, VALUES, SEEDS))
    found = rank(values, MARGIN, VALUES - 1, np.full(STUDIES, 3) if expected else None)
    claims = found.as_good & (np.arange(VALUES) != 3)
    assert claims[found.best == 3].any(-1).mean() <= most_of(STUDIES, 0.05)
    assert (found.best == 3).mean() > 0.99


def test_equal_values_are_found_as_good_if_noise_allows(rng: np.random.Generator) -> None:
    values = MARGIN / 20 * rng.normal(size=(STUDIES, VALUES, SEEDS))
    assert rank(values, MARGIN, VALUES - 1, np.zeros(STUDIES, int)).as_good.all(-1).mean() > 0.95


def test_worse_values_are_found_though_seeds_differ_more(rng: np.random.Generator) -> None:
    """Pairing: what a seed shifts in all values is not in their differences."""
    truth = np.zeros((VALUES, 1))
    truth[0] = -2.0
    seed = 5.0 * rng.normal(size=(STUDIES, 1, SEEDS))
    found = rank(truth + seed + 0.1 * rng.normal(size=(STUDIES, VALUES, SEEDS)), MARGIN, VALUES - 1,
                 np.full(STUDIES, 6))  # fmt: skip
    assert found.worse[:, 0].mean() > 0.99
    assert found.difference.mean[:, 0] == pytest.approx(-2.0, abs=0.5)


def test_value_that_beats_the_expected_one_becomes_the_best(rng: np.random.Generator) -> None:
    truth = np.array([0.0, 0.0, 2.0, 0.0])[:, None]
    values = truth + 0.1 * rng.normal(size=(STUDIES, 4, SEEDS))
    found = rank(values, MARGIN, 4, np.zeros(STUDIES, int))
    assert (found.best == 2).mean() > 0.99
    assert found.worse[:, 0].mean() > 0.99
    assert not found.as_good[found.best == 2, 0].any()


def test_what_lies_beyond_an_undecided_value_is_not_called_as_good() -> None:
    sure, unsure = [0.0, 0.0, 0.0], [-3.0, 0.0, 3.0]
    found = rank(np.array([sure, unsure, sure, sure, unsure, sure]), MARGIN, 5, np.array(2))
    assert found.as_good.tolist() == [False, False, True, True, False, True]  # the last: no order
    assert not found.worse.any()


def test_value_outside_the_order_is_never_the_best() -> None:
    values = np.array([[0.0, 0.1, 0.0], [9.0, 9.1, 9.0]])
    found = rank(values, MARGIN, 1, None)
    assert found.best == 0
    assert found.as_good.tolist() == [True, True]


def test_one_seed_decides_nothing() -> None:
    found = rank(np.array([[0.0], [1.0]]), MARGIN, 2, np.array(1))
    assert found.as_good.tolist() == [False, True]
    assert not found.worse.any()


def test_equal_seeds_decide_by_the_margin() -> None:
    values = np.array([[0.0, 0.0], [0.4, 0.4], [1.0, 1.0]])
    found = rank(values, MARGIN, 3, np.array(1))
    assert found.best == 2  # 0.6 better, without any doubt
    assert found.worse.tolist() == [True, True, False]
