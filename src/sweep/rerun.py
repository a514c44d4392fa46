"""`rerun`: one recorded trial again, alone, held against its record."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from rich.console import Console
from rich.table import Table

from sweep.config import TRIAL_SECTIONS
from sweep.errors import ConfigError, Problem, StudyError
from sweep.messages import Ended, Event, Order, Report, TrialSpec
from sweep.profile import momenta, profiled, scored_epochs
from sweep.results import ResultSet, TrialRow
from sweep.roster import Roster
from sweep.run import INTERRUPTED
from sweep.schema import PrunerSettings
from sweep.space import parse_dimension, write_params
from sweep.terminal import show, spell


def rerun(results: ResultSet, number: str, console: Console) -> int:
    """Trains the trial as it was trained and shows both; 1 if they differ, 130 after Ctrl-C.

    Errors: ConfigError for a number that is none of the study's; StudyError if it never ended, or
    fails now.
    """
    row = _find(results, number)
    console.print(
        f"trial {row.number} of study {results.name}: {spell(row.params, results.search)}"
    )
    spec = make_spec(results, row)
    reports, ended = _train(results, row, spec, console)
    if ended is None:
        console.print("stopped; the same command trains it from its first epoch")
        return INTERRUPTED
    if ended.status == "failed" and row.status != "failed":
        raise StudyError(f"trial {row.number}: fails now: {ended.reason}")
    again = {report.epoch: report.metrics[results.metric] for report in reports}
    console.print(_table(results.metric, row, again))
    return _verdict(results, row, spec, again, ended, console)


def _find(results: ResultSet, number: str) -> TrialRow:
    rows = {str(row.number): row for row in results.trials}
    if number not in rows:
        what = f"expected a trial's number from 0 to {len(rows) - 1}, got {number}"
        raise ConfigError([Problem("rerun", what, f"type for example rerun {results.name} 0")])
    if not rows[number].ended:
        raise StudyError(f"trial {number}: it has not ended yet; run the study first")
    return rows[number]


def make_spec(results: ResultSet, row: TrialRow) -> TrialSpec:
    """The trial as the search started it.

    Its last epoch is scored in any case. Where it was scored before is not recorded, and the pruner
    that decided on it may have been another than the present one.
    """
    config = results.config
    trial = {section: config.get(section) or {} for section in TRIAL_SECTIONS}
    dimensions = {key: parse_dimension(key, text) for key, text in results.search.items()}
    free = profiled(list(dimensions.values()), trial, results.metric)
    params = {k: v for k, v in row.params.items() if free is None or k != free.key}
    settings = {key: dimensions[key].setting(value) for key, value in params.items()}
    spec = TrialSpec(row.number, row.seed, params, write_params(trial, settings))
    if free is None:
        return spec
    budget, last = (int(c["trainer"]["max_epochs"]) for c in (trial, spec.config))
    scored = scored_epochs(PrunerSettings(**config["pruner"]), budget, last)
    if (stop := _stop(row)) is not None:
        scored = (*(epoch for epoch in scored if epoch < stop), stop)
    return replace(spec, momenta=momenta(free), momentum_key=free.key, scored=scored)


def _stop(row: TrialRow) -> int | None:
    """The epoch after which the trial was pruned, if it was."""
    return max(row.curve, default=None) if row.status == "pruned" else None


def _train(
    results: ResultSet, row: TrialRow, spec: TrialSpec, console: Console
) -> tuple[list[Report], Ended | None]:
    """What the trial reports, and how it ends; None if it was interrupted."""
    from sweep.worker import work  # torch is loaded only where training happens

    reports: list[Report] = []
    ends: list[Ended] = []

    def watch(worker: str, message: Event | Order) -> None:
        if isinstance(message, Report):
            reports.append(message)

    roster = Roster([spec], watch, lambda _, ended: ends.append(ended), 0, _stop(row))
    with _interruptible(roster, console):
        work("rerun", roster.exchange, results.metric, results.direction, 1, row.arithmetic)
    return reports, ends[0] if ends else None


@contextmanager
def _interruptible(roster: Roster, console: Console) -> Iterator[None]:
    """Ctrl-C once: after the running epoch; twice: now. Lightning would exit without a word."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if roster.draining:
            raise SystemExit(INTERRUPTED)
        console.print("Ctrl-C: stopping after the running epoch; once more to stop now")
        roster.drain()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _table(metric: str, row: TrialRow, again: dict[int, float]) -> Table:
    table = Table("epoch", "recorded", "again", title=metric, title_justify="left", box=None)
    for epoch in sorted({*row.curve, *again}):
        values = (row.curve.get(epoch), again.get(epoch))
        table.add_row(str(epoch), *("" if v is None else show(metric, v) for v in values))
    return table


def _verdict(
    results: ResultSet,
    row: TrialRow,
    spec: TrialSpec,
    again: dict[int, float],
    ended: Ended,
    console: Console,
) -> int:
    if row.status == "failed":
        return _failures(row, ended, console)
    both = sorted(row.curve.keys() & again.keys())
    differ = [epoch for epoch in both if row.curve[epoch] != again[epoch]]
    # Before the last one, one value may be of the best momentum and the other of the trial's own.
    excused = [epoch for epoch in differ if spec.momenta and epoch < spec.scored[-1]]
    alike = row.curve.keys() == again.keys() and differ == excused
    if alike and dict(ended.metrics) == dict(row.metrics):
        console.print("the same in every digit of every metric")
        if excused:
            epochs = ", ".join(map(str, excused))
            console.print(f"(but for the momentum of epoch {epochs}: the pruner has changed)")
        return 0
    most = max((abs(row.curve[epoch] - again[epoch]) for epoch in both), default=0.0)
    console.print(f"not the same: {results.metric} differs by at most {most:.3g} in an epoch")
    return 1


def _failures(row: TrialRow, ended: Ended, console: Console) -> int:
    """Of a trial that has failed there is nothing to compare but how."""
    console.print(f"failed then: {row.reason}")
    console.print(f"now: {ended.status}{f', {ended.reason}' if ended.reason else ''}")
    return 0 if ended.status == "failed" and ended.reason == row.reason else 1
