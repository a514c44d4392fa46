"""The banks of a packed network: one lane's, as the plain network would have it, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dropnorm.bank import Bank
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.norm import LaneBatchNorm
from dropnorm.pack.sequential import keep_lanes, leaves
from dropnorm.scores import Scores

Momenta: TypeAlias = tuple[float | None, ...]

_VALUES = 1 << 27  # that go through the lanes at a time: half a gigabyte


def carry_banks(packed: LaneLayer, momenta: Momenta) -> None:
    """Gives every lane a bank. Errors: ValueError for momenta that are out of range."""
    for norm in _norms(packed).values():
        norm.carry(momenta)


def lane_bank(packed: LaneLayer, lane: int, momenta: Momenta | None) -> Bank:
    """A copy of a lane's bank on the CPU. Errors: ValueError if there are no momenta."""
    momenta = check_carried(momenta)
    norms = _norms(packed)
    averages = {name: norm.bank[lane].to("cpu", copy=True) for name, norm in norms.items()}
    counts = {name: int(norm.num_batches_tracked[lane]) for name, norm in norms.items()}
    return Bank(momenta, averages, counts)


@torch.no_grad()
def put_bank(packed: LaneLayer, lane: int, bank: Mapping[str, Any]) -> None:
    """Copies the `state_dict` of a bank of the same momenta into a lane, in place."""
    for name, norm in _norms(packed).items():
        norm.bank[lane].copy_(bank["averages"][name])


def check_carried(momenta: Momenta | None) -> Momenta:
    """Raises ValueError if there are none."""
    if momenta is None:
        raise ValueError("bank: expected a pack with momenta; type Pack(..., momenta=MOMENTA)")
    return momenta


def check_momenta(momenta: Momenta | None, bank: Mapping[str, Any] | None) -> None:
    """Raises ValueError if a lane would go on with banks of other momenta than it began with."""
    theirs = None if bank is None else tuple(bank["momenta"])
    if theirs != momenta:
        raise ValueError(
            f"momenta: expected a snapshot with {momenta}, got {theirs}; "
            "go on with it in a pack of its momenta"
        )


@torch.inference_mode()
def score_together(
    packed: LaneLayer, lanes: Sequence[int], batches: Iterable[tuple[Tensor, Tensor]]
) -> list[dict[str, list[float]]]:
    """What `dropnorm.bank.score` gives for the banks of these lanes, with kernels over all of them.

    For devices other than the CPU. What runs before the first norm runs once, all else once for
    each momentum. A large batch is cut, so that memory does not grow with the lanes. Scores are
    those of lane after lane within rounding: an image whose two best classes are that close may
    change sides. Errors: ValueError for no batches.
    """
    some = copy.deepcopy(packed).eval()
    keep_lanes(some, lanes)
    layers, norms = list(leaves(some)), list(_norms(some).values())
    if not norms:
        return [{} for _ in lanes]
    first = next(k for k, layer in enumerate(layers) if isinstance(layer, LaneBatchNorm))
    scores = [Scores(len(lanes), norms[0].bank.device) for _ in norms[0].momenta]
    rows = 0
    for x, y in batches:
        rows = rows or _rows_at_a_time(layers[:first], x, len(lanes))
        for images, labels in zip(torch.split(x, rows), torch.split(y, rows), strict=True):
            shared = _through(layers[:first], images.expand(len(lanes), *images.shape))
            for m, score in enumerate(scores):
                for norm in norms:
                    norm.running_mean, norm.running_var = norm.bank[:, :, m].unbind(1)
                score.update(_through(layers[first:], shared), labels)
    if not rows:
        raise ValueError("batches: expected at least one to score momenta on, got none")
    found = [{name: v.tolist() for name, v in score.compute().items()} for score in scores]
    return [
        {f"val_{name}": [values[name][k] for values in found] for name in found[0]}
        for k in range(len(lanes))
    ]


def _rows_at_a_time(layers: Sequence[LaneLayer], x: Tensor, lanes: int) -> int:
    """So many that what comes out of these layers, or goes in, is `_VALUES` in all lanes."""
    values = _through(layers, x[:1].expand(lanes, *x[:1].shape)).numel()
    return max(_VALUES // max(values, lanes * x[0].numel()), 1)


def _through(layers: Sequence[LaneLayer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer.together(x)
    return x


def _norms(packed: LaneLayer) -> dict[str, LaneBatchNorm]:
    """The batch norms, with the plain network's names."""
    return {name: m for name, m in packed.named_modules() if isinstance(m, LaneBatchNorm)}
