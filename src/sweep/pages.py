"""What a person opens of a recorded study: its report, and the report's figures in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from sweep import report  # which loads its drawing library when it is asked to draw
from sweep.dashboards import show_figures
from sweep.errors import StudyError
from sweep.results import ResultSet


def load_ahead() -> None:
    """Loads what a report is drawn with, some seconds of work, while others train."""
    Thread(target=getattr, args=(report, "build_report"), daemon=True).start()


def renew_report(results: ResultSet) -> Path:
    """Builds a study's report, and shows its figures in TensorBoard; returns the page's path.

    Errors: StudyError if they cannot be written.
    """
    try:
        page = report.build_report(results)
        figures = sorted((page.parent / "figures").glob("*.png"))
        show_figures(results.folder / "tensorboard" / "study", figures)
    except OSError as error:
        where = results.folder / "report"
        raise StudyError(
            f"{where}: cannot be written: {error.strerror}; every trial is recorded: make room, "
            f"and type python -m sweep report {results.folder}"
        ) from None
    return page
