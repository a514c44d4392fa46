"""A name that must be one of a few."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(what: str, name: str, names: Iterable[str]) -> str:
    """`name`, if it is among `names`. Errors: ValueError that lists them."""
    if name not in (names := list(names)):
        raise ValueError(f"{what}: expected one of {', '.join(names)}, got {name!r}")
    return name
