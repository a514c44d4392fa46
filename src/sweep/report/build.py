"""Building a study's report folder: `report/index.html`, `report/REPORT.md` and its figures.

Every file is written aside and renamed, so a reader never meets half a report.
"""

from __future__ import annotations

from pathlib import Path

from sweep.report.figures import COMPACT, LARGE, NARROW, SMALL, WIDE, draw
from sweep.report.html import html
from sweep.report.markdown import markdown
from sweep.report.reading import read
from sweep.report.theme import png, svg
from sweep.results import ResultSet


def build_report(study: ResultSet) -> Path:
    """Write the report of a recorded study into its folder and return the path of the page.

    Works at any time: with no trial yet, in the middle of a search, and after it.
    """
    reading = read(study)
    figures = draw(reading, LARGE, WIDE) | draw(reading, SMALL, COMPACT)
    narrow = draw(reading, LARGE, NARROW)
    report = study.folder / "report"
    pictures = report / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawings = {name: [svg(figure, name)] for name, figure in figures.items()}
    for name, figure in narrow.items():
        drawings[name].append(svg(figure, f"{name}-narrow"))
    for name, figure in figures.items():
        _write(pictures / f"{name}.png", png(figure))
    for stray in {p.stem for p in pictures.glob("*.png")} - figures.keys():
        (pictures / f"{stray}.png").unlink()
    _write(report / "REPORT.md", markdown(reading, list(figures)).encode())
    page = report / "index.html"
    _write(page, html(reading, drawings).encode())
    return page


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)
