"""`Pack`: K trials of one signature as one LightningModule.

pack = Pack([{"hidden": [512], "dropout": rate} for rate in (0.0, 0.2, 0.5)])
batches = LaneBatches(data.part("train"), data.train_rows(), 128, pack.ages, at_once=16)
Trainer(max_epochs=5).fit(pack, batches, data.val_dataloader())
pack.metrics(0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dropnorm.bank import Bank, score
from dropnorm.module import Classifier
from dropnorm.pack.banks import (
    carry_banks,
    check_carried,
    check_momenta,
    lane_bank,
    put_bank,
    score_together,
)
from dropnorm.pack.batches import Burst
from dropnorm.pack.bursts import Steps
from dropnorm.pack.lane import Lane, check_same
from dropnorm.pack.losses import losses_together
from dropnorm.pack.optimizer import LaneOptimizer
from dropnorm.pack.sequential import dropout_steps, keep_lanes, lane_state, put_lane, stack
from dropnorm.pack.signature import shape_settings
from dropnorm.pack.together import Together
from dropnorm.scores import Scores

Batch = tuple[Tensor, Tensor]


class Pack(Together[Lane]):
    """K trials trained as one model under an ordinary Trainer, each as if it were alone.

    Built from the constructor arguments of one `Classifier` a lane, all of one `signature`. Between
    epochs a lane can be given to another trial (`refill`) and lanes can be dropped (`shrink`); in
    the middle of an epoch a lane would go on with the other trial's batches. The Trainer's
    `gradient_clip_val` clips every lane by itself. A lane that diverges is marked as `failed` and
    leaves the others as they are. `epochs` is how long a trial trains, which its schedule needs; by
    default as long as the Trainer. With `momenta` every lane carries the running averages of all of
    them, whatever its own (`bank`).

    A trial can move: `lane_snapshot` between epochs, and `refill` with it in any pack of the same
    signature and momenta, before `fit` or between epochs. It then sees what it would have seen.

    Shapes: x [K, B, *input_shape], or [B, *input_shape] shared by all lanes -> [K, B, classes].
    Errors: ValueError for lanes of different signatures, and for float16, whose gradient scale all
    lanes would share; TypeError for networks that have no packed form.
    """

    def __init__(
        self,
        lanes: Sequence[Mapping[str, Any]],
        *,
        epochs: int | None = None,
        momenta: Sequence[float | None] | None = None,
    ) -> None:
        if not lanes:
            raise ValueError("pack: expected the settings of at least one lane, got none")
        shapes = shape_settings(lanes[0])
        trials = [_trial(shapes, hparams) for hparams in lanes]
        super().__init__([Lane.of(trial) for trial in trials], epochs)
        self._shapes = shapes
        self.network = stack([trial.network for trial in trials])
        self.momenta = None if momenta is None else tuple(momenta)
        if self.momenta is not None:
            carry_banks(self.network, self.momenta)
        self._input_dims = 1 + len(trials[0].hparams["input_shape"])
        self._scores: Scores | None = None
        self._watched: list[int] | None = None  # None: all
        self._smoothed: tuple[Tensor | None] | None = None

    def lane_state(self, lane: int) -> dict[str, Tensor]:
        """A copy of the lane's weights and buffers, named as in the plain network."""
        return lane_state(self.network, lane)

    def bank(self, lane: int) -> Bank:
        """A copy of the lane's bank on the CPU, with the names of the plain network's norms.

        Errors: ValueError for a pack without momenta.
        """
        return lane_bank(self.network, lane, self.momenta)

    def score(
        self, lanes: Sequence[int], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> list[dict[str, list[float]]]:
        """val_accuracy, val_nll and val_ece of each momentum of these lanes' banks.

        `batches` are iterated anew for each lane on the CPU, where the scores are, bitwise, those
        of `dropnorm.bank.score`; other devices score all lanes together, equal within rounding.
        None of a network without batch norm. Mixed precision is the caller's. Errors: ValueError
        for a pack without momenta, and for no batches.
        """
        if self.device.type != "cpu":
            check_carried(self.momenta)
            return score_together(self.network, lanes, batches)
        pairs = [(self.classifier(lane).network, self.bank(lane)) for lane in lanes]
        return [score(*pair, batches) if pair[1].averages else {} for pair in pairs]

    def classifier(self, lane: int, momentum: float | EllipsisType | None = ...) -> Classifier:
        """The lane's trial as a plain `Classifier` on the CPU: a copy.

        With a `momentum` of the bank, the trial is the one with this bn_momentum: its running
        averages are those that the bank has for it. Errors: ValueError if the bank has not.
        """
        hparams, state = self.lanes[lane].hparams, self.lane_state(lane)
        if not isinstance(momentum, EllipsisType):
            bank = self.bank(lane)
            state |= bank.column(bank.index(momentum))
            hparams = {**hparams, "bn_momentum": momentum}
        trial = _trial(self._shapes, hparams)
        trial.network.load_state_dict(state)
        trial.on_load_checkpoint({"dropout_steps": dropout_steps(self.network, lane)})
        return trial

    def checkpoint(self, lane: int, momentum: float | EllipsisType | None = ...) -> dict[str, Any]:
        """What `torch.save` makes a file of that `Classifier.load_from_checkpoint` reads."""
        trial, state = self.classifier(lane, momentum), self.lanes[lane]
        checkpoint = {
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": self._epoch(state),
            "global_step": state.batches,
            "state_dict": trial.state_dict(),
            "hyper_parameters": dict(trial.hparams),
        }
        trial.on_save_checkpoint(checkpoint)
        return checkpoint

    def lane_snapshot(self, lane: int) -> dict[str, Any]:
        """A checkpoint of the lane, and all else that `refill` needs to go on with it elsewhere.

        Take it between epochs: in the middle of one, its batches would begin again.
        """
        state = self.lanes[lane]
        bank = None if self.momenta is None else self.bank(lane).state_dict()
        more = {"moments": self._moments(lane), "bank": bank, "metrics": dict(state.metrics)}
        return {**self.checkpoint(lane), **more}

    def refill(
        self, lane: int, hparams: Mapping[str, Any], snapshot: Mapping[str, Any] | None = None
    ) -> None:
        """Starts another trial in a lane, in place: weights, keys, optimizer, all as if alone.

        With a `lane_snapshot` of it the trial goes on from there, as if it had never been away.
        Errors: ValueError for a snapshot that was taken with other momenta.
        """
        trial = _trial(self._shapes, hparams)
        if snapshot is not None:
            check_momenta(self.momenta, snapshot["bank"])
            trial.load_state_dict(snapshot["state_dict"])
            trial.on_load_checkpoint(dict(snapshot))
        put_lane(self.network, lane, trial.network)
        if snapshot is not None and snapshot["bank"] is not None:
            put_bank(self.network, lane, snapshot["bank"])
        self.lanes[lane] = Lane.of(trial, snapshot)
        self._forget_losses(lane)
        self._smoothed = None
        self._begin_updates(lane)

    def _go_on(self, lane: int, snapshot: dict[str, Any]) -> None:
        self.refill(lane, snapshot["hyper_parameters"], snapshot)

    def _keep(self, lanes: Sequence[int]) -> None:
        keep_lanes(self.network, lanes)
        self._smoothed = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == self._input_dims:
            x = x.expand(len(self.lanes), *x.shape)
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch | Burst, batch_idx: int) -> Tensor:
        if isinstance(batch, Burst):
            return self._train(batch)
        losses = self._losses(*batch)
        self._count(losses)
        return losses.sum()  # of means: a lane's gradient is that of the trial alone

    def _losses(self, x: Tensor, y: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return losses_together(self(x), y, self._smoothing(x.device))
        lanes = zip(self(x), y, self._lanes, strict=True)
        return torch.stack(
            [F.cross_entropy(z, t, label_smoothing=lane.label_smoothing) for z, t, lane in lanes]
        )

    def _train(self, burst: Burst) -> Tensor:
        """All steps of a burst, updates included; the losses of the last, without a graph."""
        assert self._optimizer is not None
        how = Steps.of(self.trainer, self._optimizer)
        if self.device.type != "cpu":
            return how.together(burst, self._losses, self._count).sum()
        smoothing = [lane.label_smoothing for lane in self._lanes]
        losses = how.in_turn(burst, self.network, smoothing, self._loss_sum)
        self._rows += len(burst)
        self._uncounted += len(burst)
        return losses.sum()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if loss.requires_grad:  # a burst has been back already
            loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _smoothing(self, device: torch.device) -> Tensor | None:
        """The label smoothing of each lane; kept, for a step should not ask every lane."""
        if self._smoothed is None:
            shares = [lane.label_smoothing for lane in self.lanes]
            tensor = torch.tensor(shares, dtype=torch.float64).to(device) if any(shares) else None
            self._smoothed = (tensor,)
        return self._smoothed[0]

    def watch(self, lanes: Sequence[int]) -> None:
        """The next validation looks at these lanes only; the others have no validation metrics.

        To be called before each one that is not to look at all of them.
        """
        self._watched = sorted(lanes)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        x, y = batch
        if not self._looked_at:
            return
        if self._scores is None:
            self._scores = Scores(len(self._looked_at), x.device)
        self._scores.update(self.network.some(x, self._looked_at, len(self._lanes)), y)

    test_step = validation_step

    @property
    def _looked_at(self) -> list[int]:
        return [*range(len(self.lanes))] if self._watched is None else self._watched

    def _computed(self, prefix: str) -> list[dict[str, float]]:
        found: list[dict[str, float]] = [{} for _ in self.lanes]
        values = {} if self._scores is None else self._scores.compute()
        for name, column in values.items():
            for lane, value in zip(self._looked_at, column.tolist(), strict=True):
                found[lane][prefix + name] = value
        self._scores = self._watched = None
        return found

    def configure_optimizers(self) -> LaneOptimizer:
        return self._make_optimizer(self.network.parameters())


def _trial(shapes: Mapping[str, Any], hparams: Mapping[str, Any]) -> Classifier:
    check_same(shapes, shape_settings(hparams))
    return Classifier(**hparams)
