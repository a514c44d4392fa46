"""Norms: each against its formula in plain arithmetic, and ghost batches against batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, GhostBatchNorm, RMSNorm
from dropnorm.blocks.norms import NORMS, norm_layer

EXACT = {"rtol": 0.0, "atol": 1e-10}
SHAPES = [(12, 6), (12, 6, 5, 4)]
EPS = 1e-5

pytestmark = pytest.mark.usefixtures("double")


def layer(norm: str, x: Tensor, groups: int = 3) -> nn.Module:
    """With weights and biases that do something."""
    images = x.dim() > 2
    made = norm_layer(norm, 6, images=images, momentum=0.1, groups=groups, ghost_batch=4)
    assert made is not None
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    return made


def affine(made: nn.Module, y: Tensor) -> Tensor:
    """Each channel times its weight, plus its bias if there is one."""
    ones = [1] * (y.dim() - 2)
    bias = getattr(made, "bias", None)
    y = y * made.weight.view(6, *ones)
    return y if bias is None else y + bias.view(6, *ones)


def standardized(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    var = ((x - mean) ** 2).mean(dims, keepdim=True)
    return (x - mean) / (var + EPS).sqrt()


# Formulas


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_standardizes_each_example(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 1
    made = layer("layer", x)
    expected = affine(made, standardized(x, tuple(range(1, x.dim()))))
    torch.testing.assert_close(made(x), expected, **EXACT)


@pytest.mark.parametrize("shape", SHAPES)
def test_group_norm_standardizes_each_group_of_channels(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 1
    made = layer("group", x)
    grouped = standardized(x.view(12, 3, -1), (2,)).view(shape)
    torch.testing.assert_close(made(x), affine(made, grouped), **EXACT)


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_divides_by_the_root_of_the_mean_square(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 1
    made = layer("rms", x)
    mean_square = (x**2).mean(tuple(range(1, x.dim())), keepdim=True)
    torch.testing.assert_close(made(x), affine(made, x / (mean_square + EPS).sqrt()), **EXACT)


def test_rms_norm_of_rows_is_torchs() -> None:
    x = torch.randn(12, 6)
    theirs = nn.RMSNorm(6, eps=EPS)
    theirs.load_state_dict(RMSNorm(6).state_dict())
    torch.testing.assert_close(RMSNorm(6)(x), theirs(x), **EXACT)


@pytest.mark.parametrize("norm", ["layer", "group", "rms"])
def test_norms_that_know_no_batch_treat_examples_alone_and_alike_in_both_modes(norm: str) -> None:
    x = torch.randn(12, 6, 5, 4)
    made = layer(norm, x)
    expected = made(x)
    torch.testing.assert_close(torch.cat([made(one) for one in x.split(1)]), expected, **EXACT)
    torch.testing.assert_close(made.eval()(x), expected, **EXACT)


# Ghost batches


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("momentum", [0.3, None])
def test_ghost_batches_are_batches_one_after_another(
    shape: tuple[int, ...], momentum: float | None
) -> None:
    """Outputs, gradients, and running averages that each part moved in turn."""
    ghost, plain = GhostBatchNorm(6, momentum, ghost_batch=4), BatchNorm(6, momentum)
    for step in range(3):
        x = (torch.randn(shape) * (step + 1) + step).requires_grad_()
        y, parts = ghost(x), [plain(part) for part in x.split(4)]
        torch.testing.assert_close(y, torch.cat(parts), **EXACT)
        g = torch.randn(shape)
        (ours,) = torch.autograd.grad(y, x, g)
        (theirs,) = torch.autograd.grad(torch.cat(parts), x, g)
        torch.testing.assert_close(ours, theirs, **EXACT)
    state = plain.state_dict()
    assert state.keys() == ghost.state_dict().keys()
    for name, value in ghost.state_dict().items():
        torch.testing.assert_close(value, state[name], **EXACT)
    assert ghost.num_batches_tracked == 9


@pytest.mark.parametrize("shape", SHAPES)
def test_ghost_norm_standardizes_each_part_by_itself(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3 + 1
    made = layer("ghost", x)
    over = (0, *range(2, x.dim()))
    parts = [standardized(part, over) for part in x.split(4)]
    torch.testing.assert_close(made(x), affine(made, torch.cat(parts)), **EXACT)


def test_running_mean_after_a_batch_is_hoffers_sum() -> None:
    """(1 - m)^3 old + m sum of (1 - m)^(3 - i) mean_i, in the paper's Algorithm 1."""
    ghost, x, m = GhostBatchNorm(6, 0.3, ghost_batch=4), torch.randn(12, 6), 0.3
    ghost.running_mean.fill_(5)
    ghost(x)
    means = [part.mean(0) for part in x.split(4)]
    expected = (1 - m) ** 3 * 5 + m * sum((1 - m) ** (2 - i) * mean for i, mean in enumerate(means))
    torch.testing.assert_close(ghost.running_mean, expected, **EXACT)


@pytest.mark.parametrize(("batch", "parts"), [(12, 3), (14, 3), (15, 3), (5, 1), (3, 1)])
def test_no_part_is_smaller_than_asked_for_but_the_whole(batch: int, parts: int) -> None:
    ghost = GhostBatchNorm(6, ghost_batch=4)
    assert ghost(torch.randn(batch, 6)).shape == (batch, 6)
    assert ghost.num_batches_tracked == parts


def test_evaluation_is_batch_norms() -> None:
    ghost, plain = GhostBatchNorm(6, ghost_batch=4), BatchNorm(6)
    ghost(torch.randn(12, 6))
    plain.load_state_dict(ghost.state_dict())
    x = torch.randn(10, 6)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


def test_a_copy_goes_on_as_the_original_does() -> None:
    ghost, x = GhostBatchNorm(6, ghost_batch=4), torch.randn(12, 6)
    twin = copy.deepcopy(ghost)
    assert torch.equal(ghost(x), twin(x))


def test_ghost_batches_of_one_are_refused() -> None:
    with pytest.raises(ValueError, match="ghost_batch: expected 2 or more examples, got 1"):
        GhostBatchNorm(6, ghost_batch=1)


# By name


def test_every_name_has_its_layer() -> None:
    x = torch.randn(12, 6)
    kinds = {norm: type(layer(norm, x)) for norm in NORMS if norm != "none"}
    assert kinds == {
        "batch": BatchNorm,
        "ghost": GhostBatchNorm,
        "layer": nn.LayerNorm,
        "group": nn.GroupNorm,
        "rms": RMSNorm,
    }
    none = norm_layer("none", 6, images=False, momentum=0.1, groups=8, ghost_batch=4)
    assert none is None


@pytest.mark.parametrize("groups", [0, 4, 7])
def test_groups_that_do_not_divide_the_channels_are_refused(groups: int) -> None:
    with pytest.raises(ValueError, match=f"groups: expected a divisor of 6, got {groups}"):
        layer("group", torch.randn(12, 6), groups)


def test_unknown_norm_is_refused_with_what_there_is() -> None:
    known = "batch, ghost, layer, group, rms, none"
    with pytest.raises(ValueError, match=f"norm: expected one of {known}, got 'bacth'"):
        layer("bacth", torch.randn(12, 6))
