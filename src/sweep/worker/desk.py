"""The desk: what a worker says to the conductor, and the orders that it still has to follow."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweep.messages import (
    Ended,
    Event,
    Exchange,
    Quit,
    Ready,
    Start,
    Status,
    Stop,
    TrialSpec,
    Wait,
)
from sweep.metric import sign_of

log = logging.getLogger(__name__)


class Disconnected(Exception):
    """The conductor cannot be reached: no trial's fault, and the end of this worker."""


@dataclass
class Desk:
    """One worker's side of the conversation; `waiting` are trials it has been given to start.

    `share` is how many it could have had when it was last given some; `arithmetic` goes along with
    the end of every trial.
    """

    name: str
    exchange: Exchange
    metric: str
    direction: str
    most_lanes: int = 1
    packs_theirs: bool = False  # whether other people's modules train together
    waiting: deque[TrialSpec] = field(default_factory=deque)
    dismissed: bool = False
    pause_s: float = 0.0
    share: int = 1
    arithmetic: Mapping[str, int | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lanes = self.most_lanes  # fewer while something did not fit

    def say(self, events: Sequence[Event]) -> dict[int, Status]:
        """Tells the conductor; returns how the trials that it stops shall end.

        Errors: Disconnected, whatever the reason.
        """
        signed = [
            replace(event, arithmetic=self.arithmetic) if isinstance(event, Ended) else event
            for event in events
        ]
        try:
            orders = self.exchange(self.name, signed)
        except Exception as error:
            raise Disconnected(f"{type(error).__name__}: {error}") from error
        starts = [order for order in orders if isinstance(order, Start)]
        self.waiting += (start.spec for start in starts)
        self.share = max((start.share for start in starts), default=self.share)
        self.dismissed = any(isinstance(order, Quit) for order in orders)
        self.pause_s = sum(order.seconds for order in orders if isinstance(order, Wait))
        stops = {order.trial: order.status for order in orders if isinstance(order, Stop)}
        if given_back := [spec for spec in self.waiting if spec.number in stops]:
            self.waiting = deque(spec for spec in self.waiting if spec not in given_back)
            self.say([Ended(spec.number, stops[spec.number]) for spec in given_back])
        return stops

    def ask(self, training: int = 0) -> None:
        """Asks for as many trials as have room beside those that train and wait."""
        free = self.lanes - training - len(self.waiting)
        if free > 0:
            self.say([Ready(free)])

    def fail(self, number: int, error: Exception, seconds: float) -> None:
        """An error of a trial is its end, and stands in the worker's log."""
        log.error("trial %d failed", number, exc_info=error)
        self.waiting = deque(spec for spec in self.waiting if spec.number != number)
        reason = f"{type(error).__name__}: {error}"
        self.say([Ended(number, "failed", seconds=seconds, reason=reason)])

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value is at least as good as another, which may not be there."""
        if than is None:
            return True
        sign = sign_of(self.direction)
        return sign * value >= sign * than
