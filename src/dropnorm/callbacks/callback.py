"""`Callback`: what all callbacks here are, for the Trainers of both of Lightning's packages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import pytorch_lightning as pl


def _bases() -> tuple[type, ...]:
    """`lightning.pytorch` has a class of its own, and its Trainer asks for that."""
    try:
        return pl.Callback, import_module("lightning.pytorch").Callback
    except ImportError:
        return (pl.Callback,)


if TYPE_CHECKING:
    Callback = pl.Callback
else:

    class Callback(*_bases()):
        """A callback of `pytorch_lightning` and, where that is installed, of `lightning.pytorch`.

        They are different classes with the same hooks, and `pip install lightning` brings only one.
        """
