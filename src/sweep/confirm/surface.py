"""What noisy measurements leave possible of the surface behind them: draws of its differences.

A Gaussian process whose lengths, amplitude, noise and share of noise that trainings of one seed
have in common are not fitted but averaged over (Rasmussen & Williams 2006, chapter 5): with some
twenty trials the best fit is far too sure of itself. A kink is smoothed over, so values right
beside one may be judged like their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # see sweep.confirm.estimates
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sweep.confirm.estimates import Array

_LENGTHS = (0.1, 3.0)  # in units of an axis; longer ones are straight lines
# Variance of the surface over that of the noise. Far below 1 a surface would be flat beforehand,
# and real differences about as large as the noise would be denied.
_AMPLITUDES = (0.3, 1e3)
_SHARED = 0.8  # at most so much of the noise is a seed's own, the same in all its trainings
_MEAN = 1e3  # variance of the mean of all values, over that of the noise: any mean will do
_SETTINGS = 128  # hyperparameters tried for each axis and one more
_KEPT, _DRAWS = 40, 50
_SEED = 0


@dataclass(frozen=True)
class Measured:
    """Values [n], more being better, of trainings with `seeds` [n] at `points` [n, axes].

    Axes run from 0 to 1. Points on `categorical` [axes] ones are equal or not, never close.
    """

    points: Array
    categorical: NDArray[np.bool_]
    seeds: NDArray[np.intp]
    values: Array


@dataclass(frozen=True)
class _Fit:
    """Measurements under one set of hyperparameters, in units of the noise."""

    lengths: Array
    amplitude: float
    root: Array  # Cholesky factor of the covariance
    residuals: Array
    likelihood: float  # logarithm


def draw_differences(measured: Measured, at: Array) -> Array:
    """Draws [draws, m] of the surface at each point of `at` [m, axes] less that at the first.

    Takes time cubic in the number of measurements: a second or so for 300.
    """
    rng = np.random.default_rng(_SEED)
    with threadpool_limits(1, "blas"):  # on busy cores they wait for each other, twice as long
        fits = _fits(measured)
        likelihoods = np.array([f.likelihood for f in fits])
        weights = np.exp(likelihoods - likelihoods.max())
        shares = np.cumsum(weights / weights.sum())
        chosen = np.searchsorted(shares, (np.arange(_KEPT) + 0.5) / _KEPT)
        some, times = np.unique(np.minimum(chosen, len(fits) - 1), return_counts=True)
        draws = [
            _draw(measured, fits[i], at, int(n) * _DRAWS, rng)
            for i, n in zip(some, times, strict=True)
        ]
    return np.concatenate(draws)


def _fits(measured: Measured) -> list[_Fit]:
    axes = measured.points.shape[1]
    points = scipy.stats.qmc.Halton(axes + 2, rng=np.random.default_rng(_SEED))
    spread = points.random(_SETTINGS * (axes + 1))
    gaps = _gaps(measured, measured.points, measured.points)
    same = np.equal.outer(measured.seeds, measured.seeds).astype(float)
    return [_fit(measured, gaps, same, place) for place in spread]


def _fit(measured: Measured, gaps: Array, same: Array, place: Array) -> _Fit:
    lengths, amplitude = _between(place[:-2], _LENGTHS), float(_between(place[-2], _AMPLITUDES))
    shared = _SHARED * place[-1]
    noise = shared * same + (1 - shared) * np.eye(len(same))
    root = np.linalg.cholesky(noise + amplitude * _kernel(gaps, lengths) + _MEAN)
    centred = measured.values - measured.values.mean()
    residuals = scipy.linalg.solve_triangular(root, centred, lower=True, check_finite=False)
    scale = max(float(residuals @ residuals), np.finfo(float).tiny)  # 0 if all values are equal
    likelihood = -np.log(np.diag(root)).sum() - len(same) / 2 * np.log(scale)
    return _Fit(lengths, amplitude, root, residuals, float(likelihood))


def _draw(measured: Measured, fit: _Fit, at: Array, count: int, rng: np.random.Generator) -> Array:
    towards = fit.amplitude * _kernel(_gaps(measured, at, measured.points), fit.lengths) + _MEAN
    among = fit.amplitude * _kernel(_gaps(measured, at, at), fit.lengths) + _MEAN
    solved = scipy.linalg.solve_triangular(fit.root, towards.T, lower=True, check_finite=False)
    mean, spread = solved.T @ fit.residuals, among - solved.T @ solved
    mean, spread = mean - mean[0], spread - spread[0] - spread[:, [0]] + spread[0, 0]
    sizes, directions = np.linalg.eigh(spread)
    root = directions * np.sqrt(np.clip(sizes, 0.0, None))
    scale = float(fit.residuals @ fit.residuals)
    noise = np.sqrt(scale / rng.chisquare(len(measured.values), size=(count, 1)))
    return np.asarray(mean + noise * (rng.normal(size=(count, len(at))) @ root.T))


def hold_together(claims: NDArray[np.bool_], level: float) -> NDArray[np.bool_]:
    """The columns whose claims [draws, columns] are all true in a share `level` of the draws.

    Claims are taken in from the likeliest on, for as long as that holds.
    """
    order = np.argsort(-claims.mean(0), kind="stable")
    together = np.logical_and.accumulate(claims[:, order], axis=1).mean(0)
    held = np.zeros(claims.shape[1], dtype=bool)
    held[order[together >= level]] = True
    return held


def _gaps(measured: Measured, a: Array, b: Array) -> Array:
    gaps = a[:, None, :] - b[None, :, :]
    return np.where(measured.categorical, (gaps != 0).astype(float), gaps) ** 2


def _kernel(squares: Array, lengths: Array) -> Array:
    """Matérn with smoothness 5/2: twice differentiable, so less stiff than a Gaussian."""
    r = np.sqrt(5 * (squares @ lengths**-2.0))
    return np.asarray((1 + r + r * r / 3) * np.exp(-r))


def _between(place: Array, ends: tuple[float, float]) -> Array:
    return np.asarray(ends[0] * (ends[1] / ends[0]) ** place)
