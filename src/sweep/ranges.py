"""Ranges against the configuration: what may be searched, and the values that its key may take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from sweep.data_check import missing_data
from sweep.errors import Problem
from sweep.schema import FORMS
from sweep.sections import belongs_to_others, check_section, keys_of, unknown_key
from sweep.space import Dimension, parse_dimension, write_params


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
        if problem := _unsearchable(key, config, sections):
            problems.append(problem)
            continue
        try:
            dimension = parse_dimension(key, text)
        except ValueError as error:
            problems.append(Problem(f"search.{key}", str(error), "correct the range"))
            continue
        problems += _unfit(config, dimension)
        dimensions.append(dimension)
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


def _unfit(config: Mapping[str, Any], dimension: Dimension) -> list[Problem]:
    """What is wrong with the first value of the range that its key may not take."""
    for value in map(dimension.setting, dimension.corners()):
        problem = _wrong(config, dimension.key, value)
        if problem is None:
            continue
        advice = problem.advice if problem.sure else "correct the range"
        if isinstance(value, float) and not _wrong(config, dimension.key, int(value)):
            advice = f"type {dimension.key}=int({dimension.text})"
        what = f"{problem.what} from {dimension.text}"
        return [Problem(f"search.{dimension.key}", what, advice)]
    return []


def _wrong(config: Mapping[str, Any], key: str, value: Any) -> Problem | None:
    section = key.partition(".")[0]
    changed = write_params(config, {key: value})[section]
    found = [*check_section(section, changed)[1], *missing_data(changed)]
    return next((p for p in found if p.place == key), None)
