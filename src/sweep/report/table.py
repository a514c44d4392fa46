"""The trials of a study as a table: shown text, each cell with the recorded value behind it.

Best first, then those without a result; metrics that no trial recorded get no column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sweep.messages import Value
from sweep.metric import MISSING, Metric, duration, plain
from sweep.parameters import Parameter
from sweep.report.reading import Reading
from sweep.results import TrialRow

_ORDER = {"complete": 0, "pruned": 1, "failed": 2, "running": 3, "waiting": 4}


class Cell(NamedTuple):
    """One cell: the text to show, and the recorded value that it was rounded from, if any."""

    text: str
    value: Value = None


class Column(NamedTuple):
    """One column: its head, how it looks (number, text, status or note), and a trial's cell."""

    head: str
    kind: str
    cell: Callable[[TrialRow], Cell]


def best_first(reading: Reading) -> list[TrialRow]:
    """Complete trials from best to worst, then pruned, failed and unfinished ones by number."""
    ranks = {trial.number: rank for rank, trial in enumerate(reading.complete)}
    last = len(ranks)
    return sorted(
        reading.study.trials, key=lambda t: (ranks.get(t.number, last), _ORDER[t.status], t.number)
    )


def columns(reading: Reading) -> list[Column]:
    """Every column of the study's table, the study's metric before all other figures."""
    others: dict[str, list[float]] = {}
    for trial in reading.study.trials:
        for name, value in trial.metrics.items():
            if name != reading.metric.name:
                others.setdefault(name, []).append(value)
    note = Column("note", "note", lambda t: Cell(t.reason or ""))
    return [
        Column("trial", "number", lambda t: Cell(str(t.number), t.number)),
        Column("status", "status", lambda t: Cell(t.status)),
        _metric(reading.metric, lambda t: t.value if t.status == "complete" else None),
        *(_parameter(p) for p in reading.parameters),
        *(_recorded(Metric.of(name, values)) for name, values in others.items()),
        Column("epochs", "number", lambda t: Cell(str(t.epochs), t.epochs)),
        Column("time", "number", lambda t: Cell(duration(t.seconds), t.seconds)),
        *([note] if any(t.reason for t in reading.study.trials) else []),
    ]


def _metric(metric: Metric, value: Callable[[TrialRow], float | None]) -> Column:
    return Column(metric.axis, "number", lambda t: Cell(metric.number(v := value(t)), v))


def _recorded(metric: Metric) -> Column:
    return _metric(metric, lambda t: t.metrics.get(metric.name))


def _parameter(parameter: Parameter) -> Column:
    def cell(trial: TrialRow) -> Cell:
        if parameter.key not in trial.params:
            return Cell(MISSING)
        value = trial.params[parameter.key]
        if not parameter.numeric:
            return Cell(plain(value))
        return Cell(parameter.aligned(value), value)

    return Column(parameter.name, "number" if parameter.numeric else "text", cell)
