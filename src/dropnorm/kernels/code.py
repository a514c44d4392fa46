"""The Triton code: batch norm, activation and dropout of K lanes in one pass over memory each way.

A program is a lane (grid axis 1) and a block of its channels (axis 0). It reads its values twice:
for the statistics, then for the result; the second time mostly from a cache. Values are addressed
as [K, rows, channels, inner] by strides, and every tensor of that shape has the same ones. All
arithmetic is float32; masks are never stored, for backward draws them once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl
from triton.language import constexpr, tensor

jit: Callable[[Callable[..., Any]], Any] = triton.jit


@jit
def _mix(x: tensor) -> tensor:
    """`dropnorm.random._mix`, in uint32, which wraps by itself."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@jit
def _key(seed: tensor, step: tensor) -> tensor:
    return _mix(_mix(seed.to(tl.uint32)) ^ (seed >> 32).to(tl.uint32) ^ step.to(tl.uint32))


@jit
def _kept(index: tensor, key: tensor, rate: tensor) -> tensor:
    """What a unit is multiplied with: `dropping_on_device`, of which the mask bit for bit."""
    numbers = _mix(_mix(index.to(tl.uint32) ^ key) + (key >> 7))
    below = tl.minimum(rate, 0.99999994)  # the last number before 1
    scale = tl.where(rate < 1.0, 1.0 / (1.0 - below), 0.0)
    return tl.where(numbers >= (below * 4294967296.0).to(tl.uint32), scale, 0.0)


@jit
def _activated(z: tensor, NAME: constexpr) -> tensor:
    if NAME == "relu":
        a = tl.where(z < 0.0, 0.0, z)  # a maximum would turn NaN into 0 and hide a diverged lane
    elif NAME == "gelu":
        a = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))
    elif NAME == "silu":
        a = z * tl.sigmoid(z)
    elif NAME == "selu":
        a = 1.0507009873554805 * tl.where(z > 0.0, z, 1.6732632423543772 * (tl.exp(z) - 1.0))
    elif NAME == "tanh":
        a = 2.0 * tl.sigmoid(2.0 * z) - 1.0
    elif NAME == "sigmoid":
        a = tl.sigmoid(z)
    else:
        a = z
    return a


@jit
def _slope(z: tensor, NAME: constexpr) -> tensor:
    """The derivative of `_activated`."""
    if NAME == "relu":
        d = tl.where(z <= 0.0, 0.0, 1.0)
    elif NAME == "gelu":
        normal = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        d = normal + z * tl.exp(-0.5 * z * z) * 0.3989422804014327
    elif NAME == "silu":
        s = tl.sigmoid(z)
        d = s * (1.0 + z * (1.0 - s))
    elif NAME == "selu":
        d = 1.0507009873554805 * tl.where(z > 0.0, 1.0, 1.6732632423543772 * tl.exp(z))
    elif NAME == "tanh":
        t = 2.0 * tl.sigmoid(2.0 * z) - 1.0
        d = 1.0 - t * t
    elif NAME == "sigmoid":
        s = tl.sigmoid(z)
        d = s * (1.0 - s)
    else:
        d = z * 0.0 + 1.0
    return d


@jit
def _channels(
    channels: tensor, x_lane: tensor, x_channel: tensor, BLOCK_C: constexpr
) -> tensor:  # fmt: skip
    """This program's lane and channels, which of them there are, where what is known of each
    channel is kept, and where its first value lies."""
    lane = tl.program_id(1).to(tl.int64)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    first = lane * x_lane + c.to(tl.int64) * x_channel
    return lane, c, c < channels, lane * channels + c, first


@jit
def _values(
    start: tensor, size: tensor, inner: tensor, inside: tensor, first: tensor,
    x_row: tensor, x_inner: tensor, BLOCK_N: constexpr,
) -> tensor:  # fmt: skip
    """The numbers in their channel of a block of values, where they lie, and which there are."""
    n = start + tl.arange(0, BLOCK_N)
    offsets = (n // inner).to(tl.int64) * x_row + (n % inner).to(tl.int64) * x_inner
    return n, offsets[:, None] + first[None, :], (n < size)[:, None] & inside[None, :]


@jit
def _multiplied(
    n: tensor, c: tensor, channels: tensor, inner: tensor, key: tensor, rate: tensor
) -> tensor:
    """What dropout multiplies a block with: a unit's number is its place in a contiguous lane."""
    index = ((n // inner) * channels * inner + n % inner)[:, None] + (c * inner)[None, :]
    return _kept(index, key, rate)


@jit
def _affine(
    weight: tensor, bias: tensor, own: tensor, inside: tensor,
    AFFINE: constexpr, BLOCK_C: constexpr,
) -> tensor:  # fmt: skip
    """Weight and bias of each channel: 1 and 0 if there are none."""
    w = tl.full([BLOCK_C], 1.0, tl.float32)
    b = tl.zeros([BLOCK_C], tl.float32)
    if AFFINE:
        w = tl.load(weight + own, inside, 0.0).to(tl.float32)
        b = tl.load(bias + own, inside, 0.0).to(tl.float32)
    return w, b


@jit
def _statistics(
    x: tensor, first: tensor, inside: tensor, size: tensor, inner: tensor,
    x_row: tensor, x_inner: tensor,
    BLOCK_N: constexpr, BLOCK_C: constexpr,
) -> tensor:  # fmt: skip
    """Mean and sum of squared deviations of each channel; blocks are joined as by Chan et al."""
    mean = tl.zeros([BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_C], tl.float32)
    known = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, size, BLOCK_N):
        _, places, valid = _values(start, size, inner, inside, first, x_row, x_inner, BLOCK_N)
        v = tl.load(x + places, valid, 0.0).to(tl.float32)
        many = tl.minimum(size - start, BLOCK_N).to(tl.float32)
        here = tl.sum(v, 0) / many
        apart = tl.where(valid, v - here[None, :], 0.0)
        step = here - mean
        both = known + many
        mean += step * (many / both)
        squares += tl.sum(apart * apart, 0) + step * step * (known * many / both)
        known = both
    return mean, squares


@jit
def forward(
    x: tensor, y: tensor, weight: tensor, bias: tensor, mean: tensor, var: tensor, rstd: tensor,
    rate: tensor, seed: tensor, step: tensor, key: tensor,
    size: tensor, channels: tensor, inner: tensor,
    x_lane: tensor, x_row: tensor, x_channel: tensor, x_inner: tensor, eps: tensor,
    AFFINE: constexpr, ACTIVATION: constexpr, DROPS: constexpr,
    BLOCK_N: constexpr, BLOCK_C: constexpr,
) -> None:  # fmt: skip
    """y; of each channel the mean, unbiased variance and 1 / deviation; and each lane's key."""
    lane, c, inside, own, first = _channels(channels, x_lane, x_channel, BLOCK_C)
    average, squares = _statistics(x, first, inside, size, inner, x_row, x_inner, BLOCK_N, BLOCK_C)
    inverse = 1.0 / tl.sqrt_rn(squares / size + eps)
    tl.store(mean + own, average, inside)
    tl.store(var + own, squares / (size - 1), inside)
    tl.store(rstd + own, inverse, inside)
    w, b = _affine(weight, bias, own, inside, AFFINE, BLOCK_C)
    if DROPS:
        lane_key = _key(tl.load(seed + lane), tl.load(step + lane))
        lane_rate = tl.load(rate + lane)
        tl.store(key + lane, lane_key.to(tl.int64))
    for start in range(0, size, BLOCK_N):
        n, places, valid = _values(start, size, inner, inside, first, x_row, x_inner, BLOCK_N)
        z = (tl.load(x + places, valid, 0.0).to(tl.float32) - average[None, :]) * inverse[None, :]
        if AFFINE:
            z = z * w[None, :] + b[None, :]
        a = _activated(z, ACTIVATION)
        if DROPS:
            a = a * _multiplied(n, c, channels, inner, lane_key, lane_rate)
        tl.store(y + places, a.to(y.dtype.element_ty), valid)


@jit
def _slopes(
    places: tensor, valid: tensor, n: tensor, c: tensor,
    x: tensor, dy: tensor, average: tensor, inverse: tensor,
    w: tensor, b: tensor, lane_key: tensor, lane_rate: tensor, channels: tensor, inner: tensor,
    ACTIVATION: constexpr, DROPS: constexpr,
) -> tensor:  # fmt: skip
    """The normalised values of a block, and the gradient of the loss before the activation."""
    v = tl.load(x + places, valid, 0.0).to(tl.float32)
    g = tl.load(dy + places, valid, 0.0).to(tl.float32)
    unit = tl.where(valid, (v - average[None, :]) * inverse[None, :], 0.0)
    if DROPS:
        g = g * _multiplied(n, c, channels, inner, lane_key, lane_rate)
    return unit, g * _slope(unit * w[None, :] + b[None, :], ACTIVATION)


@jit
def backward(
    x: tensor, dy: tensor, dx: tensor, weight: tensor, bias: tensor, mean: tensor, rstd: tensor,
    dweight: tensor, dbias: tensor, rate: tensor, key: tensor,
    size: tensor, channels: tensor, inner: tensor,
    x_lane: tensor, x_row: tensor, x_channel: tensor, x_inner: tensor,
    AFFINE: constexpr, ACTIVATION: constexpr, DROPS: constexpr,
    BLOCK_N: constexpr, BLOCK_C: constexpr,
) -> None:  # fmt: skip
    """dx; of each channel the gradients of weight and bias."""
    lane, c, inside, own, first = _channels(channels, x_lane, x_channel, BLOCK_C)
    average = tl.load(mean + own, inside, 0.0)
    inverse = tl.load(rstd + own, inside, 0.0)
    w, b = _affine(weight, bias, own, inside, AFFINE, BLOCK_C)
    lane_key = tl.zeros([], tl.uint32)
    lane_rate = tl.zeros([], tl.float32)
    if DROPS:
        lane_key = tl.load(key + lane).to(tl.uint32)
        lane_rate = tl.load(rate + lane)
    db = tl.zeros([BLOCK_C], tl.float32)
    dw = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, size, BLOCK_N):
        n, places, valid = _values(start, size, inner, inside, first, x_row, x_inner, BLOCK_N)
        unit, dz = _slopes(
            places, valid, n, c, x, dy, average, inverse, w, b, lane_key, lane_rate,
            channels, inner, ACTIVATION, DROPS,
        )  # fmt: skip
        db += tl.sum(dz, 0)
        dw += tl.sum(dz * unit, 0)
    if AFFINE:
        tl.store(dweight + own, dw, inside)
        tl.store(dbias + own, db, inside)
    scale = w * inverse
    for start in range(0, size, BLOCK_N):
        n, places, valid = _values(start, size, inner, inside, first, x_row, x_inner, BLOCK_N)
        unit, dz = _slopes(
            places, valid, n, c, x, dy, average, inverse, w, b, lane_key, lane_rate,
            channels, inner, ACTIVATION, DROPS,
        )  # fmt: skip
        even = (db[None, :] + unit * dw[None, :]) / size
        tl.store(dx + places, (scale[None, :] * (dz - even)).to(dx.dtype.element_ty), valid)
