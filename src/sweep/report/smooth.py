"""A smooth surface through noisy measurements: Gaussian-process regression in numpy.

Far from every measurement it returns to the mean of the values; it is a reading aid, not a model
to choose parameters by. Source: Rasmussen & Williams 2006, algorithm 2.1.
"""

from __future__ import annotations

from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

_LENGTHS = (0.2, 0.4, 0.8, 1.6)  # in units of the axis; shorter ones draw bumps around points
_NOISES = (0.003, 0.03, 0.1, 0.3, 1.0)  # variance of the noise over that of the surface


def smooth(points: Array, values: Array, at: Array) -> Array:
    """The posterior mean at `at` [m, d] from `values` [n] at `points` [n, d] in the unit cube."""
    mean, spread = values.mean(), values.std()
    if spread == 0.0:
        return np.full(len(at), mean)
    targets = (values - mean) / spread
    lengths, noise = _likeliest(points, targets)
    gram = _kernel(points, points, lengths) + noise * np.eye(len(points))
    weights = np.linalg.solve(gram, targets)
    return np.asarray(mean + spread * (_kernel(at, points, lengths) @ weights))


def _likeliest(points: Array, targets: Array) -> tuple[Array, float]:
    """Length scales and noise of the largest marginal likelihood, the amplitude profiled out."""
    some = np.linspace(0, len(points) - 1, min(len(points), 150)).astype(int)  # cost grows as n³
    points, targets = points[some], targets[some]

    def loss(lengths: Array, noise: float) -> float:
        root = np.linalg.cholesky(_kernel(points, points, lengths) + noise * np.eye(len(points)))
        amplitude = float(np.mean(np.linalg.solve(root, targets) ** 2))
        return float(0.5 * len(points) * np.log(amplitude) + np.log(np.diag(root)).sum())

    grid = [np.array(lengths) for lengths in product(_LENGTHS, repeat=points.shape[1])]
    choices: list[tuple[Array, float]] = list(product(grid, _NOISES))
    return min(choices, key=lambda choice: loss(*choice))


def _kernel(a: Array, b: Array, lengths: Array) -> Array:
    gaps = (a[:, None, :] - b[None, :, :]) / lengths
    return np.asarray(np.exp(-0.5 * (gaps**2).sum(axis=-1)))
