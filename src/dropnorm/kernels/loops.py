"""Loops that `compiled` makes fast: dropout's draws, and batch norm with what follows it.

They are all in one file because a compiled loop has in it what it calls, and is made anew when its
own file changes. `cpu` gives them tensors.

Shapes: x, y, dy, dx [N, C], rows of channels; everything else [C], or as it is said.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from dropnorm.kernels.compiled import compiled

# Dropout's threshold among int16 numbers, what it multiplies kept units by (1: there is none), and
# its key: seed and step.
Drop: TypeAlias = tuple[int, float, int, int]

_WARM_UP = 12  # rounds after which SFC64 has mixed its state (numpy's own seeding uses as many)
_TOGETHER = 32  # rows that are summed in the type of x before they go into a sum in float64


@compiled
def draw(units: int, seed: int, step: int) -> np.ndarray:
    """int16 [units], of which SFC64 started at the state (seed, step, 0) makes four a round.

    Source: Doty-Humphrey's PractRand; its words are those of `numpy.random.SFC64`.
    """
    words = np.empty((units + 3) // 4, np.uint64)
    a, b, c, counter = np.uint64(seed), np.uint64(step), np.uint64(0), np.uint64(1)
    for k in range(-_WARM_UP, len(words)):
        word = a + b + counter
        counter += np.uint64(1)
        a = b ^ (b >> np.uint64(11))
        b = c + (c << np.uint64(3))
        c = ((c << np.uint64(24)) | (c >> np.uint64(40))) + word
        if k >= 0:
            words[k] = word
    return words.view(np.int16)[:units]


@compiled
def draw_mask(mask: np.ndarray, drop: Drop) -> None:
    """Fills mask [units] with what dropout multiplies by: `kept`, or 0 where a unit is dropped."""
    threshold, kept, seed, step = drop
    numbers, least, value = draw(len(mask), seed, step), np.int16(threshold), mask.dtype.type(kept)
    for k in range(len(mask)):
        mask[k] = value * mask.dtype.type(numbers[k] >= least)


@compiled
def statistics(x: np.ndarray, mean: np.ndarray, var: np.ndarray) -> None:
    """The mean and the biased variance of each channel, in two passes."""
    rows, channels = x.shape
    total, some = np.zeros(channels), np.empty(channels, x.dtype)
    for start in range(0, rows, _TOGETHER):
        some[:] = 0
        for i in range(start, min(start + _TOGETHER, rows)):
            row = x[i]
            for c in range(channels):
                some[c] += row[c]
        for c in range(channels):
            total[c] += some[c]
    for c in range(channels):
        mean[c] = total[c] / rows
        total[c] = 0
    for start in range(0, rows, _TOGETHER):
        some[:] = 0
        for i in range(start, min(start + _TOGETHER, rows)):
            row = x[i]
            for c in range(channels):
                some[c] += (row[c] - mean[c]) * (row[c] - mean[c])
        for c in range(channels):
            total[c] += some[c]
    for c in range(channels):
        var[c] = total[c] / rows


@compiled
def affine(
    mean: np.ndarray, var: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalisation as x * scale + shift, and the inverse standard deviation."""
    inverse, scale, shift = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for c in range(len(mean)):
        inverse[c] = 1 / np.sqrt(np.float64(var[c]) + eps)
        scale[c] = weight[c] * inverse[c]
        shift[c] = bias[c] - mean[c] * scale[c]
    return scale, shift, inverse


@compiled
def scale_shift(
    x: np.ndarray, y: np.ndarray, scale: np.ndarray, shift: np.ndarray, floor: float
) -> None:
    """y = max(x * scale + shift, floor)."""
    rows, channels = x.shape
    for i in range(rows):
        row, out = x[i], y[i]
        for c in range(channels):
            out[c] = max(row[c] * scale[c] + shift[c], floor)


@compiled
def scale_shift_drop(
    x: np.ndarray,
    y: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    floor: float,
    numbers: np.ndarray,
    threshold: int,
    kept: float,
) -> None:
    """`scale_shift`, then dropout by `numbers`, int16 [N, C]."""
    (rows, channels), least = x.shape, np.int16(threshold)
    for i in range(rows):
        row, out, drawn = x[i], y[i], numbers[i]
        for c in range(channels):
            mask = kept * x.dtype.type(drawn[c] >= least)
            out[c] = max(row[c] * scale[c] + shift[c], floor) * mask


@compiled
def turn(numbers: np.ndarray, turned: np.ndarray) -> None:
    """The first rows of `turned` are the columns of `numbers`."""
    channels, pixels = numbers.shape
    for c in range(channels):
        for p in range(pixels):
            turned[p, c] = numbers[c, p]


@compiled
def normalise(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    eps: float,
    floor: float,
    drop: Drop,
    pixels: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batch norm, a floor (0 is ReLU, -inf none) and dropout, from x to y.

    Of images so many rows are `pixels` of one, whose mask is drawn channel by channel. Returns the
    mean, the unbiased variance, and the inverse of the standard deviation.
    """
    rows, channels = x.shape
    mean, var = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    statistics(x, mean, var)
    scale, shift, inverse = affine(mean, var, weight, bias, eps)
    for c in range(channels):
        var[c] *= rows / (rows - 1)
    lowest, (threshold, kept, seed, step) = x.dtype.type(floor), drop
    if kept == 1:
        scale_shift(x, y, scale, shift, lowest)
    else:
        numbers, value = draw(rows * channels, seed, step), x.dtype.type(kept)
        if pixels == 1:
            drawn = numbers.reshape(rows, channels)
            scale_shift_drop(x, y, scale, shift, lowest, drawn, threshold, value)
        else:
            images = numbers.reshape(rows // pixels, channels, pixels)
            some = np.empty((_TOGETHER, channels), np.int16)
            for k in range(len(images)):
                for start in range(0, pixels, _TOGETHER):
                    stop = min(start + _TOGETHER, pixels)
                    turn(images[k][:, start:stop], some)
                    part = slice(k * pixels + start, k * pixels + stop)
                    where = x[part], y[part], scale, shift, lowest, some[: stop - start]
                    scale_shift_drop(*where, threshold, value)
    return mean, var, inverse


@compiled
def backward(
    dy: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    dx: np.ndarray,
    weight: np.ndarray,
    mean: np.ndarray,
    inverse: np.ndarray,
    floor: float,
    kept: float,
    d_weight: np.ndarray,
    d_bias: np.ndarray,
) -> None:
    """The way back through `normalise`, which made y of x: fills dx, d_weight and d_bias.

    Where y is not above the floor, x was below it or y was dropped: no gradient passes.
    """
    rows, channels = x.shape
    lowest, share = x.dtype.type(floor), x.dtype.type(kept)
    slopes, sums = np.zeros(channels), np.zeros(channels)
    some_slopes, some = np.empty(channels, x.dtype), np.empty(channels, x.dtype)
    for start in range(0, rows, _TOGETHER):
        some_slopes[:] = 0
        some[:] = 0
        for i in range(start, min(start + _TOGETHER, rows)):
            above, row, out, back = dy[i], x[i], y[i], dx[i]
            for c in range(channels):
                slope = above[c] * (share * x.dtype.type(out[c] > lowest))
                back[c] = slope
                some[c] += slope
                some_slopes[c] += slope * (row[c] - mean[c])
        for c in range(channels):
            sums[c] += some[c]
            slopes[c] += some_slopes[c]
    scale, tilt, shift = np.empty_like(mean), np.empty_like(mean), np.empty_like(mean)
    for c in range(channels):
        d_weight[c], d_bias[c] = slopes[c] * inverse[c], sums[c]
        scale[c] = weight[c] * inverse[c]
        slopes[c] *= weight[c] * np.float64(inverse[c]) ** 3 / rows
        tilt[c] = slopes[c]
        shift[c] = slopes[c] * mean[c] - sums[c] * scale[c] / rows
    for i in range(rows):
        row, back = x[i], dx[i]
        for c in range(channels):
            back[c] = back[c] * scale[c] - row[c] * tilt[c] + shift[c]


@compiled
def rectify(x: np.ndarray, y: np.ndarray, drop: Drop) -> None:
    """y [units] is x behind a ReLU and dropout."""
    draw_mask(y, drop)
    for k in range(len(x)):
        y[k] *= max(x[k], x.dtype.type(0))


@compiled
def rectify_backward(dy: np.ndarray, y: np.ndarray, dx: np.ndarray, kept: float) -> None:
    """The way back through `rectify`, which made y [units]."""
    share = y.dtype.type(kept)
    for k in range(len(y)):
        dx[k] = dy[k] * (share * y.dtype.type(y[k] > 0))
