"""Which of a trial's momenta is best, by what all of them score on its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sweep.messages import TrialSpec
from sweep.metric import sign_of
from sweep.worker.desk import Desk
from sweep.worker.metrics import require
from sweep.worker.training import Training

_TIES = ("val_nll", "val_loss")  # the first that is there

Scores = Mapping[str, Sequence[float]]  # of each metric a value for each of the spec's columns


def best_column(spec: TrialSpec, scores: Scores, desk: Desk) -> int:
    """The best of the momenta that are searched; of equals the one with the lower loss.

    Of equals in both it is the first. One without a number is best of nothing but such. Errors:
    ValueError without the study's metric.
    """
    require(desk.metric, {name: 0.0 for name in scores})
    sign, values = sign_of(desk.direction), scores[desk.metric]
    ties = next((scores[name] for name in _TIES if name in scores), values)

    def place(m: int) -> tuple[bool, float, bool, float]:
        return math.isnan(values[m]), -sign * values[m], math.isnan(ties[m]), ties[m]

    return min(range(len(spec.momenta)), key=place)


def of_best(
    spec: TrialSpec, scores: Scores, desk: Desk
) -> tuple[dict[str, float], dict[str, float | None]]:
    """The best momentum's metrics, which are the trial's own, and the parameter that it is.

    Both are empty where the momentum is fixed. Errors: as `best_column`.
    """
    best = best_column(spec, scores, desk)
    if spec.momentum_is_fixed:
        return {}, {}
    metrics = {name: column[best] for name, column in scores.items()}
    return metrics, {spec.momentum_key: spec.momenta[best]}


def take_scores(training: Training, scores: Scores, desk: Desk) -> None:
    """Gives a trial its curve, and what the best momentum makes of it.

    A network without batch norm has no scores, nothing that a momentum could shape, and keeps what
    it has.
    """
    if not scores:
        return
    metrics, found = of_best(training.spec, scores, desk)
    training.bank = tuple(scores[desk.metric])
    training.metrics = {**metrics, **training.metrics, **metrics}  # first what is validated
    training.found = found or training.found
