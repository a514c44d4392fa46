"""The answer of a study in sentences, the same for every kind of report.

The two sentences come from the confirmation's statistics; here their weighty parts are marked, and
the search is tallied.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from sweep.confirm.findings import Verdict
from sweep.confirm.wording import Words, listed, plural, span
from sweep.report.pruning import explain, judge_pruning
from sweep.report.reading import Reading


class Strong(str):
    """A part of a sentence that the eye should find first."""


Text: TypeAlias = Sequence[str]

CAVEAT = (
    "The figure is the search's own, of one seed on validation data, and the best of many tries "
    "looks better than it is: expect a little less on new data."
)


def sentences(reading: Reading) -> list[Text]:
    """The answer: the recommended setting and its figure are strong."""
    words = Words(reading.metric, reading.answer.margin, reading.parameters)
    chosen = reading.answer.recommended
    phrases = []
    if chosen is not None:
        interval = chosen.test or chosen.validation
        figure = words.figure(interval) if interval else words.metric.show(chosen.searched)
        phrases = [p for p in (words.setting(chosen.params), figure) if p]
    return [_marked(sentence, phrases) for sentence in reading.answer.sentences]


def caveats(reading: Reading) -> list[str]:
    """How far to trust the answer, and what is not known."""
    found = [reading.answer.shrinkage] if reading.answer.shrinkage else []
    if reading.best is not None and not any(arm.seeds for arm in reading.answer.arms):
        found.append(CAVEAT)
    pruning = judge_pruning(reading)
    warning = explain(reading, pruning)[:1] if pruning and pruning.is_doubtful else []
    return [*found, *reading.answer.unknown, *warning]


def tally(reading: Reading) -> str:
    """How many trials there were, and what became of them."""
    counts = [f"{number} {status}" for status, number in reading.counts().items()]
    done = len(reading.study.trials)
    total = max(reading.study.total, done)
    many = plural(total, "trial") if done == total else f"{done} of {plural(total, 'trial')}"
    kept = [plural(n, "training") + " on fresh seeds"] if (n := len(reading.study.confirm)) else []
    return f"{'; '.join([many + ': ' + ', '.join(counts) if counts else many, *kept])}."


def as_good(verdict: Verdict | None) -> str:
    """The values of a parameter that are as good as the best, in words; empty if not known."""
    runs = verdict.runs("as good") if verdict is not None else []
    return listed([span(run) for run in runs]) if runs else ""


def failures(reading: Reading) -> list[str]:
    """One line for every reason that trials failed for, the most frequent first."""
    found: dict[str, list[int]] = defaultdict(list)
    for trial in reading.study.trials:
        if trial.status == "failed":
            found[trial.reason or "no reason was recorded"].append(trial.number)
    lines = sorted(found.items(), key=lambda item: (-len(item[1]), item[1]))
    return [f"trial{'s' * (len(who) > 1)} {_named(who)}: {reason}" for reason, who in lines]


def _named(numbers: Sequence[int]) -> str:
    more = len(numbers) - 5
    return listed([*map(str, numbers[:5]), *([f"{more} more"] if more > 0 else [])])


def _marked(sentence: str, phrases: Sequence[str]) -> Text:
    if not phrases:
        return [sentence]
    parts = re.split(f"({'|'.join(map(re.escape, phrases))})", sentence)
    return [Strong(part) if part in phrases else part for part in parts if part]
