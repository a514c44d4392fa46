"""Layers chosen by name: shell patterns on dotted names, names of classes, or classes.

`*` goes through dots, as in `fnmatch`: "encoder.*" is everything below `encoder`. A pattern that
matches nothing is an error, for a sweep over a parameter without effect answers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from dropnorm.standins import StandInDropout, StandInNorm

Pattern: TypeAlias = str | type[nn.Module]
Patterns: TypeAlias = Pattern | Sequence[Pattern]
Layers: TypeAlias = Sequence[tuple[str, nn.Module]]
Value = TypeVar("Value")

MOST_LISTED = 30


def named_layers(module: nn.Module) -> Layers:
    """Everything inside `module` by its dotted name; what has two names comes twice."""
    return [(n, m) for n, m in module.named_modules(remove_duplicate=False) if n]


def matching(what: str, patterns: Patterns, layers: Layers) -> Layers:
    """The layers that one of the patterns matches. Errors: ValueError for one that matches none."""
    matched = set()
    for pattern in [patterns] if isinstance(patterns, str | type) else patterns:
        hits = {name for name, layer in layers if _is_match(pattern, name, layer)}
        if not hits:
            raise ValueError(f"{what}={pattern!r} matches no layer; found {listed(layers)}")
        matched |= hits
    return [(name, layer) for name, layer in layers if name in matched]


def values(
    what: str,
    setting: Value | Mapping[str, Value] | None,
    layers: Layers,
    checked: Callable[[Value], Value],
) -> dict[int, Value]:
    """The value of each layer by its `id`: one for all, or by the first pattern that matches.

    A setting of None sets nothing. Errors: ValueError for a pattern that matches none, or what
    `checked` raises.
    """
    if setting is None:
        return {}
    found: dict[int, Value] = {}
    by_pattern = setting if isinstance(setting, Mapping) else {"*": setting}
    for pattern, value in by_pattern.items():
        hits = [layer for name, layer in layers if _is_match(pattern, name, layer)]
        if not hits:
            at = f"[{pattern!r}]" if isinstance(setting, Mapping) else ""
            raise ValueError(f"{what}{at}={value!r} meets no such layer; found {listed(layers)}")
        for layer in hits:
            found.setdefault(id(layer), checked(value))
    return found


def listed(layers: Layers) -> str:
    """Names and kinds of layers in one line."""
    shown = [f"{name} ({kind(layer).__name__})" for name, layer in layers[:MOST_LISTED]]
    more = [f"{len(layers) - MOST_LISTED} more"] if len(layers) > MOST_LISTED else []
    return ", ".join(shown + more) or "none"


def kind(layer: nn.Module) -> type[nn.Module]:
    """The class that a layer goes by: what it stands in for, or was before parametrizations."""
    stood_in_for = layer.origin if isinstance(layer, StandInNorm | StandInDropout) else None
    return stood_in_for or parametrize.type_before_parametrizations(layer)


def _is_match(pattern: Pattern, name: str, layer: nn.Module) -> bool:
    if isinstance(pattern, type):
        return issubclass(kind(layer), pattern)
    return fnmatchcase(name, pattern) or kind(layer).__name__ == pattern
