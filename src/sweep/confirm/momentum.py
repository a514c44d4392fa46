"""The verdict on bn_momentum: all momenta were scored on the same weights, so they are paired.

What is independent is a seed: its last batches, which a large momentum reads, are the same in
every arm. So the curves of a seed are averaged first, over its arms.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from sweep.confirm.estimates import Array, Estimate, seeds_to_tell
from sweep.confirm.findings import Level, Standing, Verdict
from sweep.confirm.ranking import Places, Ranking, rank
from sweep.confirm.verdicts import judge, unknown
from sweep.confirm.wording import Words, plural
from sweep.messages import Value
from sweep.parameters import Parameter
from sweep.results import MomentumCurve, ResultSet

_ROLES = {True: "the recommended {}", False: "{}, the best on average"}
_ENOUGH = 3  # independent curves: two leave an interval that nothing leaves

Curves = Sequence[tuple[Hashable, MomentumCurve]]  # each with what it is independent by


def momentum_verdict(
    results: ResultSet, parameter: Parameter, words: Words, recommended: Value = None
) -> Verdict | None:
    """From the confirmation, or the search's own curves without it; None if nothing was scored.

    After a confirmation the values are held against the recommended one, which the search found, or
    against the search's best on average where the recommended one was not scored.
    """
    fresh = [(r.seed, r.momentum) for r in results.confirm if r.momentum is not None]
    found = [(t.number, t.momentum) for t in results.complete if t.momentum is not None]
    confirmed = len({seed for seed, _ in fresh}) >= _ENOUGH
    curves: Curves = fresh if confirmed else found
    if not curves:
        return None
    momenta = _common(curves)
    count = len({by for by, _ in curves})
    if count < _ENOUGH or len(momenta) < 2:
        return unknown(parameter, f"{plural(count, 'training')} scored its values in common")
    values = results.sign * _table(curves, momenta)
    numbers = momenta[: len(momenta) - (None in momenta)]
    anchor = None
    if confirmed and recommended is not None and recommended in numbers:
        anchor = np.array(numbers.index(recommended))
    elif confirmed:
        anchor = _expected_best(results.sign, found, numbers)
    ranking = rank(values, words.margin, len(numbers), anchor)
    where = f"{plural(count, 'fresh seed')} of the confirmation" if confirmed else "the search"
    evidence = f"{plural(len(curves), 'training')} in {where}, all values on the same weights"
    levels = [_level(ranking, i, momentum, count) for i, momentum in enumerate(momenta)]
    seeds = _seeds(ranking.difference, levels, count, words.margin)
    best = momenta[int(ranking.best)]
    role = _ROLES[confirmed and best == recommended]
    return judge(parameter, levels, best, evidence, seeds, words, role)


def _common(curves: Curves) -> list[float | None]:
    """Momenta that every curve has a finite value for, in order, the cumulative average last."""
    finite = [
        {m for m, v in zip(c.momenta, c.values, strict=True) if math.isfinite(v)} for _, c in curves
    ]
    return sorted(set.intersection(*finite), key=lambda m: (m is None, m))


def _table(curves: Curves, momenta: Sequence[float | None]) -> Array:
    """Values [momenta, independent], each the mean over the curves that belong together."""
    rows: dict[Hashable, list[list[float]]] = {}
    for by, curve in curves:
        known = dict(zip(curve.momenta, curve.values, strict=True))
        rows.setdefault(by, []).append([known[m] for m in momenta])
    return np.array([np.mean(group, axis=0) for group in rows.values()]).T


def _expected_best(sign: float, found: Curves, momenta: Sequence[float | None]) -> Places | None:
    """The best of the search on average; None if it did not score the same values."""
    known = [(by, c) for by, c in found if set(momenta) <= set(_common([(by, c)]))]
    return np.array((sign * _table(known, momenta)).mean(-1).argmax()) if known else None


def _level(ranking: Ranking, place: int, momentum: float | None, count: int) -> Level:
    d = ranking.difference
    standing: Standing = "worse" if ranking.worse[place] else "undecided"
    if ranking.as_good[place]:
        standing = "as good"
    one = Estimate(d.mean[place], d.error[place], d.freedom[place])
    return Level(momentum, one.interval(count), standing)


def _seeds(difference: Estimate, levels: Sequence[Level], count: int, margin: float) -> int | None:
    open_errors = [
        float(e) for e, x in zip(difference.error, levels, strict=True) if x.standing == "undecided"
    ]
    # Of paired differences, whose SD is error * √count; a single arm's would be that over √2.
    return seeds_to_tell(max(open_errors, default=0.0) * math.sqrt(count / 2), margin)
