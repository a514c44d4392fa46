"""Evaluating for a while leaves a network as it was; splitting it changes nothing it computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dropnorm import BatchNorm, Block, Dropout, cnn, mlp
from dropnorm.evaluation import evaluating, norms_of, split, steps

SHAPE = (1, 8, 8)


class Skip(nn.Module):
    """A network whose layers nobody can put in order from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.weight = nn.BatchNorm1d(64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = self.weight(x)
        return weighted + self.norm(x)


def kinds(network: nn.Module) -> list[str]:
    """Of its layers that do something."""
    leaves = [m for m in network.modules() if not isinstance(m, nn.Sequential | nn.Identity)]
    return [type(leaf).__name__ for leaf in leaves]


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(SHAPE, 4, hidden=[13, 8]),
    "cnn": lambda: cnn(SHAPE, 4, channels=[3, 5], hidden=[11]),
    "act first": lambda: mlp(SHAPE, 4, hidden=[13], order=["act", "norm", "drop"]),
    "weight last": lambda: nn.Sequential(
        nn.Flatten(), Block(64, 9, order=["norm", "act", "drop", "weight"])
    ),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), nn.Sequential(nn.ReLU(), nn.BatchNorm1d(9))
    ),
    "no norm": lambda: mlp(SHAPE, 4, hidden=[13], norm="none"),
    "of others": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), Skip(), nn.ReLU()),
    "a norm": lambda: nn.BatchNorm2d(1),
}
BEFORE = {
    "mlp": ["Flatten", "Linear"],
    "cnn": ["Conv2d"],
    "act first": ["Flatten", "Linear", "ReLU"],
    "weight last": ["Flatten"],
    "nested": ["Flatten", "Linear", "ReLU"],
    "no norm": ["Flatten", "Linear", "ReLU", "Dropout", "Linear"],
    "of others": ["Flatten", "Linear"],
    "a norm": [],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_in_turn_are_the_network(name: str) -> None:
    network = NETWORKS[name]().eval()
    first, rest = split(network)
    assert not norms_of(first)
    x = torch.randn(20, *SHAPE)
    y = first(x)
    for layer in rest:
        y = layer(y)
    assert torch.equal(y, network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_is_known_to_run_before_the_first_norm_is_apart(name: str) -> None:
    network = NETWORKS[name]()
    names = list(network.state_dict())
    assert kinds(split(network)[0]) == BEFORE[name]
    assert list(network.state_dict()) == names


def moved(norm: nn.Module) -> nn.Module:
    """With averages, weights and biases that show if they are mixed up."""
    for tensor in norm.state_dict().values():
        if tensor.dim():
            tensor.copy_(torch.rand_like(tensor) + 0.2)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 37, 512])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (BatchNorm, ()),
        (nn.BatchNorm1d, ()),
        (partial(BatchNorm, affine=False), ()),
        (BatchNorm, (3, 5)),
        (nn.BatchNorm2d, (3, 5)),
    ],
)
def test_norm_and_relu_in_one_loop_have_the_bits_of_both(
    kind: Callable[[int], nn.Module], shape: tuple[int, ...], channels: int, dtype: torch.dtype
) -> None:
    """In one loop or, of bfloat16 and of other orders in memory, one after the other."""
    layers = nn.Sequential(moved(kind(channels)), nn.ReLU()).to(dtype).eval()
    (both,) = steps(layers)
    x = torch.randn(130, channels, *shape, dtype=dtype) * 2
    with torch.inference_mode():
        for some in (x, x.to(memory_format=torch.channels_last)) if shape else (x, x[::2]):
            assert torch.equal(both(some), layers(some))


def test_what_cannot_be_one_loop_stays_apart() -> None:
    heard = nn.BatchNorm1d(3).eval()
    heard.register_forward_hook(lambda *_: None)
    forgetful = nn.BatchNorm1d(3, track_running_stats=False).eval()
    for norm in (heard, forgetful, nn.BatchNorm3d(3).eval(), nn.BatchNorm1d(3), nn.Identity()):
        layers = [norm, nn.ReLU()]
        assert steps(layers) == layers
    assert len(steps([nn.BatchNorm1d(3).eval(), nn.GELU(), nn.BatchNorm1d(3).eval()])) == 3


def test_norms_without_running_averages_are_not_looked_at() -> None:
    network = nn.Sequential(BatchNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    assert list(norms_of(network)) == ["0"]


def test_everything_is_afterwards_as_before() -> None:
    network = nn.Sequential(nn.Linear(4, 4), BatchNorm(4), Dropout(0.5), nn.BatchNorm1d(4))
    network[0].eval()  # a frozen layer stays frozen
    modes = [m.training for m in network.modules()]
    averages = [(n.running_mean, n.running_var) for n in norms_of(network).values()]
    with pytest.raises(ZeroDivisionError), evaluating(network) as norms:
        assert not any(m.training for m in network.modules())
        assert list(norms) == ["1", "3"]
        for norm in norms.values():
            norm.running_mean = norm.running_var = torch.ones(4)
        network[2].training = True
        network(torch.randn(9, 4))
        assert network[2].seed is not None
        1 / 0  # noqa: B018
    assert [m.training for m in network.modules()] == modes
    for norm, (mean, var) in zip(norms_of(network).values(), averages, strict=True):
        assert norm.running_mean is mean
        assert norm.running_var is var
    assert (network[2].seed, network[2].step) == (None, 0)
