"""The arms of a confirmation: their means on fresh seeds, and each against the default.

All arms train on the same seeds, so they are compared seed by seed; arms with fewer than two seeds
in common are compared as independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweep.confirm.estimates import ALPHA, Estimate, difference_of, holm, mean_of, seeds_to_tell
from sweep.confirm.findings import PLACES, Arm, Comparison, Interval, Outcome, Split
from sweep.confirm.wording import Words, against
from sweep.metric import tested
from sweep.results import DEFAULT, ConfirmRow, ResultSet
from sweep.schema import ConfirmSettings


def margin_of(results: ResultSet) -> float:
    """The difference of the metric that matters, as the study was configured."""
    settings = results.config.get("confirm") or {}
    return float(settings.get("margin", ConfirmSettings().margin))


def by_seed(results: ResultSet, arm: str, split: Split) -> dict[int, float]:
    """The finite values of an arm; a seed that was trained twice counts once."""
    name = results.metric if split == "validation" else tested(results.metric) or ""
    found = {r.seed: r.metrics.get(name, math.nan) for r in results.confirm if r.arm == arm}
    return {seed: value for seed, value in found.items() if math.isfinite(value)}


def arms_of(results: ResultSet) -> list[Arm]:
    """Every arm that has a row: as good as the search saw them; last a default that it did not."""
    rows = {row.arm: row for row in reversed(results.confirm)}
    names = list(dict.fromkeys(row.arm for row in results.confirm))
    values = {name: by_seed(results, name, "validation") for name in names}
    trained = set[int]().union(*values.values())
    arms = [_arm(results, rows[name], values[name], len(trained)) for name in names]

    def rank(arm: Arm) -> tuple[float, int]:  # of equals, the trial that was asked for first
        searched = math.inf if arm.searched is None else -results.sign * arm.searched
        return searched, arm.trial or 0

    return sorted(arms, key=rank)


def _arm(results: ResultSet, row: ConfirmRow, values: Mapping[int, float], trained: int) -> Arm:
    validation = _interval(values)
    trial = next((t for t in results.trials if t.number == row.trial), None)
    searched = trial.value if trial else None
    searched = searched if searched is not None and math.isfinite(searched) else None
    shrinkage = None
    if validation is not None and searched is not None:
        gap = results.sign * (searched - validation.mean)
        half = validation.half
        shrinkage = Interval(gap, gap - half, gap + half, validation.count)
    return Arm(
        name=row.arm,
        trial=row.trial,
        params=row.params,
        seeds=tuple(values),
        missing=trained - len(values),
        validation=validation,
        test=_interval(by_seed(results, row.arm, "test")),
        searched=searched,
        shrinkage=shrinkage,
    )


def _interval(values: Mapping[int, float]) -> Interval | None:
    return mean_of(np.array(list(values.values()))).interval(len(values)) if values else None


def noise_of(results: ResultSet, arms: Sequence[Arm]) -> float | None:
    """The SD between seeds of one arm on validation, pooled; None without two seeds of any."""
    samples = [np.array(list(by_seed(results, a.name, "validation").values())) for a in arms]
    squares = sum(float(((s - s.mean()) ** 2).sum()) for s in samples if len(s) > 1)
    freedom = sum(len(s) - 1 for s in samples if len(s) > 1)
    return math.sqrt(squares / freedom) if freedom else None


def recommend(arms: Sequence[Arm], sign: float, margin: float = 0.0) -> Arm | None:
    """The best arm on validation, the earliest of equals; one that lost seeds only if all did.

    The default, if none is better than it by more than `margin`: nobody changes a setting for a
    difference that does not matter. The test set has no say, or its figure would be the best of
    several.
    """
    fewest = min((a.missing for a in arms if a.validation is not None), default=0)
    sound = [a for a in arms if a.validation is not None and a.missing == fewest]

    def height(arm: Arm) -> float:
        mean = arm.validation.mean if arm.validation else 0.0
        return sign * mean + (margin if is_default(arm, arms) else 0.0)

    return max(sound, key=height, default=None)


def is_default(arm: Arm, arms: Sequence[Arm]) -> bool:
    """Whether an arm is the default setting, perhaps found again by the search."""
    return arm.name == DEFAULT or any(a.name == DEFAULT and a.params == arm.params for a in arms)


@dataclass(frozen=True)
class _Difference:
    estimate: Estimate
    count: int
    paired: bool

    @property
    def noise(self) -> float:
        """SD between seeds of one arm, as a comparison of two sees it."""
        return float(self.estimate.error) * math.sqrt(self.count / 2)


def compare_arms(results: ResultSet, arms: Sequence[Arm], words: Words) -> list[Comparison]:
    """Every other arm against the default; without it against the first.

    That is settled before the fresh seeds are seen, so Holm's correction is all that is needed:
    a study in which nothing differs is told of a difference with a probability of at most 5 %.
    """
    split: Split = "test" if arms and all(a.test for a in arms) else "validation"
    values = {a.name: d for a in arms if (d := by_seed(results, a.name, split))}
    other = DEFAULT if DEFAULT in values else next(iter(values), "")
    names = [name for name in values if name != other]
    if not names:
        return []
    sign = results.sign
    found = [_difference(values[name], values[other], sign) for name in names]
    p = np.array([float(d.estimate.p_not_zero()) for d in found])
    within = holm(np.array([float(d.estimate.p_within(words.margin)) for d in found]))
    corrected = holm(p)
    return [
        _comparison(name, other, split, d, (float(p[i]), float(corrected[i]), float(within[i])),
                    words)
        for i, (name, d) in enumerate(zip(names, found, strict=True))
    ]  # fmt: skip


def lead_of(results: ResultSet, arm: Arm, comparisons: Sequence[Comparison]) -> Interval | None:
    """By how much an arm is better, on validation, than the one that all are compared with."""
    other = next((c.against for c in comparisons if c.arm == arm.name), "")
    mine, theirs = (by_seed(results, name, "validation") for name in (arm.name, other))
    if not (mine and theirs):
        return None
    found = _difference(mine, theirs, results.sign)
    return found.estimate.interval(found.count)


def _difference(a: Mapping[int, float], b: Mapping[int, float], sign: float) -> _Difference:
    shared = [seed for seed in a if seed in b]
    if len(shared) > 1 or min(len(a), len(b)) == 1 == len(shared):
        pairs = np.array([sign * (a[seed] - b[seed]) for seed in shared])
        return _Difference(mean_of(pairs), len(shared), True)
    one, two = (sign * np.array(list(x.values())) for x in (a, b))
    return _Difference(difference_of(one, two), min(len(a), len(b)), False)


def _comparison(
    name: str,
    other: str,
    split: Split,
    difference: _Difference,
    chances: tuple[float, float, float],
    words: Words,
) -> Comparison:
    p, corrected, within = chances
    gap = difference.estimate.interval(difference.count)
    outcome: Outcome = "undecided"
    if within <= ALPHA / 2:  # a difference too small to matter, be it detectable or not
        outcome = "equal"
    elif corrected <= ALPHA:
        outcome = "better" if gap.mean > 0 else "worse"
    seeds = seeds_to_tell(difference.noise, words.margin) if outcome == "undecided" else None
    clause = against(words, outcome, gap, f"the {other}")
    clause += f": {words.more_seeds(seeds)}" if outcome == "undecided" else ""
    sentence = f"The {name}, {PLACES[split]}: {clause}."
    return Comparison(
        name, other, split, difference.paired, gap, p, corrected, outcome, seeds, sentence
    )
