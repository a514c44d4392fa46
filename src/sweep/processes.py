"""Processes of ours: how they start, how they end with their parents, and what they died of."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process, resource_tracker


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Processes started inside never see Ctrl-C: it reaches all, but the conductor decides."""
    resource_tracker.ensure_running()  # or it would start inside, and undo this
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(die: Callable[[], None]) -> None:
    """From here on `die` is called as soon as the process that started this one is gone."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            connection.wait([parent.sentinel])
            die()

    threading.Thread(target=watch, daemon=True).start()


def kill_group() -> None:
    """Kills this process and all of its group."""
    os.killpg(0, signal.SIGKILL)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def how_it_died(code: int | None) -> str:
    """A process's exit code for reading."""
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, probably out of memory" if -code == signal.SIGKILL else name
