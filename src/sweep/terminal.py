"""What a person sees while a study runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sweep.confirm.contenders import Contender
from sweep.messages import Ended, Event, Order, Report, Start, TrialSpec, Value
from sweep.metric import Metric, plain
from sweep.parameters import short_name
from sweep.results import ResultSet
from sweep.workers import Workers

_BEST_SHOWN = 5
_LONGEST = 14  # characters of a value in the table
_OTHER_LINES = 12  # of the screen, that are not running trials
_GAP = 2  # between columns
_NO_PARAMETERS = 4  # columns that are always shown
_STYLES = {"★": "bold", "▶": "green"}


class Terminal:
    """Listens to every event and order of a study; it decides nothing.

    `watch` and `say` belong to the conductor's thread. Another thread draws, so what it reads is
    under a lock; printing is not, or each thread could wait for what the other holds.
    """

    def __init__(self, console: Console, before: ResultSet, total: int) -> None:
        self._console, self._metric = console, before.metric
        self._keys = list(before.search)
        self._sign = before.sign
        self._lock = Lock()
        self._running: dict[int, TrialSpec] = {}
        self._last: dict[int, Report] = {}
        self._params = {t.number: t.params for t in before.trials}
        self._values = {t.number: t.value for t in before.complete if t.value is not None}
        self._counts: Counter[str] = Counter(t.status for t in before.trials if t.ended)
        self._confirmed = 0  # trainings of the confirmation that have ended
        self._started = False
        self._workers = Workers()
        self._note = ""
        self._progress = Progress(
            TextColumn(before.name),
            BarColumn(None),
            TextColumn("{task.fields[ended]}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            speed_estimate_period=300,
        )
        ended = self._counts.total()
        self._total = max(total, ended)
        self._bar = self._progress.add_task("", total=self._total, completed=ended, ended=ended)
        self._live = Live(console=console, get_renderable=self._view, refresh_per_second=2)

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._running.clear()
        if self._console.is_terminal:
            self._live.stop()

    def watch(self, worker: str, message: Event | Order) -> None:
        line = None
        with self._lock:
            self._workers.watch(worker, message)
            match message:
                case Start(spec=spec):
                    self._started = True
                    self._running[spec.number] = spec
                    self._params[spec.number] = spec.params
                case Report(trial=number):
                    self._last[number] = message
                case Ended():
                    line = self._end(message)
            done, ended = self._done(), self._counts.total()
        self._progress.update(self._bar, completed=done, ended=ended)
        if line:
            self.say(line)

    def confirm(self, contenders: Sequence[Contender], trainings: int) -> None:
        """From here on the confirmation is shown."""
        if trainings:
            self.say(f"confirming on fresh seeds, {trainings} trainings:")
            for contender in contenders:
                self.say(f"  {contender.arm:<8} {spell(contender.params, self._keys)}")
            self._progress.update(self._bar, total=self._total + trainings)

    def watch_confirmation(self, worker: str, message: Event | Order) -> None:
        with self._lock:
            self._workers.watch(worker, message)
            if isinstance(message, Ended) and message.status != "interrupted":
                self._confirmed += 1
                ended = self._counts.total() + self._confirmed
                self._progress.update(self._bar, completed=ended, ended=ended)
        if isinstance(message, Ended) and message.status == "failed":
            self.say(f"a training of the confirmation failed: {message.reason}")

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Shows a line without using the console, which a signal may have interrupted."""
        self._note = text
        if not self._console.is_terminal:
            os.write(sys.stderr.fileno(), f"{text}\n".encode())

    def _end(self, event: Ended) -> str | None:
        """Takes a trial off the table; returns a line to print, if it deserves one."""
        self._running.pop(event.trial, None)
        self._last.pop(event.trial, None)
        if event.status == "interrupted":
            return event.reason and f"trial {event.trial}: {event.reason}"
        self._counts[event.status] += 1
        self._params[event.trial] = {**self._params[event.trial], **event.found}
        if event.status == "complete":
            self._values[event.trial] = event.metrics[self._metric]
        if not self._console.is_terminal:
            return self._line(event)
        return f"trial {event.trial} failed: {event.reason}" if event.status == "failed" else None

    def _done(self) -> float:
        """Ended trials, and the epochs of running ones as fractions."""
        shares = [r.epoch / self._running[n].epochs for n, r in self._last.items()]
        return self._counts.total() + sum(shares)

    def _line(self, event: Ended) -> str:
        value = event.metrics.get(self._metric, math.nan)
        metric = self._scale(value)
        best = self._best_numbers()[:1]
        parts = [
            f"[{self._counts.total()}/{self._total}] trial {event.trial} {event.status}",
            "" if math.isnan(value) else f"{self._metric} {metric.show(value)}",
            spell(self._params[event.trial], self._keys),
            f"{event.seconds:.1f} s",
            *(f"best {metric.show(self._values[n])} (trial {n})" for n in best),
            event.reason or "" if event.status == "failed" else "",
        ]
        return "  ".join(part for part in parts if part)

    def _best_numbers(self) -> list[int]:
        return sorted(self._values, key=lambda n: (-self._sign * self._values[n], n))

    def _scale(self, *more: float) -> Metric:
        """How the metric is shown, going by every value so far."""
        running = [r.metrics.get(self._metric, math.nan) for r in self._last.values()]
        return Metric.of(self._metric, {*self._values.values(), *running, *more})

    # Drawing -------------------------------------------------------------------------------------

    def _view(self) -> RenderableType:
        with self._lock:
            table, hidden = self._table()
            counts = [f"{n} {status}" for status, n in sorted(self._counts.items())]
            counts += [f"{len(self._running)} running"] if self._running else []
            counts += [f"{hidden} parameters are in trials.csv"] if hidden else []
            if not self._started and self._counts.total() < self._total:
                counts.append("the workers are starting")
            return Group(
                self._progress,
                table,
                *self._workers.lines(self._console.width, self._most_workers()),
                Text(", ".join(counts), style="dim"),
                *([Text(self._note, style="yellow")] if self._note else []),
            )

    def _table(self) -> tuple[Table, int]:
        """The best trials and the running ones, and how many parameters found no room there."""
        metric = self._scale()
        rows = [*self._best_rows(metric), *self._running_rows(metric)]
        names = [short_name(key, self._keys) for key in self._keys]
        heads = ["", "trial", self._metric, "epochs", *names]
        widths = [max(map(cell_len, column)) + _GAP for column in zip(heads, *rows, strict=True)]
        fits = len(heads)
        while fits > _NO_PARAMETERS and sum(widths[:fits]) > self._console.width:
            fits -= 1
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, _GAP, 0, 0))
        for i, head in enumerate(heads[:fits]):
            table.add_column(head, justify="right" if i > 1 else "left", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row[:fits]), style=_STYLES.get(row[0]))
        return table, len(heads) - fits

    def _best_rows(self, metric: Metric) -> Iterator[list[str]]:
        for place, number in enumerate(self._best_numbers()[:_BEST_SHOWN]):
            value = metric.show(self._values[number])
            yield ["" if place else "★", str(number), value, "", *self._cells(self._params[number])]

    def _running_rows(self, metric: Metric) -> Iterator[list[str]]:
        workers = self._workers.height(self._most_workers())
        room = max(self._console.height - _OTHER_LINES - workers, 4)
        for number, spec in sorted(self._running.items())[:room]:
            report = self._last.get(number)
            value = metric.show(report.metrics.get(self._metric, math.nan)) if report else ""
            epochs = f"{report.epoch if report else 0}/{spec.epochs}"
            yield ["▶", str(number), value, epochs, *self._cells(spec.params)]

    def _most_workers(self) -> int:
        return max(self._console.height // 6, 2)

    def _cells(self, params: Mapping[str, Value]) -> list[str]:
        texts = [plain(params[key]) if key in params else "" for key in self._keys]
        return [t if len(t) <= _LONGEST else f"{t[: _LONGEST - 1]}…" for t in texts]


def show(metric: str, value: float, known: Iterable[float] = ()) -> str:
    """A metric for reading, scaled and rounded as suits it and the other `known` values of it."""
    return Metric.of(metric, [value, *known]).show(value)


def spell(params: Mapping[str, Value], search: Iterable[str] = ()) -> str:
    """`dropout 0.31  bn_momentum 0.05`: parameters by their short names, as the `search` is."""
    ordered = [key for key in dict.fromkeys([*search, *params]) if key in params]
    return "  ".join(f"{short_name(key, params)} {plain(params[key])}" for key in ordered)


def minutes(seconds: float) -> str:
    """`01:15`, from an hour on `27:46:40`."""
    rest, last = divmod(int(seconds), 60)
    hours, rest = divmod(rest, 60)
    return f"{hours:02}:{rest:02}:{last:02}" if hours else f"{rest:02}:{last:02}"
