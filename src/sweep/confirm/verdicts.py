"""A parameter's levels put into words: a sentence of its own, and its clause of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from sweep.confirm.findings import Effect, Level, Standing, Verdict
from sweep.confirm.wording import Words, capital, listed, said, span
from sweep.messages import Value
from sweep.parameters import Parameter

Run: TypeAlias = tuple[Value, Value]  # its first and last value


def judge(
    parameter: Parameter,
    levels: Sequence[Level],
    best: Value,
    evidence: str,
    seeds: int | None,
    words: Words,
    role: str = "{}",
) -> Verdict:
    """The verdict that these levels amount to; `role` says what the best of them is."""
    standings = {level.standing for level in levels}
    effect: Effect = "undecided"
    if standings == {"as good"}:
        effect = "no difference"
    elif "worse" in standings:
        effect = "matters"
    open_seeds = seeds if "undecided" in standings else None
    verdict = Verdict(
        parameter.key, parameter.name, effect, evidence, best, tuple(levels), open_seeds, "", ""
    )
    return replace(verdict, sentence=_sentence(verdict, words, role), clause=_clause(verdict))


def unknown(parameter: Parameter, reason: str) -> Verdict:
    """What is said of a parameter that there is no evidence on."""
    sentence = f"{parameter.name}: not known; {reason}."
    return Verdict(parameter.key, parameter.name, "unknown", reason, None, (), None, sentence, "")


def _sentence(verdict: Verdict, words: Words, role: str) -> str:
    name, best = verdict.name, role.format(said(verdict.best))
    if verdict.effect == "no difference":
        margin = words.amount(words.margin)
        return f"{_no_difference(verdict)}: none loses {margin} against {best}."
    good, rest = _rivals(verdict), _spans(verdict, "undecided")
    parts = []
    if good:
        parts.append(f"{_subject(name, good)} as good as {best}")
    else:
        parts.append(f"no other {name} is known to be as good as {best}")
    parts += _worse(verdict, words)
    if rest:
        where = "for all others" if len(parts) == 1 else f"for {listed(rest)}"
        parts.append(f"{where} it is undecided: {words.more_seeds(verdict.seeds)}")
    return capital(f"{'; '.join(parts)}.", name)


def _worse(verdict: Verdict, words: Words) -> list[str]:
    found = []
    for run in verdict.runs("worse"):
        inside = verdict.levels[_place(verdict, run[0]) : _place(verdict, run[1]) + 1]
        worst = min(inside, key=lambda level: level.difference.mean)
        gap = words.gap(worst.difference)
        by = f"by {gap}" if run[0] == run[1] else f"by {gap} at {span((worst.value,) * 2)}"
        found.append(f"{span(run)} is worse, {by}")
    return found


def _place(verdict: Verdict, value: Value) -> int:
    return [level.value for level in verdict.levels].index(value)


def _clause(verdict: Verdict) -> str:
    name = verdict.name
    if verdict.effect == "no difference":
        return _no_difference(verdict)
    if good := _rivals(verdict):
        text = f"{_subject(name, good)} as good"
        return text if verdict.effect == "matters" else f"{text}, and none is known to be worse"
    if verdict.effect == "matters":
        rest = ", and which of the others is best is undecided" if verdict.runs("undecided") else ""
        return f"{_subject(name, verdict.runs('worse'))} worse{rest}"
    return f"which {name} is best is undecided"


def _no_difference(verdict: Verdict) -> str:
    good = _spans(verdict, "as good")
    start = f"{verdict.name} makes no detectable difference"
    if " to " in good[0]:
        more = f", {listed(good[1:])} included" if good[1:] else ""
        return f"{start} between {good[0].replace(' to ', ' and ')}{more}"
    return f"{start} {'between' if len(good) == 2 else 'among'} {listed(good)}"


def _rivals(verdict: Verdict) -> list[Run]:
    """What is as good as the best, but for the best itself where it stands alone."""
    return [run for run in verdict.runs("as good") if run != (verdict.best, verdict.best)]


def _subject(name: str, runs: Sequence[Run]) -> str:
    """The values that something is said of, with the verb: `any dropout from 0 to 0.1 is`."""
    numbers = [run for run in runs if run[0] is not None]
    single = [span(run) for run in numbers if run[0] == run[1]]
    ranges = [span(run) for run in numbers if run[0] != run[1]]
    parts = [f"{name} {single[0]}", *single[1:]] if single else []
    if ranges:
        parts.append(f"any {'' if single else f'{name} '}from {' or from '.join(ranges)}")
    if len(numbers) < len(runs):
        average = span((None, None))
        parts.append(average if parts else f"{average}, without a {name},")
    return f"{listed(parts)} {'is' if len(parts) == 1 else 'are'}"


def _spans(verdict: Verdict, standing: Standing) -> list[str]:
    """The runs of a standing in words."""
    return [span(run) for run in verdict.runs(standing)]
