"""Callbacks in two processes (gloo, on the CPU) agree with one process on the same examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Sampler

from dropnorm.callbacks import Diagnostics, DropoutSchedule, MomentumBank, PreciseBatchNorm
from dropnorm.retrofitting import retrofit
from sweep.optuna_pruning import OptunaPruning
from tests.plain_modules import PACKAGES, examples, network, plain_module, trainer

TRAIN, VAL = examples(128, 1), examples(96, 2)  # in even shares, so that nothing is padded
TWO = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
SAME = {"rtol": 1e-4, "atol": 1e-5}  # sums over the batch in another order, over sixteen steps

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="torch without distributed"),
    # The module logs one metric without sync_dist, as many do.
    pytest.mark.filterwarnings("ignore:It is recommended to use `self.log"),
]


class Share(Sampler[int]):
    """Every second example in each of two processes, all in one, in order; Lightning's shuffles."""

    def __init__(self, data: Any) -> None:
        self._all = range(len(data))

    def _mine(self) -> range:
        together = dist.is_initialized()
        return self._all[dist.get_rank() :: dist.get_world_size()] if together else self._all

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())


def loader(data: Any, batch: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch, sampler=Share(data))


def fitted(
    folder: Path,
    net: nn.Module,
    callbacks: list[Any],
    train: Any,
    val: Any,
    package: Any = PACKAGES[0],
    **settings: Any,
) -> tuple[Any, dict[str, float]]:
    """The module after a training (with its weights of the other processes) and what it logged."""
    torch.manual_seed(0)
    module = plain_module(package, net)
    fit = trainer(package, folder, *callbacks, **settings)
    fit.fit(module, train, val)
    return module, {name: value.item() for name, value in fit.callback_metrics.items()}


def synchronised() -> nn.Module:
    torch.manual_seed(0)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    retrofit(net, dropout=0.0)
    return net


@pytest.mark.parametrize("package", PACKAGES)
def test_bank_has_the_curve_of_one_process(tmp_path: Path, package: Any) -> None:
    """Each step has the same 32 examples, and the norms are synchronised."""
    curves = []
    for settings, batch in (({}, 32), (TWO, 16)):
        bank = MomentumBank([0.01, 0.1, None])
        data = loader(TRAIN, batch), loader(VAL, batch)
        _, logged = fitted(tmp_path, synchronised(), [bank], *data, package, **settings)
        curves.append({name: value for name, value in logged.items() if "bn_momentum" in name})
    one, two = curves
    assert len(one) == 9
    assert two == pytest.approx(one, rel=1e-4)
    assert one["val_nll/bn_momentum_0.01"] != pytest.approx(
        one["val_nll/bn_momentum_none"], rel=1e-3
    )


def test_diagnostics_are_those_of_one_process(tmp_path: Path) -> None:
    """One norm only: recalibration normalises each process's batches by themselves."""
    found = []
    for settings, batch in (({}, 32), (TWO, 16)):
        net = synchronised()[:4].append(nn.Linear(16, 3))
        diagnostics = Diagnostics(
            batches=4, logits=lambda module, batch: (module(batch[0]), batch[1])
        )
        data = loader(TRAIN, batch), loader(VAL, batch)
        _, logged = fitted(tmp_path, net, [diagnostics], *data, **settings)
        found.append({name: value for name, value in logged.items() if "diagnostics" in name})
    one, two = found
    assert {"diagnostics/ece", "diagnostics/lag_cost/val_nll", "diagnostics/gap/val_nll"} <= set(
        one
    )
    assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("package", PACKAGES)
def test_precise_statistics_are_those_of_one_process(tmp_path: Path, package: Any) -> None:
    """One process takes the batches of both in turn, two to a step."""
    net = network(dropout=0.0)
    alone, logged_alone = fitted(
        tmp_path, copy_of(net), [PreciseBatchNorm(batches=8), DropoutSchedule("constant")],
        DataLoader(TRAIN, batch_sampler=in_turns(128, 16)), loader(VAL, 16),
        package, accumulate_grad_batches=2,
    )  # fmt: skip
    both, logged = fitted(
        tmp_path, copy_of(net), [PreciseBatchNorm(batches=4), DropoutSchedule("constant")],
        loader(TRAIN, 16), loader(VAL, 16), package, **TWO,
    )  # fmt: skip
    expected = alone.state_dict()
    for name, value in both.state_dict().items():
        if "tracked" not in name:  # one process sees twice as many batches
            torch.testing.assert_close(value, expected[name], **SAME)
    assert logged["val_nll"] == pytest.approx(logged_alone["val_nll"], rel=1e-4)


class BelowHalf(optuna.pruners.BasePruner):
    """Prunes a trial at its first report below a half, which depends on what is reported."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        assert trial.last_step is not None
        return trial.intermediate_values[trial.last_step] < 0.5 or trial.last_step == 3


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("monitor", ["val_accuracy", "val_nll"])
def test_pruning_is_that_of_one_process(tmp_path: Path, package: Any, monitor: str) -> None:
    """Each process validates its share, and both stop where one process on all of it does.

    One of the metrics is logged with sync_dist and one without; averages of both are the whole's.
    """
    trials = []
    for settings, batch in (({}, 32), (TWO, 16)):
        pruned = optuna.create_study(direction="maximize", pruner=BelowHalf())

        def objective(trial: optuna.Trial, settings: Any = settings, batch: int = batch) -> float:
            pruning = OptunaPruning(trial, monitor)
            torch.manual_seed(0)
            fit = trainer(package, tmp_path, pruning, max_epochs=5, **settings)
            fit.fit(plain_module(package, synchronised()), loader(TRAIN, batch), loader(VAL, batch))
            pruning.raise_if_pruned(fit)
            return 0.0

        pruned.optimize(objective, n_trials=1)
        trials += pruned.trials
    one, two = trials
    assert one.state == two.state == optuna.trial.TrialState.PRUNED
    assert two.intermediate_values == pytest.approx(one.intermediate_values, rel=1e-4)


def copy_of(net: nn.Module) -> nn.Module:
    twin = network(dropout=0.0)
    twin.load_state_dict(net.state_dict())
    return twin


def in_turns(examples: int, batch: int) -> list[list[int]]:
    """The batches of the two processes, one after the other."""
    starts = range(0, examples, 2 * batch)
    return [list(range(s + rank, s + 2 * batch, 2)) for s in starts for rank in range(2)]
