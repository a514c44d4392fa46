"""The main job: search what remains of a study, then report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType

from rich.console import Console

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.errors import StudyError
from sweep.executors import EXECUTORS
from sweep.record import Record
from sweep.report import build_report
from sweep.show import show_end
from sweep.terminal import Terminal

INTERRUPTED, TERMINATED = 130, 143


def run_study(plan: Plan, console: Console) -> int:
    """Runs what is left and returns the exit code. Errors: ConfigError, StudyError."""
    start = time.monotonic()
    with closing(Record(plan)) as record:
        code = _search(plan, record, console)
        if code == 0:
            record.write_table()
            report = build_report(record.results())
            show_end(record.results(), report, time.monotonic() - start, console)
    if code:
        console.print(f"stopped; the same command goes on with study {plan.study.name}")
    return code


def _search(plan: Plan, record: Record, console: Console) -> int:
    before = record.results()
    conductor: Conductor
    with Terminal(console, before, plan.study.trials) as terminal:
        conductor = Conductor(plan, record, terminal.watch)
        if conductor.ended >= conductor.total:
            terminal.say(f"study {plan.study.name} is finished: nothing to train")
            return 0
        with closing(conductor), _signals(conductor, terminal) as codes:
            EXECUTORS[plan.executor.name](conductor, plan)
    if conductor.failure:
        raise StudyError(f"{conductor.failure}; see {plan.folder / 'logs'}")
    return codes[-1] if codes else 0


@contextmanager
def _signals(conductor: Conductor, terminal: Terminal) -> Iterator[list[int]]:
    """Ctrl-C once: finish the running epochs; twice: now. TERM: now. Yields the exit codes earned."""
    codes: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if codes:
            conductor.halt()
            signal.signal(signal.SIGINT, signal.default_int_handler)
        else:
            terminal.say("Ctrl-C: stopping after the running epochs; once more to stop now")
            conductor.drain()
        codes.append(INTERRUPTED)

    def terminate(number: int, frame: FrameType | None) -> None:
        conductor.halt()
        codes.append(TERMINATED)

    before = signal.signal(signal.SIGINT, interrupt), signal.signal(signal.SIGTERM, terminate)
    try:
        yield codes
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


