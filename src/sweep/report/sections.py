"""What stands beside each figure: a title and a few sentences, the same in every kind of report."""

from __future__ import annotations

from typing import NamedTuple

from sweep.report.generalisation import gaps
from sweep.report.pruning import explain, judge_pruning
from sweep.report.reading import ENOUGH, Reading
from sweep.report.surface import axes_of, is_crowded, scored


class Section(NamedTuple):
    """A figure's title, what it shows, and whether a reader is warned by its first sentence."""

    title: str
    about: list[str]
    warns: bool = False


def section(reading: Reading, figure: str) -> Section:
    """The words of one figure."""
    match figure:
        case "surface":
            return Section("Response surface", _surface(reading))
        case "momentum":
            return Section("Momentum on the same weights", _MOMENTUM)
        case "dropout":
            return Section("Dropout", _dropout(reading))
        case "slices":
            return Section("One parameter at a time", _slices(reading))
        case "history":
            text = "When the search found what. A best that still rises asks for more trials."
            return Section("Order of the trials", [text])
        case "importance":
            text = (
                "What the best quarter of all settings have in common (PED-ANOVA). A parameter "
                "that does not pass its dummies, its own values shuffled, is not shown to matter."
            )
            return Section("Importance of the parameters", [text])
        case "learning":
            text = "Every trial by epoch. Curves that still rise at the end ask for more epochs."
            return Section("Learning curves", [text])
        case "pruning":
            pruning = judge_pruning(reading)
            warns = pruning is not None and pruning.is_doubtful
            return Section(
                "Was pruning right?", explain(reading, pruning) if pruning else [], warns
            )
        case "timeline":
            text = "Who trained what when; bars of one worker above each other share a pack."
            return Section("Workers and lanes", [text])
    raise ValueError(f"expected the name of a figure, got {figure!r}")


def _surface(reading: Reading) -> list[str]:
    found = axes_of(reading)
    label = reading.metric.label
    near = f"The line holds what lies within {reading.tolerance_words} of its best point."
    trials, momenta = scored(reading, *found) if found else ([], [])
    if found and trials:
        each = "Every training was" if is_crowded(trials) else "Each thin line is a training,"
        return [
            f"{each} measured at {len(momenta)} momenta on the same weights. Along "
            f"{found[1].name} the colour is measured; along {found[0].name} it is smoothed.",
            f"{near} Larger marks stand at each trial's own best.",
            "Far from any training the colour tends to the average, and says nothing.",
        ]
    if len(reading.complete) < ENOUGH:
        return [
            f"Each mark is a trial. With five complete ones, the {label} is estimated between them."
        ]
    return [
        f"Each mark is a trial; the colour is a smooth estimate of the {label} between them. "
        f"{near}",
        "Far from any trial the colour tends to the average, and says nothing. "
        "Results beyond the scale have its last colour.",
    ]


_MOMENTUM = [
    "BatchNorm trains with the statistics of each batch; its momentum only shapes the running "
    "averages that evaluation reads. So every value was scored on the same weights.",
    "Horizontal lines: the same weights with precise statistics, gathered anew over training "
    "batches. A gap below them is lag or noise of the running average; a gap between the two "
    "is dropout's shift of the variance.",
]


def _dropout(reading: Reading) -> list[str]:
    average = " The line averages over all other settings, with its 95 % interval."
    gap = (
        "The gap is the validation NLL less the training loss. That is measured with dropout on, "
        "so at high rates the gap falls below zero without generalising any better."
    )
    enough = len(reading.complete) >= ENOUGH
    return [
        f"Every trial against its dropout.{average if enough else ''}",
        *(["Squares: confirmed settings on fresh seeds."] if reading.answer.arms else []),
        *([gap] if len(gaps(reading)) >= ENOUGH else []),
    ]


def _slices(reading: Reading) -> list[str]:
    line = " The line averages over all other settings, so it does not reach the best."
    smoothed = len(reading.complete) >= ENOUGH and reading.numeric
    return [
        f"The trials against each parameter.{line if smoothed else ''}",
        "Pruned trials stand at the last value they reported. What is far worse, or has no value, "
        "lies in the grey strip.",
    ]
