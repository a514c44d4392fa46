"""Building a study's report folder: `report/index.html`, `report/REPORT.md` and its figures.

Every file is written aside and renamed, so a reader never meets half a report.
"""

from __future__ import annotations

from pathlib import Path

from sweep.report.figures import NARROW, WIDE, figures
from sweep.report.html import html
from sweep.report.markdown import markdown
from sweep.report.reading import read
from sweep.report.theme import png
from sweep.results import ResultSet


def build_report(study: ResultSet) -> Path:
    """Write the report of a recorded study into its folder and return the path of the page.

    Works at any time: with no trial yet, in the middle of a search, and after it.
    """
    reading = read(study)
    wide, narrow = figures(study, WIDE), figures(study, NARROW)
    report = study.folder / "report"
    (report / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in wide.items():
        _write(report / "figures" / f"{name}.png", png(figure))
    _write(report / "REPORT.md", markdown(reading, list(wide)).encode())
    page = report / "index.html"
    _write(page, html(reading, wide, narrow).encode())
    return page


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)
