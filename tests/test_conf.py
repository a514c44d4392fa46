"""The shipped configuration, and the schema against the constructors that it describes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_lightning as pl
import yaml

from dropnorm import MNIST, Block, Classifier, Synthetic, cnn, mlp
from dropnorm.blocks.block import ACTIVATIONS, NORMS, ORDER
from dropnorm.data.download import REMOTES
from dropnorm.networks import NETWORKS
from dropnorm.optimizers import OPTIMIZERS, SCHEDULES, Optimizer
from sweep import schema
from sweep.compose import conf_folder
from sweep.config import make_plan
from sweep.executors import EXECUTORS

CONF = conf_folder()
FILES = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.glob("*/*.yaml"))
CHOICES = [file for file in FILES if file.parent.name not in ("study", "trainer")]


def names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def parameters(*callables: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> default, the first function's own first."""
    found: dict[str, Any] = {}
    for function in callables:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                found.setdefault(name, parameter.default)
    return found


def conf(file: str) -> dict[str, Any]:
    content = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    return {key: value for key, value in content.items() if key not in ("defaults", "_target_")}


def unlike(settings: dict[str, Any], defaults: dict[str, Any]) -> set[str]:
    """Settings that differ from the constructor's default; lists and tuples are alike."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {key for key, value in settings.items() if plain(defaults[key]) != value}


def options(kind: type, key: str) -> set[str]:
    return set(get_args(inspect.get_annotations(kind, eval_str=True)[key]))


@pytest.mark.parametrize("file", CHOICES, ids=str)
def test_every_choice_of_every_group_makes_a_plan(file: Path) -> None:
    words = ["+study=synthetic", f"{file.parent}={file.name}"]
    if file.name == "fashion_mnist":
        words.append("data.download=fashion_mnist")  # its files are not shipped
    if file.name == "cmaes":
        words.append("optimizer.lr=interval(0.001,0.01)")  # it needs two numbers to search
    if file.name == "own":
        words.append(f"{file.parent}._target_=my_package.Mine")
    if file.name == "tutorial_dropout":
        words.append("model.bn_momentum=0.1")  # it has no batch norm, so nothing to search there
    plan = make_plan(words)
    assert plan.resolved[file.parent.name]


@pytest.mark.parametrize("study", ["mnist", "momentum", "synthetic", "tutorial"])
def test_every_study_makes_a_plan_of_its_own_name(study: str) -> None:
    assert make_plan([f"+study={study}"]).study.name == study


def test_no_study_is_left_out_above() -> None:
    shipped = {file.name for file in FILES if file.parent.name == "study"}
    assert shipped == {"mnist", "momentum", "synthetic", "tutorial", "fashion_mnist"}
    plan = make_plan(["+study=fashion_mnist", "data.download=fashion_mnist"])
    assert plan.study.name == "fashion_mnist"


def test_the_main_study_searches_the_ranges_it_promises() -> None:
    plan = make_plan(["+study=mnist"])
    assert plan.trial["model"]["hidden"] == [256, 256]
    assert {d.key: (d.low, d.high, d.log) for d in plan.search} == {
        "model.dropout": (0.0, 0.7, False),
        "model.bn_momentum": (0.001, 1.0, True),
    }


@pytest.mark.parametrize(
    ("kind", "network", "file"), [(schema.Mlp, mlp, "mlp"), (schema.Cnn, cnn, "cnn")]
)
def test_model_settings_are_those_of_the_constructors(
    kind: type, network: Callable[..., Any], file: str
) -> None:
    accepted = parameters(Classifier, network, Block)
    from_the_worker = {"input_shape", "classes", "seed", "optimizer"}
    not_for_search = {"mc_samples", "inputs", "outputs"} | ({"kernel"} - names(kind))
    assert names(kind) == set(accepted) - from_the_worker - not_for_search
    assert set(conf(f"model/{file}")) == names(kind)
    assert unlike(conf(f"model/{file}"), accepted) <= {"network"}


@pytest.mark.parametrize(
    ("kind", "constructor", "file"),
    [(schema.Idx, MNIST, "mnist"), (schema.Synthetic, Synthetic, "synthetic")],
)
def test_data_settings_are_those_of_the_constructors(
    kind: type, constructor: Callable[..., Any], file: str
) -> None:
    accepted = parameters(constructor)
    assert names(kind) == set(accepted) - {"seed"}
    assert not unlike(conf(f"data/{file}"), accepted)
    has_default = [f for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING]
    assert not unlike({field.name: field.default for field in has_default}, accepted)


def test_fashion_mnist_is_mnist_from_another_folder() -> None:
    assert unlike(conf("data/fashion_mnist"), conf("data/mnist")) == {"path"}


def test_optimizer_settings_are_those_of_the_constructor() -> None:
    accepted = parameters(Optimizer)
    assert names(schema.Adam) | names(schema.Sgd) == set(accepted)
    assert not unlike(conf("optimizer/adam"), accepted)
    assert unlike(conf("optimizer/adamw"), accepted) == {"name", "weight_decay"}
    assert unlike(conf("optimizer/sgd"), accepted) == {"name", "lr"}


def test_trainer_settings_are_lightnings() -> None:
    assert names(schema.TrainerSettings) <= set(parameters(pl.Trainer))


def test_strategies_have_the_same_defaults_in_files_and_schema() -> None:
    for group, kind in (("sampler", schema.SamplerSettings), ("pruner", schema.PrunerSettings)):
        defaults = {f.name: f.default for f in dataclasses.fields(kind)}
        for file in (CONF / group).glob("*.yaml"):
            assert unlike(conf(f"{group}/{file.stem}"), defaults) == {"name"}


def test_names_to_choose_from_are_those_there_are() -> None:
    assert set(schema.FORMS["model"][1]) == set(NETWORKS)
    assert options(schema._NetworkSettings, "activation") == set(ACTIVATIONS)
    assert options(schema._NetworkSettings, "norm") == set(NORMS)
    assert conf("model/mlp")["order"] == list(ORDER)
    assert set(schema.FORMS["optimizer"][1]) == set(OPTIMIZERS)
    assert options(schema._OptimizerSettings, "schedule") == set(SCHEDULES)
    assert set(REMOTES) == {"fashion_mnist"}
    for group, kind in (
        ("sampler", schema.SamplerSettings),
        ("pruner", schema.PrunerSettings),
        ("executor", schema.ExecutorSettings),
    ):
        assert options(kind, "name") == {f.stem for f in (CONF / group).glob("*.yaml")}
    assert options(schema.ExecutorSettings, "name") == set(EXECUTORS)


def test_metrics_to_choose_from_are_those_the_module_logs() -> None:
    assert {*Classifier().val_metrics, "train_loss"} == set(schema.METRICS)
