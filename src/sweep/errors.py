"""What can go wrong, the exit code that says so, and the words of a message.

SweepError
 |- ConfigError   the configuration is wrong; nothing ran       exit 2
 |- StudyError    the study could not go on or finish           exit 1
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

_BARE = re.compile(r"(\.\.?/)?[a-z_/][\w./+%@-]*", re.ASCII | re.IGNORECASE)
_NOT_WORDS = {"null", "true", "false", "nan", "inf"}
_LONGEST = 80


class SweepError(Exception):
    """Base of the errors that a person is shown without a traceback."""

    exit_code = 1


class Unbuildable(Exception):
    """A trial's module or data cannot be made; says why, in a line."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: its place, what was expected and came, what to type next."""

    place: str
    what: str
    advice: str
    sure: bool = False  # the advice names what was meant, in all likelihood

    def __str__(self) -> str:
        return f"{self.place}: {self.what}; {self.advice}"


class ConfigError(SweepError):
    """Every mistake of a configuration at once, one line each."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = list(dict.fromkeys(map(str, problems)))
        super().__init__("\n".join(self.problems))


class StudyError(SweepError):
    """The study stopped before its end; what was finished is recorded."""


def same_ending(name: str, known: Sequence[str]) -> str | None:
    """The known dotted key, or KEY=VALUE, that ends in `name`."""
    return next((k for k in known if re.split(r"[.=]", k)[-1] == name), None)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known spelling that `name` may have meant."""
    return same_ending(name, known) or next(iter(get_close_matches(name, known, 1)), None)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """What to type instead of `name`: its nearest known spelling, or all that is known."""
    if near := nearest(name, known):
        return f"did you mean {near}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"


def as_typed(value: Any) -> str:
    """A value as it is typed on the command line and in YAML: `null`, `[64,64]`, `"5"`, `relu`."""
    match value:
        case str():
            if _BARE.fullmatch(value) and value.lower() not in _NOT_WORDS:
                return value
            return json.dumps(value, ensure_ascii=not value.isprintable())
        case bool() | None:
            return json.dumps(value)
        case list() | tuple():
            return f"[{','.join(map(as_typed, value))}]"
        case Mapping():
            return f"{{{','.join(f'{k}:{as_typed(v)}' for k, v in value.items())}}}"
    return str(value)


def got(value: Any) -> str:
    """`got relu`: what came, cut short if it is very long."""
    text = as_typed(value)
    return f"got {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}"
