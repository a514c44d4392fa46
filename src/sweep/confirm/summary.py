"""The answer of a study: what to use, how good it is, how sure that is, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sweep.confirm.arms import (
    arms_of,
    by_seed,
    compare_arms,
    lead_of,
    margin_of,
    noise_of,
    recommend,
)
from sweep.confirm.axes import point
from sweep.confirm.estimates import luck_of_best
from sweep.confirm.findings import Answer, Arm, Verdict
from sweep.confirm.momentum import momentum_verdict
from sweep.confirm.response import response_verdicts
from sweep.confirm.sentences import effects, recommendation, shrinkage
from sweep.confirm.wording import Words, listed, plural, said
from sweep.messages import MOMENTUM_KEYS, RETROFITTED, Value
from sweep.metric import Metric
from sweep.parameters import parameters_of
from sweep.results import DEFAULT, ResultSet


def summarise(results: ResultSet, margin: float | None = None) -> Answer:
    """Everything that the rows of a study prove, in figures and in words.

    Differences of the metric up to `margin`, by default the study's own, do not matter: 0.0005 are
    0.05 points of accuracy. Works at any stage of a study; `unknown` says what is missing.
    """
    margin = margin_of(results) if margin is None else margin
    words = Words(_metric(results), margin, parameters_of(results))
    arms = arms_of(results)
    noise = noise_of(results, arms)
    comparisons = compare_arms(results, arms, words)
    found = _found(results)
    chosen = recommend(arms, results.sign, margin) or found
    settings = [arm.params for arm in (chosen, found) if arm is not None]
    verdicts = _verdicts(results, settings, noise, words) if settings else []
    luck = noise * luck_of_best(len(results.complete)) if noise is not None else None
    lead = None if chosen is None else lead_of(results, chosen, comparisons)
    first = recommendation(chosen, arms, comparisons, lead, len(results.complete), words)
    second = effects(verdicts)
    return Answer(
        metric=words.metric,
        margin=margin,
        recommended=chosen,
        arms=tuple(arms),
        comparisons=tuple(comparisons),
        verdicts=tuple(verdicts),
        noise=noise,
        luck=luck,
        sentences=(first, second) if second else (first,),
        shrinkage=shrinkage(arms, len(results.complete), luck, words),
        unknown=tuple(_doubts(chosen, arms, verdicts)),
    )


def _metric(results: ResultSet) -> Metric:
    fresh = [
        value
        for arm in dict.fromkeys(row.arm for row in results.confirm)
        for split in ("validation", "test")
        for value in by_seed(results, arm, split).values()
    ]
    return Metric.of(results.metric, [*(t.value for t in results.complete if t.value), *fresh])


def _found(results: ResultSet) -> Arm | None:
    """The search's best as an arm that no fresh seed was spent on."""
    complete = [t for t in results.complete if t.value is not None and math.isfinite(t.value)]
    best = max(complete, key=lambda t: results.sign * (t.value or 0.0), default=None)
    if best is None:
        return None
    return Arm(name="best", trial=best.number, params=best.params, searched=best.value)


def _verdicts(
    results: ResultSet,
    settings: Sequence[Mapping[str, Value]],
    noise: float | None,
    words: Words,
) -> list[Verdict]:
    """One for each searched parameter, in the order of the search space.

    They are about the first of the `settings` that has a place on every axis: a default may have a
    value that no trial has, the search's best never does.
    """
    profiled = [p for p in words.parameters if p.key in MOMENTUM_KEYS]
    on_momentum = [momentum_verdict(results, p, words, settings[0].get(p.key)) for p in profiled]
    found = {verdict.key: verdict for verdict in on_momentum if verdict is not None}
    rest = [p for p in words.parameters if p.key not in found]
    base = next((s for s in settings if point(rest, s) is not None), settings[0])
    if rest:
        found |= {v.key: v for v in response_verdicts(results, rest, base, noise, words)}
    return [found[p.key] for p in words.parameters]


def _doubts(chosen: Arm | None, arms: Sequence[Arm], verdicts: Sequence[Verdict]) -> list[str]:
    """What a reader may expect and does not find, and what speaks against the advice."""
    found = []
    if not any(arm.seeds for arm in arms):
        found.append(
            "Nothing was trained on fresh seeds yet: not known are the test set's figure, how far "
            "chance goes, and what was gained over the default."
        )
    else:
        if not any(arm.test for arm in arms):
            found.append("The test set was not looked at: all figures are of validation.")
        if max(len(arm.seeds) for arm in arms) < 2:
            found.append("One seed a setting does not show how far chance goes.")
        if not any(arm.name == DEFAULT and arm.seeds for arm in arms):
            found.append(
                "The default has no training: what the search gained over it is not known."
            )
    found += [
        f"The {arm.name} has no value for {arm.missing} of "
        f"{plural(arm.missing + len(arm.seeds), 'seed')}: its means leave them out."
        for arm in arms
        if arm.missing
    ]
    if names := [v.name for v in verdicts if v.effect == "unknown"]:
        found.append(f"What {listed(names)} {'does' if len(names) == 1 else 'do'} is not known.")
    params = chosen.params if chosen else {}
    found += [
        f"{v.name} {said(v.best)} is better than the recommended {said(level.value)}."
        for v in verdicts
        for level in v.levels
        if level.standing == "worse" and v.key in params and level.value == params[v.key]
        if level.value is not None or v.key != RETROFITTED  # where null is the module's own
    ]
    return found
