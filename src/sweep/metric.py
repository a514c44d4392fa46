"""How a metric is named, scaled and rounded for readers.

Accuracies become percent only when every recorded value lies in [0, 1]: a study may call
anything `..._accuracy`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from sweep.messages import Value

Direction: TypeAlias = Literal["maximize", "minimize"]

MISSING = "\N{EN DASH}"  # in the place of a value that never came

_LABELS = {
    "val_accuracy": ("validation accuracy", ""),
    "val_nll": ("validation NLL", "nats"),
    "test_nll": ("test NLL", "nats"),
    "val_ece": ("validation ECE", ""),
    "train_loss": ("training loss", ""),
}


_OF_VALIDATION = re.compile(r"(?<![a-z])(validation|valid|val)(?![a-z])")
_ACCURACY = re.compile(r"(?<![a-z])accuracy(?![a-z])")


def sign_of(direction: str) -> float:
    """1 if more is better, -1 if less is."""
    return 1.0 if direction == "maximize" else -1.0


def is_of_validation(name: str) -> bool:
    """Whether a metric is measured in validation, going by its name: val_acc, ptl/valid_loss."""
    return _OF_VALIDATION.search(name) is not None


def tested(name: str) -> str | None:
    """The name of a validation metric on the test set; None for any other metric."""
    return _OF_VALIDATION.sub("test", name, count=1) if is_of_validation(name) else None


def plain(value: Value, digits: int = 3) -> str:
    """A value as a person writes it: powers of ten only where zeros would fill a line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value == 0.0 or not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shortest(values: Sequence[float]) -> list[float]:
    """Different values with as few digits, three at least, as tell them apart."""
    spellings = ([float(f"{v:.{digits}g}") for v in values] for digits in range(3, 18))
    return next((found for found in spellings if len({*found}) == len(found)), list(values))


def duration(seconds: float) -> str:
    """A length of time in its two largest units, e.g. `2 min 41 s`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Metric:
    """One metric's label, unit and rounding. `factor` turns a recorded value into a shown one."""

    name: str
    label: str
    unit: str
    factor: float
    decimals: int

    @classmethod
    def of(cls, name: str, values: Iterable[float]) -> Metric:
        """The presentation that suits the recorded `values` of the metric `name`."""
        finite = [v for v in values if math.isfinite(v)]
        label, unit = _LABELS.get(name, (name, ""))
        if _ACCURACY.search(name) and all(0.0 <= v <= 1.0 for v in finite):
            return cls(name, label, "%", 100.0, 2)
        size = median(map(abs, finite)) if finite else 1.0
        decimals = 3 - math.floor(math.log10(size)) if size > 0.0 else 3
        return cls(name, label, unit, 1.0, min(max(decimals, 0), 8))

    @property
    def axis(self) -> str:
        """The label of an axis that shows this metric, with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def number(self, value: float | None) -> str:
        """The rounded figure without its unit; a dash where there is none."""
        return MISSING if value is None else f"{value * self.factor:.{self.decimals}f}"

    def show(self, value: float | None) -> str:
        """The rounded figure with its unit."""
        return self.number(value) if value is None else f"{self.number(value)} {self.unit}".rstrip()
