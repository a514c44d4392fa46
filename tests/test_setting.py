"""Settings: a rate and a momentum keep their numbers, whatever a layer is converted to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dropnorm import mlp, retrofit
from dropnorm.blocks import BatchNorm, Block, Dropout, seed_dropout
from dropnorm.blocks.variants import NOISES
from tests.plain_modules import PACKAGES, loaders, plain_module, trainer

RATE, MOMENTUM = 0.3, 0.003  # neither is a number of bfloat16


def block(norm: str = "batch") -> Block:
    return Block(12, 4, norm=norm, dropout=RATE, bn_momentum=MOMENTUM)


def assert_kept(module: Block) -> None:
    assert module.drop.rate == torch.tensor(RATE)
    assert module.norm.momentum == torch.tensor(MOMENTUM)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_converting_a_module_leaves_them_as_they_are(dtype: torch.dtype) -> None:
    module = block().to(dtype)
    assert module.weight.weight.dtype == module.norm.running_mean.dtype == dtype
    assert_kept(module)
    assert_kept(module.float())
    assert Block(3, 4, bn_momentum=None).to(dtype).norm.momentum is None


def test_they_are_exact_where_half_precision_is_the_default() -> None:
    """As it is while Lightning's `precision="bf16-true"` makes a module."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        module = block()
        retrofitted = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
        retrofit(retrofitted, bn_momentum=MOMENTUM, dropout=RATE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_kept(module)
    assert retrofitted[0].momentum == torch.tensor(MOMENTUM)
    assert retrofitted[1].rate == torch.tensor(RATE)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_trainer_in_bfloat16_leaves_them_as_they_are(tmp_path: Path, package: object) -> None:
    module = plain_module(package, nn.Sequential(block(), nn.Linear(4, 3)))
    trainer(package, tmp_path, precision="bf16-true", max_epochs=1).fit(module, **loaders())
    assert module.network[0].norm.running_mean.dtype == torch.bfloat16
    assert_kept(module.network[0])


def test_a_module_of_meta_has_them_when_it_is_filled() -> None:
    trained = mlp((12,), 3, hidden=[4], dropout=RATE, bn_momentum=MOMENTUM)
    x, expected = torch.randn(8, 12), []
    for network in (trained, *(_made_on_meta(assign, trained) for assign in (False, True))):
        assert_kept(network[1])
        seed_dropout(network, 1)
        expected.append((network(x), network[1].norm.running_mean))
    for result in expected[1:]:
        torch.testing.assert_close(result, expected[0], rtol=0, atol=0)


def _made_on_meta(assign: bool, trained: nn.Module) -> nn.Module:
    with torch.device("meta"):
        network = mlp((12,), 3, hidden=[4], dropout=RATE, bn_momentum=MOMENTUM)
    network = network if assign else network.to_empty(device="cpu")
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    network.load_state_dict(state, assign=assign)
    return network


def test_a_module_sent_to_meta_has_them_when_it_is_back() -> None:
    assert_kept(block().to("meta").to_empty(device="cpu"))


def test_modules_of_meta_can_be_retrofitted() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.Dropout(RATE))
    retrofit(module, bn_momentum={"0": MOMENTUM})
    module.to_empty(device="cpu")
    assert [float(norm.momentum) for norm in module[:2]] == pytest.approx([MOMENTUM, 0.1])
    assert module[2].rate == torch.tensor(RATE)


@pytest.mark.parametrize("noise", NOISES)
def test_a_module_on_meta_runs_for_its_shapes(noise: str) -> None:
    with torch.device("meta"):
        module, x = Block(12, 4, noise=noise, dropout=RATE, activation="selu"), torch.ones(8, 12)
        module(x).sum().backward()
    assert module.weight.weight.grad.is_meta
    assert module.drop.step == 0  # nothing was drawn


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("assign", [False, True])
def test_they_follow_a_module_to_a_gpu(assign: bool) -> None:
    with torch.device("meta"):
        module = nn.Sequential(Dropout(RATE), BatchNorm(3, MOMENTUM))
    state = {name: value.cuda() for name, value in BatchNorm(3).state_dict(prefix="1.").items()}
    module = module if assign else module.to_empty(device="cuda")
    module.load_state_dict(state, assign=assign)
    y = module(torch.ones(1000, 3, device="cuda"))
    assert y.is_cuda
    assert module[0].rate.is_cuda
    assert module[0].rate.item() == pytest.approx(RATE)
    assert module[1].momentum.item() == pytest.approx(MOMENTUM)
