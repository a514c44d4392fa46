"""What a worker's processes use of their machine, read now and then, off the training path."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sweep.messages import Vitals

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """Reads memory and processor time of this process and of all that it has started.

    On a GPU also how busy it is and how much of its memory is taken, by whomever, if the package
    `nvidia-ml-py` is there; without it, what torch has reserved in this process.
    """

    def __init__(self, where: str) -> None:
        self._where = where + (_gpu_name() if torch.cuda.is_available() else "")
        self._cpu_s, self._at_s = _cpu_s(), time.monotonic()

    def read(self) -> Vitals:
        cpu_s, now_s = _cpu_s(), time.monotonic()
        cores = max(0.0, cpu_s - self._cpu_s) / max(now_s - self._at_s, 1e-3)
        self._cpu_s, self._at_s = cpu_s, now_s
        return Vitals(self._where, _resident(), cores, *_gpu())


def _processes() -> Iterator[Path]:
    """What /proc has of this process and its descendants; nothing where there is no /proc."""
    waiting = [str(os.getpid())]
    while waiting:
        folder = Path("/proc") / waiting.pop()
        if folder.is_dir():
            yield folder
        for children in folder.glob("task/*/children"):
            with suppress(OSError):  # gone meanwhile
                waiting += children.read_text().split()


def _cpu_s() -> float:
    """Seconds of processor time; a process that has ended meanwhile no longer counts."""
    total = 0.0
    for folder in _processes():
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total or time.process_time()


def _resident() -> int:
    """Bytes; what processes share counts once for each of them."""
    total = 0
    for folder in _processes():
        with suppress(OSError):
            total += int((folder / "statm").read_text().split()[1]) * _PAGE
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return total or most * (1 if sys.platform == "darwin" else 1024)


def _gpu() -> tuple[float | None, int | None]:
    """Share of the time that the visible GPUs are busy, and bytes taken of their memory."""
    if not torch.cuda.is_available():
        return None, None
    try:
        nvml, handles = _nvml()
        busy = [nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100 for handle in handles]
        taken = [nvml.nvmlDeviceGetMemoryInfo(handle).used for handle in handles]
        return sum(busy) / len(busy), sum(taken)
    except Exception:  # no nvidia-ml-py, or a driver that will not tell
        begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        return None, torch.cuda.memory_reserved() if begun else None


def _gpu_name() -> str:
    """Of the first visible GPU: the others of a worker are the same."""
    try:
        nvml, handles = _nvml()
        return f" ({nvml.nvmlDeviceGetName(handles[0])})"
    except Exception:
        return ""


def _nvml() -> tuple[Any, list[Any]]:
    """NVIDIA's own library, and its handles of the visible GPUs.

    torch's public functions would make a context here, of some hundred megabytes.
    """
    nvml = import_module("pynvml")
    devices = range(torch.cuda.device_count())
    return nvml, [torch.cuda._get_pynvml_handler(device) for device in devices]
