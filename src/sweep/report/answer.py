"""The answer of a study in sentences, the same for every kind of report.

They claim what a search can know and no more: a best trial, and how many others are as good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from sweep.report.metric import plain
from sweep.report.parameters import Parameter
from sweep.report.reading import Reading

_NAMED = 3  # parameters that a sentence can carry


class Strong(str):
    """A part of a sentence that the eye should find first."""


Text: TypeAlias = Sequence[str]

CAVEAT = (
    "These are the search's own figures: measured on validation data, with one seed a trial. "
    "The best of many tries looks better than it is, so expect a little less on new data."
)


def headline(reading: Reading) -> Text:
    """The first sentence: the best parameters, what they reached, and out of how many trials."""
    counts = reading.counts()
    tally = [f"{number} {status}" for status, number in counts.items()]
    done = len(reading.study.trials)
    total = max(reading.study.total, len(reading.study.trials))
    if reading.best is None:
        so_far = f": {_listed(tally)}." if tally else "."
        return [Strong("No trial is complete"), f" of {total} in all{so_far}"]
    best = reading.best
    shown = [
        f"{p.name} {plain(best.params[p.key])}" for p in reading.parameters if p.key in best.params
    ]
    kind = "best" if reading.sign > 0 else "lowest"
    figure = [f"the {kind} {reading.metric.label}, ", Strong(reading.metric.show(best.value))]
    subject = _strong(shown[:_NAMED])
    if len(shown) > _NAMED:
        subject += [f" with {len(shown) - _NAMED} more settings"]
    start = [*subject, " gave "] if shown else [f"Trial {best.number} gave "]
    return [*start, *figure, f", in {done if done == total else f'{done} of {total}'} "
            f"trial{'s' * (total != 1)} ({', '.join(tally)})."]  # fmt: skip


def flatness(reading: Reading) -> Text:
    """The second sentence: which trials are as good as the best, and where they lie."""
    if reading.best is None:
        return _no_answer(reading)
    of, near = len(reading.complete), reading.near
    if of == 1:
        return ["It is the only complete trial, so there is nothing to compare it with yet."]
    if len(near) == 1:
        gap = abs((reading.complete[1].value or 0.0) - (reading.best.value or 0.0))
        return [
            f"None of the other {of - 1} complete trials comes within {reading.tolerance_words}; ",
            f"the next is {reading.metric.number(gap)} {_points(reading)}behind.",
        ]
    where = [f"{p.name} {span}" for p in reading.parameters if (span := near_span(reading, p))]
    lie = f" of {of} complete trials lie within {reading.tolerance_words} of it"
    if not where:
        return [Strong(str(len(near))), f"{lie}."]
    more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
    return [Strong(str(len(near))), f"{lie}: ", *_strong(where[:_NAMED]), f"{more}."]


def near_span(reading: Reading, parameter: Parameter) -> str:
    """The values of a parameter among the near-best trials, e.g. `adam or sgd`."""
    values = [t.params[parameter.key] for t in reading.near if parameter.key in t.params]
    if not parameter.numeric:
        return " or ".join(dict.fromkeys(plain(v) for v in sorted(values, key=str)))
    numbers = sorted(v for v in values if isinstance(v, (int, float)))
    ends = [plain(n, 2) for n in (numbers[0], numbers[-1])] if numbers else []
    return "\N{EN DASH}".join(dict.fromkeys(ends))


def failures(reading: Reading) -> list[str]:
    """One line for every reason that trials failed for, the most frequent first."""
    found: dict[str, list[int]] = defaultdict(list)
    for trial in reading.study.trials:
        if trial.status == "failed":
            found[trial.reason or "no reason was recorded"].append(trial.number)
    lines = sorted(found.items(), key=lambda item: (-len(item[1]), item[1]))
    return [
        f"trial{'s' * (len(who) > 1)} {_listed([*map(str, who[:5])], more=len(who) - 5)}: {reason}"
        for reason, who in lines
    ]


def _no_answer(reading: Reading) -> Text:
    if any(t.status == "failed" for t in reading.study.trials):
        return ["There is no answer yet; the reasons of the failures are listed with the trials."]
    return ["There is no answer yet; the same command goes on where the study stopped."]


def _points(reading: Reading) -> str:
    if reading.metric.unit == "%":
        return "percentage points "
    return f"{reading.metric.unit} ".lstrip()


def _strong(parts: Sequence[str]) -> list[str]:
    found: list[str] = []
    for place, part in enumerate(parts, start=1):
        joint = "" if place == 1 else " and " if place == len(parts) else ", "
        found += [joint, Strong(part)]
    return found


def _listed(parts: Sequence[str], more: int = 0) -> str:
    if more > 0:
        return f"{', '.join(parts)} and {more} more"
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
