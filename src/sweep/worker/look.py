"""What there is to know of a trial before it trains: what its module logs, and how it is packed."""

from __future__ import annotations

from dataclasses import replace

import torch

from dropnorm.evaluation import norms_of
from sweep.errors import Unbuildable
from sweep.messages import TrialSpec
from sweep.worker.alone import served
from sweep.worker.build import build, check_validated, make_trainer, quiet
from sweep.worker.draws import KeyedDraws
from sweep.worker.fitness import fitness

_FEW = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "devices": 1}


def look(spec: TrialSpec, metric: str) -> tuple[tuple[str, ...], str | None]:
    """The names that a training step and a validation batch log, and why the trial trains alone.

    Errors: Unbuildable, because of what went wrong, and whatever goes wrong later.
    """
    quiet()
    torch.set_num_threads(1)
    config = {**spec.config, "trainer": {**spec.config["trainer"], **_FEW}}
    short = replace(spec, config=config)
    try:
        data, module = build(short)
        check_validated(module, data, metric)
    except Exception as error:
        raise Unbuildable(f"{type(error).__name__}: {error}") from error
    if spec.columns and not norms_of(module):
        raise Unbuildable(
            f"{spec.momentum_key} is searched, and {type(module).__name__} has no batch norm; "
            "take it out of the search"
        )
    draws = KeyedDraws(short)
    trainer = make_trainer(config["trainer"], [draws], module)
    draws.attach(trainer, data)
    trainer.fit(module, **served(trainer, data, "fit"))
    return tuple(sorted(trainer.callback_metrics)), fitness(spec, metric).reason
