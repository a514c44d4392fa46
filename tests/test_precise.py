"""Precise statistics: those of all batches together, and a network that stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dropnorm import BatchNorm, Classifier, Dropout, cnn, mlp
from dropnorm.bank import Bank
from dropnorm.blocks import GhostBatchNorm
from dropnorm.precise import recalibrate

SHAPE = (1, 8, 8)
SIZES = (30, 30, 7)  # a short last batch weighs less


def images() -> list[tuple[Tensor, Tensor]]:
    return [
        (2 * torch.randn(n, *SHAPE) + shift, torch.randint(4, (n,)))
        for shift, n in enumerate(SIZES)
    ]


def seen(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, list[Tensor]]:
    """What each norm gets when it trains on the batches, channels last, in float64."""
    twin, inputs = copy.deepcopy(network).double(), dict[str, list[Tensor]]()
    for name, module in twin.named_modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)

        def note(_: nn.Module, args: tuple[Tensor], name: str = name) -> None:
            inputs.setdefault(name, []).append(args[0].movedim(1, -1).flatten(0, -2))

        if module.training:
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        for x, _ in batches:
            twin(x.double())
    return inputs


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(SHAPE, 4, hidden=[13, 8], dropout=0.5),
    "cnn": lambda: cnn(SHAPE, 4, channels=[3, 5], hidden=[11], dropout=0.5),
    "torch's": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 5), nn.BatchNorm1d(5, affine=False, momentum=None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_those_of_everything_that_each_norm_sees(name: str) -> None:
    """Against float64 over all rows at once: 1e-6 is what float32 activations are worth."""
    network, batches = NETWORKS[name](), images()
    precise = recalibrate(network, batches)
    inputs = seen(network, batches)
    assert len(precise) == 2 * len(inputs)
    for norm, parts in inputs.items():
        rows = torch.cat(parts)
        expected = rows.var(0, unbiased=False)
        torch.testing.assert_close(
            precise[f"{norm}.running_var"].double(), expected, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            precise[f"{norm}.running_mean"].double(), rows.mean(0), rtol=1e-5, atol=1e-5
        )
        assert precise[f"{norm}.running_var"].dtype == torch.float32


@pytest.mark.usefixtures("double")
def test_in_float64_they_are_exact() -> None:
    network, batches = mlp(SHAPE, 4, hidden=[13]), images()
    precise = recalibrate(network, batches)
    rows = torch.cat(seen(network, batches)["1.norm"])
    torch.testing.assert_close(precise["1.norm.running_mean"], rows.mean(0))
    torch.testing.assert_close(precise["1.norm.running_var"], rows.var(0, unbiased=False))


def test_batches_that_lie_far_apart_widen_the_variance() -> None:
    precise = recalibrate(BatchNorm(1), [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0]] * 2)])
    assert precise["running_mean"].item() == 5.5
    assert precise["running_var"].item() == pytest.approx((5.5**2 + 3.5**2 + 2 * 4.5**2) / 4)


def test_entries_load_into_the_network() -> None:
    network = mlp(SHAPE, 4, hidden=[13])
    precise = recalibrate(network, images())
    assert not network.load_state_dict(precise, strict=False).unexpected_keys
    assert torch.equal(network.get_submodule("1.norm").running_mean, precise["1.norm.running_mean"])
    network(torch.randn(9, *SHAPE))  # the entries are ordinary tensors: training goes on


def test_network_at_rest_needs_no_recalibration() -> None:
    """With one batch, always the same, the average of all momenta is already precise."""
    network, (x, y) = mlp(SHAPE, 4, hidden=[13, 8]), images()[0]
    for _ in range(3):
        network(x)
    precise = recalibrate(network, [(x, y)])
    network.load_state_dict({**network.state_dict(), **precise})
    torch.testing.assert_close(network.eval()(x), network.train()(x))


# Dropout


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_before_a_norm_shifts_its_variance_as_computed(rate: float) -> None:
    """Li et al. 2019: v / ((c² + v) / keep - c²), c and v those of a ReLU of normal numbers."""
    network = nn.Sequential(nn.ReLU(), Dropout(rate, seed=1), BatchNorm(50))
    batches = torch.randn(20, 500, 50)
    off, on = (recalibrate(network, batches, dropout=d)["2.running_var"].mean() for d in (0, 1))
    mean, var = (2 * torch.pi) ** -0.5, 0.5 - 1 / (2 * torch.pi)
    expected = var / ((mean**2 + var) / (1 - rate) - mean**2)
    assert off / on == pytest.approx(expected, rel=0.01)


def test_dropout_on_draws_what_training_would_draw_next() -> None:
    network = nn.Sequential(Dropout(0.5, seed=1), BatchNorm(50))
    x = torch.randn(40, 50)
    network(x)
    on = recalibrate(network, [x], dropout=True)
    expected = network[0](x)
    torch.testing.assert_close(on["1.running_mean"], expected.mean(0))


@pytest.mark.parametrize("kind", [nn.Dropout, Dropout, nn.AlphaDropout])
def test_dropout_of_any_kind_is_off_unless_asked_for(kind: type[nn.Module]) -> None:
    network, x = nn.Sequential(kind(0.5), BatchNorm(50)), torch.randn(40, 50)
    off = recalibrate(network, [x])
    torch.testing.assert_close(off["1.running_mean"], x.mean(0), rtol=1e-5, atol=1e-6)
    on = recalibrate(network, [x], dropout=True)
    assert (on["1.running_mean"] - x.mean(0)).abs().max() > 0.05


# Nothing is left behind


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_as_before(name: str, training: bool, dropout: bool) -> None:
    network = NETWORKS[name]().train(training)
    before = copy.deepcopy(network)
    tensors = {n: t.data_ptr() for n, t in network.state_dict().items()}
    batches = images()
    draws = torch.get_rng_state()
    recalibrate(network, batches, dropout=dropout)
    assert torch.equal(torch.get_rng_state(), draws)
    assert tensors == {n: t.data_ptr() for n, t in network.state_dict().items()}
    for mine, theirs in zip(network.modules(), before.modules(), strict=True):
        assert mine.training == theirs.training
        assert not mine._forward_pre_hooks
        if isinstance(mine, Dropout):
            assert (mine.seed, mine.step) == (theirs.seed, theirs.step)
    for n, value in before.state_dict().items():
        assert torch.equal(value, network.state_dict()[n])


def test_training_goes_on_as_if_nothing_had_been_computed() -> None:
    twins = [Classifier(hidden=[13], input_shape=SHAPE, classes=4, dropout=0.5) for _ in range(2)]
    for step, batch in enumerate(images()):
        for twin in twins:
            twin.training_step(batch, step).backward()
        recalibrate(twins[0].network, images(), dropout=True)
    states = [twin.state_dict() for twin in twins]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for a, b in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_error_in_a_batch_leaves_no_trace_either() -> None:
    network = mlp(SHAPE, 4, hidden=[13])
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        recalibrate(network, [torch.randn(1, *SHAPE)])
    norm = network.get_submodule("1.norm")
    assert network.training
    assert not norm._forward_pre_hooks
    assert torch.equal(norm.running_mean, torch.zeros(13))


# What there is nothing of


def test_norm_that_is_not_reached_is_left_out() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = BatchNorm(3), BatchNorm(3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    precise = recalibrate(Spare(), [torch.randn(9, 3)])
    assert list(precise) == ["used.running_mean", "used.running_var"]


def test_network_without_norms_has_nothing_to_recalibrate() -> None:
    network = mlp(SHAPE, 4, hidden=[13], norm="none")
    assert recalibrate(network, images()) == {}


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one to recalibrate with"):
        recalibrate(BatchNorm(3), [])


def test_a_column_of_a_bank_and_precise_statistics_have_the_same_names() -> None:
    network = mlp(SHAPE, 4, hidden=[13, 8])
    assert recalibrate(network, images()).keys() == Bank.of(network).column(0).keys()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, BatchNorm, GhostBatchNorm])
def test_norms_called_by_keyword_are_recalibrated_too(kind: type[nn.Module]) -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = kind(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(input=x)
            return y

    network, x = ByKeyword(), torch.randn(64, 4) + 3
    network(x)
    torch.testing.assert_close(recalibrate(network, [x])["norm.running_mean"], x.mean(0))
