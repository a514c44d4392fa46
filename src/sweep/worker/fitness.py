"""Whether other people's modules can share packs, which of them, and if not, why."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

from dropnorm.data.images import ImageData
from dropnorm.draws import Draws, seed_draws
from dropnorm.evaluation import norms_of
from dropnorm.pack.loaders import check_loader, stack_batches
from dropnorm.pack.protocol import can_pack, metric_names, module_signature, own_hooks
from dropnorm.pack.read import names_read, values_read
from sweep.messages import TrialSpec
from sweep.worker.build import accepted, build, build_data

log = logging.getLogger(__name__)

BEGUN_IN_A_PACK = b"lane of other people's modules\n"  # begins what such a lane saves
_PRECISIONS = ("32-true", "bf16-mixed", "64-true")
_TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_KNOWN = 2000  # trials of which the answer is kept


@dataclass(frozen=True)
class Fitness:
    """Why a trial trains alone; without a reason, trials of the same `shape` share packs."""

    reason: str | None
    shape: Hashable = None


def fitness(spec: TrialSpec, metric: str) -> Fitness:
    """Looks at the trial's module and at a batch of its data. Errors: what building it raises."""
    known = json.dumps([spec.config, spec.seed, spec.columns, metric], sort_keys=True, default=str)
    if known not in _found:
        if len(_found) > _KNOWN:
            _found.clear()
        draws = Draws()
        _found[known] = _examined(spec, metric)
        draws.go_on()
        if reason := _found[known].reason:
            log.info("trial %d trains alone: %s", spec.number, reason)
    return _found[known]


_found: dict[str, Fitness] = {}
_checked: dict[Hashable, str | None] = {}  # what `can_pack` says, by shape


def _examined(spec: TrialSpec, metric: str) -> Fitness:
    trainer = spec.config["trainer"]
    if trainer["precision"] not in _PRECISIONS:
        return Fitness(f"trainer.precision is {trainer['precision']}")
    if trainer.get("accumulate_grad_batches", 1) != 1:
        return Fitness("trainer.accumulate_grad_batches is not 1")
    _, module = build(spec)
    if reason := can_pack(module):
        return Fitness(reason)
    if spec.columns and not norms_of(module):
        return Fitness("it has no batch norm whose momentum could be scored")
    try:
        batch = _batch(spec)
        shape = *module_signature(module).items(), *values_read(module, names_read(module, batch))
    except Exception as error:  # of somebody else's code, whatever it is
        return Fitness(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    if shape not in _checked:
        _checked[shape] = can_pack(module, batch)
    if reason := _checked[shape]:
        return Fitness(reason)
    if metric not in (names := metric_names(module, batch)):
        said = f"a pack logs {', '.join(names)}, from metrics(batch), and not {metric}"
        return Fitness(said)
    return Fitness(None, shape)


def _batch(spec: TrialSpec) -> Any:
    """A training batch. Errors: ValueError for data that packs cannot take."""
    data = set_up(spec)
    if isinstance(data, ImageData):
        x, y = data.part("train").between(0, min(data.batch_size, len(data.part("train"))))
        return x, y
    if "seed" in accepted(spec.config["data"], {"seed": 0}):
        raise ValueError(
            "the data takes a seed: trials could validate on other data; fix data.seed"
        )
    if hooks := own_hooks(data, _TRANSFERS):
        raise ValueError(f"the data has {hooks[0]}, which a pack would not run")
    loader = data.train_dataloader()
    check_loader(loader)
    if not hasattr(data.val_dataloader(), "__len__") or isinstance(data.val_dataloader(), list):
        raise ValueError("val_dataloader: expected one loader with a length")
    batch = next(iter(loader))
    stack_batches([batch, batch])
    return batch


def set_up(spec: TrialSpec) -> pl.LightningDataModule:
    """The data of a trial, ready for training: the same object for trials with the same data."""
    key = json.dumps(spec.config["data"], sort_keys=True)
    if key not in _data:
        _data.clear()  # no more in memory than trains
        _data[key] = set_up_for(spec, "fit")
    return _data[key]


def set_up_for(spec: TrialSpec, stage: str) -> pl.LightningDataModule:
    """The data of a trial by themselves. What is drawn on the way is always the same.

    A split that is drawn in `setup` would otherwise be another one for the test set, and give it
    examples that were trained on.
    """
    seed_draws(0, "data")
    data = build_data(spec)
    seed_draws(0, "data")
    data.prepare_data()
    data.setup(stage)
    return data


_data: dict[str, pl.LightningDataModule] = {}
