"""Values that a setting may take: those of a network that must go together."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dropnorm import Classifier
from dropnorm.blocks.variants import NOISES
from dropnorm.networks import PLACES
from sweep.compose import conf_folder
from sweep.schema import FORMS
from sweep.sections import check_section

IC = ["norm", "drop", "weight", "act"]


def model(network: str, **settings: Any) -> dict[str, Any]:
    text = (conf_folder() / "model" / f"{network}.yaml").read_text()
    return {**yaml.safe_load(text), **settings}


def mistakes(network: str, **settings: Any) -> list[str]:
    return [str(problem) for problem in check_section("model", model(network, **settings))[1]]


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"noise": "alpha", "activation": "selu"}),
    ("mlp", {"noise": "channel", "dropout_at": "input"}),
    ("mlp", {"order": IC, "norm": "ghost", "ghost_batch": 64}),
    ("mlp", {"groups": 7}),  # without use, like bn_momentum where there is no norm
    ("mlp", {"norm": "group", "groups": 16, "hidden": [64, 32]}),
    ("cnn", {"norm": "group", "groups": 16}),
    ("mlp", {"residual": True, "drop_path": 0.3, "max_norm": 3}),
    ("cnn", {"residual": True, "channels": [8, 8]}),
    ("cnn", {"residual": True, "hidden": [16, 32, 32]}),
]


@pytest.mark.parametrize(("network", "settings"), GOOD)
def test_settings_that_go_together_are_accepted_and_build(
    network: str, settings: dict[str, Any]
) -> None:
    assert mistakes(network, **settings) == []
    accepted = {k: v for k, v in model(network, **settings).items() if k != "_target_"}
    Classifier(**accepted)


NOISE = "expected dropout, channel, gaussian, uniform, or with activation=selu alpha"
GROUPS = "expected with norm=group a divisor of every width"
RESIDUAL = "expected false, or true with equal widths side by side"
PATH = "expected 0.0, or with residual=true a number below 1"
EXAMPLE = "type for example"
BAD: list[tuple[str, dict[str, Any], str]] = [
    (
        "mlp",
        {"noise": "alpha"},
        f"model.noise: {NOISE}, got alpha; {EXAMPLE} model.noise=gaussian",
    ),
    (
        "mlp",
        {"norm": "group", "hidden": [64, 30]},
        f"model.groups: {GROUPS}, got 8; {EXAMPLE} model.groups=1",
    ),
    (
        "cnn",
        {"norm": "group", "channels": [30, 64]},
        f"model.groups: {GROUPS}, got 8; {EXAMPLE} model.groups=1",
    ),
    (
        "mlp",
        {"residual": True, "hidden": [64, 32]},
        f"model.residual: {RESIDUAL}, got true; {EXAMPLE} model.residual=false",
    ),
    (
        "cnn",
        {"residual": True},
        f"model.residual: {RESIDUAL}, got true; {EXAMPLE} model.residual=false",
    ),
    (
        "mlp",
        {"drop_path": 0.2},
        f"model.drop_path: {PATH}, got 0.2; {EXAMPLE} model.drop_path=0.0",
    ),
    (
        "mlp",
        {"drop_path": 1.0, "residual": True},
        f"model.drop_path: {PATH}, got 1.0; {EXAMPLE} model.drop_path=0.0",
    ),
    (
        "mlp",
        {"dropout_at": "hed"},
        "model.dropout_at: expected one of every_block, last_block, head, input, got hed; "
        "did you mean head?",
    ),
    (
        "mlp",
        {"max_norm": 0},
        f"model.max_norm: expected a number above 0 or null, got 0; {EXAMPLE} model.max_norm=3.0",
    ),
    (
        "mlp",
        {"ghost_batch": 1},
        "model.ghost_batch: expected a whole number from 2 up, got 1; "
        f"{EXAMPLE} model.ghost_batch=32",
    ),
    (
        "mlp",
        {"order": [*IC, "weight"]},
        "model.order: expected norm, act and drop in any order, got [norm,drop,weight,act,weight]; "
        f"{EXAMPLE} model.order=[norm,act,drop]",
    ),
]


@pytest.mark.parametrize(("network", "settings", "message"), BAD)
def test_settings_that_do_not_go_together_get_one_line(
    network: str, settings: dict[str, Any], message: str
) -> None:
    assert mistakes(network, **settings) == [message]


def test_a_setting_that_is_wrong_itself_brings_no_second_line() -> None:
    assert len(mistakes("mlp", noise="alpha", activation="rleu")) == 1
    assert len(mistakes("mlp", residual=True, hidden=[0])) == 1
    assert len(mistakes("mlp", drop_path=0.2, residual="yes")) == 1


@pytest.mark.parametrize("network", FORMS["model"][1])
def test_every_noise_and_every_place_can_be_chosen(network: str) -> None:
    for noise in NOISES:
        assert mistakes(network, noise=noise, activation="selu") == []
    for place in PLACES:
        assert mistakes(network, dropout_at=place) == []
