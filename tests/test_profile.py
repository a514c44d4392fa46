"""Which momenta a trial scores, when, and what of the search is left to the sampler."""

from __future__ import annotations

import pytest

from dropnorm.bank import MOMENTA
from sweep.config import make_plan
from sweep.errors import ConfigError
from sweep.messages import MOMENTUM
from sweep.profile import momenta, scored_epochs
from sweep.schema import PrunerSettings
from sweep.space import parse_dimension


def test_a_logarithmic_interval_gives_the_banks_own_momenta() -> None:
    found = momenta(parse_dimension(MOMENTUM, "tag(log, interval(0.001, 1))"))
    assert (*found, None) == MOMENTA


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.1, 0.7)", tuple(round(0.1 + 0.05 * k, 2) for k in range(13))),
        ("interval(0.1, 0.1012)", tuple(round(0.1 + 0.0001 * k, 4) for k in range(13))),
        ("choice(null, 0.1, 1)", (None, 0.1, 1.0)),
        ("range(0.25, 1, 0.25)", (0.25, 0.5, 0.75)),
    ],
)  # fmt: skip
def test_other_ranges_are_covered_whole(text: str, expected: tuple[float | None, ...]) -> None:
    assert momenta(parse_dimension(MOMENTUM, text)) == expected


@pytest.mark.parametrize(
    ("settings", "last", "expected"),
    [
        (PrunerSettings("asha", 0.34, 3), 10, (3, 9, 10)),
        (PrunerSettings("asha", 0.34, 4), 6, (3, 6)),
        (PrunerSettings("hyperband", 0.1, 3), 10, (1, 3, 9, 10)),
        (PrunerSettings("median", 0.5), 6, (5, 6)),
        (PrunerSettings("none"), 10, (10,)),
        (PrunerSettings("asha", 0.34, 3), 2, (2,)),
    ],
)
def test_the_bank_is_scored_where_the_pruner_may_decide_and_at_the_end(
    settings: PrunerSettings, last: int, expected: tuple[int, ...]
) -> None:
    assert scored_epochs(settings, 10, last) == expected


def test_the_sampler_searches_all_but_the_momentum() -> None:
    plan = make_plan(["+study=mnist"])
    assert plan.profiled is not None and plan.profiled.key == MOMENTUM
    assert [d.key for d in plan.asked] == ["model.dropout"]


def test_a_metric_that_no_momentum_shapes_is_left_to_the_sampler() -> None:
    plan = make_plan(["+study=mnist", "study.metric=train_loss", "study.direction=minimize"])
    assert plan.profiled is None and len(plan.asked) == 2


def test_a_network_without_batch_norm_has_no_momentum_to_search() -> None:
    with pytest.raises(
        ConfigError, match=r"expected a network with batch norm, got model\.norm=none"
    ):
        make_plan(["+study=mnist", "model.norm=none"])
    assert make_plan(["+study=mnist", "model.norm=choice(none,batch)"]).profiled


def test_a_modules_own_momentum_is_none_to_score() -> None:
    """A bank takes null for the cumulative average, and a retrofit for leaving norms alone."""
    with pytest.raises(ConfigError, match=r"got null from choice\(null,0\.1\); leave null out"):
        make_plan(["+study=mnist", "retrofit.bn_momentum=choice(null,0.1)"])
