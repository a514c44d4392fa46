"""`VmappedPack`: K trials of a network that we did not write, as one LightningModule.

modules = [Mine(dropout=rate) for rate in (0.0, 0.2, 0.5)]
assert can_pack(modules[0], batch) is None
pack = VmappedPack(modules, seeds=[0, 1, 2])
Trainer(max_epochs=5).fit(pack, LaneBatches(..., pack.ages), val_loader)
pack.metrics(0)
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dropnorm.optimizers import Optimizer
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


class VmappedPack(Together[VmappedLane]):
    """K modules that keep to the protocol of `can_pack`, trained as one under an ordinary Trainer.

    `Pack` for other people's networks: same methods, and equal to the trial alone within rounding
    instead of bitwise, since vmap merges the lanes' products. It is made for GPUs: on the CPU a
    lane takes longer than a plain module, up to 1.4 times. Dropout draws what it draws alone.

    The modules' own hooks, steps and logging do not run; the settings of their optimizers are read.
    `seeds` are the trials', for `ages`. A training batch has a leading lane axis on every tensor;
    validation batches are shared.

    Errors: Unpackable (a TypeError) for a module that does not keep to the protocol; ValueError for
    modules that differ in shapes or in numbers which the loss reads, the latter at the first step.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        *,
        seeds: Sequence[int],
        epochs: int | None = None,
    ) -> None:
        if not modules:
            raise ValueError("pack: expected at least one module, got none")
        super().__init__([_lane(*lane) for lane in zip(modules, seeds, strict=True)], epochs)
        check_alike(modules)
        self._updated = optimizer_of(modules[0])[1]
        self.network = Stacked(modules)
        self._reads: list[Read] | None = None
        self._sums: dict[str, Tensor] = {}
        self._rows = 0

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of the lane's weights and buffers, named as in the plain module."""
        return self.network.lane_state(lane)

    def module(self, lane: int) -> nn.Module:
        """The lane's trial as a plain module on the CPU: a copy, its dropout counts included."""
        module = copy.deepcopy(self.lanes[lane].module).cpu()
        module.load_state_dict(self.lane_state(lane))
        return module

    def checkpoint(self, lane: int) -> dict[str, Any]:
        """What `torch.save` makes a file of that the module's `load_from_checkpoint` reads."""
        trial: Any = self.module(lane)
        state = self.lanes[lane]
        checkpoint: dict[str, Any] = {
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": self._epoch(state),
            "global_step": state.batches,
            "state_dict": trial.state_dict(),
        }
        if has_method(trial, "save_hyperparameters"):
            checkpoint["hyper_parameters"] = dict(trial.hparams)
        if has_method(trial, "on_save_checkpoint"):
            trial.on_save_checkpoint(checkpoint)
        return checkpoint

    def refill(self, lane: int, module: nn.Module, *, seed: int) -> None:
        """Starts another trial in a lane, in place: weights, keys, optimizer, all as if alone."""
        check_alike([self.lanes[0].module, module], self._reads or ())
        new = _lane(module, seed)
        self.network.put(lane, module)
        self.lanes[lane] = new
        self._loss_sum[lane] = 0
        if self._optimizer is not None:
            self._optimizer.restart(lane, new.optimizer)

    def _keep(self, lanes: Sequence[int]) -> None:
        self.network.keep(lanes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self._reads is None:
            modules = [lane.module for lane in self.lanes]
            self._reads = names_read(modules[0], tree_map(lambda t: t[0].cpu(), batch))
            check_alike(modules, self._reads)
        losses: Tensor = self.network("loss", batch)
        self._count(losses)
        return losses.sum()  # a lane's gradient is that of the trial alone

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        rows = len(tree_leaves(batch)[0])
        if has_method(self.lanes[0].module, "metrics"):
            values = self.network("metrics", batch, shared=True)
        else:
            values = {"loss": self.network("loss", batch, shared=True)}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + rows * value.double()
        self._rows += rows

    test_step = validation_step

    def _computed(self, prefix: str) -> dict[str, list[float]]:
        """Means over all rows, as Lightning takes them of what a plain module logs."""
        means = {prefix + n: (s / self._rows).tolist() for n, s in self._sums.items()}
        self._sums, self._rows = {}, 0
        return means

    def configure_optimizers(self) -> LaneOptimizer:
        named = dict(self.network.network.named_parameters())
        return self._make_optimizer([named[name] for name in self._updated])


def _lane(module: nn.Module, seed: int) -> VmappedLane:
    if reason := can_pack(module):
        raise Unpackable(f"pack: {reason}")
    return VmappedLane(module, seed, optimizer_of(module)[0])
