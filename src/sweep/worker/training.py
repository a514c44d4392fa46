"""A trial in a lane, from the order to start it to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from sweep.messages import Ended, Report, Status, TrialSpec
from sweep.worker.desk import Desk
from sweep.worker.lanes import Key, model_of, pack_key


@dataclass
class Training:
    """The trial in one lane, and how far it has come; `status` once it has ended."""

    spec: TrialSpec
    model: Any  # what its lane is made of, see `model_of`
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    bank: tuple[float, ...] = ()
    found: dict[str, float | None] = field(default_factory=dict)
    precise: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    status: Status | None = None
    reason: str | None = None
    checkpoint: bytes | None = field(default=None, repr=False)
    start_s: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Whether this was its last epoch."""
        return self.epoch >= self.spec.epochs

    @property
    def is_scored(self) -> bool:
        """Whether its bank is scored after this epoch."""
        return self.epoch in self.spec.scored

    def end(self, status: Status, reason: str | None = None) -> None:
        self.status, self.reason = status, reason

    def report(self) -> Report:
        return Report(self.spec.number, self.epoch, dict(self.metrics), self.bank)

    def last_word(self) -> Ended:
        assert self.status is not None
        return Ended(
            self.spec.number,
            self.status,
            self.metrics,
            seconds=time.monotonic() - self.start_s,
            reason=self.reason,
            checkpoint=self.checkpoint,
            bank=self.bank,
            found=self.found,
            precise=self.precise,
            diagnostics=self.diagnostics,
        )


def next_training(desk: Desk, key: Key) -> Training | None:
    """Takes the first waiting trial with this key; one whose settings are wrong fails here."""
    for spec in list(desk.waiting):
        start = time.monotonic()
        try:
            if pack_key(desk, spec) != key:
                continue
            training = Training(spec, model_of(key, spec), int(spec.resumed))
        except Exception as error:
            desk.fail(spec.number, error, time.monotonic() - start)
            continue
        desk.waiting.remove(spec)
        return training
    return None
