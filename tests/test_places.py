"""Which devices workers get, on one machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep.config import Plan, make_plan
from sweep.errors import ConfigError
from sweep.executors.places import Place, describe
from sweep.executors.places import places as find_places
from tests.studies import plan

FOUR_CORES = {0, 1, 2, 3}


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: FOUR_CORES)


def local(tmp_path: Path, accelerator: str = "auto", **settings: Any) -> Plan:
    some = plan(tmp_path, "executor=local", f"trainer.accelerator={accelerator}")
    return replace(some, executor=replace(some.executor, **settings))


def places(plan: Plan, per_trial: int = 1) -> list[Place]:
    return find_places(plan.executor, plan.trial["trainer"]["accelerator"], per_trial)


@pytest.mark.parametrize(
    "visible, settings, gpus",
    [
        ("0,1,2", {}, ["0", "1", "2"]),
        ("2", {}, ["2"]),
        ("GPU-6ba7b810-9dad-11d1", {}, ["GPU-6ba7b810-9dad-11d1"]),
        ("4,5,6", {"devices": 2}, ["4", "5"]),
        ("4,5,6", {"devices": [0, 2]}, ["4", "6"]),
        ("0,1", {"workers_per_device": 2}, ["0", "1", "0", "1"]),
        ("0,1", {"devices": [1], "workers_per_device": 3}, ["1", "1", "1"]),
    ],
)
def test_every_gpu_that_is_visible_and_wanted_gets_its_workers(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str,
    settings: dict[str, Any],
    gpus: list[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = places(local(tmp_path, **settings))
    assert [place.gpu for place in found] == gpus
    assert {place.threads for place in found} == {max(1, 4 // len(gpus))}


@pytest.mark.parametrize("visible", ["", "-1"])
@pytest.mark.parametrize(
    "settings, workers, threads",
    [
        ({}, 4, 1),
        ({"devices": 1}, 1, 4),
        ({"devices": 3}, 3, 1),
        ({"devices": 2}, 2, 2),
        ({"devices": 9}, 9, 1),
        ({"devices": 1, "workers_per_device": 2}, 2, 2),
    ],
)
def test_without_a_gpu_the_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str,
    settings: dict[str, Any],
    workers: int,
    threads: int,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert places(local(tmp_path, **settings)) == [Place(None, threads)] * workers


def test_where_nobody_tells_which_cores_may_be_used_all_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS and Windows have none
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert places(local(tmp_path, "cpu")) == [Place(None, 1)] * 3


def test_gpus_are_left_alone_when_the_cpu_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert places(local(tmp_path, "cpu")) == [Place(None, 1)] * 4


@pytest.mark.parametrize(
    "visible, settings, gpus, threads",
    [
        ("0,1,2,3", {}, ["0,1", "2,3"], 2),
        ("4,5,6", {}, ["4,5"], 4),  # one is left over
        ("4,5,6,7", {"devices": 2}, ["4,5"], 4),
        ("4,5,6,7", {"devices": [0, 3]}, ["4,7"], 4),
        ("", {}, [None, None], 2),
        ("", {"devices": 2}, [None], 4),
        ("", {"devices": 1}, [None], 4),
    ],
)
def test_trials_of_two_devices_get_places_of_two(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str,
    settings: dict[str, Any],
    gpus: list[str | None],
    threads: int,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = places(local(tmp_path, **settings), per_trial=2)
    assert found == [Place(gpu, threads) for gpu in gpus]


def test_fewer_gpus_than_a_trial_needs_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ConfigError) as error:
        places(local(tmp_path), per_trial=4)
    assert str(error.value) == (
        "trainer.devices: expected 4 GPUs, which trainer.devices=4 needs, got 2; "
        "type trainer.devices=2"
    )


@pytest.mark.parametrize(
    "typed, message",
    [
        ("trainer.devices=choice(1,2)", "trainer.devices: expected one value for all trials"),
        ("trainer.accelerator=cpu,gpu", "trainer.accelerator: expected one value for all trials"),
        ("executor.workers_per_device=2", "executor.workers_per_device: expected 1 where a trial"),
    ],
)
def test_placement_that_workers_cannot_have_is_refused(typed: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_plan(["+study=synthetic", "trainer.devices=2", "executor=local", typed])
    assert message in str(error.value)


@pytest.mark.parametrize(
    "visible, devices, message",
    [
        ("0,1", 6, "got 6 where there are GPUs 0, 1; type executor.devices=2 executor.workers_per"),
        ("0,1", [0, 2], "got [0, 2] where there are GPUs 0, 1; type executor.devices=auto"),
        ("", [0], "got [0] where there is no GPU; type executor.devices=auto"),
    ],
)
def test_gpus_that_are_not_there_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, devices: Any, message: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ConfigError) as error:
        places(local(tmp_path, devices=devices))
    assert str(error.value).startswith("executor.devices: expected GPUs that are there, ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "visible, settings, line",
    [
        ("", {}, "local: 4 workers on the CPU, 1 thread each"),
        ("", {"devices": 1}, "local: 1 worker on the CPU, 4 threads"),
        ("7,8", {"devices": [1]}, "local: 1 worker on GPU 8, 4 threads"),
        ("7,8", {"workers_per_device": 2}, "local: 4 workers on GPUs 7, 8, 1 thread each"),
        ("", {"name": "inline"}, "inline: one worker in this process"),
        ("", {"name": "ray"}, "ray: 1 a device on every device of this machine"),
        (
            "",
            {"name": "ray", "devices": 8, "workers_per_device": 2, "address": "ray://head:10001"},
            "ray: 2 a device on 8 devices of the cluster at ray://head:10001",
        ),
    ],
)
def test_a_plan_says_where_it_would_run(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str,
    settings: dict[str, Any],
    line: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert describe(local(tmp_path, **settings)) == line
