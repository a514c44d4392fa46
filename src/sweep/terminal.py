"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sweep.messages import Ended, Event, Order, Report, Start, Stop, TrialSpec, Value
from sweep.results import ResultSet

_BEST_SHOWN = 5


class Terminal:
    """Listens to every event and order of a study; it decides nothing."""

    def __init__(self, console: Console, before: ResultSet, total: int) -> None:
        self._console, self._metric, self._total = console, before.metric, total
        self._sign = -1.0 if before.direction == "maximize" else 1.0
        self._running: dict[int, tuple[str, TrialSpec]] = {}
        self._last: dict[int, Report] = {}
        self._params = {t.number: t.params for t in before.trials}
        self._values = {t.number: t.value for t in before.complete if t.value is not None}
        ended = [t.status for t in before.trials if t.ended]
        self._counts: Counter[str] = Counter(ended)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True),
        )  # fmt: skip
        self._bar = self._progress.add_task("trials", total=total, completed=len(ended))
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=2)

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def watch(self, worker: str, message: Event | Order) -> None:
        match message:
            case Start(spec=spec):
                self._running[spec.number] = (worker, spec)
                self._params[spec.number] = spec.params
            case Report(trial=number):
                self._last[number] = message
            case Ended():
                self._end(message)
            case Stop() | _:
                pass

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def _end(self, event: Ended) -> None:
        self._running.pop(event.trial, None)
        self._last.pop(event.trial, None)
        if event.status == "interrupted":
            return
        self._counts[event.status] += 1
        self._progress.update(self._bar, completed=self._counts.total())
        if event.status == "complete":
            self._values[event.trial] = event.metrics[self._metric]
        if not self._console.is_terminal:
            self._console.print(self._line(event), highlight=False, soft_wrap=True)

    def _line(self, event: Ended) -> str:
        value = event.metrics.get(self._metric, math.nan)
        reason = f"  {event.reason}" if event.status == "failed" else ""
        best = self._best_numbers()[:1]
        leader = f"best {show(self._metric, self._values[best[0]])} (trial {best[0]})" if best else ""
        return (
            f"[{self._counts.total()}/{self._total}] trial {event.trial} {event.status}  "
            f"{self._metric} {show(self._metric, value)}  {spell(self._params[event.trial])}  "
            f"{event.seconds:.1f} s{reason}  {leader}"
        )

    def _best_numbers(self) -> list[int]:
        return sorted(self._values, key=lambda n: (self._sign * self._values[n], n))

    def _view(self) -> Group:
        return Group(self._progress, self._table())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("", "trial", self._metric, "epoch", "parameters", "worker"):
            table.add_column(title, justify="right" if title in (self._metric, "epoch") else "left")
        for place, number in enumerate(self._best_numbers()[:_BEST_SHOWN]):
            star = "[yellow]★[/]" if place == 0 else " "
            value = show(self._metric, self._values[number])
            table.add_row(star, str(number), value, "", spell(self._params[number]), "")
        for number, (worker, spec) in sorted(self._running.items()):
            report = self._last.get(number)
            value = show(self._metric, report.metrics.get(self._metric, math.nan)) if report else ""
            epochs = f"{report.epoch if report else 0}/{spec.config['trainer']['max_epochs']}"
            table.add_row("[green]▶[/]", str(number), value, epochs, spell(spec.params), worker)
        counts = ", ".join(f"{n} {status}" for status, n in self._counts.items())
        table.caption = counts or None
        return table


def show(metric: str, value: float) -> str:
    """A metric for reading: accuracies in percent, others with four significant digits."""
    if "accuracy" in metric:
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def spell(params: Mapping[str, Value]) -> str:
    """`dropout 0.31  bn_momentum 0.05`: parameters by the last part of their keys."""
    return "  ".join(
        f"{key.rpartition('.')[2]} {value:.3g}" if isinstance(value, float) else
        f"{key.rpartition('.')[2]} {value}"
        for key, value in params.items()
    )  # fmt: skip


def minutes(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))
