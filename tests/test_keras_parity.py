"""The layers against Keras 3 (torch backend), where the tutorial that started the project began.

Keras's momentum is what it keeps, ours is what it takes in (m = 1 - theirs), and its eps is 1e-3.
Its dropout rate means what ours means: the probability of dropping.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dropnorm import mlp
from dropnorm.blocks import BatchNorm, Dropout

EPS = 1e-3  # Keras's default
# Float32 on both sides, numbers of about 1 to 10, sums over at most 400 terms in another order:
# 400 * 6e-8 at worst, its square root in practice.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}
CASES = [
    pytest.param((32, 5), -1, id="2d"),
    pytest.param((8, 5, 7, 6), 1, id="4d"),  # channels second in both
]


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        if "keras" not in sys.modules:  # read when it is first imported
            patch.setenv("KERAS_BACKEND", "torch")
            patch.setenv("KERAS_TORCH_DEVICE", "cpu")
            patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        module = pytest.importorskip("keras")
        if module.backend.backend() != "torch":
            pytest.skip("keras was already imported with another backend")
        yield module


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    """Off centre and off scale, so that wrong statistics show."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + seed


# BatchNorm


@pytest.mark.parametrize("keras_momentum", [0.99, 0.9, 0.5])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_batchnorm_equals_keras_over_several_steps_but_for_the_unbiased_variance(
    keras: ModuleType, shape: tuple[int, ...], axis: int, keras_momentum: float
) -> None:
    """Both normalise with the biased variance s². Into the running variance Keras puts s², we
    (like torch) s² * n/(n-1), n being the values a channel. Both start at 1, so after any steps

        ours - w = n/(n-1) * (Keras's - w),        w = keras_momentum ** steps

    is what is left of that start: the moving average is linear in what goes into it.
    """
    theirs = keras.layers.BatchNormalization(axis=axis, momentum=keras_momentum, epsilon=EPS)
    ours = BatchNorm(5, 1 - keras_momentum, eps=EPS)
    values = int(np.prod(shape)) // 5
    for step in range(1, 6):
        x = random(shape, step)
        torch.testing.assert_close(ours(x), theirs(x, training=True), **CLOSE)
        torch.testing.assert_close(ours.running_mean, theirs.moving_mean.value, **CLOSE)
        start = keras_momentum**step
        biased = start + (ours.running_var - start) * (values - 1) / values
        torch.testing.assert_close(biased, theirs.moving_variance.value, **CLOSE)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_batchnorm_infers_as_keras_from_the_same_statistics(
    keras: ModuleType, shape: tuple[int, ...], axis: int
) -> None:
    theirs = keras.layers.BatchNormalization(axis=axis, epsilon=EPS)
    theirs.build(shape)
    gamma, beta, mean = (np.linspace(a, a + 1, 5, dtype=np.float32) for a in (0.5, -1, 2))
    variance = np.linspace(0.3, 3, 5, dtype=np.float32)
    theirs.set_weights([gamma, beta, mean, variance])
    ours = BatchNorm(5, eps=EPS).eval()
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = map(torch.from_numpy, (gamma, beta, mean, variance))
    ours.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    x = random(shape, 1)
    torch.testing.assert_close(ours(x), theirs(x, training=False), **CLOSE)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_batchnorm_gradients_equal_keras(
    keras: ModuleType, shape: tuple[int, ...], axis: int
) -> None:
    theirs = keras.layers.BatchNormalization(axis=axis, epsilon=EPS)
    ours, gradient = BatchNorm(5, eps=EPS), random(shape, 3)
    mine, other = random(shape, 2).requires_grad_(), random(shape, 2).requires_grad_()
    ours(mine).backward(gradient)
    theirs(other, training=True).backward(gradient)
    torch.testing.assert_close(mine.grad, other.grad, **CLOSE)
    # Sums of up to 336 terms of about 10.
    sums = {"rtol": 2e-5, "atol": 2e-4}
    torch.testing.assert_close(ours.weight.grad, theirs.gamma.value.grad, **sums)
    torch.testing.assert_close(ours.bias.grad, theirs.beta.value.grad, **sums)


# Dropout


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_and_scales_as_keras(keras: ModuleType, rate: float) -> None:
    """The masks differ, so what is compared is the share dropped and the value of what is kept."""
    x = torch.ones(400, 500)
    outputs = Dropout(rate, seed=1)(x), keras.layers.Dropout(rate, seed=1)(x, training=True)
    for y in outputs:
        kept = y[y != 0]
        # Rounded once or twice to float32: 1.2e-7 at most, relative.
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)), rtol=3e-7, atol=0)
        dropped, deviation = 1 - kept.numel() / y.numel(), (rate * (1 - rate) / y.numel()) ** 0.5
        assert abs(dropped - rate) <= 5 * deviation  # 5 sigma: once in 1.7 million fair draws


def test_dropout_is_the_identity_in_inference_as_in_keras(keras: ModuleType) -> None:
    x = random((8, 5), 1)
    assert torch.equal(keras.layers.Dropout(0.5)(x, training=False), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)


# The tutorial's two networks


def copy_weights(theirs: Any, ours: nn.Sequential) -> None:
    """From a Keras model into a network with the same layers; Keras's kernels are transposed."""
    weighted = [m for m in ours.modules() if isinstance(m, nn.Linear | BatchNorm)]
    layers = [layer for layer in theirs.layers if layer.weights]
    for mine, layer in zip(weighted, layers, strict=True):
        arrays = [w.value.detach() for w in layer.weights]
        if isinstance(mine, nn.Linear):
            state = {"weight": arrays[0].T, "bias": arrays[1]}
        else:
            names = ("weight", "bias", "running_mean", "running_var")
            state = dict(zip(names, arrays, strict=True))
            mine.eps = EPS
        mine.load_state_dict(state, strict=isinstance(mine, nn.Linear))


@pytest.mark.parametrize("kind", ["dropout", "batchnorm"])
def test_tutorial_networks_compute_what_keras_computes(keras: ModuleType, kind: str) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if kind == "dropout":
        middle, ours = layers.Dropout(0.5), mlp(hidden=[512], norm="none", dropout=0.5)
    else:
        middle, ours = layers.BatchNormalization(), mlp(hidden=[512], order=["act", "norm", "drop"])
    theirs = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(512, activation="relu"),
            middle,
            layers.Dense(10),
        ]
    )
    running = sum(b.numel() for name, b in ours.named_buffers() if "running" in name)
    assert theirs.count_params() == sum(p.numel() for p in ours.parameters()) + running
    x = torch.rand(16, 28, 28, 1)
    theirs(x, training=True)  # so that running statistics are not those of the start
    copy_weights(theirs, ours)
    logits = ours.eval()(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(logits, theirs(x, training=False), **CLOSE)
