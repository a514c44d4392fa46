"""Running averages of many momenta, moved in one loop."""

from __future__ import annotations

import numpy as np

from dropnorm.kernels.compiled import compiled


@compiled
def track(
    means: np.ndarray,
    variances: np.ndarray,
    momenta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    batches: int,
) -> None:
    """Moves averages [M, C] towards a batch's [C] by each momentum [M]; 0 is the cumulative one.

    `batches` is how many there were, this one included. A momentum of 1 gives the batch's exactly.
    """
    for m in range(len(momenta)):
        share = means.dtype.type(momenta[m])
        if share == 0:
            share = means.dtype.type(1) / means.dtype.type(batches)
        move(means[m], mean, share)
        move(variances[m], var, share)


@compiled
def move(average: np.ndarray, batch: np.ndarray, share: float) -> None:
    """average + share * (batch - average), so that a share of 1 gives the batch."""
    rest = average.dtype.type(1) - share
    for c in range(len(average)):
        apart = batch[c] - average[c]
        average[c] = average[c] + apart * share if share < 0.5 else batch[c] - apart * rest
