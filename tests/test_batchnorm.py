"""BatchNorm: the numbers of torch's layers, with a momentum that can be changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Block
from dropnorm.kernels.cpu import batch_norm
from dropnorm.random import dropping

MOMENTA = [0.1, 1.0, 0.003, None]
# Both call the same kernel in float64 (1e-16); only the running averages are ours, a few
# operations a step.
EXACT = {"rtol": 0.0, "atol": 1e-10}
CASES = [
    pytest.param(nn.BatchNorm1d, (32, 5), id="2d"),
    pytest.param(nn.BatchNorm1d, (16, 5, 9), id="3d"),
    pytest.param(nn.BatchNorm2d, (8, 5, 7, 6), id="4d"),
]
STATE = ("running_mean", "running_var", "num_batches_tracked")


def random(shape: tuple[int, ...], seed: int) -> Tensor:
    """Off centre and off scale, so that wrong statistics show."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + seed


def affine(norm: nn.Module) -> nn.Module:
    """A norm with a weight and a bias that do something."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, len(norm.weight)))
        norm.bias.copy_(torch.linspace(-1, 1, len(norm.bias)))
    return norm


def assert_same_state(ours: nn.Module, theirs: nn.Module) -> None:
    for name in STATE:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **EXACT)


def assert_same_step(ours: nn.Module, theirs: nn.Module, shape: tuple[int, ...], step: int) -> None:
    """One forward and backward through both: outputs and all gradients."""
    outputs, gradients = [], []
    for norm in (ours, theirs):
        norm.zero_grad()
        x = random(shape, step).requires_grad_()
        y = norm(x)
        y.backward(random(shape, step + 100))
        outputs.append(y)
        gradients.append((x.grad, norm.weight.grad, norm.bias.grad))
    torch.testing.assert_close(*outputs, **EXACT)
    torch.testing.assert_close(*gradients, **EXACT)


# Parity with torch


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize(("torch_layer", "shape"), CASES)
def test_training_and_evaluation_equal_torchs_over_several_steps(
    torch_layer: type[nn.Module], shape: tuple[int, ...], momentum: float | None
) -> None:
    ours, theirs = affine(BatchNorm(5, momentum)), affine(torch_layer(5, momentum=momentum))
    for step in range(1, 7):
        assert_same_step(ours, theirs, shape, step)
        assert_same_state(ours, theirs)
    ours.eval()
    theirs.eval()
    assert_same_step(ours, theirs, shape, 7)
    assert_same_state(ours, theirs)
    assert ours.num_batches_tracked == 6


@pytest.mark.usefixtures("double")
def test_without_affine_and_with_another_eps_it_still_equals_torch() -> None:
    ours, theirs = BatchNorm(5, eps=0.1, affine=False), nn.BatchNorm1d(5, eps=0.1, affine=False)
    x = random((32, 5), 1)
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), **EXACT)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_in_bfloat16_is_left_to_torch_and_tracks_all_the_same(
    momentum: float | None,
) -> None:
    """To the 8 bits that bfloat16 has."""
    x = random((64, 5), 1)
    ours, exact = BatchNorm(5, momentum).bfloat16(), BatchNorm(5, momentum)
    ours(x.bfloat16())
    exact(x)
    assert ours.running_mean.dtype == torch.bfloat16
    torch.testing.assert_close(ours.running_mean.float(), exact.running_mean, rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("double")
def test_a_changed_momentum_takes_effect_at_the_next_step() -> None:
    ours, theirs = affine(BatchNorm(5, 0.1)), affine(nn.BatchNorm1d(5, momentum=0.1))
    for step, momentum in enumerate([0.1, 0.5, 0.01], start=1):
        ours.momentum.fill_(momentum)
        theirs.momentum = momentum
        assert_same_step(ours, theirs, (32, 5), step)
        assert_same_state(ours, theirs)


@pytest.mark.usefixtures("double")
def test_cumulative_momentum_averages_all_batches_alike() -> None:
    norm, batches = BatchNorm(5, None), [random((32, 5), seed) for seed in range(4)]
    for x in batches:
        norm(x)
    means = torch.stack([x.mean(0) for x in batches])
    variances = torch.stack([x.var(0, unbiased=True) for x in batches])
    torch.testing.assert_close(norm.running_mean, means.mean(0), **EXACT)
    torch.testing.assert_close(norm.running_var, variances.mean(0), **EXACT)


def test_states_move_to_and_from_torch() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    ours(random((32, 5), 1))
    theirs.load_state_dict(ours.state_dict())
    fresh = BatchNorm(5)
    fresh.load_state_dict(theirs.state_dict())
    x = random((32, 5), 2)
    assert torch.equal(fresh.eval()(x), ours.eval()(x))


# What momentum does and does not do


def test_momentum_never_changes_training() -> None:
    small, large = affine(BatchNorm(5, 0.01)), affine(BatchNorm(5, 1.0))
    for step in range(1, 4):
        x = random((32, 5), step)
        assert torch.equal(small(x), large(x))
    x = random((32, 5), 9)
    assert not torch.equal(small.eval()(x), large.eval()(x))


def test_evaluation_leaves_the_state_alone() -> None:
    norm = BatchNorm(5).eval()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(random((32, 5), 1))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


def test_statistics_stay_float32_for_bfloat16_inputs() -> None:
    norm, x = BatchNorm(5, 1.0), random((512, 5), 1)
    y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16
    # Statistics of the rounded input, summed in float32: 512 terms of 6e-8 at most.
    mean = x.bfloat16().double().mean(0)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=512 * 6e-8, atol=0)


def test_printed_form_shows_the_momentum() -> None:
    assert repr(BatchNorm(5, 0.1)) == "BatchNorm(5, momentum=0.1, eps=1e-05)"
    assert repr(BatchNorm(5, None)) == "BatchNorm(5, momentum=None, eps=1e-05)"


# Errors


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan")])
def test_momenta_outside_zero_to_one_are_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"0 < momentum <= 1 or None, got {momentum}"):
        BatchNorm(5, momentum)


@pytest.mark.parametrize("shape", [(5,), (2, 5, 3, 3, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_other_dimensions_are_refused(shape: tuple[int, ...], training: bool) -> None:
    norm = BatchNorm(5).train(training)
    with pytest.raises(ValueError, match=r"expected an input of 2 to 4 dimensions, got shape"):
        norm(torch.ones(shape))


def test_a_training_batch_of_one_is_refused_and_leaves_the_state_alone() -> None:
    norm = BatchNorm(5)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.ones(1, 5))
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_var, torch.ones(5))


# What torch's layers take and refuse


@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
def test_another_number_of_channels_is_refused(
    channels: int, training: bool, in_block: bool
) -> None:
    norm = BatchNorm(8)
    module = norm
    if in_block:
        module = Block(channels, channels)
        module.norm = norm
    before = norm.running_mean.clone()
    with pytest.raises(ValueError, match=rf"of 8 channels, got {channels} in \(4, {channels}\)"):
        module.train(training)(torch.randn(4, channels))
    assert torch.equal(norm.running_mean, before)


def test_an_empty_batch_moves_nothing() -> None:
    norm, theirs = BatchNorm(4), nn.BatchNorm1d(4)
    assert norm(torch.zeros(0, 4)).shape == theirs(torch.zeros(0, 4)).shape
    assert torch.equal(norm.running_var, theirs.running_var)


@pytest.mark.parametrize("missing", ["weight", "bias"])
@pytest.mark.parametrize("training", [False, True])
def test_a_norm_may_have_a_weight_alone_or_a_bias_alone(missing: str, training: bool) -> None:
    layers = [affine(BatchNorm(5)), affine(nn.BatchNorm1d(5))]
    theirs = layers[1].load_state_dict(layers[0].state_dict())
    assert not theirs.missing_keys
    results = []
    for layer in layers:
        setattr(layer, missing, None)
        x = random((16, 5), 2).requires_grad_()
        y = layer.train(training)(x)
        y.square().sum().backward()
        (parameter,) = layer.parameters()
        results.append((y, x.grad, parameter.grad))
    for mine, torchs in zip(*results, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_gradients_of_gradients_with_one_frozen(frozen: str) -> None:
    norm = affine(BatchNorm(5)).double()
    x = random((16, 5), 2).double()
    inputs = {"x": x, "weight": norm.weight, "bias": norm.bias}
    for name, tensor in inputs.items():
        tensor.requires_grad_(name != frozen)
    wanted = [tensor for name, tensor in inputs.items() if name != frozen]

    def run(*_: Tensor) -> Tensor:
        return batch_norm(x, norm.weight, norm.bias, norm.eps, 0.0, dropping(0.3, 1, 2))[0]

    assert torch.autograd.gradgradcheck(run, wanted)


def test_where_relu_is_at_zero_no_gradient_passes_either_way() -> None:
    block = Block(3, 4)
    with torch.no_grad():
        block.weight.weight[0] = 0  # a channel of zeros, which batch norm leaves at zero
    x = torch.randn(8, 3)
    (plain,) = torch.autograd.grad(block(x).sum(), [block.norm.bias])
    (graph,) = torch.autograd.grad(block(x).sum(), [block.norm.bias], create_graph=True)
    assert plain[0] == graph[0] == 0


@pytest.mark.parametrize("shape", [(8, 4), (8, 4, 5)])
def test_a_block_checks_a_batch_once(shape: tuple[int, ...]) -> None:
    """In one loop with the ReLU, or one after the other."""
    checked, block = [], Block(4, 4)
    del block.weight
    block.norm._check_input_dim = checked.append
    block(torch.randn(shape))
    assert len(checked) == 1
