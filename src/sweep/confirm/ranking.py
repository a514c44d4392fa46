"""Which of several values are as good as the best, from values measured on the same weights.

Picking the best and testing the others against it finds differences where there are none: among
14 equal momenta in 13 of 100 studies in spite of Holm. So what is tested against is chosen
elsewhere (by the search), or else all pairs are paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.confirm.estimates import ALPHA, Array, Estimate, holm, mean_of


@dataclass(frozen=True)
class Ranking:
    """Values against the `best` of them: differences [..., values], positive if better.

    Each of the two kinds of claim is wrong somewhere with a probability of at most 5 %.
    """

    best: NDArray[np.intp]
    difference: Estimate
    worse: NDArray[np.bool_]
    as_good: NDArray[np.bool_]


def rank(values: Array, margin: float, anchor: NDArray[np.intp] | None = None) -> Ranking:
    """Rank `values` [..., values, seeds], more being better, of which seeds are independent.

    `anchor` [...] is the expected best, chosen without these `values`. It stays the best unless
    another is detectably better. `as_good` holds against every other value, not the best alone, so
    that it is true of the true best.
    """
    count = values.shape[-2]
    pairs = mean_of(values[..., :, None, :] - values[..., None, :, :])  # row less column
    means = values.mean(-1)
    start = np.asarray(means.argmax(-1) if anchor is None else anchor)
    against = _column(pairs, start)
    p = against.p_not_zero()
    if anchor is None:
        p = np.minimum(p * (count * (count - 1) / 2), 1.0)
    else:
        p = np.where(np.arange(count) == start[..., None], 1.0, p)
        p = holm(p, idle=1)
    sure = p <= ALPHA
    better = sure & (against.mean > 0)
    beaten = np.asarray(better.any(-1))
    best = np.where(beaten, np.where(better, means, -np.inf).argmax(-1), start)
    outdone = (np.arange(count) == start[..., None]) & beaten[..., None]
    shortfall = np.where(np.eye(count, dtype=bool), 0.0, pairs.p_above(-margin)).max(-1)
    as_good = holm(shortfall) <= ALPHA / 2
    worse = ((sure & (against.mean < 0)) | outdone) & ~as_good
    return Ranking(best, _column(pairs, best), worse, as_good)


def _column(pairs: Estimate, chosen: NDArray[np.intp]) -> Estimate:
    place = np.asarray(chosen)[..., None, None]
    parts = (pairs.mean, pairs.error, pairs.freedom)
    return Estimate(*(np.take_along_axis(part, place, -1)[..., 0] for part in parts))
