"""What a training step costs the host on another device than the CPU, whatever the lanes.

Packs are put on torch's meta device: its tensors have shapes and no values, so that a step that
reads one back, and would wait for a GPU there, raises.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dropnorm
from dropnorm.pack import LaneOptimizer, Pack
from dropnorm.pack.clipping import Clip
from tests.packs import CNN, MLP, quiet_trainer

OURS = str(Path(dropnorm.__file__).parent)
KINDS = {"adam": MLP, "adamw": CNN, "sgd": MLP}


class Operators(TorchDispatchMode):
    """Counts what reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def lines_run() -> Iterator[Counter[str]]:
    """Counts how often each line of ours runs: loops over lanes show, whatever is in them."""
    counts: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            counts[f"{frame.f_code.co_filename}:{frame.f_lineno}"] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield counts
    finally:
        sys.settrace(before)


@pytest.fixture(autouse=True)
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch refuses to say of the meta device whether it is on."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


def on_meta(folder: Path, lanes: int, network: dict[str, Any], name: str) -> Pack:
    """A pack of trials that differ in all that may differ, on the meta device."""
    trials = [
        {
            **network,
            "seed": k,
            "dropout": 0.1 * (k % 5),
            "bn_momentum": (0.1, None)[k % 2],
            "label_smoothing": 0.1 * (k % 3),
            "optimizer": {"name": name, "lr": 1e-3 * (1 + k), "schedule": "one_cycle"},
        }
        for k in range(lanes)
    ]
    pack = Pack(trials, epochs=5, momenta=[0.1, 0.5, None])
    pack.trainer = quiet_trainer(folder, 1)
    return pack.to("meta")


def step(pack: Pack, optimizer: LaneOptimizer, lanes: int) -> None:
    """Forward, backward, clipping and update, as a Trainer has them."""
    x = torch.zeros(lanes, 8, 1, 28, 28, device="meta")
    y = torch.zeros(lanes, 8, dtype=torch.int64, device="meta")
    optimizer.zero_grad()
    loss: Tensor = pack.training_step((x, y), 0)
    loss.backward()
    Clip(1.0).lanes(optimizer.param_groups[0]["params"])
    optimizer.step()


def cost(
    folder: Path, lanes: int, network: dict[str, Any], name: str
) -> tuple[Counter[str], Counter[str]]:
    """Operators and lines of a step, after one in which numbers for the next ones were made."""
    pack = on_meta(folder, lanes, network, name)
    settings = [lane.optimizer for lane in pack.lanes]
    optimizer = LaneOptimizer(pack.network.parameters(), settings, lambda: 100)
    step(pack, optimizer, lanes)
    operators = Operators()
    with operators, lines_run() as lines:
        step(pack, optimizer, lanes)
    return operators.counts, lines


@pytest.mark.parametrize("name", KINDS)
def test_a_step_costs_the_host_the_same_however_many_lanes(tmp_path: Path, name: str) -> None:
    few, many = (cost(tmp_path, lanes, KINDS[name], name) for lanes in (4, 64))
    assert few[0] == many[0]
    assert few[1] == many[1]
    assert sum(few[0].values()) > 50, "nothing was counted"


def test_a_loop_over_lanes_would_be_seen(tmp_path: Path) -> None:
    found = []
    for lanes in (4, 64):
        pack = on_meta(tmp_path, lanes, MLP, "adam")
        operators = Operators()
        with operators, lines_run() as lines:
            pack.ages()
            for lane in range(lanes):
                pack.lane_state(lane)
        found.append((operators.counts, lines))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_validating_costs_the_host_the_same_however_many_lanes(tmp_path: Path) -> None:
    found = []
    x, y = torch.zeros(30, 1, 28, 28, device="meta"), torch.zeros(30, dtype=torch.int64)
    for lanes in (4, 64):
        pack = on_meta(tmp_path, lanes, MLP, "adam").eval()
        operators = Operators()
        with torch.no_grad(), operators, lines_run() as lines:
            pack.validation_step((x, y.to("meta")), 0)
        found.append((operators.counts, lines))
    assert found[0] == found[1]
