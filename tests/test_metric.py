"""How metrics are shown: which are percentages."""

from __future__ import annotations

import pytest

from sweep.metric import Metric


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("val_accuracy", "98.00 %"),
        ("accuracy", "98.00 %"),
        ("gap/val_accuracy", "98.00 %"),
        ("val_accuracy/dataloader_idx_0", "98.00 %"),
        ("val_inaccuracy", "0.9800"),
        ("inaccuracy", "0.9800"),
        ("val_nll", "0.9800 nats"),
    ],
)
def test_accuracy_is_a_word_of_the_name(name: str, shown: str) -> None:
    assert Metric.of(name, [0.98]).show(0.98) == shown


def test_what_is_called_accuracy_beyond_one_is_no_share() -> None:
    assert Metric.of("val_accuracy", [0.98, 71.2]).show(71.2) == "71.20"
