"""Arms on fresh seeds: means, the winner's curse, and who is better than the default."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from sweep.confirm.arms import arms_of, compare_arms, is_default, noise_of, recommend
from sweep.confirm.estimates import luck_of_best
from sweep.confirm.findings import Arm, Comparison, Interval
from sweep.confirm.wording import Words
from sweep.metric import Metric
from sweep.parameters import parameters_of
from sweep.results import ResultSet, TrialRow
from tests.confirmations import DROPOUT, NOISE, most_of, results, row, study

MARGIN = 0.0005


def comparisons(found: ResultSet, margin: float = MARGIN) -> list[Comparison]:
    metric = Metric.of(found.metric, [0.98])
    return compare_arms(found, arms_of(found), Words(metric, margin, parameters_of(found)))


# Known truth


def test_without_any_difference_few_studies_are_told_of_one() -> None:
    rng, studies = np.random.default_rng(3), 300
    told = [{c.outcome for c in comparisons(study(rng))} for _ in range(studies)]
    assert sum(bool(t & {"better", "worse"}) for t in told) / studies <= most_of(studies, 0.05)
    assert Counter("undecided" in t for t in told)[True] > studies / 2  # 5 noisy seeds say little


def test_without_any_difference_shrinkage_is_the_luck_of_the_best() -> None:
    rng, studies = np.random.default_rng(4), 300
    found = [arms_of(study(rng))[0].shrinkage for _ in range(studies)]
    mean = np.mean([s.mean for s in found if s])
    error = NOISE * math.sqrt((1 + 1 / 5) / studies)  # an upper bound: a maximum varies less
    assert mean == pytest.approx(luck_of_best(24) * NOISE, abs=4 * error)
    assert sum(s.low > 0 for s in found if s) > studies / 2  # and a single study shows it


def test_test_figure_of_the_recommended_arm_is_covered_though_it_was_chosen() -> None:
    rng, studies, missed = np.random.default_rng(5), 400, 0
    for _ in range(studies):
        chosen = recommend(arms_of(study(rng)), 1.0)
        assert chosen and chosen.test
        missed += not chosen.test.low <= 0.98 <= chosen.test.high
    # Its test noise is here mostly that of validation, by which it was chosen: the worst case.
    assert missed / studies <= most_of(studies, 0.10)


def test_real_gain_over_the_default_is_found_and_measured() -> None:
    rng, studies, found, covered = np.random.default_rng(6), 200, 0, 0
    for _ in range(studies):
        first = comparisons(study(rng, lambda x: -0.01 * (x > 0.45)))[0]
        found += first.outcome == "better"
        covered += first.difference.low <= 0.01 <= first.difference.high
    assert found > 0.9 * studies
    assert 1 - covered / studies <= most_of(studies, 0.05)


# What is compared with what


def test_arms_are_compared_on_the_test_set_seed_by_seed_with_the_default() -> None:
    seeds = [0.97, 0.975, 0.98, 0.985]  # differ far more than the arms do
    rows = [row("default", i, 0.9, v) for i, v in enumerate(seeds)]
    rows += [row("1st", i, 0.9, v + 0.004 + 0.0001 * (i % 2)) for i, v in enumerate(seeds)]
    (only,) = comparisons(results(confirm=rows))
    assert (only.arm, only.against, only.split, only.paired) == ("1st", "default", "test", True)
    assert only.outcome == "better"
    assert only.difference.mean == pytest.approx(0.00405)
    assert only.sentence.startswith("The 1st, on the test set: 0.40 ± 0.01 points better than the")


def test_less_is_better_where_the_study_says_so() -> None:
    rows = [row(arm, i, 0, metrics={"val_nll": v + i / 1e5, "test_nll": v + i**2 / 1e5})
            for arm, v in (("1st", 0.06), ("default", 0.07)) for i in range(4)]  # fmt: skip
    found = results(confirm=rows, metric="val_nll", direction="minimize")
    assert comparisons(found)[0].difference.mean == pytest.approx(0.01)
    best = recommend(arms_of(found), -1.0)
    assert best and best.name == "1st"


def test_arms_without_seeds_in_common_are_compared_unpaired() -> None:
    rows = [row("1st", i, 0.98 + i / 1e4) for i in range(5)]
    rows += [row("default", 10 + i, 0.97 + i / 1e4) for i in range(4)]
    (only,) = comparisons(results(confirm=rows))
    assert not only.paired
    assert only.split == "validation"  # nobody looked at the test set
    assert only.outcome == "better"


def test_without_the_default_the_first_takes_its_place() -> None:
    found = results(confirm=[row(a, i, 0.9 + i / 100) for a in ("1st", "2nd") for i in range(3)])
    assert [(c.arm, c.against) for c in comparisons(found)] == [("2nd", "1st")]
    assert comparisons(results(confirm=[row("1st", 0, 0.9)])) == []


def test_default_that_the_search_found_again_differs_by_nothing() -> None:
    rows = [row(arm, i, 0.98 + i / 1e4, params={DROPOUT: 0.3})
            for arm in ("1st", "default") for i in range(5)]  # fmt: skip
    found = results(confirm=rows)
    (only,) = comparisons(found)
    assert (only.outcome, only.difference.mean, only.difference.half) == ("equal", 0.0, 0.0)
    arms = arms_of(found)
    assert all(is_default(arm, arms) for arm in arms)


def test_equal_is_only_what_lies_within_the_margin() -> None:
    rows = [row("default", i, 0.98, 0.98 + i / 1e6) for i in range(5)]
    rows += [row("1st", i, 0.98, 0.9803 + i / 1e6) for i in range(5)]
    assert comparisons(results(confirm=rows))[0].outcome == "equal"
    assert comparisons(results(confirm=rows), margin=0.0002)[0].outcome == "better"


def test_margin_of_nothing_asks_for_no_number_of_seeds() -> None:
    rows = [row("default", i, 0.98, 0.98) for i in range(5)]
    rows += [row("1st", i, 0.98, 0.98 + (-1) ** i / 1e4) for i in range(5)]
    (only,) = comparisons(results(confirm=rows), margin=0.0)
    assert (only.outcome, only.seeds) == ("undecided", None)
    assert only.sentence.endswith(
        "may be chance: with a margin of 0 no number of seeds tells every difference from none."
    )


# What is missing


def test_one_seed_gives_figures_without_intervals() -> None:
    found = results(confirm=[row(a, 7, v, v) for a, v in (("1st", 0.99), ("default", 0.9))])
    arms = arms_of(found)
    assert [a.test.mean for a in arms if a.test] == [0.99, 0.9]
    assert all(a.test and math.isinf(a.test.half) for a in arms)
    assert noise_of(found, arms) is None
    (only,) = comparisons(found)
    assert (only.outcome, only.holm, only.seeds) == ("undecided", 1.0, None)


def test_failed_seeds_are_left_out_and_counted() -> None:
    rows = [row("default", i, 0.97 + i / 1e4) for i in range(5)]
    rows += [row("1st", i, 0.98 + i / 1e4) for i in (0, 2)]
    rows += [row("1st", 4, math.nan), row("2nd", 0, math.nan), row("3rd", 1, 0, metrics={})]
    arms = {arm.name: arm for arm in arms_of(results(confirm=rows))}
    assert [(a.name, a.missing) for a in arms.values()] == [
        ("default", 0), ("1st", 3), ("2nd", 5), ("3rd", 5)
    ]  # fmt: skip
    assert arms["2nd"].validation is None
    assert arms["1st"].validation and arms["1st"].validation.count == 2
    assert [c.arm for c in comparisons(results(confirm=rows))] == ["1st"]
    best = recommend(list(arms.values()), 1.0)
    assert best and best.name == "default"  # not one that fails three times in five


def test_noise_is_pooled_over_arms_and_blind_to_their_means() -> None:
    rows = [row("1st", i, v) for i, v in enumerate((0.1, 0.3))]
    rows += [row("default", i, v) for i, v in enumerate((0.7, 0.8, 0.9))]
    found = results(confirm=rows)
    assert noise_of(found, arms_of(found)) == pytest.approx(math.sqrt((0.02 + 0.02) / 3))


def test_shrinkage_is_the_search_s_value_less_the_fresh_mean() -> None:
    trial = TrialRow(0, "complete", {DROPOUT: 0.1}, value=0.985)
    rows = [row("1st", i, v) for i, v in enumerate((0.979, 0.981))]
    (arm,) = arms_of(results([trial], rows))
    assert arm.shrinkage and arm.shrinkage.mean == pytest.approx(0.005)
    assert arm.searched == 0.985
    (lower,) = arms_of(results([trial], rows, direction="minimize"))
    assert lower.shrinkage and lower.shrinkage.mean == pytest.approx(-0.005)


def test_the_default_stays_unless_another_is_better_by_what_matters() -> None:
    def arm(name: str, mean: float) -> Arm:
        return Arm(
            name, None, {"model.dropout": mean}, (1, 2), validation=Interval(mean, mean, mean, 2)
        )

    arms = [arm("1st", 0.9803), arm("2nd", 0.9801), arm("default", 0.98)]
    assert [a.name for a in (recommend(arms, 1.0, m) for m in (0.0, 0.0002, 0.0005)) if a] == [
        "1st",
        "1st",
        "default",
    ]
    losses = [arm("1st", 0.07), arm("default", 0.08)]
    assert [a.name for a in (recommend(losses, -1.0, m) for m in (0.005, 0.05)) if a] == [
        "1st",
        "default",
    ]


def test_of_arms_that_were_as_good_in_the_search_the_first_asked_is_first() -> None:
    trials = [TrialRow(n, "complete", {DROPOUT: 0.1 * n}, value=0.98) for n in range(3)]
    rows = [row(arm, 0, 0.98) for arm in ("default", "3rd", "1st", "2nd")]  # as they ended
    assert [a.name for a in arms_of(results(trials, rows))] == ["1st", "2nd", "3rd", "default"]
