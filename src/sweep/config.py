"""From the words on the command line to a plan: Hydra composes, the schema checks, all at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep import schema
from sweep.data_check import missing_data
from sweep.errors import ConfigError, did_you_mean
from sweep.space import Dimension, parse_dimension, write_params

TRIAL_SECTIONS = ("model", "data", "optimizer", "trainer")  # what a worker is told
_OWN_SECTIONS = ("study", "sampler", "pruner", "executor")  # what the conductor reads


@dataclass(frozen=True)
class Plan:
    """A checked configuration: everything that a study needs to run."""

    study: schema.StudySettings
    sampler: schema.SamplerSettings
    pruner: schema.PrunerSettings
    executor: schema.ExecutorSettings
    search: tuple[Dimension, ...]
    trial: Mapping[str, Any]  # model, data, optimizer, trainer: what each trial starts from
    resolved: Mapping[str, Any]  # all of it, as it was composed

    @property
    def folder(self) -> Path:
        return Path(self.study.folder) / self.study.name


def conf_folder() -> Path:
    """The shipped configuration: beside this file in a wheel, at the top of a clone."""
    here = Path(__file__).resolve().parent
    places = (here / "conf", here.parents[1] / "conf")
    return next((p for p in places if (p / "config.yaml").is_file()), places[0])


def make_plan(overrides: Sequence[str], config_dir: str | None = None) -> Plan:
    """Compose and check. Errors: ConfigError with every mistake that was found."""
    problems: list[str] = []
    fixed, ranges = _split(overrides, problems)
    config = _compose(fixed, config_dir, problems)
    if config is None:
        raise ConfigError(problems)
    search = {k: v for k, v in (config.pop("search", None) or {}).items() if k not in _keys(fixed)}
    search |= ranges
    sections = _check_sections(config, problems)
    dimensions = _check_search(config, search, problems)
    problems += missing_data(config.get("data"))
    if problems:
        raise ConfigError(problems)
    resolved = {**config, "search": {d.key: d.text for d in dimensions}}
    trial = {name: config[name] for name in TRIAL_SECTIONS}
    return Plan(search=tuple(dimensions), trial=trial, resolved=resolved, **sections)


def _split(overrides: Sequence[str], problems: list[str]) -> tuple[list[str], dict[str, str]]:
    """Overrides that fix a value, and those that search a key (dotted key -> range as typed)."""
    fixed, ranges = [], {}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            problems.append(f"{text}: cannot be read; {_first_line(error, 1)}")
            continue
        if override.is_sweep_override():
            ranges[override.get_key_element().lstrip("+")] = text.partition("=")[2]
        else:
            fixed.append(text)
    return fixed, ranges


def _keys(overrides: Sequence[str]) -> set[str]:
    return {_parsed(o).get_key_element().lstrip("+~") for o in overrides}


def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def _compose(
    overrides: list[str], config_dir: str | None, problems: list[str]
) -> dict[str, Any] | None:
    """Hydra stops at the first bad override: note it, leave it out, and compose again."""
    searchpath = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    if config_dir and not Path(config_dir).is_dir():
        problems.append(f"--config-dir: no such folder: {config_dir}")
        return None
    with initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="sweep"):
        for left in _shrinking(overrides):
            try:
                config = compose("config", overrides=[*searchpath, *left])
                return _container(config, problems)
            except (HydraException, OmegaConfBaseException) as error:
                culprit = next((o for o in left if _blames(error, o)), None)
                problems.append(_explain(error, culprit))
                if culprit is None:
                    return None
                left.remove(culprit)
    return None


def _shrinking(overrides: list[str]) -> Iterator[list[str]]:
    """The same list again and again, as long as the loop takes something out of it."""
    left, size = list(overrides), len(overrides) + 1
    while len(left) < size:
        size = len(left)
        yield left


def _blames(error: Exception, override: str) -> bool:
    """Whether Hydra's error is about this override: it quotes its key, its choice or all of it."""
    parsed = _parsed(override)
    key = parsed.get_key_element().lstrip("+~").partition("@")[0]
    texts = (f"'{key}'", f"'{key}/{parsed.value()}'", f"'{override}'", f"override {override}")
    return any(text in str(error) for text in texts) or getattr(error, "full_key", None) == key


def _explain(error: Exception, culprit: str | None) -> str:
    message = str(error)
    if culprit is None:
        return f"configuration: {_first_line(error)}"
    key, _, value = culprit.lstrip("+~").partition("=")
    if options := re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", message):
        return f"{key}: no {key} {value!r}; {did_you_mean(value, options.group(1).split())}"
    if key == "study":
        return f"study: expected +study={value} (with a plus), got {culprit}"
    if "Could not override" in message or "Could not find" in message:
        return f"{key}: unknown key; {did_you_mean(key, _all_keys())}"
    return f"{key}: {_first_line(error)}"


def _first_line(error: Exception, line: int = 0) -> str:
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    return lines[min(line, len(lines) - 1)] if lines else type(error).__name__


def _all_keys() -> list[str]:
    """Every dotted key and group of the default configuration."""
    config = OmegaConf.to_container(compose("config"))
    return list(_flat(config)) + [p.name for p in conf_folder().iterdir() if p.is_dir()]


def _flat(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def _container(config: DictConfig, problems: list[str]) -> dict[str, Any] | None:
    missing = OmegaConf.missing_keys(config)
    for key in sorted(missing):
        hint = ""
        if key == "study.name":
            studies = sorted(p.stem for p in (conf_folder() / "study").glob("*.yaml"))
            hint = f"choose a study, +study=NAME with one of {', '.join(studies)}, or "
        problems.append(f"{key}: missing; {hint}set {key}=...")
    if missing:
        return None
    container = OmegaConf.to_container(config, resolve=True)
    return {str(k): v for k, v in container.items()} if isinstance(container, dict) else None


def _check_sections(config: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    known = (*_OWN_SECTIONS, *TRIAL_SECTIONS)
    problems += [
        f"{key}: unknown section; {did_you_mean(key, known)}" for key in config if key not in known
    ]
    checked = {}
    for name in known:
        checked[name], found = schema.check_section(name, config.get(name))
        problems += found
    return {name: checked[name] for name in _OWN_SECTIONS}


def _check_search(
    config: dict[str, Any], search: Mapping[str, Any], problems: list[str]
) -> list[Dimension]:
    """Each range must parse, search a key that a trial reads, and hold values that key may take."""
    dimensions = []
    keys = list(_flat({name: config.get(name) or {} for name in TRIAL_SECTIONS}))
    for key, text in search.items():
        if key not in keys:
            problems.append(f"search.{key}: unknown key; {did_you_mean(key, keys)}")
            continue
        try:
            dimension = parse_dimension(key, text)
        except ValueError as error:
            problems.append(f"search.{key}: {error}")
            continue
        problems += _bad_corners(config, dimension)
        dimensions.append(dimension)
    if not dimensions and not problems:
        problems.append(
            "search: nothing to search; type for example 'model.dropout=interval(0,0.5)'"
        )
    return dimensions


def _bad_corners(config: Mapping[str, Any], dimension: Dimension) -> list[str]:
    section = dimension.key.partition(".")[0]
    problems = []
    for value in dimension.corners():
        changed = write_params(config, {dimension.key: value})[section]
        _, found = schema.check_section(section, changed)
        _, before = schema.check_section(section, config[section])
        problems += [f"search.{p}" for p in found if p not in before]
    return problems
