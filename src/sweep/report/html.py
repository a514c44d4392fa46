"""The report as one self-contained index.html: no network, no scripts.

Large figures are drawn twice, for wide and for narrow screens, so that their text stays readable;
the stylesheet shows one of them. Small ones fit both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sweep.confirm.findings import Verdict
from sweep.confirm.wording import entered
from sweep.messages import Value
from sweep.metric import duration, plain
from sweep.parameters import Parameter
from sweep.report.answer import Strong, Text, as_good, caveats, failures, sentences, tally
from sweep.report.diagnostics import sheets
from sweep.report.figures import LARGE, Drawing
from sweep.report.reading import Reading
from sweep.report.repeat import seeds, steps, versions
from sweep.report.table import best_first, columns
from sweep.report.theme import DARK, LIGHT
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
    """One parameter in the answer: its recommended value, and which others are as good.

    `dot` and the starts and widths of `good` are percentages of the searched range.
    """

    parameter: Parameter
    value: str
    verdict: Verdict | None
    words: str
    good: list[tuple[float, float]]
    dot: float | None
    ends: tuple[str, str]


def html(reading: Reading, drawings: Mapping[str, Drawing]) -> str:
    """The whole page, with the SVG of the `drawings` in it."""
    trials = best_first(reading)
    tips = {t.number: _tip(reading, t) for t in trials}
    shown = {t.number for t in trials[:ROWS]}
    drawn = {n: [_linked(one, tips, shown) for one in d.svgs] for n, d in drawings.items()}
    chosen = reading.answer.recommended
    params = chosen.params if chosen else {}
    first, *rest = map(_text, sentences(reading))
    return _TEMPLATES.get_template("template.html.j2").render(
        reading=reading,
        headline=first,
        lead=rest,
        caveats=caveats(reading),
        tally=tally(reading),
        spans=[_span(reading, p, params[p.key]) for p in reading.parameters if p.key in params],
        sheets=sheets(reading),
        figures=drawn,
        large=LARGE,
        sections={name: drawing.section for name, drawing in drawings.items()},
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
        (short if len(part) < 20 else long).format(part) if isinstance(part, Strong) else part
        for part in text
    )


def _span(reading: Reading, parameter: Parameter, value: Value) -> Span:
    verdict = next((v for v in reading.answer.verdicts if v.key == parameter.key), None)
    ends = plain(parameter.low), plain(parameter.high)
    good: list[tuple[float, float]] = []
    for run in verdict.runs("as good") if verdict and parameter.numeric else []:
        places = [p for end in run if (p := _percent(parameter, end)) is not None]
        if len(places) == 2:  # the cumulative average has no place
            good.append((places[0], places[1] - places[0]))
    dot = _percent(parameter, value) if parameter.numeric else None
    return Span(parameter, entered(parameter, value, 3), verdict, as_good(verdict), good, dot, ends)


def _percent(parameter: Parameter, value: Value) -> float | None:
    """Where a value lies in the searched range, in percent; None outside of it."""
    if not isinstance(value, (int, float)) or not parameter.low <= value <= parameter.high:
        return None
    return 100 * parameter.place(float(value))


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
