"""`VmappedPack`: K trials of a network that we did not write, as one LightningModule.

modules = [Mine(dropout=rate) for rate in (0.0, 0.2, 0.5)]
assert can_pack(modules[0], batch) is None
pack = VmappedPack(modules, seeds=[0, 1, 2])
Trainer(max_epochs=5).fit(pack, LaneLoaders(train_loader, pack.ages), val_loader)
pack.metrics(0)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dropnorm.bank import Bank
from dropnorm.blocks import Dropout
from dropnorm.evaluation import evaluating
from dropnorm.optimizers import Optimizer
from dropnorm.pack.banks import check_momenta
from dropnorm.pack.optimizer import LaneOptimizer
from dropnorm.pack.protocol import Unpackable, can_pack, check_alike, has_method, optimizer_of
from dropnorm.pack.read import Read, names_read
from dropnorm.pack.stacked import Stacked
from dropnorm.pack.together import Together


@dataclass
class VmappedLane:
    """A trial: its plain module as it was given, and how far it has come."""

    module: nn.Module
    seed: int
    optimizer: Optimizer
    batches: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    moments: dict[str, Any] | None = None

    def dropouts(self) -> list[Dropout]:
        return [layer for layer in self.module.modules() if isinstance(layer, Dropout)]


class VmappedPack(Together[VmappedLane]):
    """K modules that keep to the protocol of `can_pack`, trained as one under an ordinary Trainer.

    `Pack` for other people's networks: same methods, and equal to the trial alone within rounding
    instead of bitwise, since vmap merges the lanes' products. It is made for GPUs: on the CPU a
    lane takes longer than a plain module, up to 1.4 times. Dropout draws what it draws alone.

    The modules' own hooks, steps and logging do not run; the settings of their optimizers are read.
    `seeds` are the trials', for `ages`. A training batch has a leading lane axis on every tensor
    (`LaneLoaders` makes such of any DataLoader); validation batches are shared. With `momenta`
    every lane carries the running averages of all of them, whatever its own (`bank`).

    Errors: Unpackable (a TypeError) for a module that does not keep to the protocol; ValueError for
    modules that differ in shapes or in numbers which the loss reads, the latter at the first step.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        epochs: int | None = None,
        momenta: Sequence[float | None] | None = None,
    ) -> None:
        if not modules:
            raise ValueError("pack: expected at least one module, got none")
        super().__init__([_lane(*lane) for lane in zip(modules, seeds, strict=True)], epochs)
        check_alike(modules)
        self._updated = optimizer_of(modules[0])[1]
        self.momenta = None if momenta is None else tuple(momenta)
        self.network = Stacked(modules, self.momenta or ())
        self._reads: list[Read] | None = None
        self._sums: dict[str, Tensor] = {}
        self._validated = 0  # rows that `_sums` are of

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of the lane's weights and buffers, named as in the plain module."""
        return self.network.lane_state(lane)

    def bank(self, lane: int) -> Bank:
        """A copy of the lane's bank on the CPU, with the names of the plain module's norms.

        Errors: ValueError for a pack without momenta.
        """
        if self.momenta is None:
            raise ValueError("bank: expected a pack with momenta; type VmappedPack(..., momenta=)")
        banks = self.network.lane_banks(lane)
        averages = {name: average for name, (average, _) in banks.items()}
        return Bank(self.momenta, averages, {name: count for name, (_, count) in banks.items()})

    def module(self, lane: int, momentum: float | EllipsisType | None = ...) -> nn.Module:
        """The lane's trial as a plain module on the CPU: a copy, its dropout counts included.

        With a `momentum` of the bank its running averages are those that the bank has for it.
        Errors: ValueError if the bank has not.
        """
        module = copy.deepcopy(self.lanes[lane].module).cpu()
        state = self.lane_state(lane)
        if not isinstance(momentum, EllipsisType):
            bank = self.bank(lane)
            state |= bank.column(bank.index(momentum))
        module.load_state_dict(state)
        return module

    def checkpoint(self, lane: int, momentum: float | EllipsisType | None = ...) -> dict[str, Any]:
        """What `torch.save` makes a file of that the module's `load_from_checkpoint` reads."""
        trial: Any = self.module(lane, momentum)
        state = self.lanes[lane]
        checkpoint: dict[str, Any] = {
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": self._epoch(state),
            "global_step": state.batches,
            "state_dict": trial.state_dict(),
        }
        if has_method(trial, "save_hyperparameters"):
            checkpoint["hyper_parameters"] = dict(trial.hparams)
            checkpoint["hparams_name"] = getattr(trial, "_hparams_name", None)
        if has_method(trial, "on_save_checkpoint"):
            trial.on_save_checkpoint(checkpoint)
        return checkpoint

    def lane_snapshot(self, lane: int) -> dict[str, Any]:
        """All that `refill` needs to go on with the lane's trial elsewhere, in plain types.

        Take it between epochs: in the middle of one, its batches would begin again.
        """
        state = self.lanes[lane]
        return {
            "tensors": self.network.lane_tensors(lane),
            "dropout_steps": [layer.step for layer in state.dropouts()],
            "batches": state.batches,
            "metrics": dict(state.metrics),
            "moments": self._moments(lane),
            "momenta": self.momenta,
        }

    def refill(
        self,
        lane: int,
        module: nn.Module,
        *,
        seed: int,
        snapshot: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts another trial in a lane, in place: weights, keys, optimizer, all as if alone.

        With a `lane_snapshot` of it the trial goes on from there, as if it had never been away;
        `module` is then built as it was. Errors: ValueError for a snapshot with other momenta.
        """
        check_alike([self.lanes[0].module, module], self._reads or ())
        new = _lane(module, seed)
        if snapshot is not None:
            check_momenta(self.momenta, snapshot if snapshot["momenta"] else None)
            for layer, step in zip(new.dropouts(), snapshot["dropout_steps"], strict=True):
                layer.step = step
            new.batches, new.metrics = snapshot["batches"], dict(snapshot["metrics"])
            new.moments = snapshot["moments"]
        self.network.put(lane, module, None if snapshot is None else snapshot["tensors"])
        self.lanes[lane] = new
        self._forget_losses(lane)
        self._begin_updates(lane)

    @torch.no_grad()
    def evaluate(
        self, lanes: Sequence[int], batches: Iterable[Any], columns: Sequence[int | None] = (None,)
    ) -> list[dict[str, list[float]]]:
        """The metrics of these lanes over shared batches, a value for each column of the bank.

        The column None is the lanes' own running averages. Lanes stay as they are. Mixed precision
        is the caller's: `trainer.precision_plugin.forward_context()`, and so is the device.
        """
        sums: dict[str, Tensor] = {}
        rows = 0
        with evaluating(self.network):
            for batch in batches:
                size = len(tree_leaves(batch)[0])
                rows += size
                parts = [self._metrics(batch, (lanes, column)) for column in columns]
                for name in parts[0]:
                    values = torch.stack([part[name] for part in parts], 1).double()
                    sums[name] = sums.get(name, 0) + size * values
        if not rows:
            raise ValueError("batches: expected at least one to evaluate on, got none")
        means = {name: (total / rows).tolist() for name, total in sums.items()}
        return [{n: rows[place] for n, rows in means.items()} for place in range(len(lanes))]

    def _metrics(
        self, batch: Any, of: tuple[Sequence[int], int | None] | None = None
    ) -> dict[str, Tensor]:
        """The means over a batch, of all lanes or `of` some with a column of their banks."""
        whole = has_method(self.lanes[0].module, "metrics")
        method = "metrics" if whole else "loss"
        if of is None:
            found = self.network(method, batch, shared=True)
        else:
            found = self.network.shared(*of, method, batch)
        return found if whole else {"loss": found}

    def _go_on(self, lane: int, snapshot: dict[str, Any]) -> None:
        state = self.lanes[lane]
        self.refill(lane, state.module, seed=state.seed, snapshot=snapshot)

    def _keep(self, lanes: Sequence[int]) -> None:
        self.network.keep(lanes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self._reads is None:
            modules = [lane.module for lane in self.lanes]
            self._reads = names_read(modules[0], tree_map(lambda t: t[0].cpu(), batch))
            check_alike(modules, self._reads)
        losses: Tensor = self.network("loss", batch)
        self._count(losses, len(tree_leaves(batch)[0][0]))
        return losses.sum()  # a lane's gradient is that of the trial alone

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        rows = len(tree_leaves(batch)[0])
        for name, value in self._metrics(batch).items():
            self._sums[name] = self._sums.get(name, 0) + rows * value.double()
        self._validated += rows

    test_step = validation_step

    def _computed(self, prefix: str) -> list[dict[str, float]]:
        """Means over all rows, as Lightning takes them of what a plain module logs."""
        means = {prefix + n: (s / self._validated).tolist() for n, s in self._sums.items()}
        self._sums, self._validated = {}, 0
        return [{name: v[k] for name, v in means.items()} for k in range(len(self.lanes))]

    def configure_optimizers(self) -> LaneOptimizer:
        named = dict(self.network.network.named_parameters())
        return self._make_optimizer([named[name] for name in self._updated])


def _lane(module: nn.Module, seed: int) -> VmappedLane:
    if reason := can_pack(module):
        raise Unpackable(f"pack: {reason}")
    return VmappedLane(module, seed, optimizer_of(module)[0])
