"""Ray: a worker an actor, on this machine or on a cluster.

Ray is an extra, imported only here, when it is asked for. Trials travel to the actors with their
calls and come back with the answers: nodes need the same packages, but no part of the study's
folder. Nodes that join are used within seconds; what a lost one trained is trained again.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sweep.errors import ConfigError, Problem, StudyError
from sweep.executors.child import Job
from sweep.executors.crew import Crew, Evicted, Gone
from sweep.executors.local import last_line
from sweep.executors.places import MOST_ON_CPU, Place, usable_cores
from sweep.executors.post import Post
from sweep.messages import Conducting, Event, Order
from sweep.trial_config import devices_per_trial

if TYPE_CHECKING:
    from sweep.config import Plan

_LOOK_S = 3.0  # how often the cluster is asked for its nodes
_STORE_BYTES = 100 * 2**20  # messages and checkpoints pass through, nothing stays


def run_ray(conductor: Conducting, plan: Plan) -> None:
    """Carries messages until every worker has quit, or the conductor says halt.

    Errors: ConfigError without Ray, or without a cluster at `executor.address`; StudyError when no
    worker could say a word.
    """
    if isinstance(plan.executor.devices, list):
        what = f"expected auto or a number of devices of the cluster, got {plan.executor.devices}"
        advice = f"type executor.devices={len(plan.executor.devices)}"
        raise ConfigError([Problem("executor.devices", what, advice)])
    with _connected(plan.executor.address) as ray:
        Crew(conductor, Cluster(ray, plan), plan.executor.silence_s).work()


@contextmanager
def _connected(address: str | None) -> Iterator[ModuleType]:
    """Ray itself, connected to the cluster at this address, or to one that it starts for us."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # report to nobody
    try:
        import ray
    except ImportError:
        advice = "type pip install 'dropnorm[ray]', or executor=local"
        raise ConfigError(
            [Problem("executor", "expected Ray, which is not installed", advice)]
        ) from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    own: dict[str, Any] = {
        "num_cpus": usable_cores(),
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
    }
    terminate = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            configure_logging=False,
            **({} if address else own),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = f"expected a Ray cluster at {address or 'this machine'}, got {_brief(error)}"
        advice = (
            "type executor.address=null to start one here, or set RAY_AUTH_MODE=token if it asks"
        )
        raise ConfigError([Problem("executor.address", what, advice)]) from None
    finally:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield ray
    except ConnectionError as error:
        what = f"lost the Ray cluster at {address}: {_brief(error)}; what had ended is recorded"
        raise StudyError(f"{what}: type the same command again") from None
    finally:
        ray.shutdown()


class Cluster:
    """The cluster's machines: as many workers as there is room for, seen anew while it runs."""

    def __init__(self, ray: ModuleType, plan: Plan) -> None:
        self._ray, self._plan = ray, plan
        self._looked_s, self._room = -math.inf, Room(0, 1, {})

    def names(self) -> Sequence[str]:
        if time.monotonic() - self._looked_s > _LOOK_S:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._room = room(nodes, self._plan)
            self._looked_s = time.monotonic()
        return [f"worker-{i}" for i in range(self._room.workers)]

    def start(self, name: str) -> Actor:
        study, place = self._plan.study, Place(None, self._room.threads)
        job = Job(name, study.metric, study.direction, self._plan.executor.lanes, place)
        return Actor(self._ray, job, self._room.takes, self._log(name))

    def listen(self, links: Sequence[Actor], timeout_s: float) -> Sequence[Actor]:
        actors = {actor.call: actor for actor in links}
        ready, others = self._ray.wait(list(actors), timeout=timeout_s)
        if ready and others:
            ready += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        return [actors[call] for call in ready]

    def last_words(self, name: str) -> str:
        return last_line(self._log(name))

    def _log(self, name: str) -> Path:
        return self._plan.folder / "logs" / f"{name}.log"


@dataclass(frozen=True)
class Room:
    """How many workers a cluster has room for, and what of Ray's resources each of them takes."""

    workers: int
    threads: int
    takes: Mapping[str, float]


def room(nodes: Sequence[Mapping[str, float]], plan: Plan) -> Room:
    """What the resources of these nodes allow. There is always one worker: it waits for a node."""
    devices, share = plan.executor.devices, plan.executor.workers_per_device
    assert not isinstance(devices, list)
    if (per_trial := devices_per_trial(plan.trial)) > 1:
        return _room_for_groups(nodes, plan, per_trial)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus and plan.trial["trainer"]["accelerator"] != "cpu":
        workers = share * (gpus if devices == "auto" else devices)
        return Room(workers, max(1, sum(cpus) // workers), {"num_cpus": 0, "num_gpus": 1 / share})
    if devices == "auto":
        workers = share * max(1, sum(min(n, MOST_ON_CPU) for n in cpus))
        return Room(workers, 1, {"num_cpus": 1 / share})
    workers = share * devices
    cores = min(sum(cpus) / workers, max(cpus, default=1)) or 1.0
    return Room(workers, max(1, int(cores)), {"num_cpus": int(cores) if cores > 1 else cores})


def _room_for_groups(nodes: Sequence[Mapping[str, float]], plan: Plan, size: int) -> Room:
    """For workers of `size` devices each, all of them on one node: GPUs, or cores without any."""
    devices = plan.executor.devices
    gpus = plan.trial["trainer"]["accelerator"] != "cpu" and any(node.get("GPU") for node in nodes)
    kind, takes = ("GPU", "num_gpus") if gpus else ("CPU", "num_cpus")
    workers = sum(int(node.get(kind, 0)) // size for node in nodes)
    if isinstance(devices, int):
        workers = min(workers, devices // size)
    cpus = sum(int(node.get("CPU", 0)) for node in nodes)
    threads = max(1, cpus // max(workers, 1)) if gpus else size
    return Room(max(1, workers), threads, {"num_cpus": 0 if gpus else size, takes: size})


class Actor:
    """A worker at its post in an actor; `call` is the one that waits for its next words."""

    def __init__(self, ray: ModuleType, job: Job, takes: Mapping[str, float], log: Path) -> None:
        self._ray, self.name, self._log = ray, job.name, log
        # Four digits of a share are all that Ray counts, so a third of a device is rounded down.
        takes = {name: math.floor(amount * 1e4) / 1e4 for name, amount in takes.items()}
        options = {**takes, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._post = ray.remote(Post).options(**options).remote(job)
        self._placed = self._post.is_there.remote()
        self.call = self._post.talk.remote(None)
        self._how = "killed"

    def is_placed(self) -> bool:
        return bool(self._ray.wait([self._placed], timeout=0)[0])

    def hear(self) -> Sequence[Event]:
        try:
            events, logged = self._ray.get(self.call)
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            self._how = _brief(error)
            raise (Evicted if "its node has died" in str(error) else Gone) from None
        with self._log.open("a") as file:
            file.write(logged)
        if events is None:  # it has quit
            raise Gone
        return events  # type: ignore[no-any-return]

    def tell(self, orders: Sequence[Order]) -> None:
        self.call = self._post.talk.remote(orders)

    def terminate(self) -> None:
        self._ray.kill(self._post)

    def bury(self) -> str:
        self._ray.kill(self._post)
        return self._how


def _brief(error: Exception) -> str:
    """The line of Ray's paragraphs that says what happened."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {cause}"
    lines = [line for line in str(error).splitlines() if line.strip() and line[0] != "\t"]
    said = [line for line in lines if line.startswith("The actor") and "because" in line]
    line = (said or lines or [type(error).__name__])[-1]
    return line.partition(" Worker exit detail:")[0].partition(" Node Id:")[0].rstrip(".")
