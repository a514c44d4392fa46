"""Draws of data loaders, keyed: the order and the augmentation of an epoch belong to its trial.

A loader draws from torch's, numpy's and Python's generators, and from those of its own. Begun with
`begin_epoch`, a pass depends on nothing but (seed, epoch), whatever was drawn before and by whom.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from dropnorm.seeds import derive


class Draws:
    """Where the generators stand, those of a loader included, to go on from there later."""

    def __init__(self, loader: object = None) -> None:
        self._torch = torch.get_rng_state()
        self._numpy = np.random.get_state()
        self._python = random.getstate()
        self._own = [(g, g.get_state()) for g in _generators(loader)]

    def go_on(self) -> None:
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        for generator, state in self._own:
            generator.set_state(state)


def seed_draws(seed: int, *purpose: str | int, loader: object = None) -> None:
    """Sets all generators, and a loader's own, by a seed and what is about to be drawn."""
    key = derive(seed, *purpose)
    torch.manual_seed(key)
    np.random.seed(key % 2**32)
    random.seed(key)
    for generator in _generators(loader):
        generator.manual_seed(key)


def begin_epoch(
    loader: DataLoader[Any], begin: Callable[[], Iterator[Any]], seed: int, epoch: int
) -> tuple[Iterator[Any], Draws]:
    """A pass over the loader, made by `begin`, and where its draws go on.

    Persistent workers are started anew: theirs would draw on from the epoch before.
    """
    loader._iterator = None
    seed_draws(seed, "epoch", epoch, loader=loader)
    iterator = begin()
    return iterator, Draws(loader)


def key_loader(loader: Any, seed: int, epoch: Callable[[], int]) -> Callable[[], None]:
    """From now on every pass over a DataLoader is `begin_epoch`'s. Other iterables are left alone.

    A Trainer begins a pass earlier than its epoch, at times, and draws in between. Call what is
    returned when the epoch starts: if a pass is waiting, its draws then go on where they were.
    """
    waiting: list[Draws] = []

    def go_on() -> None:
        while waiting:
            waiting.pop().go_on()

    if not isinstance(loader, DataLoader):
        return go_on
    kind = type(loader)

    def begin(self: Any) -> Iterator[Any]:
        waiting.clear()
        iterator, draws = begin_epoch(self, lambda: kind.__iter__(self), seed, epoch())
        waiting.append(draws)
        return iterator

    # On the class, where Python looks for it; a Trainer then still sees the loader as what it is.
    loader.__class__ = type(kind.__name__, (kind,), {"__iter__": begin})
    return go_on


def _generators(loader: object) -> list[torch.Generator]:
    """Those that a loader and its samplers have of their own."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = {id(g): g for h in holders if (g := getattr(h, "generator", None)) is not None}
    return [g for g in found.values() if isinstance(g, torch.Generator)]
