"""The scribe: writes down what the conductor decides, once the workers have their orders.

The order makes a crash harmless wherever it comes: TensorBoard and the checkpoint first, then the
record, then the crown. What the record lacks runs again, and is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution

from sweep.database import DATABASE_ERRORS, cause_of
from sweep.errors import StudyError
from sweep.messages import Ended, Report, Vitals
from sweep.record import Record
from sweep.results import TrialRow
from sweep.running import by_metric
from sweep.saves import Save
from sweep.store import STATES
from sweep.tensorboard import Board
from sweep.usage import together

_TABLE_EVERY_S = 2.0
_USAGE_EVERY_S = 10.0


class Scribe:
    """Collects what is to be written; `flush` writes it. `clock` counts seconds and never jumps."""

    def __init__(
        self,
        record: Record,
        board: Board,
        distributions: Mapping[str, BaseDistribution],
        clock: Callable[[], float],
    ) -> None:
        self._record, self._board, self._distributions = record, board, distributions
        self._clock, self._table_due_s = clock, clock()
        self._rows = {row.number: row for row in record.results().trials}
        self._histories: dict[int, Mapping[int, Mapping[str, float]]] = {}  # theirs, not copies
        self._writes: list[Callable[[], None]] = []
        self._crown: tuple[int, bytes] | None = None  # the trial whose checkpoint becomes best.ckpt
        self._over: list[int] = []  # trials that have ended: what was saved of them can go
        self._to_record = False  # whether anything of that goes into study.db
        self._broken = False
        self._vitals: dict[str, Vitals] = {}  # the last of each worker
        self._usage_due_s = clock()

    def start(
        self, row: TrialRow, notes: Mapping[str, Any], history: Mapping[int, Mapping[str, float]]
    ) -> None:
        """A trial starts, or starts again, perhaps after some epochs.

        `notes` are what sampler and pruner keep in it. `history` goes on growing while it runs.
        """
        self._rows[row.number], self._histories[row.number] = row, history
        self._writes.append(partial(self._board.start, row.number))
        for epoch, metrics in history.items():
            self.report(Report(row.number, epoch, metrics))
        self._writes.append(partial(self._record.store.begin, row, self._distributions, notes))
        self._to_record = True

    def report(self, event: Report) -> None:
        self._writes.append(partial(self._board.report, event.trial, event.epoch, event.metrics))

    def save(self, number: int, save: Save) -> None:
        """A trial as it is after an epoch, so that it can go on from there."""
        self._writes.append(partial(self._record.saves.write, number, save))

    def end(self, row: TrialRow, event: Ended, notes: Mapping[str, Any]) -> None:
        """A trial has ended, and its row is final."""
        self._rows[row.number] = row
        del self._histories[row.number]
        self._writes.append(partial(self._write_end, row, event, notes))
        self._to_record = True
        self._over.append(row.number)

    def best(self, number: int, checkpoint: bytes) -> None:
        """This trial, which ends now, is the best so far."""
        self._crown = (number, checkpoint)

    def progress(self, ended: int, best: float | None) -> None:
        self._writes.append(partial(self._board.study, ended, best))

    def vitals(self, worker: str, vitals: Vitals, ended: int) -> None:
        """What a worker uses; now and then what all of them use is drawn."""
        self._vitals[worker] = vitals
        if self._clock() >= self._usage_due_s:
            self._usage_due_s = self._clock() + _USAGE_EVERY_S
            self._writes.append(partial(self._board.usage, ended, together(self._vitals.values())))

    def forget(self, worker: str) -> None:
        """It is gone, and uses nothing."""
        self._vitals.pop(worker, None)

    def set_aside(self, number: int) -> None:
        self._rows[number] = replace(self._rows[number], status="waiting")
        self._writes.append(partial(self._record.store.set_aside, number))
        self._to_record = True

    def flush(self, last: bool = False) -> None:
        """Writes what has come since the last time; the `last` time trials.csv as well.

        Errors: StudyError, once, if it cannot; the record then stays as it was before, so what is
        missing runs again, and nothing more is written.
        """
        if self._broken or not (self._writes or last):
            return
        try:
            self._write_all()
            if last or self._clock() >= self._table_due_s:
                self._record.write_table(self._so_far(number) for number in sorted(self._rows))
                self._table_due_s = self._clock() + _TABLE_EVERY_S
        except StudyError:
            self._broken = True
            raise
        except (OSError, *DATABASE_ERRORS) as error:
            self._broken = True
            raise StudyError(
                f"{self._record.folder}: cannot be written: {cause_of(error)}; what had ended is "
                "recorded: make room, and type the same command again"
            ) from error

    def _so_far(self, number: int) -> TrialRow:
        """A trial's row, with the epochs of one that has not ended."""
        row, history = self._rows[number], self._histories.get(number)
        return row if history is None else replace(row, history=by_metric(history))

    def _write_all(self) -> None:
        writes, self._writes = self._writes, []
        if self._crown is not None:
            self._record.lay_checkpoint(*self._crown)
        with self._record.store.together() if self._to_record else nullcontext():
            for write in writes:
                write()
        self._to_record = False
        if self._crown is not None:
            self._record.crown_checkpoint(self._crown[0])
            self._crown = None
        while self._over:
            self._record.saves.remove(self._over.pop())

    def _write_end(self, row: TrialRow, event: Ended, notes: Mapping[str, Any]) -> None:
        assert event.status != "interrupted" and row.started and row.finished
        started_s, finished_s = row.started.timestamp(), row.finished.timestamp()
        self._board.end(row.number, row.params, event.status, event.metrics, started_s, finished_s)
        self._record.store.finish(row, STATES[event.status], self._distributions, notes)
