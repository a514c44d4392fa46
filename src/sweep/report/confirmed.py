"""The confirmation as tables of shown text: every arm, every comparison, every verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sweep.confirm.findings import Interval
from sweep.confirm.wording import entered, many
from sweep.metric import MISSING
from sweep.report.reading import Reading

_STANDINGS = {
    "matters": "matters",
    "no difference": "no detectable difference",
    "undecided": "undecided",
    "unknown": "not known",
}

_ARMS = (
    "The best settings of the search and the default, each trained anew on the same fresh seeds. "
    "The test set was opened only here. Means with their 95 % intervals; shrinkage is what the "
    "search promised on validation and fresh seeds did not give."
)
_COMPARISONS = (
    "Positive is better. Settings trained on the same seeds are compared seed by seed; p-values "
    "are corrected for the number of comparisons."
)
_VERDICTS = (
    "Which values are as good as the best one, which are worse and by how much, with the other "
    "parameters as recommended. Statements hold together with 95 %."
)


class Sheet(NamedTuple):
    """A table ready to show. `kinds` are the columns' looks: number, text or note."""

    title: str
    about: str
    heads: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None  # the row that is recommended


def arms(reading: Reading) -> Sheet | None:
    """Every setting on fresh seeds; None if nothing was confirmed."""
    found = [arm for arm in reading.answer.arms if arm.seeds]
    if not found:
        return None
    unit = f" ({reading.metric.unit})" if reading.metric.unit else ""
    names = [p.name for p in reading.parameters]
    rows = [
        [
            arm.name,
            *(
                entered(p, arm.params[p.key]) if p.key in arm.params else MISSING
                for p in reading.parameters
            ),
            _mean(reading, arm.test),
            _mean(reading, arm.validation),
            reading.metric.number(arm.searched),
            _mean(reading, arm.shrinkage, signed=True),
            str(len(arm.seeds)),
        ]
        for arm in found
    ]
    heads = [
        "setting", *names, f"test{unit}", f"validation{unit}", f"in the search{unit}",
        "shrinkage", "seeds",
    ]  # fmt: skip
    kinds = ["text", *["number"] * (len(heads) - 1)]
    chosen = reading.answer.recommended
    marked = next((i for i, a in enumerate(found) if chosen and a.name == chosen.name), None)
    return Sheet("On fresh seeds", _ARMS, heads, kinds, rows, marked)


def comparisons(reading: Reading) -> Sheet | None:
    """Each arm against another, seed by seed; None if nothing was compared."""
    found = reading.answer.comparisons
    if not found:
        return None
    unit = " (points)" if reading.metric.unit == "%" else ""
    rows = [
        [
            f"{c.arm} against {c.against}",
            c.split,
            _mean(reading, c.difference, signed=True),
            _p(c.holm),
            _outcome(c.outcome, c.seeds),
        ]
        for c in found
    ]
    heads = ["comparison", "on", f"difference{unit}", "p (Holm)", "verdict"]
    kinds = ["text", "text", "number", "number", "note"]
    return Sheet("Against each other", _COMPARISONS, heads, kinds, rows)


def verdicts(reading: Reading) -> Sheet | None:
    """What is known of each searched parameter, with what it is known from."""
    found = reading.answer.verdicts
    if not found:
        return None
    rows = [[v.name, _STANDINGS[v.effect], v.sentence, v.evidence] for v in found]
    heads = ["parameter", "effect", "in words", "evidence"]
    return Sheet(
        "What each parameter does", _VERDICTS, heads, ["text", "text", "note", "note"], rows
    )


def _outcome(outcome: str, seeds: int | None) -> str:
    if outcome == "undecided" and seeds is not None:
        return f"undecided: {many(seeds)} would tell"
    return {"equal": "no detectable difference"}.get(outcome, outcome)


def _mean(reading: Reading, interval: Interval | None, signed: bool = False) -> str:
    """A mean ± half its 95 % interval, without the unit."""
    if interval is None:
        return MISSING
    metric = reading.metric
    text = metric.number(interval.mean)
    if signed and interval.mean > 0:
        text = f"+{text}"
    text = text.replace("-", "\N{MINUS SIGN}")
    return f"{text} ± {metric.number(interval.half)}" if math.isfinite(interval.half) else text


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
