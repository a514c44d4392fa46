"""Batches gathered from pixels in one loop."""

from __future__ import annotations

import numpy as np

from dropnorm.kernels.compiled import compiled


@compiled
def gather(
    images: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    scale: float,
    shift: float,
) -> None:
    """x float32 [B, P] and y [B]: the rows [B] of uint8 images [N, P] and of labels [N].

    Pixels become pixel * scale + shift.
    """
    factor, constant = np.float32(scale), np.float32(shift)
    for i in range(len(rows)):
        y[i] = labels[rows[i]]
        pixels, out = images[rows[i]], x[i]
        for p in range(len(out)):
            out[p] = np.float32(pixels[p]) * factor + constant
