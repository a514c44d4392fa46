"""The sentences of an answer: what to use, what the parameters do, what the search overstated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sweep.confirm.arms import is_default
from sweep.confirm.findings import PLACES, Arm, Comparison, Interval, Verdict
from sweep.confirm.wording import Words, against, capital, plural

_SPOKEN = 3  # parameters that the answer names
_ORDER = ("matters", "no difference", "undecided", "unknown")


def recommendation(
    chosen: Arm | None,
    arms: Sequence[Arm],
    comparisons: Sequence[Comparison],
    lead: Interval | None,
    complete: int,
    words: Words,
) -> str:
    """What to use, what it reaches, and what is gained by that.

    Validation decides, by the `lead` there, so the test set may say otherwise: then both are told.
    """
    if chosen is None:
        return "No trial is complete yet, so there is nothing to recommend."
    setting = words.setting(chosen.params) or f"the {chosen.name}"
    interval = chosen.test or chosen.validation
    if interval is None:
        figure = words.metric.show(chosen.searched)
        best = f"the best of {complete} trials, with one seed" if complete > 1 else "from one trial"
        return f"As far as the search knows, use {setting}: {figure} on validation, {best}."
    place = PLACES["test" if chosen.test else "validation"]
    figure = f"{words.figure(interval)} {place} ({plural(interval.count, 'seed')})"
    if is_default(chosen, arms):
        return f"Keep the default, {setting}: {figure}{_of_others(chosen, comparisons, words)}."
    use = f"Use {setting}: {figure}"
    one = next((c for c in comparisons if c.arm == chosen.name), None)
    if one is None:
        return f"{use}."
    other = f"the {one.against}"
    if one.split == "validation" or one.difference.mean >= 0 or lead is None:
        other += " there" if place == PLACES[one.split] else f" {PLACES[one.split]}"
        return f"{use}, {against(words, one.outcome, one.difference, other)}."
    ahead = f"{words.gap(lead)} {'better' if lead.mean >= 0 else 'worse'}"
    behind = against(words, one.outcome, one.difference, other)
    return f"{use}. Validation, which decides, says {ahead}; the test set says {behind}."


def _of_others(chosen: Arm, comparisons: Sequence[Comparison], words: Words) -> str:
    if chosen.trial is not None:
        return ", which the search found again"
    if not comparisons:
        return ""
    if better := next((c for c in comparisons if c.outcome == "better"), None):
        ahead = f"the {better.arm} is {words.gap(better.difference)} better {PLACES[better.split]}"
        enough = f"by more than {words.amount(words.margin)}"
        return f", though {ahead}: on validation, which decides, not {enough}"
    return ", and the search found nothing that is detectably better"


def effects(verdicts: Sequence[Verdict]) -> str:
    """The second sentence: what each parameter does, those that matter first."""
    known = sorted((v for v in verdicts if v.clause), key=lambda v: _ORDER.index(v.effect))
    if not known:
        return ""
    more = len(known) - _SPOKEN
    clauses = [v.clause for v in known[:_SPOKEN]]
    clauses += [f"so much of {plural(more, 'more parameter')} below"] if more > 0 else []
    return capital(f"{'; '.join(clauses)}.", known[0].name)


def shrinkage(arms: Sequence[Arm], complete: int, luck: float | None, words: Words) -> str:
    """How much of the search's best figure did not come again; empty without fresh seeds."""
    first = next((a for a in arms if a.shrinkage is not None), None)
    if first is None or first.shrinkage is None or first.validation is None:
        return ""
    gap, fresh = first.shrinkage, words.figure(first.validation)
    seen = f"The search saw {words.metric.show(first.searched)} on validation for the {first.name}"
    side = "worse" if gap.mean > 0 else "better"
    seeds = plural(gap.count, "fresh seed")
    said = f"{seen}; {seeds} gave {fresh}, {words.size(gap.mean)} {side}."
    if luck is None or not math.isfinite(luck) or complete < 2:
        return said
    equals = f"The best of {complete} equal settings"
    return f"{said} {equals} would look {words.size(luck)} better than it is."
