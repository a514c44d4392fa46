"""Optimizers with settings for each lane: torch.optim's own, whatever the others do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dropnorm.optimizers import Optimizer
from dropnorm.pack import LaneOptimizer
from dropnorm.pack.clipping import Clip
from dropnorm.pack.updates import AHEAD, step_numbers

STEPS, SHAPES = 200, ((5, 3), (7,), (1, 3, 3, 3))
LANES: list[dict[str, Any]] = [
    {"lr": 0.01, "betas": (0.8, 0.99), "momentum": 0.8, "nesterov": True, "schedule": "cosine"},
    {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.0, "schedule": "one_cycle"},
    {"lr": 0.003, "betas": (0.0, 0.9), "weight_decay": 0.01},
]


def settings(name: str) -> list[Optimizer]:
    """Of three lanes; torch refuses Nesterov without momentum, so that lane has neither."""
    return [Optimizer(name, **lane) for lane in LANES]


def plain_parameters(lane: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(lane)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def packed_parameters() -> list[nn.Parameter]:
    lanes = [plain_parameters(lane) for lane in range(len(LANES))]
    return [nn.Parameter(torch.stack(list(of)).detach()) for of in zip(*lanes, strict=True)]


def gradient(shape: torch.Size, step: int, lane: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * step + lane)
    return torch.randn(shape, generator=generator)


def set_gradients(parameters: list[nn.Parameter], step: int, lanes: list[int]) -> None:
    for p in parameters:
        p.grad = torch.stack([gradient(p.shape[1:], step, lane) for lane in lanes])


def train_alone(lane: int, chosen: Optimizer, steps: int = STEPS) -> list[nn.Parameter]:
    parameters = plain_parameters(lane)
    optimizer = chosen.build(parameters)
    schedule = chosen.schedule_of(optimizer, lambda: STEPS)
    for step in range(steps):
        for p in parameters:
            p.grad = gradient(p.shape, step, lane)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return parameters


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_each_lane_is_bitwise_what_torch_makes_of_it(name: str) -> None:
    packed, chosen = packed_parameters(), settings(name)
    optimizer = LaneOptimizer(packed, chosen, lambda: STEPS)
    for step in range(STEPS):
        set_gradients(packed, step, [0, 1, 2])
        optimizer.step()
    for lane, one in enumerate(chosen):
        for mine, alone in zip(packed, train_alone(lane, one), strict=True):
            assert torch.equal(mine[lane], alone)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_lanes_together_are_the_lanes_in_turn(name: str) -> None:
    packed, other = packed_parameters(), packed_parameters()
    turn, together = (LaneOptimizer(p, settings(name), lambda: STEPS) for p in (packed, other))
    for step in range(STEPS):
        for parameters in (packed, other):
            set_gradients(parameters, step, [0, 1, 2])
        turn.step()
        together.together(other)
        together.steps += 1
    # Two hundred updates of about the learning rate each, rounded at 6e-8 of weights of about 1.
    torch.testing.assert_close(packed, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_lanes_together_are_torchs_own(name: str) -> None:
    """One of them begins anew on the way, and another is dropped."""
    packed, chosen, lanes = packed_parameters(), settings(name), [0, 1, 2]
    optimizer = LaneOptimizer(packed, chosen, lambda: STEPS)
    for step in range(STEPS):
        if step == 70:
            optimizer.keep(lanes := [2, 1])
            for p in packed:
                p.data, p.grad = p.data[lanes], None
        if step == 100:
            optimizer.restart(1, chosen[0])
            for mine, fresh in zip(packed, plain_parameters(0), strict=True):
                mine.data[1] = fresh.data
        set_gradients(packed, step, lanes)
        if step >= 100:
            for p in packed:
                assert p.grad is not None
                p.grad[1] = gradient(p.shape[1:], step - 100, 0)
        optimizer.together(packed)
        optimizer.steps += 1
    alone = zip(packed, train_alone(2, chosen[2]), train_alone(0, chosen[0], 100), strict=True)
    for mine, kept, begun in alone:
        # Two hundred updates of about the learning rate each, rounded at 6e-8 of weights of about 1
        torch.testing.assert_close(mine[0], kept, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine[1], begun, rtol=1e-4, atol=1e-4)
    assert optimizer.steps.tolist() == [STEPS, STEPS - 100]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_numbers_of_coming_steps_are_those_of_one_after_the_other(name: str) -> None:
    """Lanes at steps of their own, beyond the end of the schedule too, in plain arithmetic."""
    chosen, begun = settings(name), (0, 57, STEPS - 10)
    numbers = step_numbers(chosen, begun, STEPS, torch.device("cpu"))
    for ahead in range(AHEAD):
        for lane, (one, first) in enumerate(zip(chosen, begun, strict=True)):
            lr, mine = (
                one.rate(first + ahead, STEPS),
                {n: v[ahead, lane].item() for n, v in numbers.items()},
            )
            if name == "sgd":
                expected = {
                    "lr": lr,
                    "decay": one.weight_decay,
                    "momentum": one.momentum,
                    "nesterov": float(one.nesterov),
                }
            else:
                corrections = [1 - beta ** (first + ahead + 1) for beta in one.betas]
                expected = {
                    "decay": one.weight_decay if name == "adam" else 0,
                    "shrink": 1 - lr * one.weight_decay if name == "adamw" else 1,
                    "first": 1 - one.betas[0],
                    "second": 1 - one.betas[1],
                    "size": lr / corrections[0],
                    "correction": corrections[1] ** 0.5,
                }
            # Rounded once, to float32.
            assert mine == pytest.approx(expected, rel=1e-7, abs=1e-15)


def test_rates_follow_torchs_schedules() -> None:
    chosen = settings("adam")
    optimizer = LaneOptimizer(packed_parameters(), chosen, lambda: STEPS)
    alone = [one.build(plain_parameters(0)) for one in chosen]
    schedules = [
        torch.optim.lr_scheduler.CosineAnnealingLR(alone[0], STEPS),
        torch.optim.lr_scheduler.LambdaLR(alone[2], lambda _: 1.0),
    ]
    for step in range(STEPS):
        optimizer.steps[:] = step
        rates = optimizer.rates()
        assert rates[0] == pytest.approx(alone[0].param_groups[0]["lr"], rel=1e-10, abs=1e-15)
        assert rates[2] == alone[2].param_groups[0]["lr"]
        for plain, schedule in zip((alone[0], alone[2]), schedules, strict=True):
            plain.step()
            schedule.step()


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_restarted_lane_begins_at_its_own_first_step(name: str) -> None:
    packed, chosen = packed_parameters(), settings(name)
    optimizer = LaneOptimizer(packed, chosen, lambda: STEPS)
    for step in range(30):
        if step == 10:
            optimizer.restart(1, chosen[0])
            for mine, fresh in zip(packed, plain_parameters(0), strict=True):
                mine.data[1] = fresh.data
        set_gradients(packed, step, [0, 1, 2])
        if step >= 10:
            for p in packed:
                assert p.grad is not None
                p.grad[1] = gradient(p.shape[1:], step - 10, 0)
        optimizer.step()
    for mine, alone in zip(packed, train_alone(0, chosen[0], 20), strict=True):
        assert torch.equal(mine[1], alone)
    for mine, alone in zip(packed, train_alone(2, chosen[2], 30), strict=True):
        assert torch.equal(mine[2], alone)


def test_kept_lanes_go_on() -> None:
    packed, chosen = packed_parameters(), settings("adam")
    optimizer = LaneOptimizer(packed, chosen, lambda: STEPS)
    lanes = [0, 1, 2]
    for step in range(20):
        if step == 10:
            lanes = [2, 0]
            optimizer.keep(lanes)
            for p in packed:
                p.grad = None
                p.data = p.data[lanes]
        set_gradients(packed, step, lanes)
        optimizer.step()
    for place, lane in enumerate(lanes):
        for mine, alone in zip(packed, train_alone(lane, chosen[lane], 20), strict=True):
            assert torch.equal(mine[place], alone)


def test_gradients_are_clipped_lane_by_lane() -> None:
    packed = packed_parameters()
    set_gradients(packed, 0, [0, 1, 2])
    for p in packed:
        assert p.grad is not None
        p.grad[0] *= 1e-3  # small enough already
        p.grad[2] = torch.nan
    before = [p.grad.clone() for p in packed if p.grad is not None]
    Clip(0.5).lanes(packed)
    plain = plain_parameters(1)
    for p, gradients in zip(plain, before, strict=True):
        p.grad = gradients[1].clone()
    torch.nn.utils.clip_grad_norm_(plain, 0.5)
    for mine, p, gradients in zip(packed, plain, before, strict=True):
        assert mine.grad is not None
        assert p.grad is not None
        assert torch.equal(mine.grad[1], p.grad)
        assert torch.equal(mine.grad[0], gradients[0])
        assert mine.grad[2].isnan().all()


def test_schedule_without_an_end_says_what_to_set() -> None:
    packed = packed_parameters()
    set_gradients(packed, 0, [0, 1, 2])
    optimizer = LaneOptimizer(packed, settings("adam"))
    for update in (optimizer.step, lambda: optimizer.together(packed)):
        with pytest.raises(ValueError, match="set the Trainer's max_epochs"):
            update()
    LaneOptimizer(packed, [Optimizer("adam")] * 3).together(packed)


def test_lanes_of_different_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one for all lanes, got adam, sgd"):
        LaneOptimizer(packed_parameters(), [Optimizer("adam"), Optimizer("sgd")] * 2)
