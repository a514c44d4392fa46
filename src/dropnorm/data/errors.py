"""The one error of the data package."""

from __future__ import annotations


class DataError(ValueError):
    """Data that is missing, damaged or too small for what was asked.

    Its three parts stay apart in `args`, so it survives pickling between processes.
    """

    def __init__(self, expected: str, got: str, do: str) -> None:
        super().__init__(expected, got, do)

    def __str__(self) -> str:
        expected, got, do = self.args
        return f"expected {expected}, got {got}; {do}"
