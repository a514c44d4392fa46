"""Building a study's report folder: `report/index.html`, `report/REPORT.md` and its figures.

Every file is written aside and renamed, so a reader never meets half a report.
"""

from __future__ import annotations

from pathlib import Path

from sweep.files import write_aside
from sweep.report.figures import drawings
from sweep.report.html import html
from sweep.report.markdown import markdown
from sweep.report.reading import read
from sweep.results import ResultSet


def build_report(study: ResultSet) -> Path:
    """Write the report of a recorded study into its folder and return the path of the page.

    Works at any time: with no trial yet, in the middle of a search, and after it.
    """
    reading = read(study)
    drawn = drawings(reading)
    report = study.folder / "report"
    pictures = report / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    shown = {name: drawing.png for name, drawing in drawn.items() if drawing.png}
    for name, picture in shown.items():
        write_aside(pictures / f"{name}.png", picture)
    for stray in {p.stem for p in pictures.glob("*.png")} - shown.keys():
        (pictures / f"{stray}.png").unlink()
    write_aside(report / "REPORT.md", markdown(reading, drawn))
    page = report / "index.html"
    write_aside(page, html(reading, drawn))
    return page
