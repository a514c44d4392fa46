"""LaneLoaders: every lane gets from anyone's DataLoader what its trial would get alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from dropnorm.draws import key_loader
from dropnorm.pack import LaneLoaders

ROWS, BATCH = 12, 4
AGES = [(5, 0), (7, 3), (5, 1), (5, 0)]  # two lanes are the same trial


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Rows that know their number, with noise from the generators that datasets draw from."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.stack([torch.rand(()), torch.tensor(np.random.rand())])
        return torch.tensor(index), noise


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LOADERS: dict[str, dict[str, Any]] = {
    "plain": {"shuffle": True},
    "own generator": {"shuffle": True, "generator": fresh(3)},
    "sampler's generator": {
        "sampler": WeightedRandomSampler([1.0] * ROWS, ROWS, generator=fresh(3))
    },
    "workers": {"shuffle": True, "num_workers": 2},
    "workers and own generator": {"shuffle": True, "num_workers": 2, "generator": fresh(3)},
    "workers that stay": {"shuffle": True, "num_workers": 1, "persistent_workers": True},
}


def passes(loader: DataLoader[Any], ages: Sequence[tuple[int, int]]) -> list[list[Any]]:
    return [[*LaneLoaders(loader, lambda: ages)] for _ in range(2)]


def alone(loader: DataLoader[Any], seed: int, epoch: int) -> list[Any]:
    """As a trial by itself has it: keyed, whatever the model draws between two batches."""
    key_loader(loader, seed, lambda: epoch)
    return [*loader]


@pytest.mark.parametrize("settings", LOADERS.values(), ids=LOADERS)
def test_lanes_see_what_their_trials_see_alone(settings: dict[str, Any]) -> None:
    loader = DataLoader(Augmented(), BATCH, **settings)
    first, again = passes(loader, AGES)
    for batch, other in zip(first, again, strict=True):
        torch.testing.assert_close(batch, other, rtol=0, atol=0)
    for lane, (seed, epoch) in enumerate(AGES):
        own = alone(DataLoader(Augmented(), BATCH, **settings), seed, epoch)
        for (rows, noise), (mine, drawn) in zip(own, first, strict=True):
            assert torch.equal(rows, mine[lane]) and torch.equal(noise, drawn[lane])
    orders = [torch.cat([rows[lane] for rows, _ in first]).tolist() for lane in range(4)]
    assert orders[0] == orders[3] and len({*map(tuple, orders)}) == 3


@pytest.mark.parametrize("settings", LOADERS.values(), ids=LOADERS)
def test_an_epoch_does_not_depend_on_those_before(settings: dict[str, Any]) -> None:
    """Else a trial that was cut short would go on with other examples."""
    loader, epochs = DataLoader(Augmented(), BATCH, **settings), iter([0, 1])
    key_loader(loader, 5, epochs.__next__)
    _, second = [*loader], [*loader]
    expected = alone(DataLoader(Augmented(), BATCH, **settings), 5, 1)
    torch.testing.assert_close(second, expected, rtol=0, atol=0)


def test_generators_stand_where_they_stood_before_a_loader_was_looked_at() -> None:
    own = fresh(3)
    loader = DataLoader(Augmented(), BATCH, shuffle=True, generator=own)
    torch.manual_seed(11)
    before, theirs = torch.get_rng_state(), own.get_state()
    LaneLoaders(loader, lambda: AGES)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(own.get_state(), theirs)


class Stubborn(Augmented):
    """Draws from a generator that nobody else knows of."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.tensor(index), torch.tensor(self.generator.random())


class Shuffled(Sampler[int]):
    """Shuffles as chemprop's sampler does: in place, with a generator of numpy's."""

    def __init__(self) -> None:
        self.order, self.generator = np.arange(ROWS), np.random.default_rng(0)

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        self.generator.shuffle(self.order)
        return iter(self.order.tolist())


POINTS = TensorDataset(torch.arange(ROWS))
REFUSED = {
    "own draws of the dataset": (
        DataLoader(Stubborn(), BATCH),
        "draws from a generator of its own",
    ),
    "own draws of the sampler": (
        DataLoader(POINTS, BATCH, sampler=Shuffled()),
        "draws from a generator of its own",
    ),
    "epochs to be told": (
        DataLoader(POINTS, BATCH, sampler=DistributedSampler(POINTS, 1, 0)),
        "DistributedSampler has a set_epoch",
    ),
    "several loaders": ([DataLoader(POINTS)], "expected one DataLoader, got list"),
}


@pytest.mark.parametrize(("loader", "message"), REFUSED.values(), ids=REFUSED)
def test_what_lanes_would_share_is_refused(loader: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LaneLoaders(loader, lambda: AGES)
