"""Where the workers of one machine go: on its GPUs, or on shares of its cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import ConfigError, Problem
from sweep.trial_config import devices_per_trial

if TYPE_CHECKING:
    from sweep.config import Plan
    from sweep.schema import ExecutorSettings

MOST_ON_CPU = 16  # workers of half a gigabyte each


@dataclass(frozen=True)
class Place:
    """A GPU, by the name that CUDA_VISIBLE_DEVICES gives it, or none; and threads of the CPU.

    Where a trial trains on several GPUs they are one place, "0,1".
    """

    gpu: str | None
    threads: int

    def __str__(self) -> str:
        where = "CPU" if self.gpu is None else f"GPU {self.gpu}"
        return f"{where}, {self.threads} thread{'s' * (self.threads > 1)}"


def places(settings: ExecutorSettings, accelerator: str, per_trial: int = 1) -> list[Place]:
    """One place a worker; the first few of them lie on as many devices as they can.

    A trial on `per_trial` devices takes a whole place of as many; a rest that is too small for one
    stays idle. Errors: ConfigError if `executor.devices` names GPUs that are not there, or if there
    are too few for one trial.
    """
    gpus = [] if accelerator == "cpu" else visible_gpus()
    cores = usable_cores()
    devices: list[str | None]
    if gpus or isinstance(settings.devices, list):
        devices = [*_chosen(gpus, settings.devices)]
    elif settings.devices == "auto":
        # Small products use two cores badly: two workers of one thread each train 1.6 times as many
        # trials as one of two threads, and unlike OpenMP's threads they do not wait for each other.
        devices = [None] * min(cores, MOST_ON_CPU)
    else:
        devices = [None] * settings.devices
    workers = _grouped(devices, per_trial) * settings.workers_per_device
    return [Place(gpu, max(1, cores // len(workers))) for gpu in workers]


def describe(plan: Plan) -> str:
    """Executor, workers and devices of a plan in a line. Errors: ConfigError as `places`."""
    settings = plan.executor
    if settings.name == "inline":
        return "inline: one worker in this process"
    if settings.name == "ray":
        cluster = f"the cluster at {settings.address}" if settings.address else "this machine"
        every = {"auto": "every device"}.get(str(settings.devices), f"{settings.devices} devices")
        return f"ray: {settings.workers_per_device} a device on {every} of {cluster}"
    found = places_of(plan)
    gpus = list(dict.fromkeys(place.gpu for place in found if place.gpu is not None))
    several = len(gpus) > 1 or "," in "".join(gpus)
    where = f"GPU{'s' * several} {', '.join(gpus)}" if gpus else "the CPU"
    if (per_trial := devices_per_trial(plan.trial)) > 1:
        where += f", {per_trial} processes a trial"
    workers, threads = len(found), found[0].threads
    each = f"{threads} thread{'s' * (threads > 1)}{' each' * (workers > 1)}"
    return f"local: {workers} worker{'s' * (workers > 1)} on {where}, {each}"


def places_of(plan: Plan) -> list[Place]:
    """Where a plan's workers go on this machine. Errors: ConfigError as `places`."""
    accelerator = plan.trial["trainer"]["accelerator"]
    return places(plan.executor, accelerator, devices_per_trial(plan.trial))


def check_places(plan: Plan) -> None:
    """Errors: ConfigError if what trials are to train on is not there; a cluster tells later."""
    accelerator = plan.trial["trainer"]["accelerator"]
    if plan.executor.name == "local":
        places_of(plan)
    if plan.executor.name == "ray":
        return
    if accelerator == "gpu" and not visible_gpus():
        what = "expected an accelerator that is there, got gpu where there is no GPU"
        advice = "type trainer.accelerator=cpu, or set CUDA_VISIBLE_DEVICES if there is one"
        raise ConfigError([Problem("trainer.accelerator", what, advice)])
    if accelerator == "mps" and sys.platform != "darwin":
        what = f"expected an accelerator that is there, got mps on {sys.platform}"
        raise ConfigError([Problem("trainer.accelerator", what, "type trainer.accelerator=auto")])


def _grouped(devices: Sequence[str | None], size: int) -> list[str | None]:
    """Neighbouring devices in groups of `size`. Of the CPU there is always enough for one."""
    if size == 1:
        return list(devices)
    if devices[0] is None:
        return [None] * max(1, len(devices) // size)
    if len(devices) < size:
        what = f"expected {size} GPUs, which trainer.devices={size} needs, got {len(devices)}"
        raise ConfigError(
            [Problem("trainer.devices", what, f"type trainer.devices={len(devices)}")]
        )
    groups = range(len(devices) // size)
    return [",".join(map(str, devices[size * g : size * (g + 1)])) for g in groups]


def usable_cores() -> int:
    """Those that this process may use. Only Linux tells: elsewhere all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them. Counted without CUDA, which belongs to the workers."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def _chosen(gpus: Sequence[str], devices: int | str | Sequence[int]) -> list[str]:
    """The GPUs that a worker gets: all, the first few, or those that are listed."""
    if devices == "auto":
        return list(gpus)
    wanted = range(devices) if isinstance(devices, int) else devices
    assert not isinstance(wanted, str)
    if all(i < len(gpus) for i in wanted):
        return [gpus[i] for i in wanted]
    there = f"are GPUs {', '.join(map(str, range(len(gpus))))}" if gpus else "is no GPU"
    what = f"expected GPUs that are there, got {devices} where there {there}"
    advice = "type executor.devices=auto"
    if isinstance(devices, int):
        advice = f"type executor.devices={len(gpus)} executor.workers_per_device=2 to share them"
    raise ConfigError([Problem("executor.devices", what, advice)])
