"""What can go wrong, and the exit code that says so.

SweepError
 |- ConfigError   the configuration is wrong; nothing ran       exit 2
 |- StudyError    the study could not go on or finish           exit 1
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class SweepError(Exception):
    """Base of the errors that a person is shown without a traceback."""

    exit_code = 1


class ConfigError(SweepError):
    """Every mistake of a configuration at once, one line each."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class StudyError(SweepError):
    """The study stopped before its end; what was finished is recorded."""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """What to type instead of `name`: its nearest known spellings, or all that is known."""
    near = get_close_matches(name, known, 2, 0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(sorted(known)) or 'none'}"
