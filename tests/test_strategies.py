"""Samplers and pruners: valid proposals, the same after an interruption, and rungs that wait."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from collections.abc import Mapping
from statistics import mean
from typing import Any

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dropnorm.seeds import derive
from sweep.messages import Value
from sweep.schema import PrunerSettings, SamplerSettings
from sweep.space import parse_dimension
from sweep.strategies import design, is_control, make_pruner, make_sampler, unsuited

# Trials per sampler: CMA-ES needs two generations of seven, GP half a second a trial.
SAMPLERS = {"tpe": 24, "random": 12, "qmc": 12, "grid": 12, "gp": 12, "cmaes": 24}
NUMBERS = (
    parse_dimension("model.dropout", "interval(0,0.7)"),
    parse_dimension("model.bn_momentum", "tag(log,interval(0.001,1))"),
    parse_dimension("trainer.max_epochs", "range(5,20,5)"),
)
CHOICES = (
    parse_dimension("model.activation", "choice(relu,gelu)"),
    parse_dimension("model.hidden", "choice([64],[256,256])"),
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def loss(params: Mapping[str, Value]) -> float:
    dropout, momentum = params["model.dropout"], params["model.bn_momentum"]
    assert isinstance(dropout, float) and isinstance(momentum, float)
    return (dropout - 0.3) ** 2 + 0.01 * (math.log10(momentum) + 1) ** 2


def search(name: Any, cut: int | None = None, seed: int = 0) -> list[FrozenTrial]:
    """What a conductor does, with its seeds; at `cut` it dies, and another one takes over."""
    dimensions = NUMBERS if name == "cmaes" else (*NUMBERS, *CHOICES)
    settings = SamplerSettings(name=name, n_startup_trials=4, points=3)
    total = SAMPLERS[name]
    points = design(settings, dimensions, total, derive(seed, "design"))
    study = optuna.create_study()
    for number in range(total):
        if number == cut:
            study = _resumed(study)
        if points is not None:
            study.enqueue_trial(points[number])
        study.sampler = make_sampler(settings, derive(seed, "sampler", number))
        trial = study.ask({d.key: d.distribution() for d in dimensions})
        study.tell(trial, loss(trial.params))
    return study.trials


def _resumed(study: Study) -> Study:
    again = optuna.create_study()
    for trial in study.trials:
        again.add_trial(trial)
    return again


@pytest.fixture(scope="module")
def searched() -> dict[str, list[FrozenTrial]]:
    return {name: search(name) for name in SAMPLERS}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_proposes_values_of_the_space(
    name: str, searched: dict[str, list[FrozenTrial]]
) -> None:
    for trial in searched[name]:
        assert len(trial.params) == (3 if name == "cmaes" else 5)
        for key, distribution in trial.distributions.items():
            value = distribution.to_internal_repr(trial.params[key])
            assert distribution._contains(value)
    assert len({tuple(t.params.values()) for t in searched[name]}) == len(searched[name])


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_interruption_changes_no_proposal(
    name: str, searched: dict[str, list[FrozenTrial]]
) -> None:
    again = search(name, cut=SAMPLERS[name] * 2 // 3)
    assert [t.params for t in again] == [t.params for t in searched[name]]


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "grid", "cmaes"])
def test_another_seed_proposes_something_else(
    name: str, searched: dict[str, list[FrozenTrial]]
) -> None:
    assert [t.params for t in search(name, seed=1)] != [t.params for t in searched[name]]


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_a_sampler_that_looks_comes_closer(
    name: str, searched: dict[str, list[FrozenTrial]]
) -> None:
    values = [t.value or 0.0 for t in searched[name]]
    assert mean(values[len(values) // 2 :]) < mean(values[:4])  # these four were drawn at random


def test_cmaes_is_refused_where_it_would_draw_at_random() -> None:
    settings = SamplerSettings(name="cmaes")
    expected = "sampler: expected two or more ranges of numbers for cmaes, got "
    (problem,) = unsuited(settings, (*NUMBERS, *CHOICES))
    assert str(problem).startswith(f"{expected}choices for model.activation, model.hidden; type")
    (problem,) = unsuited(settings, NUMBERS[:1])
    assert str(problem) == f"{expected}1; type sampler=tpe or sampler=gp"
    assert not unsuited(settings, NUMBERS)
    assert not unsuited(SamplerSettings(name="tpe"), CHOICES)


def _points(name: Any, total: int, seed: int = 0) -> list[dict[str, Value]]:
    points = design(SamplerSettings(name=name, points=3), (*NUMBERS, *CHOICES), total, seed)
    assert points is not None
    return points


def test_a_grid_covers_the_product_exactly_once_whatever_the_budget() -> None:
    rows = [tuple(point.items()) for point in _points("grid", 1000)]
    assert len(rows) == len(set(rows)) == 3 * 3 * 3 * 2 * 2
    ends = {dict(row)["model.dropout"] for row in rows}
    assert ends == {0.0, 0.35, 0.7}


def test_a_smaller_grid_budget_is_spread_over_the_whole() -> None:
    counts = Counter(point["model.dropout"] for point in _points("grid", 36))
    assert min(counts.values()) >= 6


def test_a_grid_too_large_to_list_costs_no_more_than_its_budget() -> None:
    dimensions = [parse_dimension(f"k.{i}", "range(1000)") for i in range(8)]
    points = design(SamplerSettings(name="grid"), dimensions, 5, 0)
    assert points is not None and len(points) == 5


@pytest.mark.parametrize("name", ["grid", "qmc"])
def test_a_larger_total_begins_with_the_points_of_a_smaller_one(name: str) -> None:
    assert _points(name, 50)[:20] == _points(name, 20)
    assert _points(name, 50, seed=1)[:20] != _points(name, 20)


def test_qmc_is_even_in_every_range_on_its_own_scale() -> None:
    points = _points("qmc", 64)
    for dimension in NUMBERS[:2]:
        edges = [dimension.at(i / 4) for i in (1, 2, 3)]
        quarters = Counter(bisect([*edges], p[dimension.key]) for p in points)  # type: ignore[type-var]
        assert set(quarters) == {0, 1, 2, 3} and set(quarters.values()) <= {14, 15, 16, 17, 18}
    for dimension in CHOICES:
        halves = Counter(point[dimension.key] for point in points)
        assert set(halves) == set(dimension.choices) and min(halves.values()) >= 28


def _first_pruned(pruner: BasePruner, epochs: int) -> int | None:
    """The earliest epoch at which any of 30 trials is pruned, each of them worse than the last."""
    study = optuna.create_study(direction="maximize", pruner=pruner, study_name="rungs")
    pruned = []
    for number in range(30):
        trial = study.ask()
        for epoch in range(1, epochs + 1):
            trial.report(0.9 - 0.01 * number + 0.001 * epoch, epoch)
            if trial.should_prune():
                pruned.append(epoch)
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, 0.9 - 0.01 * number)
    return min(pruned, default=None)


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.34, 10, 3), (0.5, 9, 4), (0.0, 4, 1), (1.0, 6, 6)]
)
def test_pruning_begins_at_the_first_rung(name: Any, share: float, epochs: int, first: int) -> None:
    settings = PrunerSettings(name=name, first_rung=share, startup_trials=1)
    assert _first_pruned(make_pruner(settings, epochs), epochs) == first


def test_the_pruner_none_prunes_nothing() -> None:
    assert _first_pruned(make_pruner(PrunerSettings(name="none"), 6), 6) is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5, 1.0])
def test_about_the_share_asked_for_is_never_pruned(share: float) -> None:
    count = 4000
    controls = sum(is_control(3, number, share) for number in range(count))
    assert abs(controls - share * count) <= 4 * math.sqrt(count * share * (1 - share))


def test_controls_depend_on_the_seed_and_the_number_alone() -> None:
    first = [is_control(0, number, 0.3) for number in range(50)]
    assert first == [is_control(0, number, 0.3) for number in range(50)]
    assert first != [is_control(1, number, 0.3) for number in range(50)]
