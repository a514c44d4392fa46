"""Figures and spans of values as a person says them, the same in all sentences of an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.confirm.findings import Interval, Outcome
from sweep.messages import Value
from sweep.metric import Metric, plain
from sweep.parameters import Parameter

_NAMED = 3  # parameters that a sentence can carry
_DIGITS = 2
_MOST_DIGITS = 18  # 17 tell any two numbers apart
_MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Words:
    """How one study speaks: its metric, the margin that matters, its parameters by short name."""

    metric: Metric
    margin: float
    parameters: Sequence[Parameter]

    def figure(self, interval: Interval) -> str:
        """A mean with its interval, e.g. `98.31 % ± 0.05`."""
        return f"{self.metric.show(interval.mean)}{self._half(interval)}"

    def gap(self, difference: Interval) -> str:
        """The size of a difference with its interval, e.g. `0.35 ± 0.08 points`."""
        number = self.metric.number(abs(difference.mean))
        return f"{number}{self._half(difference)} {self._unit}".rstrip()

    def size(self, value: float) -> str:
        """The rounded size of a difference, e.g. `0.35 points`."""
        return f"{self.metric.number(abs(value))} {self._unit}".rstrip()

    def amount(self, value: float) -> str:
        """A difference as exact as it was given, e.g. `0.05 points`."""
        return f"{plain(value * self.metric.factor)} {self._unit}".rstrip()

    def setting(self, params: Mapping[str, Value]) -> str:
        """The searched parameters of a setting, e.g. `dropout 0.26 and bn_momentum 0.13`.

        Of a module that is retrofitted null is what it came with.
        """
        present = [p for p in self.parameters if p.key in params]
        if present and all(_is_as_it_came(p, params[p.key]) for p in present):
            return "the model as it is"
        shown = [
            f"the model's own {p.name}"
            if _is_as_it_came(p, params[p.key])
            else f"{p.name} {said(params[p.key])}"
            for p in present
        ]
        more = [f"{len(shown) - _NAMED} more"] if len(shown) > _NAMED else []
        return listed([*shown[:_NAMED], *more])

    def more_seeds(self, seeds: int | None) -> str:
        """What would decide, e.g. `63 seeds a setting would tell 0.05 points from none`."""
        if self.margin == 0:
            return "with a margin of 0 no number of seeds tells every difference from none"
        if seeds is None:
            return "two seeds a setting or more would show how far chance goes"
        return f"{many(seeds)} a setting would tell {self.amount(self.margin)} from none"

    def _half(self, interval: Interval) -> str:
        finite = math.isfinite(interval.half)
        return f" ± {self.metric.number(interval.half)}" if finite else ""

    @property
    def _unit(self) -> str:
        return "points" if self.metric.unit == "%" else self.metric.unit


def said(value: Value) -> str:
    """A value in a sentence, shorter than in a table."""
    return plain(value, _DIGITS)


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def many(seeds: int) -> str:
    """So many seeds; beyond `_MOST_SEEDS` the margin is none that anyone could measure."""
    return f"about {seeds} seeds" if seeds <= _MOST_SEEDS else f"more than {_MOST_SEEDS:,} seeds"


def plural(count: int, noun: str) -> str:
    """`1 seed`, `5 seeds`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def capital(sentence: str, name: str) -> str:
    """A sentence begun with a capital, unless a parameter's name begins it: names stay as typed."""
    return sentence if sentence.startswith(name) else sentence[:1].upper() + sentence[1:]


def span(run: tuple[Value, Value]) -> str:
    """A run of values, e.g. `0.15 to 0.4`, with as many digits as tell its ends apart."""
    first, last = run
    if first == last:
        return "the cumulative average" if first is None else said(first)
    texts = ([plain(v, digits) for v in run] for digits in range(_DIGITS, _MOST_DIGITS))
    return " to ".join(next(ends for ends in texts if ends[0] != ends[1]))


def entered(parameter: Parameter, value: Value, digits: int = _DIGITS) -> str:
    """A parameter's value by itself, in a table."""
    return "as it is" if _is_as_it_came(parameter, value) else plain(value, digits)


def _is_as_it_came(parameter: Parameter, value: Value) -> bool:
    return parameter.key.startswith("retrofit.") and value is None


def against(words: Words, outcome: Outcome, gap: Interval, other: str) -> str:
    """What was found of a difference, e.g. `0.35 ± 0.08 points better than the default`."""
    figure = f"{words.gap(gap)} {'better' if gap.mean >= 0 else 'worse'}"
    match outcome:
        case "equal":
            return f"no detectable difference from {other} ({figure})"
        case "undecided":
            return f"{figure} than {other}, which may be chance"
    return f"{figure} than {other}"
