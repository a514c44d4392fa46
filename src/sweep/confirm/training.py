"""Training the confirmation: after the search, by the same workers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.confirm.checkpoints import (
    forget_recommended,
    keep_checkpoint,
    recommended_path,
    settle_checkpoints,
)
from sweep.confirm.contenders import choose_contenders, is_done, make_specs, renamed
from sweep.confirm.rows import append_row, read_rows, replace_rows
from sweep.errors import StudyError
from sweep.messages import Ended, Event, Order, Quit, Ready, Start, TrialSpec, Watch
from sweep.record import Record
from sweep.results import ConfirmRow, MomentumCurve
from sweep.roster import Roster
from sweep.tensorboard import Board


class Confirmation:
    """What is left to confirm of a study that has been searched. Every row is written at once.

    Errors: StudyError if the rows cannot be written. Later that stops the roster, as its failure.
    """

    def __init__(self, plan: Plan, record: Record, watch: Watch) -> None:
        self._record, self._watch = record, watch
        self._begun: dict[int, tuple[str, dt.datetime]] = {}  # worker and start, by number
        search = {d.key: d for d in plan.search}
        self._board = Board(record.folder / "tensorboard", search, plan.study.metric)
        self.contenders = choose_contenders(plan, record.results().trials)
        self._specs = make_specs(plan, self.contenders)
        rows = renamed(read_rows(record.folder), self.contenders)
        left = [spec for _, spec in self._specs.values() if not is_done(spec, rows)]
        with _written(record.folder):
            replace_rows(record.folder, rows)
            if left:
                forget_recommended(record.folder)
        self.roster = Roster(left, self._watched, self._ended, plan.study.retries)

    def close(self) -> None:
        """Errors: StudyError if the recommended checkpoint cannot be written."""
        if self.roster.failure or self.roster.ended < self.roster.total:
            return
        with _written(recommended_path(self._record.folder)):
            settle_checkpoints(self._record.results())

    def _watched(self, worker: str, message: Event | Order) -> None:
        if isinstance(message, Start):
            self._begun[message.spec.number] = (worker, dt.datetime.now())
        self._watch(worker, message)

    def _ended(self, spec: TrialSpec, event: Ended) -> None:
        contender, _ = self._specs[spec.number]
        if event.status != "complete" or self.roster.failure:
            return
        worker, started = self._begun[spec.number]
        row = ConfirmRow(
            contender.arm,
            contender.trial,
            spec.params,
            spec.seed,
            event.metrics,
            MomentumCurve.of(spec.columns, event.bank, event.precise),
            event.diagnostics,
            worker,
            started,
            dt.datetime.now(),
        )
        try:
            with _written(self._record.folder):
                if event.checkpoint is not None:
                    keep_checkpoint(self._record.folder, row, event.checkpoint)
                append_row(self._record.folder, row)
        except StudyError as error:  # raised here, it would look like a worker's end
            self.roster.failure = str(error)
            self.roster.halt()
        else:
            self._board.confirmed(row)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """What cannot be written inside is a StudyError that names `path`."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be written: {error.strerror}; what had ended is recorded: make room, "
            "and type the same command again"
        ) from error


class Study:
    """The search and then its confirmation, as one conductor to executors.

    Workers that the search lets go train on for the confirmation, so they start once.
    """

    def __init__(
        self, search: Conductor, confirmation: Callable[[], Confirmation], planned: int
    ) -> None:
        self._search, self._make, self._planned = search, confirmation, planned
        self.confirmation: Confirmation | None = None
        if planned and search.ended >= search.total:
            self._begin()

    def _begin(self) -> None:
        self._search.flush()  # the arms are chosen from the record
        if self._search.failure is None:
            self.confirmation = self._make()

    @property
    def _now(self) -> Conductor | Roster:
        return self._search if self.confirmation is None else self.confirmation.roster

    @property
    def total(self) -> int:
        """How many trainings there are in all; before the confirmation begins, at most."""
        rest = self._planned if self.confirmation is None else self.confirmation.roster.total
        return self._search.total + rest

    @property
    def ended(self) -> int:
        done = 0 if self.confirmation is None else self.confirmation.roster.ended
        return self._search.ended + done

    @property
    def draining(self) -> bool:
        return self._now.draining

    @property
    def halted(self) -> bool:
        return self._search.halted or self._now.halted

    @property
    def failure(self) -> str | None:
        return self._search.failure or self._now.failure

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        """As a conductor's. The first worker that the search lets go begins the confirmation."""
        orders = self._now.exchange(worker, events)
        over = any(isinstance(order, Quit) for order in orders)
        searching = self.confirmation is None and self._planned > 0
        if not (over and searching) or self._search.draining:
            return orders
        try:
            self._begin()
        except StudyError as error:
            self._search.failure = str(error)
            self._search.halt()
        return self._now.exchange(worker, [e for e in events if isinstance(e, Ready)])

    def lost(self, worker: str, reason: str) -> None:
        self._now.lost(worker, reason)

    def overdue(self, worker: str) -> str | None:
        return self._now.overdue(worker)

    def flush(self) -> None:
        self._search.flush()

    def drain(self) -> None:
        self._now.drain()

    def halt(self) -> None:
        self._now.halt()

    def close(self) -> None:
        self._search.close()
        if self.confirmation is not None:
            self.confirmation.close()
