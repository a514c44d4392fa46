"""Hydra's part: configuration files and overrides become one nested configuration.

Hydra stops at the first mistake. So after one, the overrides are applied one by one: each that does
not fit is named with its reason, and the others still count, so that all mistakes show at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from sweep.errors import Problem, did_you_mean, got
from sweep.sections import belongs_to_others, keys_of, leaves, unknown_key

_FAULTS = (
    HydraException,
    OmegaConfBaseException,
    YAMLError,
    TypeError,  # a group that is a list of numbers
    ValueError,  # a group that is null, a file that is not UTF-8
    OSError,
    RecursionError,  # defaults in a circle
)
# Lines of their messages that say nothing new.
_ASIDES = ("full_key:", "object_type=", "See https://", "Config search path:", "To append ")


@dataclass
class Composed:
    """A configuration as far as it could be composed, and why it could not be further."""

    config: dict[str, Any]  # plain containers; what is still to be set (???) is left out
    studies: list[str]  # what +study= may be
    problems: list[Problem] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)  # groups for which no choice was found


def conf_folder() -> Path:
    """The shipped configuration: beside this file in a wheel, at the top of a clone."""
    here = Path(__file__).resolve().parent
    places = (here / "conf", here.parents[1] / "conf")
    return next((p for p in places if (p / "config.yaml").is_file()), places[0])


def compose_config(overrides: Sequence[Override], config_dir: str | None) -> Composed:
    """The configuration with these overrides, and one problem for each that does not fit."""
    places = [_text(o) for o in overrides if o.key_or_group == "hydra.searchpath"]
    if config_dir is not None:
        if problems := _unusable(Path(config_dir), places):
            return Composed({}, [], problems)
        quoted = str(Path(config_dir).resolve()).replace("'", r"\'")
        places = [f"hydra.searchpath=['file://{quoted}']"]
    others = [o for o in overrides if o.key_or_group != "hydra.searchpath"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3", job_name="sweep"):
        try:
            studies = _options("study", places)
        except _FAULTS as error:
            problem = Problem("hydra.searchpath", _reason(error), "type [file:///a/folder]")
            return Composed({}, [], [problem])
        try:
            return Composed(_compose([*places, *map(_text, others)]), studies)
        except _FAULTS:
            return _one_by_one(others, places, studies)


def _unusable(folder: Path, places: Sequence[str]) -> list[Problem]:
    """Why a folder of the user's cannot be read; of two files of one name the shipped one is."""
    if not folder.is_dir():
        what = f"expected a folder, {got(str(folder))}"
        return [Problem("--config-dir", what, "type one there is")]
    if places:
        what = "expected either this or hydra.searchpath, got both"
        return [Problem("--config-dir", what, "name both folders in hydra.searchpath")]
    shipped = {path.relative_to(conf_folder()): path for path in conf_folder().glob("*/*.yaml")}
    taken = [
        folder / name
        for name, path in sorted(shipped.items())
        if (folder / name).is_file() and (folder / name).read_bytes() != path.read_bytes()
    ]
    what = "expected another name than that of a shipped file, which is read in its place"
    return [Problem(str(path), what, "rename it") for path in taken]


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    composed: dict[str, Any] = _without_missing(config)
    return composed


def _without_missing(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(k): _without_missing(v) for k, v in value.items() if v != "???"}


def _one_by_one(overrides: Sequence[Override], places: list[str], studies: list[str]) -> Composed:
    groups = _options("", places, ObjectType.GROUP)
    done = Composed(_compose(places), studies)
    good = list(places)
    # Choices of a group, and of a class, decide which keys there are, so they come first.
    for override in sorted(overrides, key=lambda o: _rank(o.key_or_group, groups)):
        key, text = override.key_or_group, _text(override)
        section = key.partition(".")[0]
        if key not in leaves(done.config) and belongs_to_others(section, done.config.get(section)):
            text = f"+{text}" if not (override.is_add() or override.is_delete()) else text
        try:
            done.config = _compose([*good, text])
            good.append(text)
        except _FAULTS as error:
            if key.partition(".")[0] not in done.doubtful - {"study"}:
                done.problems.append(_explain(override, error, done))
            if key in groups:
                done.doubtful.add(key)
    return done


def _rank(key: str, groups: Sequence[str]) -> int:
    return 0 if key in groups else 1 if key.endswith("._target_") else 2


def _explain(override: Override, error: Exception, done: Composed) -> Problem:
    key, text = override.key_or_group, _text(override)
    if key == "study" and not override.is_add():
        what = f"expected +study=NAME with a plus, got {text}"
        typed = f"+study={text.partition('=')[2]}"
        return Problem(key, what, did_you_mean(typed, [f"+study={s}" for s in done.studies]))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        place = key if key == group else text
        return Problem(place, f"no {group} {name}", did_you_mean(name, error.options or []))
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        what = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
        return Problem(text, what, "mend the file")
    section, _, rest = key.partition(".")
    if section == "search":
        return Problem(text, "expected the range itself", f"type {rest or 'KEY'}=RANGE")
    config = {k: v for k, v in done.config.items() if k != "search"}
    if override.is_add() or key in config or key in leaves(config):
        return Problem(text, _reason(error), "change it or leave it out")
    if key in keys_of(config):
        return Problem(key, "not set so far", f"add it with a plus: +{text.lstrip('~+')}")
    return unknown_key(key, config)


def _options(group: str, places: list[str], kind: ObjectType = ObjectType.CONFIG) -> list[str]:
    """What there is to choose in a group; with ObjectType.GROUP the groups in it."""
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options(group, kind, "config", places)


def _text(override: Override) -> str:
    return override.input_line or ""


def _reason(error: Exception) -> str:
    """The first sentences of Hydra's or OmegaConf's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(_ASIDES)]
    return " ".join(said[:2]).rstrip(".") or type(error).__name__
