"""A roster hands out what it has, once each, whoever dies."""

from __future__ import annotations

from sweep.messages import Ended, Quit, Ready, Report, Start, Stop, TrialSpec, Wait
from sweep.roster import Roster

SPECS = [TrialSpec(n, 10 + n, {}, {"trainer": {"max_epochs": 2}}) for n in range(5)]


def roster(retries: int = 1, stop_after: int | None = None) -> tuple[Roster, list[tuple[int, str]]]:
    ends: list[tuple[int, str]] = []

    def ended(spec: TrialSpec, event: Ended) -> None:
        ends.append((spec.seed, event.status))

    return Roster(SPECS, lambda worker, message: None, ended, retries, stop_after), ends


def started(orders: object) -> list[int]:
    assert isinstance(orders, list)
    return [order.spec.number for order in orders if isinstance(order, Start)]


def test_everything_is_trained_once_and_shared_fairly() -> None:
    leader, ends = roster()
    assert started(leader.exchange("a", [Ready(2)])) == [0, 1]
    assert started(leader.exchange("b", [Ready(4)])) == [2, 3]  # half of what is left
    assert started(leader.exchange("a", [Ended(0, "complete"), Ready(1)])) == [4]
    assert leader.exchange("b", [Ended(2, "complete"), Ended(3, "failed"), Ready(4)]) == [Wait()]
    leader.exchange("a", [Ended(1, "complete"), Ended(4, "complete")])
    assert leader.exchange("b", [Ready(4)]) == [Quit()]
    assert sorted(ends) == [(10, "complete"), (11, "complete"), (12, "complete"), (13, "failed"),
                            (14, "complete")]  # fmt: skip
    assert leader.ended == leader.total == 5


def test_what_a_dead_worker_had_is_trained_by_the_next_and_fails_at_last() -> None:
    leader, ends = roster(retries=1)
    assert started(leader.exchange("a", [Ready(1)])) == [0]
    leader.lost("a", "worker died")
    assert started(leader.exchange("b", [Ready(1)])) == [0]
    assert leader.exchange("a", [Ended(0, "complete")]) == [] and ends == []  # too late
    leader.lost("b", "worker died")
    assert ends == [(10, "failed")]
    assert started(leader.exchange("c", [Ready(1)])) == [1]


def test_draining_stops_at_the_next_report_and_starts_nothing() -> None:
    leader, ends = roster()
    leader.exchange("a", [Ready(2)])
    leader.drain()
    stops = [Stop(0, "interrupted"), Stop(1, "interrupted")]  # the second has not begun
    assert leader.exchange("a", [Report(0, 1, {})]) == stops
    leader.exchange("a", [Ended(0, "interrupted"), Ended(1, "complete")])
    assert leader.exchange("a", [Ready(2)]) == [Quit()]
    assert ends == [(11, "complete")]


def test_all_can_be_stopped_after_an_epoch() -> None:
    leader, _ = roster(stop_after=1)
    leader.exchange("a", [Ready(1)])
    assert leader.exchange("a", [Report(0, 1, {})]) == [Stop(0, "pruned")]
