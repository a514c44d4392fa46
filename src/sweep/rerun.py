"""`rerun`: one recorded trial again, alone, held against its record."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from sweep.config import TRIAL_SECTIONS
from sweep.errors import ConfigError, Problem, StudyError
from sweep.messages import Ended, Event, Order, Report, TrialSpec
from sweep.profile import momenta, profiled, scored_epochs
from sweep.results import ResultSet, TrialRow
from sweep.roster import Roster
from sweep.schema import PrunerSettings
from sweep.space import parse_dimension, write_params
from sweep.terminal import show, spell


def rerun(results: ResultSet, number: str, console: Console) -> int:
    """Trains the trial as it was trained and shows both; 1 if they differ.

    Errors: ConfigError for a number that is none of the study's; StudyError if it never ended, or
    fails now.
    """
    row = _find(results, number)
    console.print(f"trial {row.number} of study {results.name}: {spell(row.params)}")
    reports, ended = _train(results, row)
    if ended.status == "failed" and row.status != "failed":
        raise StudyError(f"trial {row.number}: fails now: {ended.reason}")
    again = {report.epoch: report.metrics[results.metric] for report in reports}
    console.print(_table(results.metric, row, again))
    return _verdict(results, row, again, ended, console)


def _find(results: ResultSet, number: str) -> TrialRow:
    rows = {str(row.number): row for row in results.trials}
    if number not in rows:
        what = f"expected a trial's number from 0 to {len(rows) - 1}, got {number}"
        raise ConfigError([Problem("rerun", what, f"type for example rerun {results.name} 0")])
    if not rows[number].ended:
        raise StudyError(f"trial {number}: it has not ended yet; run the study first")
    return rows[number]


def make_spec(results: ResultSet, row: TrialRow) -> TrialSpec:
    """The trial as the search started it."""
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
    return replace(spec, momenta=momenta(free), momentum_key=free.key, scored=scored)


def _train(results: ResultSet, row: TrialRow) -> tuple[list[Report], Ended]:
    from sweep.worker import work  # torch is loaded only where training happens

    reports: list[Report] = []
    ends: list[Ended] = []

    def watch(worker: str, message: Event | Order) -> None:
        if isinstance(message, Report):
            reports.append(message)

    stop_after = max(row.curve, default=None) if row.status == "pruned" else None
    spec = make_spec(results, row)
    roster = Roster([spec], watch, lambda _, ended: ends.append(ended), 0, stop_after)
    work("rerun", roster.exchange, results.metric, results.direction, 1, row.arithmetic)
    return reports, ends[0]


def _table(metric: str, row: TrialRow, again: dict[int, float]) -> Table:
    table = Table("epoch", "recorded", "again", title=metric, title_justify="left", box=None)
    for epoch in sorted({*row.curve, *again}):
        values = (row.curve.get(epoch), again.get(epoch))
        table.add_row(str(epoch), *("" if v is None else show(metric, v) for v in values))
    return table


def _verdict(
    results: ResultSet, row: TrialRow, again: dict[int, float], ended: Ended, console: Console
) -> int:
    both = row.curve.keys() & again.keys()
    most = max((abs(row.curve[epoch] - again[epoch]) for epoch in both), default=0.0)
    if again == dict(row.curve) and dict(ended.metrics) == dict(row.metrics):
        console.print("the same in every digit of every metric")
        return 0
    console.print(f"not the same: {results.metric} differs by at most {most:.3g} in an epoch")
    return 1
