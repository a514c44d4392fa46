"""sweep: searches dropout, BatchNorm momentum and anything else, and says what it found."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.record import load_study

__all__ = ["load_study"]


def __getattr__(name: str) -> Any:
    if name != "load_study":
        raise AttributeError(f"module 'sweep' has no attribute {name!r}")
    from sweep.record import load_study

    return load_study
