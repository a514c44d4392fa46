"""Sections of a configuration against the schema: plain containers in, frozen dataclasses out.

Every mistake is found in one pass. Models and data of others (`_target_` elsewhere) come out as
they are: their constructors check them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from sweep.errors import Problem, as_typed, did_you_mean, got, nearest, same_ending
from sweep.metric import Direction
from sweep.schema import FORMS, METRICS, TARGETS
from sweep.space import looks_like_range

_LOSSES = {"loss", "nll", "error", "mse", "mae", "rmse", "perplexity"}  # words in metrics of others


def check_section(name: str, section: Any) -> tuple[Any, list[Problem]]:
    """One section as its frozen dataclass (or as it came, if another's), and its mistakes."""
    if not isinstance(section, Mapping):
        what = f"expected a group of settings, {got(section)}"
        return section, [Problem(name, what, f"choose one of {name}/")]
    kind = _form(name, section)
    if kind is None or isinstance(kind, Problem):
        return section, [kind] if kind else []
    settings = {str(k): v for k, v in section.items() if k != "_target_"}
    try:
        return TypeAdapter(kind).validate_python(settings), []
    except ValidationError as error:
        keys = dict.fromkeys(str(e["loc"][0]) for e in error.errors())
        return section, [_problem(name, section, key, kind) for key in keys]


def check_metric(config: Mapping[str, Any]) -> list[Problem]:
    """Whether the study's metric is one that our own module logs, and is driven the better way."""
    study, model = config.get("study"), config.get("model")
    ours = isinstance(model, Mapping) and model.get("_target_") in TARGETS["model"]
    metric = study.get("metric") if isinstance(study, Mapping) else None
    if not isinstance(study, Mapping) or not isinstance(metric, str):
        return []
    if not ours:
        is_loss = not _LOSSES.isdisjoint(re.split(r"[^a-z]+", metric.lower()))
        return _driven(study, metric, "minimize") if is_loss else []
    if metric not in METRICS:
        what = f"expected a metric that {TARGETS['model'][0]} logs, {got(metric)}"
        return [Problem("study.metric", what, did_you_mean(metric, list(METRICS)))]
    return _driven(study, metric, METRICS[metric])


def _driven(study: Mapping[str, Any], metric: str, better: str) -> list[Problem]:
    """Whether a metric is driven the better way."""
    if study.get("direction") in [d for d in get_args(Direction) if d != better]:
        what = f"expected {better} for {metric}, {got(study['direction'])}"
        return [Problem("study.direction", what, f"type study.direction={better}")]
    return []


def keys_of(config: Mapping[str, Any]) -> list[str]:
    """Every dotted key that this configuration has or may have."""
    keys = list(leaves(config))
    for name, section in config.items():
        kind = _form(name, section) if name in FORMS and isinstance(section, Mapping) else None
        if isinstance(kind, type):
            keys += [f"{name}.{key}" for key in _names(kind)]
    return list(dict.fromkeys(keys))


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key, without whole groups."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else None
        found |= {f"{prefix}{key}": value} if inner is None else inner
    return found


def unknown_key(place: str, config: Mapping[str, Any]) -> Problem:
    """What to say of a dotted key that this configuration cannot have."""
    name, _, key = place.partition(".")
    if elsewhere := _known_elsewhere(place, config.get(name)):
        return elsewhere
    keys = keys_of(config)
    siblings = [k for k in keys if k.startswith(f"{name}.")]
    near = nearest(key, [k.partition(".")[2] for k in siblings])
    near = f"{name}.{near}" if near else same_ending(place.rpartition(".")[2], keys)
    if not near and not siblings:
        near = nearest(place, keys if key else list(config))
    if near:
        return Problem(place, "unknown key", f"did you mean {near}?")
    if siblings:
        return Problem(place, "unknown key", f"known: {', '.join(sorted(siblings))}")
    advice = f"the sections are {', '.join(config)}; --cfg job shows their keys"
    return Problem(place, "unknown key", advice)


def _known_elsewhere(place: str, section: Any) -> Problem | None:
    """Whether another form of the same section has this key."""
    name, _, key = place.partition(".")
    by, forms = FORMS.get(name, ("", {}))
    value = next((value for value, kind in forms.items() if by and key in _names(kind)), None)
    if value is None or not isinstance(section, Mapping):
        return None
    what = f"unknown key where {name}.{by} is {as_typed(section.get(by))}"
    choice = f"one of {name}/" if by == "_target_" else f"{name}={value}"
    return Problem(place, what, f"choose {choice}")


def _form(name: str, section: Mapping[str, Any]) -> type | Problem | None:
    """The dataclass that a section must fit; None if it belongs to somebody else's class."""
    if name in TARGETS:
        target = section.get("_target_")
        if not isinstance(target, str):
            what = f"expected an import path, {got(target)}"
            return Problem(f"{name}._target_", what, f"type {name}._target_={TARGETS[name][0]}")
        if belongs_to_others(name, section):
            return None
        if target not in TARGETS[name]:
            what = f"expected a class for {name}, {got(target)}"
            return Problem(f"{name}._target_", what, did_you_mean(target, TARGETS[name]))
    by, forms = FORMS[name]
    value = section.get(by, "")
    if isinstance(value, str) and value in forms:
        return forms[value]
    what = f"expected one of {', '.join(forms)}, {got(value)}"
    return Problem(f"{name}.{by}", what, f"choose {name}={next(iter(forms))}")


def belongs_to_others(name: str, section: Any) -> bool:
    """Whether a section names a class of somebody else's, whose arguments are not known here."""
    target = section.get("_target_") if isinstance(section, Mapping) else None
    return name in TARGETS and isinstance(target, str) and not target.startswith("dropnorm.")


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _problem(name: str, section: Mapping[str, Any], key: str, kind: type) -> Problem:
    place = f"{name}.{key}"
    if key not in _names(kind):
        return unknown_key(place, {name: {k: v for k, v in section.items() if k != key}})
    field: FieldInfo = kind.__pydantic_fields__[key]  # type: ignore[attr-defined]
    options = [] if field.description else [str(o) for o in get_args(field.annotation)]
    example = next(iter(field.examples or options))
    advice = f"type for example {place}={as_typed(example)}"
    if key not in section:
        by = FORMS[name][0]  # it may have been changed without its settings
        group = f"choose {name}={section[by]}, or " if by in ("name", "network") else ""
        return Problem(place, "missing", group + advice)
    value = section[key]
    what = f"expected {field.description or 'one of ' + ', '.join(options)}, {got(value)}"
    if looks_like_range(value):
        return Problem(place, what, f"put ranges under search:, as {place}: {value}")
    if near := nearest(str(value), options):
        return Problem(place, what, f"did you mean {near}?", sure=True)
    return Problem(place, what, advice)
