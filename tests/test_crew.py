"""A crew with workers that are lists of words, and a clock that a test sets."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sweep.errors import StudyError
from sweep.executors.crew import Crew, Evicted, Gone
from sweep.messages import Event, Order, Quit, Ready, Vitals, Wait

Word = list[Event] | type[Gone]  # Gone: its process ends


class Script:
    """A worker that says what it has been given to say; out of words, it is silent."""

    def __init__(self, name: str, words: list[Word], placed: bool) -> None:
        self.name, self.words, self._placed = name, words, placed
        self.terminated = self.buried = False

    def is_placed(self) -> bool:
        return self._placed

    def hear(self) -> Sequence[Event]:
        word = self.words.pop(0)
        if isinstance(word, list):
            return word
        raise word

    def tell(self, orders: Sequence[Order]) -> None:
        pass

    def terminate(self) -> None:
        self.terminated = True

    def bury(self) -> str:
        assert not self.buried
        self.buried = True
        return "as it was told to"


class Stage:
    """Both sides of a crew: the site where its workers start, and whoever gives the orders."""

    def __init__(self, **scripts: list[list[Word]]) -> None:
        self._scripts, self._open = scripts, set(scripts)
        self.unplaced: set[str] = set()
        self.late: set[str] = set()
        self.started: list[Script] = []
        self.losses: list[tuple[str, str]] = []
        self.now_s = 0.0
        self.total, self.ended, self.draining, self.halted = 9, 0, False, False
        self.orders: list[Order] = [Wait()]

    def names(self) -> Sequence[str]:
        return sorted(self._open)

    def start(self, name: str) -> Script:
        lives = self._scripts[name]
        words = lives.pop(0) if lives else []
        self.started.append(Script(name, words, name not in self.unplaced))
        return self.started[-1]

    def listen(self, links: Sequence[Script], timeout_s: float) -> Sequence[Script]:
        """The first that has a word; when none has, time passes, and at last the study is over."""
        ready = [link for link in links if link.words][:1]
        if not ready:
            self.now_s += 100
            self.halted = self.now_s > 2000
        return ready

    def last_words(self, name: str) -> str:
        return f"the log of {name}"

    def exchange(self, worker: str, events: Sequence[Event]) -> list[Order]:
        return self.orders

    def lost(self, worker: str, reason: str) -> None:
        self.losses.append((worker, reason))
        self.late.discard(worker)

    def overdue(self, worker: str) -> str | None:
        return f"trial 0 of {worker} is late" if worker in self.late else None

    def flush(self) -> None:
        pass

    def work(self, silence_s: float | None = None) -> None:
        Crew(self, self, silence_s, clock=lambda: self.now_s).work()
        assert all(link.buried for link in self.started)


def test_a_worker_that_dies_is_replaced() -> None:
    stage = Stage(a=[[[Ready()], Gone], [[Ready()]]])
    stage.work()
    assert stage.losses == [("a", "worker died (as it was told to)")]
    assert [link.name for link in stage.started] == ["a", "a"]


def test_a_worker_that_spoke_meanwhile_has_its_three_tries_again() -> None:
    stage = Stage(a=[[Gone], [Gone], [[Ready()], Gone], [Gone], [Gone], [[Ready()]]])
    stage.work()
    assert len(stage.started) == 6


def test_a_worker_that_cannot_start_is_not_replaced_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage(a=[[Gone], [Gone], [Gone]], b=[[[Ready()]]])
    stage.work()
    assert [link.name for link in stage.started] == ["a", "b", "a", "a"]
    line = "a could not start (as it was told to): the log of a; the others go on"
    assert line in caplog.text


def test_a_worker_whose_machine_is_gone_before_it_spoke_is_replaced() -> None:
    stage = Stage(a=[[Evicted], [[Ready()]]])
    stage.work()
    assert [link.name for link in stage.started] == ["a", "a"]


def test_when_no_worker_can_start_the_study_stops() -> None:
    stage = Stage(a=[[Gone], [Gone], [Gone]])
    with pytest.raises(StudyError, match=r"a could not start .* the log of a"):
        stage.work()


def test_a_worker_that_says_nothing_for_too_long_is_ended_and_replaced() -> None:
    stage = Stage(a=[[[Ready()]], [[Ready()]], [[Ready()]]])
    stage.work(silence_s=850)
    assert stage.losses[0] == ("a", "worker hung, it said nothing for 900 s")
    assert stage.started[0].terminated
    assert [link.name for link in stage.started] == ["a", "a", "a"]


def test_what_a_worker_uses_is_no_sign_of_life() -> None:
    """A thread beside the training says it, whatever the training does."""
    stage = Stage(a=[[[Ready()], *[[Vitals("CPU", 1, 0.0)]] * 5], [[Ready()]]])
    stage.work(silence_s=850)
    assert stage.losses[0] == ("a", "worker hung, it said nothing for 900 s")


def test_a_worker_whose_trial_is_late_is_ended_and_replaced() -> None:
    stage = Stage(a=[[[Ready()]], [[Ready()]]])
    stage.late = {"a"}
    stage.work()
    assert stage.losses[0] == ("a", "worker ended, trial 0 of a is late")
    assert stage.started[0].terminated
    assert len(stage.started) > 1


def test_a_worker_may_be_silent_for_ever_if_that_is_wanted() -> None:
    stage = Stage(a=[[[Ready()]]])
    stage.work(silence_s=None)
    assert stage.losses == []


def test_a_worker_has_more_time_for_its_first_word() -> None:
    stage = Stage(a=[[], [[Ready()]]], b=[[[Ready()]] for _ in range(20)])
    stage.work(silence_s=50)
    silence = {worker: reason for worker, reason in reversed(stage.losses)}
    assert silence["a"] == "worker hung, it said nothing for 400 s"
    assert silence["b"] == "worker hung, it said nothing for 100 s"


def test_a_worker_without_a_place_has_all_the_time_there_is() -> None:
    stage = Stage(a=[[]])
    stage.unplaced = {"a"}
    stage.work(silence_s=50)
    assert stage.losses == []


def test_no_more_workers_are_started_than_trials_are_left() -> None:
    stage = Stage(a=[], b=[], c=[])
    stage.total, stage.ended = 5, 3
    stage.work()
    assert [link.name for link in stage.started] == ["a", "b"]


def test_nobody_starts_while_the_study_drains() -> None:
    stage = Stage(a=[])
    stage.draining = True
    stage.work()
    assert stage.started == []


def test_when_one_is_told_to_quit_those_that_never_spoke_are_not_waited_for() -> None:
    stage = Stage(a=[[[Ready()], Gone]], b=[[]])
    stage.orders = [Quit()]
    stage.work()
    assert [(link.name, link.buried) for link in stage.started] == [("a", True), ("b", True)]
    assert stage.now_s < 2000
