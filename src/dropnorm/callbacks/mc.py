"""`MCDropout`: predictions with uncertainty, from several passes with dropout on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from dropnorm.callbacks.callback import Callback
from dropnorm.callbacks.layers import dropouts_of
from dropnorm.evaluation import evaluating
from dropnorm.uncertainty import uncertainty

KINDS = ("logits", "probabilities", "values")


class MCDropout(Callback):
    """Makes `trainer.predict` run the module's own `predict_step` `samples` times, with dropout on.

    Batch norm stays in eval. Predictions become a dictionary per batch: for classifiers (`kind`
    "logits", or "probabilities", on the last axis) probabilities [B, ..., C], entropy [B, ...] of
    their mean, and mutual_information [B, ...], the part that comes from the masks disagreeing,
    both in nats; for regression ("values") mean and std, shaped as the predictions. `key` names
    the tensor when `predict_step` returns a dictionary.

    Source: Gal & Ghahramani 2016; mutual information: Houlsby et al. 2011.
    Errors: ValueError for a module without dropout, another kind or fewer than 2 samples;
    TypeError when `predict_step` returns no tensor.
    """

    def __init__(
        self,
        samples: int = 50,
        *,
        kind: Literal["logits", "probabilities", "values"] = "logits",
        key: str | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if samples < 2:
            raise ValueError(f"samples: expected 2 or more passes, got {samples!r}")
        self.samples, self.kind, self.key = samples, kind, key

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        dropouts_of(pl_module, "MCDropout")
        # On the instance, before the class's: Lightning has no hook that replaces a prediction.
        vars(pl_module)["predict_step"] = self._sampled(pl_module, pl_module.predict_step)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        vars(pl_module).pop("predict_step", None)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        vars(pl_module).pop("predict_step", None)

    def _sampled(
        self, module: pl.LightningModule, step: Callable[..., Any]
    ) -> Callable[..., dict[str, Tensor]]:
        @functools.wraps(step)  # Lightning reads its signature
        def predict_step(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
            with evaluating(module):
                for layer in dropouts_of(module, "MCDropout"):
                    layer.training = True
                passes = [self._tensor(step(*args, **kwargs)) for _ in range(self.samples)]
            return self._summary(torch.stack(passes))

        return predict_step

    def _tensor(self, prediction: Any) -> Tensor:
        if self.key is not None:
            prediction = prediction[self.key]
        if isinstance(prediction, Tensor):
            return prediction
        raise TypeError(
            f"MCDropout: expected predict_step to return a tensor, got {type(prediction).__name__}"
            + (f" with keys {', '.join(prediction)}; type key=" * isinstance(prediction, dict))
        )

    def _summary(self, passes: Tensor) -> dict[str, Tensor]:
        """What [samples, B, ...] says."""
        if self.kind == "values":
            return {"mean": passes.mean(0), "std": passes.std(0)}
        return uncertainty(passes.softmax(-1) if self.kind == "logits" else passes)
