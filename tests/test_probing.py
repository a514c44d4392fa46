"""How many lanes a pack gets: decided from measurements, measured without a trace."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dropnorm.pack import Pack
from sweep.conductor import Conductor
from sweep.messages import Event, Order, Ready, Start, TrialSpec
from sweep.worker import probing
from sweep.worker.desk import Desk
from sweep.worker.lanes import Key, pack_key
from sweep.worker.packed import train_packed
from sweep.worker.probing import Choice, Measured, choose, choose_on_cpu, choose_on_gpu, measure
from tests import studies
from tests.studies import Watch, bench, plan

GIB = 2**30
LONG = 10**6  # steps of a trial, beside which measuring is nothing


class Device:
    """Steps that take a fixed time and one for each lane, and memory for so many lanes."""

    def __init__(
        self, between_s: float, lane_s: float, room: int = 10**6, free_lanes: int = 0
    ) -> None:
        self._between_s, self._lane_s, self._room = between_s, lane_s, room
        self._free_lanes = free_lanes  # that run beside each other in the time of none
        self.tried: list[int] = []

    def __call__(self, lanes: int) -> Measured | None:
        self.tried.append(lanes)
        if lanes > self._room:
            return None
        busy_s = self._lane_s * max(lanes - self._free_lanes, 0)
        return Measured(lanes, self._between_s + busy_s, lanes * GIB // 8, probe_s=0.1)


# Decisions on a CPU


@pytest.mark.parametrize(
    ("between_ms", "lane_ms", "lanes"),
    [(0.1, 1.0, 1), (0.4, 1.0, 2), (0.8, 1.0, 4), (1.5, 1.0, 8), (3.0, 1.0, 16), (30, 1.0, 16)],
)
def test_fewest_lanes_that_make_the_time_between_steps_small(
    between_ms: float, lane_ms: float, lanes: int
) -> None:
    device = Device(between_ms / 1e3, lane_ms / 1e3)
    assert choose_on_cpu(device, 50, LONG).lanes == lanes
    assert device.tried == [1, 2]


def test_slow_steps_are_measured_once_and_their_trials_train_alone() -> None:
    device = Device(0.001, 0.3)
    assert choose_on_cpu(device, 50, LONG) == Choice(1, "a step of one takes 301 ms")
    assert device.tried == [1]


def test_short_studies_and_single_trials_are_not_measured() -> None:
    device = Device(0.01, 0.001)
    assert choose_on_cpu(device, 50, 100).lanes == 2
    assert choose_on_cpu(device, 1, LONG).lanes == 1
    assert not device.tried


def test_steps_that_make_no_sense_give_the_usual_number() -> None:
    choice = choose_on_cpu(lambda lanes: Measured(lanes, 0.02 / lanes), 50, LONG)
    assert choice.lanes == 2
    assert "varied too much" in choice.reason


def test_no_more_lanes_than_trials_on_a_cpu() -> None:
    assert choose_on_cpu(Device(0.01, 0.001), 3, LONG).lanes == 3


# Decisions on a GPU


def test_lanes_double_while_that_trains_more_trials_a_second() -> None:
    device = Device(0.002, 1e-5, free_lanes=128)
    choice = choose_on_gpu(device, 10_000, 1000 * GIB, LONG)
    # From 256 to 512 a step takes 1.78 times as long, from 512 to 1,024 1.88 times.
    assert choice.lanes == 512
    assert device.tried == [16, 32, 64, 128, 256, 512, 1024]
    assert choice.reason.startswith("1024 train hardly more trials a second")


@pytest.mark.parametrize(
    ("most", "room_gib", "lanes", "reason"),
    [
        (100, 1000, 100, "there are 100 trials to train"),
        (3, 1000, 3, "there are 3 trials to train"),
        (10_000, 1000, 1024, "there are 1024 trials"),
        (10_000, 10, 64, "128 would not fit into memory"),
    ],
)
def test_lanes_on_a_gpu_are_limited(most: int, room_gib: int, lanes: int, reason: str) -> None:
    choice = choose_on_gpu(Device(0.002, 0.0), most, room_gib * GIB, LONG)
    assert choice.lanes == lanes
    assert choice.reason.startswith(reason)


@pytest.mark.parametrize(
    ("room", "tried"), [(5, [16, 8, 4]), (40, [16, 32, 64]), (0, [16, 8, 4, 2, 1])]
)
def test_what_does_not_fit_is_halved(room: int, tried: list[int]) -> None:
    device = Device(0.002, 0.0, room)
    choice = choose_on_gpu(device, 10_000, 1000 * GIB, LONG)
    assert device.tried == tried
    assert choice.lanes == {5: 4, 40: 32, 0: 1}[room]
    assert "not fit into memory" in choice.reason


def test_measuring_costs_little_beside_the_training() -> None:
    """A hundred trials of a hundred steps take seconds: the first measurement has to do."""
    device = Device(0.002, 0.0)
    choice = choose_on_gpu(device, 100, 1000 * GIB, 100)
    assert (device.tried, choice.lanes) == ([16], 16)
    assert "would cost more than it saves" in choice.reason


# Real packs


def waiting(folder: Path, *words: str, trials: int = 1) -> Desk:
    """A desk with trials that wait."""
    with bench(plan(folder, "study.trials=9", *words)) as conductor:
        specs = conductor.ask(lanes=trials)
    desk = Desk("a", lambda worker, events: [], "val_accuracy", "maximize", trials)
    desk.waiting += specs
    return desk


def first_key(desk: Desk) -> Key:
    key = pack_key(desk, desk.waiting[0])
    assert key is not None
    return key


def randomness() -> tuple[Any, ...]:
    state = np.random.get_state()
    return random.getstate(), torch.get_rng_state().tolist(), str(state)


def test_measuring_leaves_no_trace(tmp_path: Path) -> None:
    desk = waiting(tmp_path, "optimizer.schedule=cosine", "trainer.gradient_clip_val=1.0")
    key, specs = first_key(desk), list(desk.waiting)
    before, threads = randomness(), torch.get_num_threads()
    made: list[weakref.ref[Pack]] = []
    init = Pack.__init__

    def noted(self: Pack, *args: Any, **more: Any) -> None:
        made.append(weakref.ref(self))
        init(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "__init__", noted)
        found = [measure(desk, key, lanes) for lanes in (1, 3)]
    assert [one.lanes for one in found if one] == [1, 3]
    assert all(one and 0 < one.step_s < one.probe_s for one in found)
    assert randomness() == before
    assert list(desk.waiting) == specs
    assert torch.get_num_threads() == threads
    assert [pack() for pack in made] == [None, None], "a probe's pack is still in memory"


def test_a_trial_that_cannot_be_measured_is_left_to_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_FEW_STEPS", 0)
    desk = waiting(tmp_path, "data.batch_size=9999")
    desk.share = 9
    choice = choose(desk, first_key(desk))
    assert choice.lanes == 2
    assert "measuring failed: DataError" in choice.reason


def run(folder: Path, *words: str, watch: Watch | None = None) -> list[tuple[Any, ...]]:
    """A study by an inline worker: what each trial brought about."""
    study = plan(folder, "study.trials=4", "trainer.max_epochs=1", *words)
    rows = studies.run(study, watch)
    return [(row.status, dict(row.params), row.metrics, row.history) for row in rows]


def test_results_do_not_depend_on_having_been_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_FEW_STEPS", 0)
    measured: list[int] = []

    def noted(desk: Desk, key: Key, lanes: int) -> Measured | None:
        measured.append(lanes)
        found = measure(desk, key, lanes)
        return found and Measured(lanes, 0.001 + 0.002 * lanes)  # this machine's times are its own

    monkeypatch.setattr(probing, "measure", noted)
    asked: list[int] = []

    def watch(conductor: Conductor, message: Event | Order) -> None:
        if isinstance(message, Ready):
            asked.append(message.lanes)

    mine = run(tmp_path / "auto", "executor.lanes=auto", watch=watch)
    assert mine == run(tmp_path / "one", "executor.lanes=1")
    assert measured == [1, 2]
    assert asked[:2] == [1, 1]  # the first trial, and then as many as have room beside it
    (said,) = (path.read_text() for path in (tmp_path / "auto").rglob("inline-0.log"))
    assert "2 lanes to a pack: a lane takes 2.00 ms of a step, the rest 1.00 ms" in said


def test_each_signature_is_measured_once_and_stays_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [8, 2]

    def choose_next(desk: Desk, key: Key) -> Choice:
        return Choice(chosen.pop(0), "it is said so")

    monkeypatch.setattr(probing, "choose", choose_next)
    asked: list[Event] = []
    desk = Desk("a", lambda worker, events: asked.extend(events) or [], "val_accuracy", "maximize")
    desk.waiting.append(TrialSpec(0, 0, {}, {}))
    prober, lanes = probing.Prober(), []
    for shape in ("wide", "wide", "deep", "wide"):
        prober.fit(desk, Key(False, shape, "", ()))
        lanes.append((desk.lanes, desk.most_lanes))
        if desk.lanes == 8:
            desk.lanes = 4  # as when eight did not fit
    assert lanes == [(8, 8), (4, 8), (2, 2), (4, 4)]
    assert asked == [Ready(7), Ready(1), Ready(3)]


def test_the_first_trial_says_how_many_the_worker_may_have(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=9")) as conductor:
        shares = []
        for worker in ("a", "b", "c"):
            orders = conductor.say(worker, Ready(1))
            shares += [order.share for order in orders if isinstance(order, Start)]
    assert shares == [9, 4, 3]  # of 9, of 8 for two, of 7 for three


def test_a_pack_that_did_not_fit_is_gone_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its parameters, gradients and moments: its half would not fit either."""
    packs: list[weakref.ref[Pack]] = []
    step = Pack.training_step

    def limited(self: Pack, batch: Any, index: int) -> Any:
        step(self, batch, index)
        packs.append(weakref.ref(self))
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Pack, "training_step", limited)
    desk = waiting(tmp_path, trials=2)
    key = first_key(desk)
    logging.disable(logging.CRITICAL)  # a captured record would hold the traceback
    gc.disable()
    try:
        train_packed(desk, key)
        assert [pack() for pack in packs] == [None]
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)
    assert desk.lanes == 1
