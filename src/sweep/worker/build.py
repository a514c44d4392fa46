"""From a trial's configuration to its data, its module and its Trainer."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
from hydra.utils import get_class, instantiate
from pytorch_lightning.callbacks import Callback

from dropnorm.blocks import seed_dropout
from dropnorm.retrofitting import retrofit
from sweep.messages import TrialSpec

log = logging.getLogger(__name__)


def build(spec: TrialSpec) -> tuple[pl.LightningDataModule, pl.LightningModule]:
    """Data and module of a trial, with dropout and momentum set from outside if it says so.

    Errors: ValueError for a searched optimizer that the module does not take.
    """
    data = build_data(spec)
    extra = offered(spec, data)
    if "optimizer" not in extra and any(key.startswith("optimizer.") for key in spec.params):
        raise ValueError(
            f"optimizer: {spec.config['model']['_target_']} takes no argument `optimizer`, so "
            "searching it changes nothing; search arguments of its own, such as model.lr"
        )
    module = instantiate(spec.config["model"], **extra, _convert_="all")
    if settings := {k: v for k, v in spec.config["retrofit"].items() if v is not None}:
        log.info("retrofit of trial %d: %s", spec.number, retrofit(module, **settings))
        seed_dropout(module, spec.seed)
    return data, module


def build_data(spec: TrialSpec) -> pl.LightningDataModule:
    config = spec.config["data"]
    data: pl.LightningDataModule = instantiate(
        config, **_accepted(config, {"seed": spec.seed}), _convert_="all"
    )
    return data


def offered(spec: TrialSpec, data: pl.LightningDataModule) -> dict[str, Any]:
    """What the module's constructor gets besides its configuration.

    Seed, optimizer, input_shape and classes, if it has parameters of these names that the
    configuration leaves open.
    """
    settings = {k: v for k, v in spec.config["optimizer"].items() if v is not None}
    known = {"seed": spec.seed, "optimizer": settings}
    known |= {
        name: getattr(data, name) for name in ("input_shape", "classes") if hasattr(data, name)
    }
    return _accepted(spec.config["model"], known)


def _accepted(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    accepted = inspect.signature(get_class(config["_target_"])).parameters
    return {k: v for k, v in values.items() if k in accepted and k not in config}


def lightning_of(module: object) -> ModuleType:
    """The package that a module comes from: `lightning.pytorch` has the same classes once more."""
    if module is None or isinstance(module, pl.LightningModule):
        return pl
    return import_module("lightning.pytorch")


def make_trainer(
    settings: Mapping[str, Any], callbacks: list[Callback], module: object = None
) -> pl.Trainer:
    """Lightning's Trainer without what costs time or leaves files: the conductor records."""
    trainer: type[pl.Trainer] = lightning_of(module).Trainer
    return trainer(
        **settings,
        devices=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
