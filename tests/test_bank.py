"""Bank: each column is the training with that momentum, and scored as such."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from dropnorm import BatchNorm, Classifier, cnn, mlp
from dropnorm.bank import MOMENTA, Bank, score
from dropnorm.scores import Scores
from tests.test_evaluation import NETWORKS, SHAPE

SOME = (0.003, 0.1, 0.7, 1.0, None)


def fed(norm: nn.Module, steps: int = 7, channels: int = 37) -> Bank:
    """A bank beside a norm of its own, after some training steps of another."""
    bank, norm = Bank.of(norm, SOME), copy.deepcopy(norm)
    for x in batches(steps, channels):
        bank.update("", x.mean(0), x.var(0))
        norm(x)
    return bank


def batches(steps: int, channels: int) -> Tensor:
    return 3 * torch.randn(steps, 20, channels, generator=torch.Generator().manual_seed(1)) + 1


# The averages


def test_default_momenta_are_spaced_evenly_by_their_logarithm_and_cumulative_last() -> None:
    assert len(MOMENTA) == 14
    assert (MOMENTA[0], MOMENTA[4], MOMENTA[8], MOMENTA[12], MOMENTA[13]) == (
        0.001, 0.01, 0.1, 1.0, None,
    )  # fmt: skip
    numbers = [m for m in MOMENTA if m is not None]
    ratios = [b / a for a, b in pairwise(numbers)]
    assert ratios == pytest.approx([10**0.25] * 12, rel=2e-3)  # of three digits each


def test_columns_are_bitwise_the_running_averages_of_our_norm_with_that_momentum() -> None:
    norms = [BatchNorm(37, momentum) for momentum in SOME]
    bank = Bank.of(norms[0], SOME)
    for x in batches(7, 37):
        for norm in norms:
            norm(x)
        bank.update("", _last(x)[0], _last(x)[1])
    for m, norm in enumerate(norms):
        assert torch.equal(bank.column(m)["running_mean"], norm.running_mean)
        assert torch.equal(bank.column(m)["running_var"], norm.running_var)


def _last(x: Tensor) -> Tensor:
    """A batch's mean and unbiased variance, [2, C], as training leaves them at momentum 1."""
    norm = BatchNorm(x.shape[1], 1.0)
    norm(x)
    return torch.stack((norm.running_mean, norm.running_var))


def test_columns_are_those_of_torchs_norm_but_for_rounding() -> None:
    """torch computes (1 - m) * old + m * new, which rounds otherwise: some 1e-7 a step."""
    norms = [nn.BatchNorm1d(37, momentum=momentum) for momentum in SOME]
    bank = fed(norms[0])
    for m, norm in enumerate(norms):
        for x in batches(7, 37):
            norm(x)
        mean, var = bank.averages[""][:, m]
        torch.testing.assert_close(mean, norm.running_mean, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(var, norm.running_var, rtol=2e-6, atol=2e-6)


def test_bank_goes_on_from_a_trained_network() -> None:
    trained = BatchNorm(37)
    for x in batches(5, 37):
        trained(x)
    bank = fed(trained)
    for m, momentum in enumerate(SOME):
        norm = BatchNorm(37, momentum)
        norm.load_state_dict(trained.state_dict())
        for x in batches(7, 37):
            norm(x)
        torch.testing.assert_close(bank.column(m)["running_mean"], norm.running_mean)


def test_each_norm_has_a_count_of_its_own() -> None:
    bank = Bank.of(nn.Sequential(BatchNorm(3), nn.BatchNorm1d(3)), [None])
    bank.update("0", torch.ones(3), torch.ones(3))
    for value in (2.0, 4.0):
        bank.update("1", torch.full((3,), value), torch.ones(3))
    assert bank.counts == {"0": 1, "1": 2}
    assert bank.averages["0"][0].tolist() == [[1.0] * 3]
    assert bank.averages["1"][0].tolist() == [[3.0] * 3]


def test_statistics_of_lower_precision_are_averaged_in_the_norms_own() -> None:
    bank = Bank.of(BatchNorm(3), [0.5])
    bank.update("", torch.ones(3).bfloat16(), torch.ones(3).bfloat16())
    assert bank.averages[""].dtype == torch.float32


def test_columns_are_entries_of_the_networks_state() -> None:
    network = mlp(SHAPE, 4, hidden=[13, 8])
    bank = Bank.of(network, SOME)
    bank.update("2.norm", torch.full((8,), 5.0), torch.full((8,), 6.0))
    loaded = network.load_state_dict(bank.column(3), strict=False)
    assert not loaded.unexpected_keys
    assert network.get_submodule("2.norm").running_mean.tolist() == [5.0] * 8
    assert network.get_submodule("2.norm").running_var.tolist() == [6.0] * 8
    assert network.get_submodule("1.norm").running_var.tolist() == [1.0] * 13
    bank.update("2.norm", torch.zeros(8), torch.zeros(8))  # columns are copies
    assert network.get_submodule("2.norm").running_mean.tolist() == [5.0] * 8


def test_bank_goes_on_from_a_file() -> None:
    bank, file = fed(BatchNorm(37)), io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = Bank(**torch.load(file, weights_only=True))
    for one in (bank, other):
        one.update("", torch.ones(37), torch.ones(37))
    assert other.momenta == SOME
    assert torch.equal(other.averages[""], bank.averages[""])


def test_batch_that_is_not_finite_spoils_its_norm_alone() -> None:
    bank = Bank.of(nn.Sequential(BatchNorm(3), BatchNorm(3)), SOME)
    bank.update("0", torch.full((3,), torch.nan), torch.ones(3))
    assert bank.averages["0"][0].isnan().all()
    assert bank.averages["1"].isfinite().all()


# Scores


def random_bank(network: nn.Module) -> Bank:
    """Columns that differ by far, of a network whose norms do something."""
    bank = Bank.of(network, SOME)
    for average in bank.averages.values():
        average[0].normal_()
        average[1].uniform_(0.2, 3)
    return bank


def images(classes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(n, *SHAPE), torch.randint(classes, (n,))) for n in (30, 30, 7)]


@pytest.mark.parametrize("name", ["mlp", "cnn", "act first", "weight last", "nested", "of others"])
def test_scores_are_those_of_separate_evaluations(name: str) -> None:
    network = NETWORKS[name]()
    bank, some = random_bank(network), images(4)
    scored = score(network, bank, some)
    twin = copy.deepcopy(network).eval()
    for m in range(len(SOME)):
        twin.load_state_dict(bank.column(m), strict=False)
        alone = Scores(1, torch.device("cpu"))
        for x, y in some:
            alone.update(twin(x).detach().unsqueeze(0), y)
        for metric, value in alone.compute().items():
            assert scored[f"val_{metric}"][m] == value.item()
    assert len(set(scored["val_nll"])) == len(SOME)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_scores_are_what_a_classifier_logs(make: Callable[..., nn.Sequential]) -> None:
    network = make(SHAPE, 4)
    bank, some = random_bank(network), images(4)
    scored = score(network, bank, some, classes=4)
    module = Classifier(network, classes=4).eval()
    for m in range(len(SOME)):
        network.load_state_dict(bank.column(m), strict=False)
        module.val_metrics.reset()
        for batch in some:
            module.validation_step(batch, 0)
        expected = {k: float(v) for k, v in module.val_metrics.compute().items()}
        mine = {k: values[m] for k, values in scored.items()}
        assert mine["val_accuracy"] == pytest.approx(expected["val_accuracy"], abs=1e-7)
        assert mine == pytest.approx(expected, abs=1e-6)


def test_large_images_are_scored_in_parts_and_to_rounding_the_same() -> None:
    network = nn.Sequential(nn.Conv2d(1, 64, 3), nn.BatchNorm2d(64), nn.MaxPool2d(8), nn.Flatten())
    bank = random_bank(network)
    x, y = torch.randn(99, 1, 34, 34), torch.randint(4, (99,))  # 65,536 values after the first
    parts = list[int]()
    network[1].register_forward_hook(lambda _, inputs, __: parts.append(len(inputs[0])))
    whole = score(network, bank, [(x, y)])
    assert sorted(set(parts)) == [3, 16]
    cut = score(network, bank, zip(x.split(9), y.split(9), strict=True))
    assert whole["val_accuracy"] == cut["val_accuracy"]
    assert whole["val_nll"] == pytest.approx(cut["val_nll"], rel=1e-6)


def test_what_runs_before_the_first_norm_runs_once() -> None:
    network = mlp(SHAPE, 4, hidden=[13])
    calls = dict.fromkeys(["1.weight", "1.norm", "2"], 0)
    for name in calls:

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        network.get_submodule(name).register_forward_hook(count)
    score(network, random_bank(network), images(4))
    assert calls == {"1.weight": 3, "1.norm": 3 * len(SOME), "2": 3 * len(SOME)}


def test_without_norms_all_momenta_score_alike() -> None:
    network = mlp(SHAPE, 4, hidden=[13], norm="none")
    assert len(set(score(network, Bank.of(network, SOME), images(4))["val_nll"])) == 1


def test_network_is_as_before_scoring() -> None:
    network = mlp(SHAPE, 4, hidden=[13], dropout=0.5)
    before = copy.deepcopy(network.state_dict())
    score(network, random_bank(network), images(4))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network(torch.randn(9, *SHAPE)).sum().backward()  # no tensor of inference mode is left behind


# Errors


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, float("nan")])
def test_momenta_outside_zero_to_one_are_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"0 < momentum <= 1 or None, got {momentum}"):
        Bank.of(BatchNorm(3), [0.1, momentum])


def test_bank_without_momenta_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one, got none"):
        Bank.of(BatchNorm(3), [])


def test_unknown_momentum_is_refused() -> None:
    bank = Bank.of(BatchNorm(3), [0.1, None])
    assert bank.index(None) == 1
    with pytest.raises(ValueError, match=r"expected one of the bank's 0.1, None, got 0.2"):
        bank.index(0.2)


def test_bank_of_another_network_is_refused() -> None:
    bank = Bank.of(nn.Sequential(BatchNorm(64)), SOME)
    with pytest.raises(ValueError, match=r"norms of this network, got '0'"):
        score(mlp(SHAPE, 4, hidden=[13]), bank, images(4))


def test_scores_of_nothing_are_refused() -> None:
    network = mlp(SHAPE, 4, hidden=[13])
    with pytest.raises(ValueError, match="at least one to score momenta on"):
        score(network, Bank.of(network), [])


def test_another_number_of_outputs_is_refused() -> None:
    network = mlp(SHAPE, 4, hidden=[13])
    with pytest.raises(ValueError, match="classes: expected 10 outputs, got 4"):
        score(network, Bank.of(network), images(4), classes=10)


# Networks that are put together in unusual ways


def plainly(network: nn.Module, some: list[tuple[Tensor, Tensor]]) -> float:
    """The NLL of the network as it is."""
    scores = Scores(1, torch.device("cpu"))
    with torch.no_grad():
        for x, y in some:
            scores.update(network.eval()(x).unsqueeze(0), y)
    return scores.compute()["nll"].item()


def test_a_layer_that_comes_twice_runs_twice() -> None:
    act = nn.ReLU()
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), act, nn.Linear(8, 8), act,
        nn.Linear(8, 4),
    )  # fmt: skip
    some = images(4)
    assert score(network, Bank.of(network, [0.1]), some)["val_nll"] == [plainly(network, some)]


def test_a_norm_without_bias_keeps_its_weight() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    nn.init.constant_(network[1].weight, 3)
    network[1].bias = None
    some = images(4)
    assert score(network, Bank.of(network, [0.1]), some)["val_nll"] == [plainly(network, some)]


def test_a_norm_of_other_channels_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(3), nn.ReLU())
    with pytest.raises(RuntimeError, match="should contain 6 elements"):
        score(network, Bank.of(network, [0.1]), images(4))
