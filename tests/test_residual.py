"""Residual: the sum, and branches that are dropped example by example."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dropnorm.blocks import Block, Dropout, Residual, seed_dropout
from dropnorm.random import keep_mask


def test_output_is_input_plus_branch() -> None:
    block, x = Block(6, 6).eval(), torch.randn(8, 6)
    assert torch.equal(Residual(block).eval()(x), x + block(x))


def test_a_dropped_branch_leaves_the_example_as_it_was_and_others_are_scaled() -> None:
    layer, x = Residual(nn.Linear(6, 6), 0.5), torch.randn(64, 6)
    seed_dropout(layer, 7)
    y = layer(x)
    keep = keep_mask((64, 1), 0.5, layer.drop_path.seed, 1).bool()
    torch.testing.assert_close(y, torch.where(keep, x + 2 * layer.branch(x), x))
    assert 10 < int(keep.sum()) < 54


def test_its_drops_are_seeded_and_counted_like_dropouts() -> None:
    layer = Residual(Block(6, 6, dropout=0.5), 0.5)
    seed_dropout(layer, 7)
    drops = [m for m in layer.modules() if isinstance(m, Dropout)]
    layer(torch.randn(8, 6))
    assert len({drop.seed for drop in drops}) == 2
    assert [drop.step for drop in drops] == [1, 1]


def test_rates_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_path: expected 0 <= rate < 1, got 1.0"):
        Residual(nn.Linear(6, 6), 1.0)
