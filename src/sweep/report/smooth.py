"""A smooth curve or surface through noisy measurements: Gaussian-process regression in numpy.

Far from every measurement it returns to the mean of the values; it is a reading aid, not a model
to choose parameters by. Source: Rasmussen & Williams 2006, algorithm 2.1.
"""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Array: TypeAlias = NDArray[np.float64]

_LENGTHS = (0.2, 0.4, 0.8, 1.6)  # in units of the axis; shorter ones draw bumps around points
_NOISES = (0.003, 0.03, 0.1, 0.3, 1.0)  # variance of the noise over that of the surface
_NORMAL = 1.96  # standard deviations on either side that hold 95 %


def smooth(points: Array, values: Array, at: Array) -> Array:
    """The posterior mean at `at` [m, d] from `values` [n] at `points` [n, d] in the unit cube.

    Values [n, k] are k surfaces measured at the same points, as smooth as each other; gives [m, k].
    """
    return smooth_band(points, values, at)[0]


def smooth_band(points: Array, values: Array, at: Array) -> tuple[Array, Array]:
    """The posterior mean at `at`, and half its 95 % interval [m]."""
    with threadpool_limits(1, "blas"):  # on busy cores threads wait for each other
        return _posterior(points, values, at)


def _posterior(points: Array, values: Array, at: Array) -> tuple[Array, Array]:
    mean = values.mean(axis=0)
    spread = float(np.sqrt(np.mean((values - mean) ** 2)))
    if spread == 0.0:
        flat = np.broadcast_to(mean, (len(at), *values.shape[1:]))
        return flat, np.zeros(len(at))
    targets = (values - mean) / spread
    lengths, noise, amplitude = _likeliest(points, targets)
    gram = _kernel(points, points, lengths) + noise * np.eye(len(points))
    towards = _kernel(at, points, lengths)
    solved = np.linalg.solve(gram, np.column_stack([targets, towards.T]))
    count = solved.shape[1] - len(at)
    line = mean + spread * (towards @ solved[:, :count]).reshape(len(at), *values.shape[1:])
    variance = np.clip(1.0 - np.einsum("mn,nm->m", towards, solved[:, count:]), 0.0, None)
    return line, _NORMAL * spread * np.sqrt(amplitude * variance)


def _likeliest(points: Array, targets: Array) -> tuple[Array, float, float]:
    """Length scales, noise and amplitude of the largest marginal likelihood."""
    some = np.linspace(0, len(points) - 1, min(len(points), 150)).astype(int)  # cost grows as n³
    points, targets = points[some], targets[some]

    found: list[tuple[float, tuple[float, ...], float, float]] = []
    for lengths in product(_LENGTHS, repeat=points.shape[1]):
        sizes, directions = np.linalg.eigh(_kernel(points, points, np.array(lengths)))
        turned = directions.T @ targets
        for noise in _NOISES:
            variances = np.clip(sizes, 0.0, None) + noise
            amplitude = float(np.mean(turned.T**2 / variances))
            loss = 0.5 * (len(points) * np.log(amplitude) + np.log(variances).sum())
            found.append((float(loss), lengths, noise, amplitude))
    _, best, noise, amplitude = min(found)
    return np.array(best), noise, amplitude


def _kernel(a: Array, b: Array, lengths: Array) -> Array:
    gaps = (a[:, None, :] - b[None, :, :]) / lengths
    return np.asarray(np.exp(-0.5 * (gaps**2).sum(axis=-1)))
