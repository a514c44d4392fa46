"""The report as REPORT.md: for a repository, with figures beside it.

Everything that a study can name is escaped; a trial's reason may hold any character.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sweep.report.answer import Strong, Text, caveats, failures, sentences, tally
from sweep.report.confirmed import Sheet
from sweep.report.diagnostics import sheets
from sweep.report.figures import COMPACT, SMALL, Drawing
from sweep.report.reading import Reading
from sweep.report.repeat import seeds, steps, versions
from sweep.report.table import best_first, columns

ROWS = 20


def markdown(reading: Reading, drawings: Mapping[str, Drawing]) -> str:
    """The whole file. The pictures of `drawings` lie in `figures/<name>.png`."""
    parts = [f"# {escape(reading.study.name)}", *map(_text, sentences(reading))]
    parts += [f"> {escape(caveat)}" for caveat in caveats(reading)]
    parts += [escape(tally(reading))]
    for sheet in sheets(reading):
        parts += [f"## {sheet.title}", escape(sheet.about), _sheet(sheet)]
    for name, drawing in drawings.items():
        title, about, _ = drawing.section
        parts += [f"## {title}", *map(escape, about)]
        parts += [_picture(name, title)] if drawing.png else []
    if reading.study.trials:
        parts += ["## Trials", _trials(reading)]
    if reasons := failures(reading):
        parts += ["### Failures", "\n".join(f"- {escape(reason)}" for reason in reasons)]
    parts.append("## Repeat it")
    for step in steps(reading):
        fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", step.lines) or [""]))
        parts.append(f"{step.purpose}:\n\n{fence}{step.language}\n{step.lines}\n{fence}")
    if facts := [*seeds(reading), *versions(reading)]:
        parts.append(_table(["", ""], [[escape(cell) for cell in fact] for fact in facts]))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in one line, also inside a table."""
    text = re.sub(r"[\\`*|$\[\]#~]", r"\\\g<0>", " ".join(text.split()))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it means nothing
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _text(text: Text) -> str:
    return "".join(f"**{escape(p)}**" if isinstance(p, Strong) else _spaced(p) for p in text)


def _spaced(part: str) -> str:
    ends = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{ends[0]}{escape(part)}{ends[1]}" if part.strip() else part


def _picture(name: str, title: str) -> str:
    if name in SMALL:  # Markdown's own form would blow it up to the width of the page
        return f'<img src="figures/{name}.png" alt="{title}" width="{COMPACT}">'
    return f"![{title}](figures/{name}.png)"


def _sheet(sheet: Sheet) -> str:
    rows = [[escape(cell) for cell in row] for row in sheet.rows]
    if sheet.marked is not None:
        rows[sheet.marked] = [f"**{cell}**" for cell in rows[sheet.marked]]
    return _table([escape(head) for head in sheet.heads], rows)


def _trials(reading: Reading) -> str:
    trials = best_first(reading)
    shown = columns(reading)
    rows = [[escape(column.cell(trial).text) for column in shown] for trial in trials[:ROWS]]
    table = _table([escape(column.head) for column in shown], rows)
    if len(trials) > ROWS:
        table += f"\n\nThe best {ROWS} of {len(trials)}; all of them are in `trials.csv`."
    return table


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
