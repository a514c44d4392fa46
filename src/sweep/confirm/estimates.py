"""Means over seeds with their uncertainty: t intervals, one-sided tests, Holm, power.

Arrays keep the independent values on the last axis and anything before it, so that one call
serves a whole table. One value alone has an infinite error: it proves nothing either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy  # whose parts load when they are used: two seconds, in which workers could start
from numpy.typing import NDArray

from sweep.confirm.findings import Interval

Array: TypeAlias = NDArray[np.float64]

ALPHA = 0.05  # of 20 studies at most one is told something different that is not
SEEDS_FACTOR = 15.7  # 2 (z_0.975 + z_0.8)²: a two-sided test at 5 % with a power of 80 %


@dataclass(frozen=True)
class Estimate:
    """Means with their standard errors and degrees of freedom, arrays of one shape."""

    mean: Array
    error: Array
    freedom: Array

    @property
    def half(self) -> Array:
        """Half the width of the 95 % intervals, each on its own."""
        return np.asarray(scipy.stats.t.ppf(1 - ALPHA / 2, self.freedom) * self.error)

    def p_above(self, bound: float) -> Array:
        """One-sided p-values for a true mean above `bound`."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (self.mean - bound) / self.error
        return np.asarray(scipy.stats.t.sf(np.nan_to_num(t, nan=0.0), self.freedom))

    def p_not_zero(self) -> Array:
        """Two-sided p-values for a true mean that is not 0."""
        above = self.p_above(0.0)
        return np.asarray(2 * np.minimum(above, 1 - above))

    def p_within(self, margin: float) -> Array:
        """p-values for a true mean in ±margin, by two one-sided tests: their larger p.

        At 2.5 % that is the 95 % interval lying inside.
        """
        mirrored = Estimate(-self.mean, self.error, self.freedom)
        return np.maximum(self.p_above(-margin), mirrored.p_above(-margin))

    def interval(self, count: int) -> Interval:
        """The one estimate that this is, as plain numbers."""
        mean, half = float(self.mean), float(self.half)
        return Interval(mean, mean - half, mean + half, count)


def mean_of(values: Array) -> Estimate:
    """Estimates of the means over the last axis, whose length is at least 1."""
    count, mean = values.shape[-1], values.mean(-1)
    error = scipy.stats.sem(values, axis=-1) if count > 1 else np.inf
    return Estimate(mean, *(np.broadcast_to(x, mean.shape) for x in (error, max(count - 1, 1))))


def difference_of(a: Array, b: Array) -> Estimate:
    """The mean of `a` less that of `b`, unpaired and with unequal variances (Welch)."""
    one, other = mean_of(a), mean_of(b)
    parts = np.stack([one.error**2, other.error**2])
    total = parts.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = total**2 / (parts[0] ** 2 / one.freedom + parts[1] ** 2 / other.freedom)
    freedom = np.where(np.isfinite(freedom), freedom, np.minimum(one.freedom, other.freedom))
    return Estimate(np.asarray(one.mean - other.mean), np.sqrt(total), freedom)


def holm(p: Array, idle: int = 0) -> Array:
    """p-values corrected for all on the last axis (Holm 1979), however they depend.

    That many of the largest, `idle`, ask no question.
    """
    order, count = np.argsort(p, axis=-1), p.shape[-1] - idle
    steps = np.take_along_axis(p, order, -1) * np.maximum(np.arange(count, -idle, -1), 1)
    steps = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
    corrected = np.empty_like(steps)
    np.put_along_axis(corrected, order, steps, -1)
    return corrected


def seeds_to_tell(noise: float, margin: float) -> int | None:
    """Seeds an arm that tell a difference of `margin` from none; None where no number does.

    `noise` is the SD between seeds of one arm: of paired differences, their SD over √2.
    """
    needed = SEEDS_FACTOR * noise**2 / margin**2 if margin > 0 else math.inf
    return max(2, math.ceil(needed)) if math.isfinite(needed) else None


def luck_of_best(count: int) -> float:
    """The expected maximum of that many standard normals, e.g. 2.25 for 50."""
    if count < 2:
        return 0.0
    normal = scipy.stats.norm
    return float(normal.expect(lambda x: count * x * normal.cdf(x) ** (count - 1)))
