"""Recorded studies as rows, made up for tests of the report, and the page that comes of them."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from sweep.results import ConfirmRow, MomentumCurve, ResultSet, TrialRow

SEARCH = {"model.dropout": "interval(0,0.7)", "model.bn_momentum": "tag(log, interval(0.001,1))"}


def trial(number: int, maximize: bool = True) -> TrialRow:
    """One of trials spread over the space, best near dropout 0.3 and momentum 0.06."""
    dropout, place = 0.7 * (number * 0.754878 % 1), number * 0.569840 % 1
    momentum = 10 ** (-3 * place)
    accuracy = 0.984 - 0.03 * (dropout - 0.3) ** 2 - 0.002 * (math.log10(momentum) + 1.2) ** 2
    value = accuracy if maximize else 1 - accuracy
    params = {"model.dropout": dropout, "model.bn_momentum": momentum}
    row = TrialRow(number, "complete", params, seed=7919 * number, seconds=6.25)
    if number == 13:
        return replace(row, status="failed", reason="loss is not finite at epoch 2")
    if number % 4 == 3:
        return replace(row, status="pruned", curve={1: value - 0.02, 2: value - 0.01})
    metrics = {"val_accuracy": accuracy, "val_nll": 0.06 + number / 7000}
    return replace(row, value=value, metrics=metrics, curve={1: value - 0.02, 2: value})


def study(folder: Path, trials: Sequence[TrialRow] | int = 32, **changes: Any) -> ResultSet:
    rows = [trial(i) for i in range(trials)] if isinstance(trials, int) else trials
    config = {"study": {"seed": 7}, "versions": {"torch": "2.13.0", "optuna": "5.0.0"}}
    found = ResultSet(
        "mnist", folder, "val_accuracy", "maximize", len(rows), SEARCH, config, list(rows)
    )
    return replace(found, **changes)


MOMENTA = (*(round(10 ** (-3 + i / 4), 5) for i in range(13)), None)
BEGIN = dt.datetime(2026, 1, 1, 12)


def accuracy(dropout: float, momentum: float | None, seed: int) -> float:
    """The same for everything but a seed's own luck; best near dropout 0.3 and momentum 0.06."""
    place = math.log10(momentum or 0.06) + 1.2
    luck = 0.0004 * math.sin(7.0 * seed)
    return 0.984 - 0.03 * (dropout - 0.3) ** 2 - 0.002 * place**2 + luck


def profile(dropout: float, seed: int) -> MomentumCurve:
    values = [accuracy(dropout, momentum, seed) for momentum in MOMENTA]
    return MomentumCurve(MOMENTA, values, max(values), max(values) - 0.001 * dropout)


def profiled(number: int) -> TrialRow:
    """A trial of four epochs that scored every momentum; every third is pruned after epoch 2."""
    dropout = 0.7 * (number * 0.754878 % 1)
    curve = profile(dropout, number)
    best = int(np.argmax(curve.values[:-1]))
    epochs = 2 if number % 3 == 2 else 4
    value = curve.values[best]
    losses = [value - 0.02 * (4 - epoch) for epoch in range(1, epochs + 1)]
    start = BEGIN + dt.timedelta(seconds=10 * (number // 2))
    return TrialRow(
        number,
        "complete" if epochs == 4 else "pruned",
        {"model.dropout": dropout, "model.bn_momentum": MOMENTA[best]},
        losses[-1],
        {"val_accuracy": losses[-1], "val_nll": 0.07, "train_loss": 0.02 + 0.1 * dropout},
        dict(enumerate(losses, 1)),
        momentum=curve,
        seconds=9.0,
        worker=f"worker-{number % 2}",
        started=start,
        finished=start + dt.timedelta(seconds=9 if epochs == 4 else 5),
    )


def confirmation(arm: str, trial: int | None, dropout: float, seeds: int = 5) -> list[ConfirmRow]:
    params = {"model.dropout": dropout, "model.bn_momentum": 0.1}
    rows = []
    for seed in range(100, 100 + seeds):
        value = accuracy(dropout, 0.1, seed)
        metrics = {"val_accuracy": value, "test_accuracy": value - 0.001 + 0.0001 * (seed % 3)}
        metrics |= {"val_nll": 0.07, "train_loss": 0.02 + 0.1 * dropout, "val_ece": 0.01}
        row = ConfirmRow(arm, trial, params, seed, metrics, profile(dropout, seed))
        start = BEGIN + dt.timedelta(seconds=200 + 10 * (seed - 100))
        end = start + dt.timedelta(seconds=9)
        rows.append(replace(row, diagnostics=diagnosed(seed), worker="worker-0", started=start,
                            finished=end))  # fmt: skip
    return rows


def diagnosed(seed: int, gap: float = 0.004) -> dict[str, float]:
    """Diagnostics of a network of two norms in which nothing is large, but for the gap."""
    luck = 0.0001 * (seed % 3 - 1)
    shifts = {"variance_shift/1.norm": 1.04 + luck, "variance_shift/2.norm": 1.1 + luck}
    found = {**shifts, "variance_shift": 1.07, "dead_units": 0.01, "dead_units/1.act": 0.01}
    for metric, sign in (("val_accuracy", 1), ("val_nll", -1)):
        found |= {f"lag_cost/{metric}": sign * (0.0003 + luck), f"gap/{metric}": sign * gap}
        found |= {f"shift_cost/{metric}": sign * luck}
    return found


def confirmed(folder: Path, trials: int = 24, **changes: Any) -> ResultSet:
    """A study with everything: profiled trials, pruned ones, two arms and the default."""
    rows = [profiled(i) for i in range(trials)]
    ranked = sorted((t for t in rows if t.status == "complete"), key=lambda t: -(t.value or 0.0))[
        :2
    ]
    fresh = [
        row
        for arm, t in zip(("1st", "2nd"), ranked, strict=False)
        for row in confirmation(arm, t.number, float(str(t.params["model.dropout"])))
    ]
    fresh += confirmation("default", None, 0.0)
    return study(folder, rows, **({"confirm": fresh} | changes))


def some_without_batch_norm(folder: Path, trials: int = 20) -> ResultSet:
    """The norm is searched too: every other trial, the best among them, has no bn_momentum."""
    rows = []
    for row in map(profiled, range(trials)):
        if row.number % 2:
            rows.append(replace(row, params={**row.params, "model.norm": "batch"}))
            continue
        params = {"model.dropout": row.params["model.dropout"], "model.norm": "none"}
        rows.append(replace(row, params=params, value=(row.value or 0) + 0.001, momentum=None))
    search = {**SEARCH, "model.norm": "choice(none,batch)"}
    return study(folder, rows, search=search)


class Page(HTMLParser):
    """A page's elements as (tag, attributes, text inside), in the order that they open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.text = path.read_text()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.found.append((tag, {k: v or "" for k, v in attrs}, text))
        if tag not in ("meta", "path", "use"):
            self._open.append((tag, text))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    def all(self, tag: str, cls: str | None = None) -> list[str]:
        """The text of every such element, its white space collapsed."""
        return [
            " ".join("".join(text).split())
            for name, attributes, text in self.found
            if name == tag and (cls is None or cls in attributes.get("class", "").split())
        ]

    def table(self, label: str) -> list[list[str]]:
        """The cells of every row of the table in the region of this name, heads first."""
        start = next(i for i, (_, a, _) in enumerate(self.found) if a.get("aria-label") == label)
        rows: list[list[str]] = []
        for tag, attributes, text in self.found[start + 1 :]:
            if "aria-label" in attributes:
                break
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td"):
                rows[-1].append(" ".join("".join(text).split()))
        return rows

    def rows(self) -> dict[int, list[str]]:
        """The recorded values behind each row of the table of trials."""
        rows: dict[int, list[str]] = {}
        for tag, attributes, _ in self.found:
            if tag == "tr" and "id" in attributes:
                rows[int(attributes["id"].removeprefix("trial-"))] = []
            elif tag == "data":
                rows[list(rows)[-1]].append(attributes["value"])
        return rows
