"""TensorBoard of a study: a run a trial with its curves and its row in HPARAMS, and a `study` run.

HPARAMS shows the *first* row and the *last* scalars it reads of a run, so a trial that runs again
must inherit neither: `Board.start` erases what an earlier attempt wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary

from sweep import hparams
from sweep.confirm.contenders import code_of
from sweep.dashboards import charts
from sweep.event_files import (
    append_summary,
    empty_event_files,
    new_event_file,
    scalars,
    write_summary,
)
from sweep.messages import Value
from sweep.results import DIFFERENCES, ConfirmRow
from sweep.space import Dimension

log = logging.getLogger(__name__)


class Board:
    """The TensorBoard files of one study; nothing stays open between calls.

    A file that cannot be written never fails a trial: the first such error is logged, and the study
    goes on. Call `end` *before* recording that the trial ended: after a crash between the two it
    runs again, while the other way round the table would never get its row.
    """

    def __init__(self, folder: Path, search: Mapping[str, Dimension], metric: str) -> None:
        self._folder = folder
        self._search = search
        self._metric = metric
        self._files: dict[str, Path] = {}  # run -> where this process writes it
        self._epochs: dict[int, int] = {}  # running trial -> its last epoch
        self._warned = False
        table = folder / "study" / "events.out.tfevents.0.hparams"
        with self._or_warn():
            if not table.exists():  # a resumed study has it
                columns = hparams.columns(search, metric)
                columns.MergeFrom(charts(metric))
                write_summary(table, columns)

    def start(self, number: int) -> None:
        """The trial trains from its first epoch: erase what an earlier attempt wrote."""
        self._forget(number)
        with self._or_warn():
            empty_event_files(self._folder / _run(number))

    def report(self, number: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Draw one validated epoch."""
        self._epochs[number] = epoch
        self._append(_run(number), epoch, scalars(metrics))

    def end(
        self,
        number: int,
        params: Mapping[str, Value],
        status: hparams.Outcome,
        metrics: Mapping[str, float],
        started_s: float,
        finished_s: float,
    ) -> None:
        """Write the trial's row, with whatever metrics it has; times are Unix time."""
        run = _run(number)
        row = hparams.row(self._search, run, params, status, started_s, finished_s, metrics)
        self._append(run, self._epochs.get(number, 0), row)
        self._forget(number)

    def confirmed(self, row: ConfirmRow) -> None:
        """Write a training of the confirmation; the table shows those of one setting as one row."""
        code = code_of(row.params)
        run, group = f"confirm_{code}_{row.seed}", f"confirm {code}"
        with self._or_warn():
            empty_event_files(self._folder / run)
        metrics = {k: v for k, v in row.metrics.items() if not k.startswith("test_")}
        started_s, finished_s = (
            at.timestamp() if at is not None else 0.0 for at in (row.started, row.finished)
        )
        entry = hparams.row(
            self._search, group, row.params, "confirmed", started_s, finished_s, metrics
        )
        entry.MergeFrom(scalars(self._overall(row.diagnostics)))
        self._append(run, 0, entry)

    def _overall(self, diagnostics: Mapping[str, float]) -> dict[str, float]:
        """What is not of a layer, nor of a minor metric: more tags would bury the rest."""
        shown = {f"{what}/{of}" for what in DIFFERENCES for of in (self._metric, "val_nll")}
        return {
            f"diagnostics/{name}": value
            for name, value in diagnostics.items()
            if "/" not in name or name in shown
        }

    def study(self, finished: int, best: float | None) -> None:
        """Draw the study's best value after `finished` trials; None while no trial has one."""
        if best is not None:
            self._append("study", finished, scalars({f"best/{self._metric}": best}))

    def usage(self, finished: int, values: Mapping[str, float]) -> None:
        """Draw what the workers use together, after `finished` trials."""
        self._append("study", finished, scalars(values))

    def _forget(self, number: int) -> None:
        self._files.pop(_run(number), None)
        self._epochs.pop(number, None)

    def _append(self, run: str, step: int, summary: Summary) -> None:
        # Taken out until it is written: after a torn write the run goes on in a new file.
        file = self._files.pop(run, None) or new_event_file(self._folder / run)
        with self._or_warn():
            append_summary(file, step, summary)
            self._files[run] = file

    @contextmanager
    def _or_warn(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            if not self._warned:
                log.warning(
                    "TensorBoard files under %s cannot be written (%s): the study goes on and "
                    "records its trials, but TensorBoard will not show all of them.",
                    self._folder,
                    problem,
                )
            self._warned = True


def _run(number: int) -> str:
    return f"trial_{number:04d}"
