"""Batch norm in evaluation with the ReLU behind it, in one loop."""

from __future__ import annotations

import numpy as np

from dropnorm.kernels.compiled import contracted


@contracted
def normalise_and_rectify(
    x: np.ndarray,
    y: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
) -> None:
    """y [N, C] of rows x [N, C] and running averages [C]: the bits of torch's two kernels."""
    rows, channels = x.shape
    scale, shift = np.empty_like(mean), np.empty_like(mean)
    zero, one, least = x.dtype.type(0), mean.dtype.type(1), mean.dtype.type(eps)
    for c in range(channels):
        scale[c] = weight[c] * (one / np.sqrt(var[c] + least))
        shift[c] = bias[c] - mean[c] * scale[c]
    for i in range(rows):
        row, out = x[i], y[i]
        for c in range(channels):
            out[c] = max(row[c] * scale[c] + shift[c], zero)
