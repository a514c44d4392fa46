"""The words on the command line, read: overrides that fix a value, and ranges that search a key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from sweep.errors import Problem, as_typed
from sweep.space import looks_like_range

_NUMBERED = re.compile(r"\A(\+{0,2}study\.name=)(\d[\w.]*)\Z", re.ASCII)


@dataclass(frozen=True)
class Overrides:
    """What was typed, in its order. A later word about a key takes the place of an earlier one."""

    fixed: list[Override] = field(default_factory=list)
    ranges: dict[str, str] = field(default_factory=dict)  # dotted key -> range as typed
    problems: list[Problem] = field(default_factory=list)

    @property
    def fixed_keys(self) -> set[str]:
        return {override.key_or_group for override in self.fixed}


def read_overrides(words: Sequence[str]) -> Overrides:
    """Hydra's grammar. A range that Hydra cannot read is kept: `parse_dimension` says why."""
    read = Overrides()
    parser = OverridesParser.create()
    for word in words:
        key, _, value = word.partition("=")
        key = key.lstrip("+").removeprefix("search.")  # where a study's file has its ranges
        try:
            override = parser.parse_override(_with_a_name(word))
        except HydraException:
            if looks_like_range(value):
                read.ranges[key] = value
            else:
                read.problems.append(_unreadable(word))
            continue
        if not override.key_or_group:
            read.problems.append(_unreadable(word))
        elif override.is_sweep_override() and not override.is_delete():
            read.ranges[key.partition("@")[0]] = value
        else:
            read.ranges.pop(override.key_or_group, None)
            read.fixed.append(override)
    return read


def _with_a_name(word: str) -> str:
    """`study.name=007` with its value in quotes: what Hydra takes for a number is a name there."""
    return _NUMBERED.sub(r'\1"\2"', word)


def _unreadable(word: str) -> Problem:
    key, equals, value = (part.strip() for part in word.partition("="))
    if not equals:
        advice = f"type {key}=VALUE, or +study={key} for a study; --help names the commands"
    elif not key:
        advice = f"type KEY={value}"
    elif word != f"{key}={value}":
        advice = f"type {key}={value}"
    elif not value.isprintable():
        advice = "leave control characters out"
    else:
        quoted = value.replace('"', r"\"")
        advice = f"put special characters in quotes: '{key}=\"{quoted}\"'"
    return Problem(word if word.isprintable() else as_typed(word), "expected KEY=VALUE", advice)
