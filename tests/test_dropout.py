"""Dropout: torch's numbers for a given mask, and masks that are a function of (seed, step)."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dropnorm.blocks import BatchNorm, Block, Dropout, DropPath, seed_dropout
from dropnorm.blocks.variants import NOISES
from dropnorm.pack import stack
from dropnorm.random import keep_mask, keep_mask_on_device
from dropnorm.seeds import derive

SHAPES = [(64, 30), (8, 5, 7, 6)]
# Ours multiplies by 1 / (1 - rate) where torch divides: a few units of float64's 1e-16, far below.
EXACT = {"rtol": 0.0, "atol": 1e-10}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def torch_dropout(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """What `torch.nn.Dropout` computes, its mask given; the first test shows that it does."""
    return torch.where(keep.bool(), x / (1 - rate), 0.0)


def masks(layer: Dropout, steps: int, units: int = 200) -> Tensor:
    """The next masks of a layer in training, [steps, units], as booleans."""
    return torch.stack([layer(torch.ones(units)) != 0 for _ in range(steps)])


# Parity with torch


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_the_formula_is_torchs(rate: float) -> None:
    x = random((64, 30))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = F.dropout(x, rate, training=True)
    torch.testing.assert_close(theirs, torch_dropout(x, theirs != 0, rate), **EXACT)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 0.5, 0.9])
def test_outputs_and_gradients_equal_torchs_over_several_steps(
    shape: tuple[int, ...], rate: float
) -> None:
    layer = Dropout(rate, seed=5)
    for step in range(1, 5):
        x, gradient = random(shape, step).requires_grad_(), random(shape, -step)
        keep = keep_mask(shape, rate, 5, step)
        y = layer(x)
        y.backward(gradient)
        torch.testing.assert_close(y, torch_dropout(x, keep, rate), **EXACT)
        theirs = torch.ops.aten.native_dropout_backward(gradient, keep.bool(), 1 / (1 - rate))
        torch.testing.assert_close(x.grad, theirs, **EXACT)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_masks_for_a_gpu_have_torchs_scale_too(rate: float) -> None:
    """The path of a GPU, run where there is none."""
    layer, x = Dropout(rate), random((64, 30))
    key = torch.tensor(rate), torch.tensor(5), torch.tensor(3)
    expected = torch_dropout(x, keep_mask_on_device(x.shape, *key), rate)
    torch.testing.assert_close(layer._noisy_on_device(x, *key[1:]), expected, **EXACT)


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_is_the_identity_and_counts_no_step(shape: tuple[int, ...]) -> None:
    layer = Dropout(0.5, seed=5).eval()
    x = random(shape)
    assert layer(x) is x
    assert layer.step == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_output_has_the_dtype_of_the_input_and_a_scale_rounded_once(dtype: torch.dtype) -> None:
    y = Dropout(0.3, seed=5)(torch.ones(1000, dtype=dtype))
    scale = torch.tensor(1 / (1 - float(torch.tensor(0.3))), dtype=torch.float64).to(dtype)
    assert y.dtype == dtype
    assert set(y.tolist()) == {0.0, scale.item()}


def test_state_is_empty_so_checkpoints_move_to_and_from_torch() -> None:
    ours, theirs = nn.Sequential(nn.Linear(2, 2), Dropout()), nn.Sequential(nn.Linear(2, 2))
    theirs.append(nn.Dropout())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


# Keys


def test_masks_are_those_of_seed_and_step() -> None:
    layer = Dropout(0.5, seed=5)
    expected = [keep_mask((200,), 0.5, 5, step).bool() for step in (1, 2, 3)]
    assert torch.equal(masks(layer, 3), torch.stack(expected))


def test_same_seed_repeats_and_another_seed_or_step_does_not() -> None:
    first, again = masks(Dropout(0.5, seed=5), 3), masks(Dropout(0.5, seed=5), 3)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, masks(Dropout(0.5, seed=6), 3))


def test_setting_the_step_goes_back_to_the_masks_that_follow_it() -> None:
    layer = Dropout(0.5, seed=5)
    drawn = masks(layer, 4)
    layer.step = 2
    assert torch.equal(masks(layer, 2), drawn[2:])


def test_rate_zero_passes_everything_and_still_counts_the_step() -> None:
    layer, steady = Dropout(0.0, seed=5), Dropout(0.5, seed=5)
    x = random((64, 30))
    assert torch.equal(layer(x), x)
    layer.rate.fill_(0.5)  # the masks go on as if the rate had always been there
    assert torch.equal(masks(layer, 2), masks(steady, 3)[1:])


def test_changing_the_rate_changes_the_next_mask_and_its_scale() -> None:
    layer = Dropout(0.9, seed=5)
    layer(torch.ones(8))
    layer.rate.fill_(0.5)
    y = layer(torch.ones(1000))
    assert torch.equal(y, keep_mask((1000,), 0.5, 5, 2) * 2)


def test_seed_dropout_gives_each_layer_a_key_of_its_own_and_starts_again() -> None:
    network = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.5), BatchNorm(200)))
    first, second = network[0], network[1][0]
    masks(first, 3)
    seed_dropout(network, 7)
    assert [int(layer.seed) for layer in (first, second)] == [
        derive(7, "dropout", 0),
        derive(7, "dropout", 1),
    ]
    assert first.step == second.step == 0
    assert not torch.equal(masks(first, 1), masks(second, 1))


def test_without_a_seed_torchs_generator_decides() -> None:
    def train(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([masks(Dropout(0.5), 2), masks(Dropout(0.5), 2)])

    with torch.random.fork_rng(devices=[]):
        first, again, other = train(1), train(1), train(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])  # two layers, two seeds


def test_constructing_and_evaluating_leave_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    Dropout(0.5).eval()(torch.ones(3))
    masks(Dropout(0.5, seed=5), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_goes_on_as_the_original_does() -> None:
    layer = Dropout(0.5)
    with torch.random.fork_rng(devices=[]):
        masks(layer, 2)
    twin = copy.deepcopy(layer)
    assert torch.equal(masks(layer, 2), masks(twin, 2))


# Errors


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_outside_zero_to_one_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"expected 0 <= rate < 1, got {rate}"):
        Dropout(rate)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("kernel", [None, 3])
def test_a_rate_of_one_written_into_a_layer_leaves_zeros(norm: str, kernel: int | None) -> None:
    block = Block(4, 4, norm=norm, kernel=kernel, dropout=0.5)
    seed_dropout(block, 1)
    block.drop.rate.fill_(1.0)
    x = random((6, 4) if kernel is None else (6, 4, 5, 5)).requires_grad_()
    for y in (block(x), stack([block])(x[None]), block.drop(x)):
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert not y.any()
        assert not gradient.any()


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_written_into_a_layer_that_is_none_is_refused(rate: float) -> None:
    block = Block(4, 4, dropout=0.5)
    seed_dropout(block, 1)
    block.drop.rate.fill_(rate)
    for layer in (block.drop, block):
        with pytest.raises(ValueError, match="dropout: expected 0 <= rate < 1, got"):
            layer(torch.ones(6, 4))


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="expected None or a number from 0, got -3"):
        Dropout(0.5, seed=-3)


# On a GPU, where masks are hashes made there


@pytest.mark.gpu
@needs_gpu
def test_gpu_masks_are_those_of_the_same_hash_on_the_cpu() -> None:
    layer = Dropout(0.3, seed=5).cuda()
    for step in range(1, 4):
        drawn = layer(torch.ones(64, 30, device="cuda"))
        key = torch.tensor(0.3), torch.tensor(5), torch.tensor(step)
        expected = keep_mask_on_device((64, 30), *key) / (1 - torch.tensor(0.3))
        torch.testing.assert_close(drawn.cpu(), expected)


@pytest.mark.gpu
@needs_gpu
def test_gpu_layers_without_a_seed_draw_different_masks() -> None:
    first, second = Dropout(0.5).cuda(), Dropout(0.5).cuda()
    x = torch.ones(1000, device="cuda")
    assert not torch.equal(first(x), second(x))


# What torch does around a layer


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_activation_checkpointing_draws_the_same_mask_again(reentrant: bool, norm: str) -> None:
    block = Block(8, 64, norm=norm, dropout=0.5)
    seed_dropout(block, 1)
    twin, x = copy.deepcopy(block), random((32, 8))
    for _ in range(2):
        kept = checkpoint(block, x.clone().requires_grad_(), use_reentrant=reentrant)
        kept.square().sum().backward()
        twin(x.clone().requires_grad_()).square().sum().backward()
    for mine, theirs in zip(block.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]
    assert block.drop.step == twin.drop.step == 2


def test_a_process_that_begins_with_torch_compile_trains() -> None:
    """Where no loop has run before, the compiler must not look into the one that compiles them."""
    code = (
        "import torch; from dropnorm import mlp; from dropnorm.blocks import seed_dropout;"
        "net = mlp((1, 4, 4), 3, hidden=[9], dropout=0.4); seed_dropout(net, 1);"
        "torch.compile(net, backend='eager')(torch.randn(8, 1, 4, 4)).sum().backward();"
        "print(net[1].drop.step)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1"], done.stderr


def test_gradients_by_torch_func_are_those_of_backward() -> None:
    block = Block(8, 6, norm="none", dropout=0.5)
    seed_dropout(block, 3)
    x = random((5, 8))

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        block.drop.step = 0
        return torch.func.functional_call(block, parameters, (x,)).square().sum()

    found = torch.func.grad(loss)({n: p.detach() for n, p in block.named_parameters()})
    loss(dict(block.named_parameters())).backward()
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_a_rate_that_float32_rounds_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= rate < 1"):
        Dropout(0.99999999)


# Under torch.vmap


@pytest.mark.parametrize("seed", [5, None])
@pytest.mark.parametrize("kind", [*NOISES.values(), DropPath])
def test_randomness_of_vmap_decides_what_lanes_draw(kind: type[Dropout], seed: int | None) -> None:
    layer, x = kind(0.5, seed=seed), torch.ones(2, 40, 30)
    with pytest.raises(RuntimeError, match="randomness error mode"):
        torch.vmap(layer)(x)
    first, second = torch.vmap(layer, randomness="same")(x)
    assert torch.equal(first, second)
    first, second = torch.vmap(layer, randomness="different")(x)
    assert not torch.equal(first, second)
    assert torch.equal(torch.vmap(layer.eval())(x), x)


def test_different_masks_of_vmap_are_dropouts_and_its_gradients() -> None:
    block, x = Block(4, 500, norm="none", dropout=0.3), torch.ones(40, 1, 4)
    block.drop.seed = 5

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(block, parameters, (row,)).sum()

    parameters = {name: p.detach() for name, p in block.named_parameters()}
    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    found = each(parameters, x)["weight.bias"]
    kept, alive = found != 0, block.act(block.weight(x[0]))[0] > 0
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / 0.7))
    assert not kept[:, ~alive].any()
    # Some 10,000 units: a standard deviation of half a percent.
    assert abs(float(kept[:, alive].double().mean()) - 0.7) < 0.03
    assert not torch.equal(kept[0], kept[1])


def test_lanes_of_vmap_draw_even_of_what_they_share() -> None:
    shared = torch.ones(500)
    drop = Dropout(0.5, seed=5)
    y = torch.vmap(lambda lane: lane + drop(shared), randomness="different")(torch.zeros(2, 1))
    assert not torch.equal(y[0], y[1])
