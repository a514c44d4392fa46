"""The report as one self-contained index.html: no network, no scripts.

Figures are drawn twice, for wide and for narrow screens, so that their text stays readable; the
stylesheet shows one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from sweep.report.answer import CAVEAT, Strong, Text, failures, flatness, headline, near_span
from sweep.report.metric import duration, plain
from sweep.report.parameters import Parameter
from sweep.report.reading import ENOUGH, Reading
from sweep.report.repeat import seeds, steps, versions
from sweep.report.table import best_first, columns
from sweep.report.theme import DARK, LIGHT, svg
from sweep.results import TrialRow

ROWS = 200
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Span(NamedTuple):
    """One parameter in the answer: its best value, and where it and the near-best trials lie.

    `left`, `width` and `dot` are percentages of the searched range.
    """

    parameter: Parameter
    best: str
    near: str
    left: float
    width: float
    dot: float
    ends: tuple[str, str]


def html(reading: Reading, wide: Mapping[str, Figure], narrow: Mapping[str, Figure]) -> str:
    """The whole page. `wide` and `narrow` hold the same figures at two widths."""
    trials = best_first(reading)
    tips = {t.number: _tip(reading, t) for t in trials}
    shown = {t.number for t in trials[:ROWS]}
    drawn = {
        name: [
            _linked(svg(figure, f"{name}-{size}"), tips, shown)
            for size, figure in (("wide", wide[name]), ("narrow", narrow[name]))
        ]
        for name in wide
    }
    return _TEMPLATES.get_template("template.html.j2").render(
        reading=reading,
        headline=_text(headline(reading)),
        flatness=_text(flatness(reading)),
        caveat=CAVEAT,
        spans=[_span(reading, p) for p in reading.parameters if reading.best],
        figures=drawn,
        enough=len(reading.complete) >= ENOUGH,
        columns=columns(reading),
        trials=trials[:ROWS],
        near={t.number for t in reading.near},
        failures=failures(reading),
        steps=steps(reading),
        facts=[*seeds(reading), *versions(reading)],
        trained=duration(sum(t.seconds for t in trials)),
        ended=max((t.finished for t in trials if t.finished), default=None),
        light=LIGHT,
        dark=DARK,
    )


def _text(text: Text) -> Markup:
    short, long = Markup('<strong class="short">{}</strong>'), Markup("<strong>{}</strong>")
    return Markup("").join(
        (short if len(part) < 30 else long).format(part) if isinstance(part, Strong) else part
        for part in text
    )


def _span(reading: Reading, parameter: Parameter) -> Span:
    best = reading.best.params.get(parameter.key) if reading.best else None
    near = near_span(reading, parameter)
    low, high = plain(parameter.low), plain(parameter.high)
    if not parameter.numeric:
        return Span(parameter, plain(best), near, 0.0, 0.0, 0.0, (low, high))
    numbers = [n for t in reading.near if (n := parameter.number(t)) is not None]
    places = [100 * parameter.place(n) for n in numbers] or [0.0]
    dot = 100 * parameter.place(float(best)) if isinstance(best, (int, float)) else 0.0
    left = min(places)
    return Span(parameter, plain(best), near, left, max(places) - left, dot, (low, high))


def _tip(reading: Reading, trial: TrialRow) -> str:
    """What a trial's mark says when pointed at."""
    complete = trial.status == "complete"
    end = reading.metric.show(trial.value) if complete else trial.status
    names = [p for p in reading.parameters if p.key in trial.params]
    settings = [f"{p.name} {plain(trial.params[p.key])}" for p in names]
    return " · ".join([f"trial {trial.number}", *settings, end])


def _linked(drawing: str, tips: Mapping[int, str], shown: set[int]) -> Markup:
    """Give every trial's mark its words, and a link only to a row that the table shows."""

    def opened(match: re.Match[str]) -> str:
        number = int(match[1])
        target = f"trial-{number}" if number in shown else "trials"
        return f'<a href="#{target}" tabindex="-1"><title>{escape(tips[number])}</title>'

    return Markup(re.sub(r'<a href="#trial-(\d+)"[^>]*>', opened, drawing))
