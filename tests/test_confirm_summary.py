"""The answer of a study: two sentences that a person can act on, at any stage of it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sweep.confirm.findings import Answer
from sweep.confirm.summary import summarise
from sweep.messages import Value
from sweep.results import ResultSet, TrialRow
from tests.confirmations import DROPOUT, MOMENTA, NOISE, results, row, study

SMALL_IS_BAD = {**dict.fromkeys(MOMENTA, 0.0), 0.001: -0.0012}


def hill(x: float) -> float:
    return -0.1 * (x - 0.3) ** 2


def everything(answer: Answer) -> str:
    texts = [v.sentence for v in answer.verdicts] + [c.sentence for c in answer.comparisons]
    return "\n".join([*answer.sentences, answer.shrinkage, *answer.unknown, *texts])


@pytest.fixture(scope="module")
def confirmed() -> ResultSet:
    return study(np.random.default_rng(30), hill, of_momentum=SMALL_IS_BAD)


def test_answer_says_what_to_use_how_good_it_is_and_what_else_would_do(
    confirmed: ResultSet,
) -> None:
    answer = summarise(confirmed)
    assert answer.sentences == (
        "Use dropout 0.27 and bn_momentum 0.1: 98.03 % ± 0.13 on the test set (5 seeds), "
        "0.36 ± 0.10 points better than the default there.",
        "Any dropout from 0.26 to 0.31 is as good; "
        "any bn_momentum from 0.01 to 1 and the cumulative average are as good.",
    )
    assert answer.unknown == ()


def test_answer_holds_the_figures_behind_its_words(confirmed: ResultSet) -> None:
    answer = summarise(confirmed)
    assert [a.name for a in answer.arms] == ["1st", "2nd", "3rd", "default"]
    assert [c.against for c in answer.comparisons] == ["default"] * 3
    assert [v.name for v in answer.verdicts] == ["dropout", "bn_momentum"]
    assert answer.recommended in answer.arms
    assert answer.noise == pytest.approx(NOISE, rel=0.5)
    assert answer.luck == pytest.approx(1.95 * (answer.noise or 0), rel=0.01)  # of 24
    assert answer.shrinkage.startswith("The search saw ")
    assert "The best of 24 equal settings would look 0.19 points" in answer.shrinkage


def test_margin_is_a_setting(confirmed: ResultSet) -> None:
    strict, wide = summarise(confirmed, 0.0001), summarise(confirmed, 0.05)
    assert {v.effect for v in wide.verdicts} == {"no difference"}
    assert {c.outcome for c in wide.comparisons} == {"equal"}
    assert wide.sentences[0].startswith("Keep the default, ")
    assert len(strict.verdicts[0].runs("as good")) <= len(summarise(confirmed).verdicts[0].levels)
    assert "0.01 points" in everything(strict)


def test_without_fresh_seeds_it_says_what_is_not_known(confirmed: ResultSet) -> None:
    answer = summarise(replace(confirmed, confirm=[]))
    assert answer.sentences[0].startswith("As far as the search knows, use dropout ")
    assert answer.sentences[0].endswith("on validation, the best of 24 trials, with one seed.")
    assert len(answer.sentences) == 2
    assert answer.unknown[0].startswith("Nothing was trained on fresh seeds yet")
    assert (answer.arms, answer.comparisons, answer.noise, answer.luck) == ((), (), None, None)
    assert answer.shrinkage == ""


def test_without_a_complete_trial_there_is_nothing_to_recommend() -> None:
    for trials in ([], [TrialRow(0, "failed", {DROPOUT: 0.1})]):
        answer = summarise(results(trials))
        assert answer.sentences == ("No trial is complete yet, so there is nothing to recommend.",)
        assert answer.recommended is None


def test_trials_that_reached_no_number_are_no_answer() -> None:
    trials = [TrialRow(i, "complete", {DROPOUT: 0.1 * i}, value=math.nan) for i in range(3)]
    assert summarise(results(trials)).recommended is None


def test_single_trial_has_an_answer() -> None:
    answer = summarise(results([TrialRow(0, "complete", {DROPOUT: 0.1}, value=0.9)]))
    assert answer.sentences == (
        "As far as the search knows, use dropout 0.1: 90.00 % on validation, from one trial.",
    )
    assert "What dropout does is not known." in answer.unknown


def test_default_is_kept_if_nothing_is_better() -> None:
    rows = [row("1st", i, 0.97 + i / 1e4, 0.97 + i / 1e4) for i in range(5)]
    rows += [row("default", i, 0.98 + i / 1e4, 0.98 + i / 1e4) for i in range(5)]
    found = results([TrialRow(0, "complete", {DROPOUT: 0.1}, value=0.985)], rows)
    assert summarise(found).sentences[0] == (
        "Keep the default, dropout 0.5: 98.02 % ± 0.02 on the test set (5 seeds), "
        "and the search found nothing that is detectably better."
    )


def test_what_validation_and_the_test_set_say_is_told_of_each() -> None:
    """The one decides, so the other may be against it."""
    search = [TrialRow(0, "complete", {DROPOUT: 0.1}, value=0.985)]
    rows = [row("1st", i, 0.982 + (i % 2) / 1e3, 0.97 + (i % 2) / 1e3) for i in range(5)]
    rows += [row("default", i, 0.98, 0.9705) for i in range(5)]
    assert summarise(results(search, rows)).sentences[0] == (
        "Use dropout 0: 97.04 % ± 0.07 on the test set (5 seeds). Validation, which decides, says "
        "0.24 ± 0.07 points better; the test set says 0.01 ± 0.07 points worse than the default, "
        "which may be chance."
    )
    rows = [replace(r, metrics={**r.metrics, "val_accuracy": 0.98}) for r in rows]
    rows = [replace(r, metrics={**r.metrics, "test_accuracy": 0.9 + 0.01 * (r.arm == "1st")})
            for r in rows]  # fmt: skip
    assert summarise(results(search, rows)).sentences[0] == (
        "Keep the default, dropout 0.5: 90.00 % ± 0.00 on the test set (5 seeds), though the 1st "
        "is 1.00 ± 0.00 points better on the test set: on validation, which decides, not by more "
        "than 0.05 points."
    )


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"retrofit.dropout": None}, "the model as it is"),
        ({"retrofit.dropout": None, "retrofit.bn_momentum": None}, "the model as it is"),
        ({"retrofit.dropout": None, "model.width": 8}, "the model's own dropout and width 8"),
        ({"retrofit.dropout": 0.2, "model.width": 8}, "dropout 0.2 and width 8"),
        ({"model.bn_momentum": None}, "bn_momentum null"),  # the cumulative average, as typed
    ],
)
def test_a_module_that_nothing_is_changed_of_is_said_to_stay_as_it_is(
    params: dict[str, Value], said: str
) -> None:
    search = dict.fromkeys(params, "interval(0,1)")
    rows = [row("default", i, 0.98, params=params) for i in range(3)]
    trials = [TrialRow(0, "complete", dict.fromkeys(params, 0.5), value=0.9)]
    answer = summarise(results(trials, rows, search=search))
    assert answer.sentences[0].startswith(f"Keep the default, {said}: 98.00 %")


def test_default_found_again_is_called_the_default() -> None:
    rows = [row(arm, i, 0.98 + i / 1e4, params={DROPOUT: 0.5})
            for arm in ("1st", "default") for i in range(3)]  # fmt: skip
    first = summarise(results([TrialRow(0, "complete", {DROPOUT: 0.5}, value=0.98)], rows))
    assert first.sentences[0] == (
        "Keep the default, dropout 0.5: 98.01 % ± 0.02 on validation (3 seeds), "
        "which the search found again."
    )


def test_missing_default_is_missed_in_words() -> None:
    rows = [row("1st", i, 0.97 + i / 1e4, 0.97) for i in range(3)]
    answer = summarise(results([TrialRow(0, "complete", {DROPOUT: 0.1}, value=0.98)], rows))
    assert answer.sentences[0] == ("Use dropout 0: 97.00 % ± 0.00 on the test set (3 seeds).")
    assert "The default has no training: what the search gained over it is not known." in (
        answer.unknown
    )


def test_one_seed_and_failed_seeds_are_said(confirmed: ResultSet) -> None:
    seed = confirmed.confirm[0].seed
    one = summarise(replace(confirmed, confirm=[r for r in confirmed.confirm if r.seed == seed]))
    assert "(1 seed), " in one.sentences[0] and "which may be chance" in one.sentences[0]
    assert "One seed a setting does not show how far chance goes." in one.unknown
    lost = summarise(replace(confirmed, confirm=confirmed.confirm[1:]))
    assert "The 1st has no value for 1 of 5 seeds: its means leave them out." in lost.unknown
    assert lost.recommended and lost.recommended.name != "1st"


def test_recommended_momentum_that_another_beats_is_advised_against() -> None:
    best_elsewhere = dict(zip(MOMENTA, (0.0, 0.0, 0.0, 0.002, 0.0), strict=True))
    answer = summarise(study(np.random.default_rng(32), of_momentum=best_elsewhere))
    assert "bn_momentum 1 is better than the recommended 0.1." in answer.unknown


def test_values_that_are_no_numbers_never_reach_a_sentence(confirmed: ResultSet) -> None:
    def broken(metrics: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(metrics, math.nan)

    rows = [replace(r, metrics=broken(dict(r.metrics)) if i % 3 == 0 else r.metrics)
            for i, r in enumerate(confirmed.confirm)]  # fmt: skip
    trials = [replace(t, value=math.nan) if t.number % 5 == 4 else t for t in confirmed.trials]
    for found in (replace(confirmed, confirm=rows), replace(confirmed, trials=trials),
                  replace(confirmed, trials=trials, confirm=[])):  # fmt: skip
        text = everything(summarise(found))
        assert "nan" not in text and "inf" not in text


def test_losses_are_in_their_own_unit_and_less_is_better() -> None:
    rng, trials = np.random.default_rng(31), []
    for i in range(20):
        x = float(rng.uniform(0, 0.7))
        value = 0.06 + 0.2 * (x - 0.3) ** 2 + 0.001 * float(rng.normal())
        trials.append(TrialRow(i, "complete", {DROPOUT: x}, value=value, seed=i))
    rows = [row(arm, i, 0, metrics={"val_nll": v + i / 1e4, "test_nll": v + i / 1e4},
                params={DROPOUT: x})
            for arm, v, x in (("1st", 0.06, 0.3), ("default", 0.068, 0.5))
            for i in range(5)]  # fmt: skip
    answer = summarise(results(trials, rows, metric="val_nll", direction="minimize"), 0.002)
    assert answer.sentences[0] == (
        "Use dropout 0.3: 0.06020 nats ± 0.00020 on the test set (5 seeds), "
        "0.00800 ± 0.00000 nats better than the default there."
    )
    assert answer.verdicts[0].effect == "matters"
    assert answer.verdicts[0].runs("worse")


def test_answer_needs_neither_torch_nor_optuna() -> None:
    code = "import sweep.confirm.summary, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "optuna", "hydra"} & set(run.stdout.split())
