"""Ranges against the configuration: what may be searched, and the values that its key may take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations, islice
from typing import Any

from sweep.data_check import missing_data
from sweep.errors import Problem, as_typed, got
from sweep.schema import FORMS
from sweep.sections import belongs_to_others, check_section, keys_of, unknown_key
from sweep.space import Dimension, parse_dimension, write_params

_MOST = 3000  # combinations of up to three corners of other ranges


def check_ranges(
    config: Mapping[str, Any],
    search: Mapping[str, Any],
    sections: Collection[str],
    doubtful: Collection[str],
) -> tuple[list[Dimension], list[Problem]]:
    """The ranges as dimensions. Each must parse, search a key of `sections`, and fit that key.

    Of `doubtful` sections it is not known which keys they have: their ranges are passed over.
    """
    dimensions, problems = [], []
    for key, text in search.items():
        if key.partition(".")[0] in doubtful:
            continue
        if problem := _unsearchable(key, config, sections) or _within(key, config, search):
            problems.append(problem)
            continue
        try:
            dimension = parse_dimension(key, text)
        except ValueError as error:
            problems.append(Problem(f"search.{key}", str(error), "correct the range"))
            continue
        dimensions.append(dimension)
    for dimension in dimensions:
        problems += _unfit(config, dimension, dimensions)
    return dimensions, problems


def _unsearchable(key: str, config: Mapping[str, Any], sections: Collection[str]) -> Problem | None:
    place, section = f"search.{key}", key.partition(".")[0]
    if key in config and key in sections:
        example = next(k for k in keys_of({key: config[key]}) if not k.endswith("_"))
        what = f"expected a key such as {example}, got a whole group"
        return Problem(place, what, f"run a study for each choice: {key}=CHOICE study.name=NAME")
    if section in FORMS and section not in sections:
        what = f"expected a key of {', '.join(sections)}: the others are the same for all trials"
        return Problem(place, what, f"type {key}=VALUE")
    searchable = {name: config[name] for name in sections if name in config}
    if key not in keys_of(searchable) and not belongs_to_others(section, config.get(section)):
        return replace(unknown_key(key, searchable), place=place)
    return None


def _within(key: str, config: Mapping[str, Any], search: Mapping[str, Any]) -> Problem | None:
    """Whether a key lies below a setting that has no keys: a list, a word, or a searched one."""
    whole, *inner = key.split(".")[:-1] or [key]
    setting = config.get(whole)
    for part in inner:
        whole, setting = f"{whole}.{part}", setting.get(part) if setting else None
        if whole in search or not (setting is None or isinstance(setting, Mapping)):
            came = f"got {search[whole]}" if whole in search else got(setting)
            what = f"expected a group of settings at {whole}, {came}"
            return Problem(f"search.{key}", what, f"search it as a whole: {whole}=choice(X,Y)")
    return None


def _unfit(
    config: Mapping[str, Any], dimension: Dimension, search: Sequence[Dimension]
) -> list[Problem]:
    """What is wrong with the first value of the range that no trial can be trained with."""
    key, text, section = dimension.key, dimension.text, dimension.key.partition(".")[0]
    place = f"search.{key}"
    for value in map(dimension.setting, dimension.corners()):
        problem = _wrong(config, key, {key: value})
        if problem is None or _suits_others(config, dimension, value, search):
            continue
        if problem.place == key:
            advice = problem.advice if problem.sure else "correct the range"
            if isinstance(value, float) and not _wrong(config, key, {key: int(value)}):
                advice = f"type {key}=int({text})"
            return [Problem(place, f"{problem.what} from {text}", advice)]
        if key in (f"{section}._target_", f"{section}.{FORMS[section][0]}"):
            what = f"expected choices that have the same settings, got {text}"
            advice = f"run a study for each choice: {section}=CHOICE study.name=NAME"
            return [Problem(place, what, advice)]
        what = f"{as_typed(value)} from {text} does not go with {problem.place}: {problem.what}"
        return [Problem(place, what, problem.advice)]
    return []


def _suits_others(
    config: Mapping[str, Any], dimension: Dimension, value: Any, search: Sequence[Dimension]
) -> bool:
    """Whether a value that does not fit the section as it stands does so beside other ranges."""
    section = dimension.key.partition(".")[0]
    others = [d for d in search if d is not dimension and d.key.startswith(f"{section}.")]
    corners = [(d.key, d.setting(corner)) for d in others for corner in d.corners()]
    beside = chain.from_iterable(combinations(corners, count) for count in (1, 2, 3))
    return any(
        _wrong(config, dimension.key, {dimension.key: value, **dict(some)}) is None
        for some in islice(beside, _MOST)
    )


def _wrong(config: Mapping[str, Any], key: str, values: Mapping[str, Any]) -> Problem | None:
    """What is wrong with these values: first that of `key`, then what was right before them."""
    name = key.partition(".")[0]
    now, before = (_problems(name, c[name]) for c in (write_params(config, values), config))
    found = [p for p in now if p.place == key] or [p for p in now if p not in before]
    return found[0] if found else None


def _problems(name: str, section: Any) -> list[Problem]:
    return [*check_section(name, section)[1], *missing_data(section)]
