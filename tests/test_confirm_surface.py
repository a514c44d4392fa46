"""The surface behind noisy trials: what it calls as good or worse is, nearly always."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sweep.confirm.findings import Verdict
from sweep.confirm.response import response_verdicts
from sweep.confirm.surface import Measured, draw_differences, hold_together
from sweep.confirm.wording import Words
from sweep.metric import Metric
from sweep.parameters import parameters_of
from sweep.results import ResultSet, TrialRow
from tests.confirmations import DROPOUT, NOISE, flat, most_of, results, study

STUDIES = 40  # each takes some hundredths of a second
MARGIN = 0.0005


def verdict_on_dropout(found: ResultSet, base: float, margin: float = MARGIN) -> Verdict:
    words = Words(Metric.of(found.metric, [0.98]), margin, parameters_of(found))
    params = parameters_of(found)
    (verdict,) = response_verdicts(found, params, {DROPOUT: base}, NOISE, words)
    return verdict


def hill(x: float) -> float:
    """As on MNIST: half a point between best and default, several at high rates."""
    return -0.03 * (x - 0.3) ** 2


def slope(x: float) -> float:
    return -0.004 * x


@pytest.mark.parametrize("truth", [flat, hill, slope])
def test_verdicts_are_wrong_no_more_often_than_they_say(truth: Callable[[float], float]) -> None:
    rng, wrongly_good, wrongly_worse = np.random.default_rng(7), 0, 0
    for _ in range(STUDIES):
        found = study(rng, truth)
        base = next(float(r.params[DROPOUT]) for r in found.confirm)
        levels = verdict_on_dropout(found, base).levels
        gaps = {x: truth(float(x.value)) - truth(base) for x in levels}
        wrongly_good += any(x.standing == "as good" and gaps[x] < -MARGIN for x in levels)
        wrongly_worse += any(x.standing == "worse" and gaps[x] >= -MARGIN for x in levels)
    assert wrongly_good / STUDIES <= most_of(STUDIES, 0.05)
    assert wrongly_worse / STUDIES <= most_of(STUDIES, 0.05)


def test_no_detectable_difference_is_found_where_noise_allows() -> None:
    rng = np.random.default_rng(8)
    found = [verdict_on_dropout(study(rng, noise=MARGIN / 5), 0.3).effect for _ in range(10)]
    assert found == ["no difference"] * 10


def test_noise_larger_than_the_margin_leaves_it_undecided_and_says_what_would_decide() -> None:
    verdict = verdict_on_dropout(study(np.random.default_rng(9)), 0.3)
    assert verdict.effect == "undecided"
    assert verdict.seeds == 63
    assert "about 63 seeds a setting would tell 0.05 points from none" in verdict.sentence


def test_a_margin_that_nobody_could_measure_is_not_counted_in_seeds() -> None:
    rng = np.random.default_rng(9)
    verdict = verdict_on_dropout(study(rng), 0.3, margin=MARGIN / 1e3)
    assert "more than 10,000 seeds a setting would tell" in verdict.sentence


def test_what_matters_is_found_and_measured() -> None:
    verdict = verdict_on_dropout(study(np.random.default_rng(10), hill), 0.3)
    assert verdict.effect == "matters"
    ((first, last),) = verdict.runs("as good")
    assert isinstance(first, float) and isinstance(last, float)
    assert 0.15 < first < 0.3 < last < 0.45
    worst = verdict.levels[-1]
    assert worst.standing == "worse"
    gap = hill(float(worst.value)) - hill(0.3)  # type: ignore[arg-type]
    assert worst.difference.low < gap < worst.difference.high


def test_dead_runs_do_not_hide_what_the_others_show() -> None:
    found = study(np.random.default_rng(11), hill)
    dead = TrialRow(99, "complete", {DROPOUT: 0.69}, value=0.1, seed=99)
    verdict = verdict_on_dropout(results([*found.trials, dead], found.confirm), 0.3)
    assert verdict.effect == "matters"
    assert verdict.runs("as good")[0][0] != verdict.runs("as good")[0][1]


def test_same_training_in_two_arms_counts_once() -> None:
    found = study(np.random.default_rng(12))
    twice = [*found.confirm, *found.confirm]
    once = verdict_on_dropout(found, 0.3)
    assert verdict_on_dropout(results(found.trials, twice), 0.3).evidence == once.evidence
    assert once.evidence == "44 trainings of 25 settings"


def test_few_settings_say_nothing() -> None:
    found = study(np.random.default_rng(13), trials=4)
    verdict = verdict_on_dropout(found, 0.3)
    assert (verdict.effect, verdict.levels, verdict.clause) == ("unknown", (), "")
    assert verdict.sentence == "dropout: not known; only 5 settings trained to the end."


def test_levels_are_compared_with_the_other_parameters_held() -> None:
    """Trials with sgd happen to have the bad dropout: that is not sgd's fault, adamw's is."""
    rng, trials = np.random.default_rng(14), []
    for i in range(60):
        name = ("adam", "sgd", "adamw")[i % 3]
        x = float(rng.uniform(0, 0.4) + 0.2 * (name == "sgd"))
        value = 0.98 + hill(x) - 0.005 * (name == "adamw") + 0.0002 * float(rng.normal())
        params = {DROPOUT: x, "optimizer.name": name}
        trials.append(TrialRow(i, "complete", params, value=value, seed=i))
    search = {DROPOUT: "interval(0,0.7)", "optimizer.name": "choice(adam,sgd,adamw)"}
    found = results(trials, search=search)
    parameters = parameters_of(found)
    words = Words(Metric.of("val_accuracy", [0.98]), MARGIN, parameters)
    base = {DROPOUT: 0.3, "optimizer.name": "adam"}
    dropout, optimizer = response_verdicts(found, parameters, base, None, words)
    assert {x.value: x.standing for x in optimizer.levels} == {
        "adam": "as good", "sgd": "as good", "adamw": "worse"
    }  # fmt: skip
    expected = "optimizer.name sgd is as good as the recommended adam; adamw is worse, by 0.5"
    assert optimizer.sentence.startswith(expected)
    assert optimizer.clause == "optimizer.name sgd is as good"
    assert dropout.effect == "matters"


def test_default_that_has_no_place_in_the_range_is_passed_over() -> None:
    found = study(np.random.default_rng(15))
    odd = [r if r.arm != "default" else type(r)("default", None, {DROPOUT: None}, 1, r.metrics)
           for r in found.confirm]  # fmt: skip
    assert verdict_on_dropout(results(found.trials, odd), 0.3).evidence.startswith("39 trainings")


def test_equal_values_everywhere_make_no_difference() -> None:
    trials = [TrialRow(i, "complete", {DROPOUT: i / 20}, value=0.98, seed=i) for i in range(12)]
    assert verdict_on_dropout(results(trials), 0.3).effect == "no difference"


def test_draws_repeat_and_are_zero_at_the_reference() -> None:
    rng = np.random.default_rng(16)
    measured = Measured(rng.random((12, 2)), np.array([False, False]), np.arange(12),
                        rng.normal(size=12))  # fmt: skip
    at = rng.random((4, 2))
    draws = draw_differences(measured, at)
    assert (draws == draw_differences(measured, at)).all()
    assert draws[:, 0] == pytest.approx(0.0, abs=1e-5)
    assert draws[:, 1:].std(axis=0).min() > 0.01


def test_claims_that_hold_together_are_fewer_than_those_that_hold_alone() -> None:
    claims = np.random.default_rng(17).random((4000, 5)) < [1.0, 0.97, 0.97, 0.96, 0.2]
    held = hold_together(claims, 0.95)
    assert claims[:, held].all(axis=1).mean() >= 0.95
    assert held[0] and held.sum() == 2  # 0.97 each, but 0.94 both
