"""Optimizers and schedules: torch's own, from plain settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from dropnorm import Classifier
from dropnorm.optimizers import SCHEDULES, Optimizer, shares
from tests.packs import MLP, data, quiet_trainer

CASES: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adam": (torch.optim.Adam, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
}
STEPS = 40


def train(optimizer: torch.optim.Optimizer, weights: nn.Parameter) -> torch.Tensor:
    for step in range(5):
        optimizer.zero_grad()
        (weights * torch.linspace(-1, 1, 8)).sin().sum().mul(step + 1).backward()
        optimizer.step()
    return weights.detach()


def rates(settings: Optimizer, steps: int = STEPS) -> list[float]:
    """The learning rate of each step of a whole training, and the one it ends with."""
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    schedule = settings.schedule_of(optimizer, lambda: steps)
    assert schedule is not None
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return [*seen, optimizer.param_groups[0]["lr"]]


# Optimizers


@pytest.mark.parametrize("name", CASES)
def test_five_steps_equal_those_of_torchs_unfused_optimizer(name: str) -> None:
    kind, settings = CASES[name]
    ours, theirs = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
    ours = train(Optimizer(name, lr=0.05, **settings).build([ours]), ours)
    theirs = train(kind([theirs], lr=0.05, fused=False, **settings), theirs)
    # Weights of about 1 after five steps of a few float32 operations each, 6e-8 apiece.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", CASES)
def test_optimizer_is_fused_and_of_the_kind_asked_for(name: str) -> None:
    optimizer = Optimizer(name).build([nn.Parameter(torch.ones(8))])
    assert type(optimizer) is CASES[name][0]
    assert optimizer.defaults["fused"]


def test_plain_settings_become_an_optimizer() -> None:
    assert Optimizer.of({}) == Optimizer()
    optimizer = Optimizer.of({"name": "adamw", "lr": 0.01, "betas": [0.8, 0.9]})
    built = optimizer.build([nn.Parameter(torch.ones(1))])
    assert built.defaults["lr"] == 0.01
    assert built.defaults["betas"] == (0.8, 0.9)


# Schedules


def test_constant_needs_no_schedule_even_without_an_end() -> None:
    settings = Optimizer(schedule="constant")
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    assert settings.schedule_of(optimizer, lambda: math.inf) is None


def test_cosine_falls_from_lr_to_zero_over_the_whole_training() -> None:
    expected = [0.1 * (1 + math.cos(math.pi * step / STEPS)) / 2 for step in range(STEPS + 1)]
    assert rates(Optimizer(lr=0.1, schedule="cosine")) == pytest.approx(expected, abs=1e-15)


def test_one_cycle_rises_to_lr_and_falls_to_almost_nothing() -> None:
    start, *_, end = seen = rates(Optimizer(lr=0.1, schedule="one_cycle"))
    peak = seen.index(max(seen))
    assert start == pytest.approx(0.1 / 25)
    assert max(seen) == pytest.approx(0.1)
    assert peak == 0.3 * STEPS
    assert end == pytest.approx(0.1 / 250_000)
    assert seen == sorted(seen[: peak + 1]) + sorted(seen[peak + 1 :], reverse=True)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_schedules_are_torchs_to_within_a_step(schedule: str) -> None:
    """torch's one cycle peaks one step earlier; in one of 1,000 steps neither moves 1 % of lr."""
    steps, weights = 1000, [nn.Parameter(torch.ones(1))]
    theirs = torch.optim.SGD(weights, lr=0.1)
    if schedule == "cosine":
        reference = lr_scheduler.CosineAnnealingLR(theirs, T_max=steps)
    else:
        reference = lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=steps + 1)
    expected = []
    for _ in range(steps):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        reference.step()
    assert rates(Optimizer(lr=0.1, schedule=schedule), steps)[:-1] == pytest.approx(
        expected, abs=0.01 * 0.1
    )


def test_a_schedule_does_not_ask_how_many_steps_before_the_first() -> None:
    """Lightning would load the data to answer, and lose the place in it when resuming."""
    asked = []
    settings = Optimizer(schedule="cosine")
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    schedule = settings.schedule_of(optimizer, lambda: asked.append(1) or STEPS)
    assert not asked
    optimizer.step()
    schedule.step()
    assert asked


@pytest.mark.parametrize("name", CASES)
def test_one_cycle_leaves_momentum_and_betas_as_asked_for(name: str) -> None:
    settings = Optimizer(name, schedule="one_cycle", momentum=0.7, betas=(0.7, 0.99))
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    schedule = settings.schedule_of(optimizer, lambda: STEPS)
    assert schedule is not None
    for _ in range(STEPS // 2):
        optimizer.step()
        schedule.step()
    group = optimizer.param_groups[0]
    assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.7


def test_shares_of_many_are_those_of_one_by_one() -> None:
    """At every step, beyond the end too; float64 cosines differ in their last digits."""
    each = [Optimizer(schedule=schedule) for schedule in (*SCHEDULES, "cosine")]
    steps = torch.arange(3 * STEPS // 2).unsqueeze(1).expand(-1, len(each)).clone()
    steps[:, -1] = steps[:, -1].flip(0)  # each has its own
    rows = [zip(each, row.tolist(), strict=True) for row in steps]
    expected = [[one.share(step, STEPS) for one, step in row] for row in rows]
    mine = shares(each, steps, STEPS)
    exact = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(mine, exact, rtol=1e-9, atol=1e-14)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adan"}, "optimizer.name: expected adam, adamw, sgd, got 'adan'"),
        ({"schedule": "step"}, "optimizer.schedule: expected constant, .*, got 'step'"),
        ({"lr": 0}, "optimizer.lr: expected a positive number, got 0"),
        ({"learning_rat": 1}, "optimizer.learning_rat: unknown key; expected name, lr, "),
        ({"weight_decy": 1}, "optimizer.weight_decy: unknown key; did you mean 'weight_decay'?"),
    ],
)
def test_unknown_names_and_values_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Optimizer.of(settings)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_a_schedule_over_a_training_without_an_end_is_refused(schedule: str) -> None:
    settings = Optimizer(schedule=schedule)
    optimizer = settings.build([nn.Parameter(torch.ones(1))])
    for endless in (math.inf, -1):
        started = settings.schedule_of(optimizer, lambda steps=endless: steps)
        optimizer.step()
        with pytest.raises(ValueError, match=f"{schedule} expects a training with an end"):
            started.step()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"lr": math.nan}, "lr"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"betas": (2, 3)}, "betas"),
        ({"momentum": -0.1}, "momentum"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"optimizer\.{key}: expected"):
        Optimizer(**settings)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_clipped_in_mixed_precision(tmp_path: Path, name: str) -> None:
    model = Classifier(**MLP, optimizer={"name": name})
    fit = quiet_trainer(tmp_path, 1, precision="bf16-mixed", gradient_clip_val=0.1)
    fit.fit(model, data())
    assert fit.global_step == 4
