"""Names that somebody typed, held against those that are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def check_names(owner: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError for a name that `owner` does not know, with the nearest that it does."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            raise ValueError(f"{owner}.{name}: unknown key; {hint}")
