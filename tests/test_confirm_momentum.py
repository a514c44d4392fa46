"""The verdict on bn_momentum: from curves on the same weights, sharp enough to act on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sweep.confirm.findings import Verdict
from sweep.confirm.momentum import momentum_verdict
from sweep.confirm.wording import Words
from sweep.metric import Metric
from sweep.parameters import parameters_of
from sweep.results import MomentumCurve, ResultSet
from tests.confirmations import MOMENTA, MOMENTUM, most_of, study

EQUAL = dict.fromkeys(MOMENTA, 0.0)
SMALL_IS_BAD = {**EQUAL, 0.001: -0.0012}


def verdict(found: ResultSet, recommended: float | None = None) -> Verdict | None:
    parameters = parameters_of(found)
    words = Words(Metric.of(found.metric, [0.98]), 0.0005, parameters)
    (momentum,) = (p for p in parameters if p.key == MOMENTUM)
    return momentum_verdict(found, momentum, words, recommended)


def made(seed: int, of_momentum: dict[float | None, float], seeds: int = 5) -> ResultSet:
    return study(np.random.default_rng(seed), trials=16, seeds=seeds, of_momentum=of_momentum)


def test_difference_far_below_the_noise_between_seeds_is_found() -> None:
    """0.12 points, where seeds differ by 0.1: one training tells its momenta apart."""
    found = verdict(made(20, SMALL_IS_BAD))
    assert found and found.effect == "matters"
    assert found.runs("as good") == [(0.01, 1.0), (None, None)]
    assert found.runs("worse") == [(0.001, 0.001)]
    assert "0.01 to 1 and the cumulative average are as good as" in found.sentence
    assert "; 0.001 is worse, by 0.12 ± 0.0" in found.sentence
    assert found.evidence.startswith("20 trainings in 5 fresh seeds")


@pytest.mark.parametrize("seeds", [5, 0])
def test_equal_momenta_make_no_detectable_difference(seeds: int) -> None:
    effects = [(v := verdict(made(i, EQUAL, seeds))) and v.effect for i in range(40)]
    assert effects.count("matters") / 40 <= most_of(40, 0.05)
    assert effects.count("no difference") > 30
    found = verdict(made(0, EQUAL, seeds))
    assert found and found.clause == (
        "bn_momentum makes no detectable difference between 0.001 and 1, "
        "the cumulative average included"
    )


def test_values_are_held_against_the_recommended_one_unless_another_is_better() -> None:
    found = verdict(made(23, EQUAL), recommended=0.01)
    assert found and found.best == 0.01 and "the recommended 0.01" in found.sentence
    found = verdict(made(20, SMALL_IS_BAD), recommended=0.001)
    assert found and found.best != 0.001 and "the best on average" in found.sentence
    assert next(x for x in found.levels if x.value == 0.001).standing == "worse"


def test_values_are_worse_or_as_good_as_they_truly_are() -> None:
    wrong, studies = 0, 60
    truth = {0.001: -0.002, 0.01: -0.0006, 0.1: 0.0, 1.0: -0.0004, None: -0.0006}
    for i in range(studies):
        found = verdict(made(i, truth))
        assert found
        good = [x.value for x in found.levels if x.standing == "as good"]
        wrong += any(truth[v] < -0.0005 for v in good)  # type: ignore[index]
        assert next(x for x in found.levels if x.value == 0.001).standing == "worse"
    assert wrong / studies <= most_of(studies, 0.05)


def test_curves_of_one_seed_are_one_piece_of_evidence() -> None:
    found = verdict(made(21, EQUAL))
    assert found and {x.difference.count for x in found.levels} == {5}


def test_search_alone_gives_a_verdict_too() -> None:
    found = verdict(made(22, SMALL_IS_BAD, seeds=0))
    assert found and found.runs("worse") == [(0.001, 0.001)]
    assert found.evidence.startswith("16 trainings in the search")


def test_less_is_better_where_the_study_says_so() -> None:
    found = verdict(replace(made(23, {**EQUAL, 0.001: 0.0012}), direction="minimize"))
    assert found and found.runs("worse") == [(0.001, 0.001)]


def test_momentum_that_gave_no_number_is_left_out() -> None:
    study_of_it = made(24, EQUAL)
    rows = list(study_of_it.confirm)
    curve = rows[0].momentum
    assert curve
    broken = MomentumCurve(curve.momenta, [math.nan, *curve.values[1:]])
    found = verdict(replace(study_of_it, confirm=[replace(rows[0], momentum=broken), *rows[1:]]))
    assert found and [x.value for x in found.levels] == [0.01, 0.1, 1.0, None]


def test_too_few_curves_are_said_to_be_too_few() -> None:
    found = made(25, EQUAL, seeds=2)
    few = verdict(replace(found, trials=found.trials[:2]))
    assert few and few.effect == "unknown"
    assert few.sentence == "bn_momentum: not known; 2 trainings scored its values in common."
    bare = [replace(t, momentum=None) for t in found.trials]
    assert verdict(replace(found, trials=bare, confirm=[])) is None
