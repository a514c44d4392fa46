"""From the words on the command line to a plan: Hydra composes, the schema checks, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep import schema
from sweep.compose import Composed, compose_config
from sweep.data_check import missing_data, too_few_images
from sweep.errors import ConfigError, Problem, got
from sweep.messages import Value
from sweep.overrides import Overrides, read_overrides
from sweep.profile import profiled, without_meaning
from sweep.ranges import check_ranges
from sweep.sections import check_metric, check_section, leaves, unknown_key
from sweep.space import Dimension, write_params
from sweep.strategies import unsuited
from sweep.trial_config import devices_per_trial

TRIAL_SECTIONS = ("model", "data", "optimizer", "trainer", "retrofit")  # what a worker is told
_OWN_SECTIONS = ("study", "sampler", "pruner", "executor", "confirm")  # what the conductor reads
_EXAMPLE = "type for example 'model.dropout=interval(0,0.5)'"


@dataclass(frozen=True)
class Plan:
    """A checked configuration: everything that a study needs to run."""

    study: schema.StudySettings
    sampler: schema.SamplerSettings
    pruner: schema.PrunerSettings
    executor: schema.ExecutorSettings
    confirm: schema.ConfirmSettings
    search: tuple[Dimension, ...]
    profiled: Dimension | None  # the one of these that every trial scores whole
    trial: Mapping[str, Any]  # model, data, optimizer, trainer: what each trial starts from
    resolved: Mapping[str, Any]  # all of it, as it was composed

    @property
    def folder(self) -> Path:
        return Path(self.study.folder).expanduser() / self.study.name

    @property
    def asked(self) -> list[Dimension]:
        """What the sampler searches."""
        return [d for d in self.search if d is not self.profiled]

    def trial_config(self, params: Mapping[str, Value]) -> dict[str, Any]:
        """What a trial with these parameters is built from."""
        settings = {d.key: d.setting(params[d.key]) for d in self.search if d.key in params}
        return write_params(self.trial, settings)


def composition(
    words: Sequence[str], config_dir: str | None = None
) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration with its ranges as far as it can be composed, and why no further.

    What it says is not checked, so that it shows while something is wrong with it. Errors:
    ConfigError if there is nothing to show.
    """
    overrides, composed, problems = _compose(words, config_dir)
    search = _search(composed.config.pop("search", None), overrides, problems)
    return {**composed.config, "search": search}, problems


def make_plan(words: Sequence[str], config_dir: str | None = None) -> Plan:
    """Compose and check. Errors: ConfigError with every mistake that was found."""
    overrides, composed, problems = _compose(words, config_dir)
    config = composed.config
    if studies := overrides.ranges.pop("study", None):
        what = f"expected one study, got {studies}"
        problems.append(Problem("study", what, "run them one after the other"))
    if studies or overrides.problems:  # which study was meant is not known
        composed.doubtful.add("study")
    search = _search(config.pop("search", None), overrides, problems)
    _check_study(composed, search, problems)
    sections = _check_sections(config, problems)
    broken = {name for name in TRIAL_SECTIONS if not isinstance(config.get(name), Mapping)}
    dimensions, found = check_ranges(config, search, TRIAL_SECTIONS, composed.doubtful | broken)
    problems += [*found, *check_metric(config), *missing_data(config.get("data"))]
    if problems:
        raise ConfigError(problems)
    resolved = {**config, "search": {d.key: d.text for d in dimensions}}
    trial = {name: config[name] for name in TRIAL_SECTIONS}
    free = profiled(dimensions, trial, sections["study"].metric)
    plan = Plan(search=tuple(dimensions), profiled=free, trial=trial, resolved=resolved, **sections)
    if problems := _unfit(plan):
        raise ConfigError(problems)
    return plan


def _compose(
    words: Sequence[str], config_dir: str | None
) -> tuple[Overrides, Composed, list[Problem]]:
    """What is typed, what it makes, and the problems so far. Errors: ConfigError if nothing is."""
    overrides = read_overrides(words)
    composed = compose_config(overrides.fixed, config_dir)
    problems = [*overrides.problems, *composed.problems]
    if not composed.config:
        raise ConfigError(problems)
    return overrides, composed, problems


def _unfit(plan: Plan) -> list[Problem]:
    """What is wrong with the search as a whole."""
    sampler = unsuited(plan.sampler, plan.asked, plan.profiled)
    few = too_few_images(plan.trial["data"], plan.search)
    return [*sampler, *without_meaning(plan.search, plan.trial), *_misplaced(plan), *few]


def _misplaced(plan: Plan) -> list[Problem]:
    """What cannot be told to workers, who are placed before their first trial."""
    placement = [f"trainer.{key}" for key in ("accelerator", "devices", "strategy")]
    found = [
        Problem(d.key, "expected one value for all trials, got a range", f"type {d.key}=VALUE")
        for d in plan.search
        if d.key in placement
    ]
    if devices_per_trial(plan.trial) > 1 and plan.executor.workers_per_device > 1:
        came = plan.executor.workers_per_device
        what = f"expected 1 where a trial has several devices (trainer.devices), got {came}"
        found.append(Problem("executor.workers_per_device", what, "type 1"))
    return found


def _search(block: Any, overrides: Overrides, problems: list[Problem]) -> dict[str, Any]:
    """What is searched: the study's `search:`, but for what the command line fixes or searches."""
    if block is not None and not isinstance(block, Mapping):
        what = f"expected keys and their ranges, {got(block)}"
        problems.append(Problem("search", what, "write for example model.dropout: interval(0,0.5)"))
        return overrides.ranges
    searched = {k: v for k, v in leaves(block or {}).items() if k not in overrides.fixed_keys}
    return searched | overrides.ranges


def _check_study(composed: Composed, search: Mapping[str, Any], problems: list[Problem]) -> None:
    """Whether a study was chosen, whether its file is one, and whether it searches something."""
    study = composed.config.get("study")
    if "study" in composed.doubtful or not isinstance(study, dict):
        return
    if strays := [key for key in ("search", *_OWN_SECTIONS, *TRIAL_SECTIONS) if key in study]:
        what = f"expected no {strays[0]} in it; the study's file lacks its first line"
        problems.append(Problem("study", what, "put '# @package _global_' there"))
        composed.config["study"] = {k: v for k, v in study.items() if k not in strays}
        composed.doubtful.add("study")
    elif "name" not in study:
        advice = f"type +study={'|'.join(composed.studies)}, or study.name=NAME"
        problems.append(Problem("study.name", "missing", advice))
        composed.doubtful.add("study")
    elif not search and not any(p.place == "search" for p in problems):
        problems.append(Problem("search", "expected a range to search, got none", _EXAMPLE))


def _check_sections(config: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """Checks all sections; returns the conductor's own as dataclasses."""
    for name in config:
        if name not in (*_OWN_SECTIONS, *TRIAL_SECTIONS):
            known = {key: config[key] for key in config if key != name}
            problems.append(unknown_key(name, known))
    checked = {}
    for name in (*_OWN_SECTIONS, *TRIAL_SECTIONS):
        checked[name], found = check_section(name, config.get(name))
        # A study without a name has got its own message.
        problems += [p for p in found if (p.place, p.what) != ("study.name", "missing")]
    return {name: checked[name] for name in _OWN_SECTIONS}
