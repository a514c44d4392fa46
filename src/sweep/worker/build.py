"""From a trial's configuration to its data, its module and its Trainer."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class, instantiate
from pytorch_lightning.callbacks import Callback

from dropnorm.blocks import Dropout, seed_dropout
from dropnorm.draws import seed_draws
from dropnorm.retrofitting import retrofit
from dropnorm.seeds import derive
from dropnorm.synchronisation import synchronise
from sweep.messages import TrialSpec
from sweep.metric import is_of_validation
from sweep.trial_config import devices_per_trial, holds_objects, retrofit_settings

log = logging.getLogger(__name__)

_PLACEMENT = ("devices", "strategy", "sync_batchnorm")  # settings that are not the Trainer's alone
_LIGHTNINGS_OWN = tuple(
    f"{package}.core.{part}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for part in ("module", "hooks", "datamodule")
)
_NOT_FOR_US = (
    ".*isinstance\\(treespec, LeafSpec\\).*",  # Lightning's own use of a name torch deprecates
    ".*does not have many workers.*",  # batches are slices of resident tensors
)


def quiet() -> None:
    """Leaves out of the log what Lightning says of itself."""
    for package in ("pytorch_lightning", "lightning.pytorch"):  # whichever was imported last speaks
        logging.getLogger(package).setLevel(logging.WARNING)
    for advice in _NOT_FOR_US:
        warnings.filterwarnings("ignore", message=advice)


def on_gpu(settings: Mapping[str, Any]) -> bool:
    """Whether a Trainer with these settings trains on GPUs here."""
    return settings["accelerator"] in ("auto", "gpu") and torch.cuda.is_available()


def build(spec: TrialSpec, rank: int = 0) -> tuple[pl.LightningDataModule, pl.LightningModule]:
    """Data and module of a trial, with dropout and momentum set from outside if it says so.

    Of a trial in several processes each `rank` builds its own: with masks of their own, for rows
    of one batch must not share them, and batch norm over all of them if that is asked for.
    Errors: ValueError for a searched optimizer that the module does not take, and for a constructor
    that fails with what it is offered.
    """
    seed_draws(0, "data")  # the same in all trials, a split for example
    data = build_data(spec)
    extra = offered(spec, data)
    if "optimizer" not in extra and any(key.startswith("optimizer.") for key in spec.params):
        raise ValueError(
            f"optimizer: {spec.config['model']['_target_']} takes no argument `optimizer`, so "
            "searching it changes nothing; search arguments of its own, such as model.lr"
        )
    seed_draws(spec.seed, "weights")
    module = _instantiated(spec.config["model"], extra)
    _keep_arguments(module, {**spec.config["model"], **extra})
    if settings := retrofit_settings(spec.config["retrofit"], spec.params):
        log.info("retrofit of trial %d: %s", spec.number, retrofit(module, **settings))
    if any(isinstance(m, Dropout) and m.seed is None for m in module.modules()):
        seed_dropout(module, spec.seed)
    if rank:
        seed_dropout(module, derive(spec.seed, "rank", rank))
    trainer = spec.config["trainer"]
    if trainer.get("sync_batchnorm") and devices_per_trial(spec.config) > 1:
        synchronise(module, on_gpu(trainer))
    return data, module


def _instantiated(config: Mapping[str, Any], extra: Mapping[str, Any]) -> pl.LightningModule:
    try:
        module: pl.LightningModule = instantiate(config, **extra, _convert_="all")
    except Exception as error:  # of somebody else's code, whatever it is
        if not extra:
            raise
        raise ValueError(
            f"model: {' '.join(str(error).split())}; its parameters {', '.join(extra)} were given "
            f"the study's: for its own write for example {next(iter(extra))}: null below model"
        ) from error
    return module


def _keep_arguments(module: pl.LightningModule, arguments: Mapping[str, Any]) -> None:
    """Adds to a module's hyperparameters what it was given and does not save itself.

    So `load_from_checkpoint` needs no arguments. Objects are left out: a checkpoint with them would
    be more than weights. A module whose hyperparameters are one argument's keeps them as they are.
    """
    if module.hparams and getattr(module, "_hparams_name", None) != "kwargs":
        return
    for name, value in arguments.items():
        if not name.startswith("_") and not holds_objects(value):
            module.hparams.setdefault(name, value)


def build_data(spec: TrialSpec) -> pl.LightningDataModule:
    config = spec.config["data"]
    data: pl.LightningDataModule = instantiate(
        config, **accepted(config, {"seed": spec.seed}), _convert_="all"
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
    return accepted(spec.config["model"], known)


def accepted(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a section's class takes and its configuration leaves open."""
    parameters = inspect.signature(get_class(config["_target_"])).parameters
    return {k: v for k, v in values.items() if k in parameters and k not in config}


def lightning_of(module: object) -> ModuleType:
    """The package that a module comes from: `lightning.pytorch` has the same classes once more."""
    if module is None or isinstance(module, pl.LightningModule):
        return pl
    return import_module("lightning.pytorch")


def can_test(module: object, data: object) -> bool:
    """Whether there is a test set, and a `test_step` that looks at it."""
    return _has_own(module, "test_step") and _has_own(data, "test_dataloader")


def check_validated(module: object, data: object, metric: str) -> None:
    """Errors: ValueError for a metric of validation where there is nothing to validate on."""
    if is_of_validation(metric) and not any(_has_own(x, "val_dataloader") for x in (data, module)):
        raise ValueError(
            f"{type(data).__name__} has no val_dataloader, so {metric} is never logged; write one: "
            "def val_dataloader(self): return DataLoader(...)"
        )


def _has_own(thing: object, name: str) -> bool:
    """Whether a method is more than Lightning's placeholder."""
    return getattr(type(thing), name).__module__ not in _LIGHTNINGS_OWN


def make_trainer(
    settings: Mapping[str, Any], callbacks: list[Callback], module: object = None
) -> pl.Trainer:
    """Lightning's Trainer without what costs time or leaves files: the conductor records.

    On several devices it belongs to one process of as many, which `ranks` has started.
    """
    package = lightning_of(module)
    trainer: type[pl.Trainer] = package.Trainer
    placed: dict[str, Any] = {"devices": 1}
    if (devices := devices_per_trial({"trainer": settings})) > 1:
        environments = import_module(f"{package.__name__}.plugins.environments")
        strategy = settings.get("strategy", "auto")
        placed = {
            "devices": devices,
            "strategy": "ddp" if strategy == "auto" else strategy,
            "plugins": [environments.LightningEnvironment()],
        }
    return trainer(
        **{key: value for key, value in settings.items() if key not in _PLACEMENT},
        **placed,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
