"""The main job: search what remains of a study, then report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.confirm.training import Confirmation, Study
from sweep.data_check import fetch_data
from sweep.errors import StudyError
from sweep.examination import check_metric_is_logged
from sweep.executors import EXECUTORS
from sweep.executors.places import check_places
from sweep.experiment import planned
from sweep.pages import load_ahead, renew_report
from sweep.record import Record
from sweep.results import ResultSet
from sweep.show import show_end
from sweep.terminal import Terminal

INTERRUPTED, TERMINATED = 130, 143


def run_study(plan: Plan, console: Console, command: str = "") -> int:
    """Runs what is left and returns the exit code; `command` is what was typed.

    Errors: ConfigError before anything runs; StudyError later, and what had ended is recorded.
    """
    start = time.monotonic()
    check_places(plan)
    fetch_data(plan, console)
    if not (plan.folder / "study.db").is_file():
        check_metric_is_logged(plan)
    with closing(Record(plan, command)) as record:
        code = _train(plan, record, console)
        if code:
            console.print(f"stopped; the same command goes on with study {plan.study.name}")
        else:
            results = record.results()
            show_end(results, _report(results), time.monotonic() - start, console)
    return code


def _train(plan: Plan, record: Record, console: Console) -> int:
    """The search, then the confirmation: what is left of them."""
    terminal = Terminal(console, record.results(), planned(plan))

    def confirm() -> Confirmation:
        load_ahead()
        confirmation = Confirmation(plan, record, terminal.watch_confirmation)
        terminal.confirm(confirmation.contenders, confirmation.roster.total)
        return confirmation

    search = Conductor(plan, record, terminal.watch)
    study = Study(search, confirm, plan.confirm.seeds * (plan.confirm.top + 1))
    with terminal, _signals(study, terminal) as codes, closing(study):
        if study.ended >= study.total:
            _check_hope(record.results())
            terminal.say(f"study {plan.study.name} is finished: nothing to train")
        else:
            for change in record.describe():
                terminal.say(f"trials recorded so far ran with another version: {change}")
            EXECUTORS[plan.executor.name](study, plan)
        if search.is_out_of_time and search.ended < search.total and not codes:
            over = f"study.timeout_s, {plan.study.timeout_s:g} s, is over"
            ended = f"{search.ended} of {search.total} trials have ended"
            terminal.say(f"{over}: {ended}; the same command goes on")
    if study.failure:
        raise StudyError(study.failure)
    return codes[-1] if codes else 0


def _check_hope(results: ResultSet) -> None:
    """Errors: StudyError if all trials of a finished study have failed."""
    reasons = [trial.reason for trial in results.trials if trial.status == "failed"]
    if reasons and len(reasons) == len(results.trials):
        raise StudyError(
            f"all {len(reasons)} trials failed, the last with: {reasons[-1]}; a higher "
            "study.trials trains more, another study.name other settings"
        )


def _report(results: ResultSet) -> Path:
    """The report's page, built unless it is newer than every training."""
    page = results.folder / "report" / "index.html"
    ends = [row.finished for row in results.trials] + [row.finished for row in results.confirm]
    last = max((end.timestamp() for end in ends if end), default=0.0)
    if page.exists() and page.stat().st_mtime >= last:
        return page
    return renew_report(results)


@contextmanager
def _signals(study: Study, terminal: Terminal) -> Iterator[list[int]]:
    """Ctrl-C once: after the running epochs; twice, or TERM: now. Yields the exit codes earned."""
    codes: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if codes:
            study.halt()
        else:
            terminal.note("Ctrl-C: stopping after the running epochs; once more to stop now")
            study.drain()
        codes.append(INTERRUPTED)

    def terminate(number: int, frame: FrameType | None) -> None:
        study.halt()
        codes.append(TERMINATED)

    before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGTERM, terminate)
    try:
        yield codes
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
