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

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Ranking:
    """Values against the `best` of them: differences [..., values], positive if better.

    Each of the two kinds of claim is wrong somewhere with a probability of at most 5 %.
    """

    best: Places
    difference: Estimate
    worse: Flags
    as_good: Flags  # not worse by more than the margin


def rank(values: Array, margin: float, ordered: int, anchor: Places | None = None) -> Ranking:
    """Rank `values` [..., values, seeds], more being better, of which seeds are independent.

    The first `ordered` are in the order of a number, and one of them is the best. `anchor` [...] is
    the expected best, chosen without these `values`; it stays unless another is detectably better.
    """
    count = values.shape[-2]
    pairs = mean_of(values[..., :, None, :] - values[..., None, :, :])  # row less column
    means = values.mean(-1)
    start = np.asarray(means[..., :ordered].argmax(-1) if anchor is None else anchor)
    is_start = np.arange(count) == start[..., None]
    against = _column(pairs, start)
    p = np.where(is_start, 1.0, against.p_not_zero())
    p = np.minimum(p * count * (count - 1) / 2, 1.0) if anchor is None else holm(p, idle=1)
    better = (p <= ALPHA) & (against.mean > 0) & (np.arange(count) < ordered)
    beaten = np.asarray(better.any(-1))
    best = np.where(beaten, np.where(better, means, -np.inf).argmax(-1), start)
    difference = _column(pairs, best)
    as_good = _as_good(difference, best, ordered, margin)
    worse = ((p <= ALPHA) & (against.mean < 0)) | (is_start & beaten[..., None])
    return Ranking(best, difference, worse & ~as_good, as_good)


def _as_good(difference: Estimate, best: Places, ordered: int, margin: float) -> Flags:
    """From the best outwards, up to the first value that is not shown to be as good.

    Tests in an order that is fixed beforehand need no correction (Maurer et al. 1995): only that
    for having two directions, and one more for each value outside the order.
    """
    count = difference.mean.shape[-1]
    level = ALPHA / (2 + count - ordered)
    is_best = np.arange(count) == best[..., None]
    failed = (difference.p_above(-margin) > level) & ~is_best
    inside = failed[..., :ordered]
    until = inside.cumsum(-1)  # failures up to and with each value
    at_best = np.take_along_axis(until, best[..., None], -1)
    above = np.arange(ordered) >= best[..., None]
    between = np.where(above, until - at_best, at_best - until + inside)
    return np.concatenate([between == 0, ~failed[..., ordered:]], axis=-1)


def _column(pairs: Estimate, chosen: Places) -> Estimate:
    place = np.asarray(chosen)[..., None, None]
    parts = (pairs.mean, pairs.error, pairs.freedom)
    return Estimate(*(np.take_along_axis(part, place, -1)[..., 0] for part in parts))
