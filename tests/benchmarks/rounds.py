"""Timing several things against each other on a machine that is not quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds(
    things: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, float]:
    """Median seconds of each: all of them once a round, in turn, after `warm_up` rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for turn in range(warm_up + rounds):
        for name, thing in things.items():
            start = time.perf_counter()
            thing()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
