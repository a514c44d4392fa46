"""`DropoutSchedule`: dropout that changes while a module trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.layers import dropouts_of, rate_of, set_rate
from dropnorm.evaluation import AnyDropout

# The share of the full rate, from the share of training done over the share where the mode turns.
MODES: dict[str, Callable[[float], float]] = {
    "constant": lambda turn: 1.0,
    "early": lambda turn: max(0.0, 1.0 - turn),
    "late": lambda turn: float(turn >= 1),
    "ramp": lambda turn: min(1.0, turn),
}


class DropoutSchedule(Callback):
    """Scales the rates of all dropout layers, ours and torch's, over the steps of training.

    When training ends, layers have their full rates again: an "early" schedule would leave 0.

    `constant` keeps the full rate. `early` falls linearly to 0, at the share `turn` of training: it
    helps networks that underfit. `late` is 0 up to there and full afterwards: it helps those that
    overfit (Liu et al. 2023, "Dropout Reduces Underfitting"; they turn at 50 of 300 epochs). `ramp`
    rises linearly from 0 to full at `turn` (Morerio et al. 2017, "Curriculum Dropout"; they rise
    exponentially). `rate` is the full rate of all layers; without it each layer's own is. `steps`
    is the length of training in optimizer steps; without it, what the Trainer expects.

    Logs: dropout_scale, from 0 to 1, when the Trainer logs. Errors: ValueError for an unknown mode,
    values out of range, a module without dropout, or a training without an end when `steps` is not
    given.
    """

    def __init__(
        self,
        mode: str = "early",
        *,
        turn: float = 1 / 6,
        rate: float | None = None,
        steps: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if not 0 < turn <= 1:
            raise ValueError(f"turn: expected 0 < turn <= 1, a share of training, got {turn!r}")
        if rate is not None and not 0 <= rate < 1:
            raise ValueError(f"rate: expected 0 <= rate < 1, got {rate!r}")
        self.mode, self.turn, self.rate, self.steps = mode, turn, rate, steps
        self._full: list[tuple[AnyDropout, float]] = []
        self._length = 0.0

    def scale(self, done: float) -> float:
        """The share of the full rate when the share `done` of training is over."""
        return MODES[self.mode](done / self.turn)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        expected = trainer.estimated_stepping_batches if self.steps is None else self.steps
        if not 0 < expected < float("inf"):
            raise ValueError(
                f"steps: expected a length of training, got {expected}; type steps=..."
            )
        self._length = expected
        self._full = [
            (layer, rate_of(layer)) for layer in dropouts_of(pl_module, "DropoutSchedule")
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        scale = self.scale(trainer.global_step / self._length)
        for layer, own in self._full:
            set_rate(layer, scale * (own if self.rate is None else self.rate))
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by its connector
        if batch_idx == 0 or (every and (trainer.global_step + 1) % every == 0):
            pl_module.log("dropout_scale", scale)  # when loggers hear of it: that takes 1 ms

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for layer, own in self._full:
            set_rate(layer, own if self.rate is None else self.rate)
        self._full = []
