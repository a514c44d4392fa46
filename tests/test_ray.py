"""Workers in Ray's actors: where they go, and clusters whose nodes come and go."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.errors import ConfigError
from sweep.executors.ray import Room, room, run_ray
from sweep.messages import Ended, Event, Order, Report, Start
from sweep.record import Record
from tests.studies import bench, plan

STORE = 80 * 2**20  # bytes, Ray's least


def on_ray(tmp_path: Path, *typed: str, **settings: Any) -> Plan:
    some = plan(tmp_path, "executor=ray", *typed)
    return replace(some, executor=replace(some.executor, **settings))


# Room


@pytest.mark.parametrize(
    "nodes, settings, expected",
    [
        ([{"CPU": 2}], {}, Room(2, 1, {"num_cpus": 1})),
        ([{"CPU": 2}, {"CPU": 4}], {}, Room(6, 1, {"num_cpus": 1})),
        ([{"CPU": 64}], {}, Room(16, 1, {"num_cpus": 1})),
        ([{"CPU": 2}, {}], {"workers_per_device": 2}, Room(4, 1, {"num_cpus": 0.5})),
        ([{"CPU": 4}, {"CPU": 4}], {"devices": 4}, Room(4, 2, {"num_cpus": 2})),
        ([{"CPU": 2}, {"CPU": 2}], {"devices": 1}, Room(1, 2, {"num_cpus": 2})),
        ([{"CPU": 2}], {"devices": 4}, Room(4, 1, {"num_cpus": 0.5})),
        ([{"CPU": 8, "GPU": 2}], {}, Room(2, 4, {"num_cpus": 0, "num_gpus": 1})),
        (
            [{"CPU": 8, "GPU": 2}, {"CPU": 8}],
            {"workers_per_device": 2},
            Room(4, 4, {"num_cpus": 0, "num_gpus": 0.5}),
        ),
        ([{"GPU": 4}], {"devices": 2}, Room(2, 1, {"num_cpus": 0, "num_gpus": 1})),
        ([], {}, Room(1, 1, {"num_cpus": 1})),
        ([], {"devices": 3}, Room(3, 1, {"num_cpus": 1})),
    ],
)
def test_every_device_of_the_cluster_gets_its_workers(
    tmp_path: Path, nodes: list[dict[str, float]], settings: dict[str, Any], expected: Room
) -> None:
    assert room(nodes, on_ray(tmp_path, **settings)) == expected


@pytest.mark.parametrize(
    "nodes, settings, expected",
    [
        (
            [{"CPU": 8, "GPU": 3}, {"CPU": 8, "GPU": 2}],
            {},
            Room(2, 8, {"num_cpus": 0, "num_gpus": 2}),
        ),
        ([{"CPU": 8, "GPU": 8}], {"devices": 4}, Room(2, 4, {"num_cpus": 0, "num_gpus": 2})),
        ([{"CPU": 1}, {"CPU": 5}], {}, Room(2, 2, {"num_cpus": 2})),
        ([], {}, Room(1, 2, {"num_cpus": 2})),
    ],
)
def test_devices_of_one_trial_are_those_of_one_node(
    tmp_path: Path, nodes: list[dict[str, float]], settings: dict[str, Any], expected: Room
) -> None:
    assert room(nodes, on_ray(tmp_path, "trainer.devices=2", **settings)) == expected


def test_gpus_are_left_alone_when_the_cpu_is_wanted(tmp_path: Path) -> None:
    some = on_ray(tmp_path, "trainer.accelerator=cpu")
    assert room([{"CPU": 2, "GPU": 8}], some) == Room(2, 1, {"num_cpus": 1})


# What is refused before anything runs


def refused(plan: Plan) -> str:
    with bench(plan) as desk, pytest.raises(ConfigError) as error:
        run_ray(desk.conductor, plan)
    return str(error.value)


def test_without_ray_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused(on_ray(tmp_path)) == (
        "executor: expected Ray, which is not installed; type pip install 'dropnorm[ray]', or "
        "executor=local"
    )


def test_gpus_of_a_cluster_have_no_numbers(tmp_path: Path) -> None:
    assert "executor.devices: expected auto or a number of devices of the cluster, got [0, 2]" in (
        refused(on_ray(tmp_path, devices=[0, 2]))
    )


def test_a_cluster_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    terminate = signal.getsignal(signal.SIGTERM)
    message = refused(on_ray(tmp_path, address="nowhere"))
    assert "executor.address: expected a Ray cluster at nowhere, got Invalid address" in message
    assert "type executor.address=null to start one here" in message
    assert signal.getsignal(signal.SIGTERM) == terminate  # Ray had put its own there


# A cluster of three nodes on this machine


@pytest.fixture(params=[1])
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A head without a core, and some nodes with a single one each; it soon sees one that is gone.

    A node that does not answer is given as much time as ever.
    """
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    head["_system_config"] = {"health_check_period_ms": 500}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(request.param):
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_of_three_nodes_one_may_be_lost(cluster: Any, tmp_path: Path) -> None:
    """Trials on the others go on, and if the lost one had a trial it runs again: each counts once.

    It is lost as soon as two workers train, or one has trained half of the trials before the others
    were ready; whose node it is, only Ray knows.
    """
    passed: list[tuple[str, Event | Order]] = []
    some = on_ray(tmp_path, "study.trials=9", "executor.lanes=1", address=cluster.address)

    def watch(worker: str, message: Event | Order) -> None:
        passed.append((worker, message))
        speakers = {name for name, said in passed if isinstance(said, Report)}
        half = sum(isinstance(said, Ended) for _, said in passed) > 4
        if (len(speakers) == 2 or half) and len(cluster.worker_nodes) == 3:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    with closing(Record(some)) as record:
        record.describe()
        with closing(Conductor(some, record, watch)) as conductor:
            run_ray(conductor, some)
        rows = record.results().trials
    assert len(cluster.worker_nodes) == 2
    assert [(row.number, row.status) for row in rows] == [(n, "complete") for n in range(9)]
    assert [len(row.curve) for row in rows] == [4] * 9
    deaths = [m for _, m in passed if isinstance(m, Ended) and m.status == "interrupted"]
    assert len(deaths) <= 1
    started = [m.spec.number for _, m in passed if isinstance(m, Start)]
    assert sorted(started) == sorted([*range(9), *(death.trial for death in deaths)])


@pytest.mark.slow
def test_a_lost_node_is_survived_and_a_new_one_is_used(cluster: Any, tmp_path: Path) -> None:
    """The only node is killed in the middle of a trial, another joins, and goes on with it."""
    (first,) = cluster.worker_nodes
    passed: list[Event | Order] = []

    def watch(worker: str, message: Event | Order) -> None:
        passed.append(message)
        there = isinstance(message, Report) and (message.trial, message.epoch) == (1, 2)
        if there and first in cluster.worker_nodes:
            cluster.remove_node(first, allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=STORE)

    some = on_ray(tmp_path, "study.trials=3", "executor.lanes=1", address=cluster.address)
    with closing(Record(some)) as record:
        record.describe()
        with closing(Conductor(some, record, watch)) as conductor:
            run_ray(conductor, some)
        rows = record.results().trials
    (death,) = [m for m in passed if isinstance(m, Ended) and m.status == "interrupted"]
    assert death.trial == 1
    assert death.reason is not None
    assert death.reason.startswith("worker died (The actor ")
    assert [m.spec.number for m in passed if isinstance(m, Start)] == [0, 1, 1, 2]
    assert [(row.number, row.status) for row in rows] == [(n, "complete") for n in range(3)]
