"""The banks of a packed network: one lane's, as the plain network would have it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch

from dropnorm.bank import Bank
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.norm import LaneBatchNorm

Momenta: TypeAlias = tuple[float | None, ...]


def carry_banks(packed: LaneLayer, momenta: Momenta) -> None:
    """Gives every lane a bank. Errors: ValueError for momenta that are out of range."""
    for norm in _norms(packed).values():
        norm.carry(momenta)


def lane_bank(packed: LaneLayer, lane: int, momenta: Momenta | None) -> Bank:
    """A copy of a lane's bank on the CPU. Errors: ValueError if there are no momenta."""
    if momenta is None:
        raise ValueError("bank: expected a pack with momenta; type Pack(..., momenta=MOMENTA)")
    norms = _norms(packed)
    averages = {name: norm.bank[lane].to("cpu", copy=True) for name, norm in norms.items()}
    counts = {name: int(norm.num_batches_tracked[lane]) for name, norm in norms.items()}
    return Bank(momenta, averages, counts)


@torch.no_grad()
def put_bank(packed: LaneLayer, lane: int, bank: Mapping[str, Any]) -> None:
    """Copies the `state_dict` of a bank of the same momenta into a lane, in place."""
    for name, norm in _norms(packed).items():
        norm.bank[lane].copy_(bank["averages"][name])


def check_momenta(momenta: Momenta | None, bank: Mapping[str, Any] | None) -> None:
    """Raises ValueError if a lane would go on with banks of other momenta than it began with."""
    theirs = None if bank is None else tuple(bank["momenta"])
    if theirs != momenta:
        raise ValueError(
            f"momenta: expected a snapshot with {momenta}, got {theirs}; "
            "go on with it in a pack of its momenta"
        )


def _norms(packed: LaneLayer) -> dict[str, LaneBatchNorm]:
    """The batch norms, with the plain network's names."""
    return {name: m for name, m in packed.named_modules() if isinstance(m, LaneBatchNorm)}
