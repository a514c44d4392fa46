"""A study's figures as matplotlib objects, ready for a notebook, a page or a file.

Widths are in pixels at 72 dots an inch, so that fonts keep their size on a page. Nothing here
touches pyplot: figures need no closing, and no display.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import matplotlib as mpl
from matplotlib.figure import Figure

from sweep.report.generalisation import draw_dropout
from sweep.report.history import draw_history
from sweep.report.importance import draw_importance
from sweep.report.learning import draw_learning
from sweep.report.momentum import draw_momentum
from sweep.report.pruning import draw_pruning
from sweep.report.reading import Reading, read
from sweep.report.slices import draw_slices
from sweep.report.surface import draw_surface
from sweep.report.theme import STYLE
from sweep.report.timeline import draw_timeline
from sweep.results import ResultSet

WIDE, COMPACT, NARROW = 760, 400, 340

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


def figures(study: ResultSet, width: int = WIDE) -> dict[str, Figure]:
    """The figures that this study has something to show in, by name."""
    return draw(read(study), [*LARGE, *SMALL], width)


def draw(reading: Reading, names: Iterable[str], width: int) -> dict[str, Figure]:
    """Those of the named figures that there is something to show in."""
    with mpl.rc_context(STYLE):
        drawn = {name: (LARGE | SMALL)[name](reading, width) for name in names}
    return {name: figure for name, figure in drawn.items() if figure is not None}
