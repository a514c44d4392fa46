"""A study's figures as matplotlib objects, ready for a notebook, a page or a file.

Widths are in pixels at 72 dots an inch, so that fonts keep their size on a page. Nothing here
touches pyplot: figures need no closing, and no display.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from textwrap import shorten
from typing import NamedTuple, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

from sweep.report.generalisation import draw_dropout
from sweep.report.history import draw_history
from sweep.report.importance import draw_importance
from sweep.report.learning import draw_learning
from sweep.report.momentum import draw_momentum
from sweep.report.pruning import draw_pruning
from sweep.report.reading import Reading, read
from sweep.report.sections import Section, section
from sweep.report.slices import draw_slices
from sweep.report.surface import draw_surface
from sweep.report.theme import STYLE, png, svg
from sweep.report.timeline import draw_timeline
from sweep.results import ResultSet

log = logging.getLogger(__name__)

WIDE, COMPACT, NARROW = 760, 400, 340

Made = TypeVar("Made")
Draw = Callable[[Reading, int], Figure | None]

LARGE: dict[str, Draw] = {  # a page draws them for wide and for narrow screens
    "surface": draw_surface,
    "momentum": draw_momentum,
    "dropout": draw_dropout,
    "slices": draw_slices,
}
SMALL: dict[str, Draw] = {  # two beside each other, or one on a narrow screen
    "history": draw_history,
    "importance": draw_importance,
    "learning": draw_learning,
    "pruning": draw_pruning,
    "timeline": draw_timeline,
}


class Drawing(NamedTuple):
    """A figure as a report shows it; of one that could not be drawn there are only words."""

    section: Section
    svgs: Sequence[str] = ()  # of a large figure a wide one and a narrow one
    png: bytes = b""


def figures(study: ResultSet, width: int = WIDE) -> dict[str, Figure]:
    """The figures that this study has something to show in, by name.

    One that cannot be drawn is missing; a warning says why.
    """
    reading = read(study)
    drawn = {n: _attempt(n, partial(draw, reading, n, width)) for n in (*LARGE, *SMALL)}
    return {name: figure for name, figure in drawn.items() if isinstance(figure, Figure)}


def draw(reading: Reading, name: str, width: int) -> Figure | None:
    """One figure; None if there is nothing to show in it."""
    with mpl.rc_context(STYLE):
        return (LARGE | SMALL)[name](reading, width)


def drawings(reading: Reading) -> dict[str, Drawing]:
    """The same figures as a report shows them; in the place of one that cannot be drawn, why."""
    found: dict[str, Drawing] = {}
    for name in (*LARGE, *SMALL):
        made = _attempt(name, partial(_drawing, reading, name))
        if isinstance(made, str):
            found[name] = Drawing(Section(name.capitalize(), [made], warns=True))
        elif made is not None:
            found[name] = made
    return found


def _drawing(reading: Reading, name: str) -> Drawing | None:
    figure = draw(reading, name, WIDE if name in LARGE else COMPACT)
    if figure is None:
        return None
    svgs = [svg(figure, name)]
    if name in LARGE and (narrow := draw(reading, name, NARROW)) is not None:
        svgs.append(svg(narrow, f"{name}-narrow"))
    return Drawing(section(reading, name), svgs, png(figure))


def _attempt(name: str, make: Callable[[], Made | None]) -> Made | str | None:
    """What `make` returns, or why it could not: no single figure may cost a report."""
    try:
        return make()
    except Exception as error:
        why = shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        log.warning("the figure %s could not be drawn: %s", name, why)
        return f"This figure could not be drawn: {why}"
