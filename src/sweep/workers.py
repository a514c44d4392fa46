"""The workers in the live table: where each is, which trials it trains, and what it uses."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text

from sweep.messages import Ended, Event, Order, Start, Vitals
from sweep.usage import spell_vitals

_GONE_S = 30.0  # since a worker that trains nothing was last heard of


class Workers:
    """Listens to what passes between conductor and workers; a worker is a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._trials: dict[str, list[int]] = {}
        self._vitals: dict[str, Vitals] = {}
        self._heard_s: dict[str, float] = {}

    def watch(self, worker: str, message: Event | Order) -> None:
        self._heard_s[worker] = self._clock()
        trials = self._trials.setdefault(worker, [])
        match message:
            case Vitals():
                self._vitals[worker] = message
            case Start(spec=spec):
                trials.append(spec.number)
            case Ended(trial=number) if number in trials:
                trials.remove(number)

    def height(self, most: int) -> int:
        """How many lines there will be, if there may be `most`."""
        return min(len(self._shown()), most)

    def lines(self, width: int, most: int) -> list[Text]:
        """A line a worker, cut at the terminal's edge; the last says how many found no room."""
        shown = self._shown()
        more = len(shown) > most
        rows = [self._row(worker) for worker in (shown[: most - 1] if more else shown)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        if more:
            lines.append(f"and {len(shown) - most + 1} more workers")
        return [Text(line[:width].rstrip(), style="dim") for line in lines]

    def _row(self, worker: str) -> list[str]:
        vitals = self._vitals[worker]
        memory, used = spell_vitals(vitals)
        trials = sorted(self._trials[worker])
        several = f"{len(trials)} trials: " if len(trials) > 1 else "trial "
        trained = several + ", ".join(map(str, trials)) if trials else "idle"
        return [worker, vitals.where, memory, used, trained]

    def _shown(self) -> list[str]:
        """Those that have said what they use, and are there: nobody says when one is gone."""
        now_s = self._clock()
        there = [
            worker
            for worker in self._vitals
            if self._trials[worker] or now_s - self._heard_s[worker] < _GONE_S
        ]
        return sorted(there, key=lambda worker: (len(worker), worker))
