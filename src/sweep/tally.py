"""How the trials of a study have ended so far, and which of them is the best."""

from __future__ import annotations

from collections import Counter

from optuna.trial import TrialState

from sweep.metric import sign_of


class Tally:
    """Counts ended trials and keeps the value of the best one, as `direction` says."""

    def __init__(self, direction: str) -> None:
        self._sign = sign_of(direction)
        self._counts: Counter[TrialState] = Counter()
        self._best: tuple[float, int] | None = None  # what is to be greatest, then least number

    def take(self, number: int, state: TrialState, value: float | None) -> bool:
        """Counts a trial; whether it is the best so far: of equals the one that was asked first."""
        self._counts[state] += 1
        if state is not TrialState.COMPLETE or value is None:
            return False
        rank = (self._sign * value, -number)
        leads = self._best is None or rank > self._best
        if leads:
            self._best = rank
        return leads

    @property
    def best(self) -> float | None:
        return None if self._best is None else self._sign * self._best[0]

    @property
    def ended(self) -> int:
        return self._counts.total()

    @property
    def failed(self) -> int:
        return self._counts[TrialState.FAIL]
