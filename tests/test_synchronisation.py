"""Batch norm over two processes (gloo, on the CPU) against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from dropnorm.bank import Bank
from dropnorm.blocks import BatchNorm
from dropnorm.blocks.norms import GhostBatchNorm
from dropnorm.callbacks.watch import watch
from dropnorm.standins import StandInNorm
from dropnorm.synchronisation import synchronise

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
MOMENTA = (0.01, 0.3, None)


def network() -> nn.Sequential:
    """Ours and torch's, with affine parameters that are not the first ones."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), BatchNorm(8, 0.2), nn.Tanh(), nn.BatchNorm1d(8))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def trained(net: nn.Module, x: torch.Tensor, weights: torch.Tensor) -> dict[str, object]:
    """One step: outputs, gradients, running averages and a bank's."""
    bank = Bank.of(net, MOMENTA)
    watching = watch(bank, "1", net[1])  # type: ignore[index, arg-type]
    y = net(x)
    (y * weights).sum().backward()
    watching.end()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    return {"y": y.detach(), "gradients": gradients, "state": net.state_dict(),
            "bank": bank.averages["1"]}  # fmt: skip


def half(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    x, weights = torch.load(folder / "given.pt")
    net = network()
    assert synchronise(net, on_gpu=False) == 2
    mine = slice(0, 7) if rank == 0 else slice(7, 10)
    torch.save(trained(net, x[mine], weights[mine]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_halves_are_the_whole(tmp_path: Path) -> None:
    """To rounding: the sums over the batch are taken in another order."""
    torch.manual_seed(0)
    given = torch.randn(10, 6), torch.randn(10, 8)
    torch.save(given, tmp_path / "given.pt")
    mp.start_processes(half, (tmp_path,), nprocs=2, start_method="fork")
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = trained(network(), *given)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([part["y"] for part in halves]), whole["y"], **close)
    for name, gradient in whole["gradients"].items():  # type: ignore[attr-defined]
        summed = halves[0]["gradients"][name] + halves[1]["gradients"][name]
        # The biases before a norm have a gradient of rounding noise only.
        torch.testing.assert_close(summed, gradient, rtol=1e-4, atol=1e-4)
    for part in halves:
        torch.testing.assert_close(part["state"], whole["state"], **close)
        torch.testing.assert_close(part["bank"], whole["bank"], **close)


def test_names_values_and_kinds_stay() -> None:
    net = nn.Sequential(BatchNorm(4, None), GhostBatchNorm(4), nn.BatchNorm2d(4), nn.LayerNorm(4))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert synchronise(net, on_gpu=False) == 2
    assert [type(layer) for layer in net] == [BatchNorm, GhostBatchNorm, StandInNorm, nn.LayerNorm]
    assert net[0].synchronised
    assert net[0].momentum is None
    assert not net[1].synchronised  # small batches are what it is for
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    on_gpu = nn.Sequential(nn.BatchNorm2d(4))
    assert synchronise(on_gpu, on_gpu=True) == 1
    assert type(on_gpu[0]) is nn.SyncBatchNorm


def test_alone_it_is_the_plain_norm_bit_for_bit() -> None:
    x = torch.randn(12, 6)
    plain, asked = network(), network()
    synchronise(asked, on_gpu=False)
    assert torch.equal(plain(x), asked(x))


def test_a_shared_norm_of_torchs_stays_shared() -> None:
    norm = nn.BatchNorm1d(4)
    net = nn.Sequential(norm, nn.ReLU(), nn.Sequential(norm))
    assert synchronise(net, on_gpu=False) == 1
    assert net[0] is net[2][0]
    assert isinstance(net[0], StandInNorm)


def test_what_is_synchronised_already_stays_so_and_trains_on_cpus_too() -> None:
    group = object()
    for on_gpu, kind in ((True, nn.SyncBatchNorm), (False, StandInNorm)):
        net = nn.Sequential(nn.SyncBatchNorm(4, process_group=group))
        assert synchronise(net, on_gpu) == 1
        assert type(net[0]) is kind
        assert net[0].process_group is group
