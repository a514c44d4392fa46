"""The conductor's decisions, in scripted conversations: no processes, no tensors, a fake clock."""

from __future__ import annotations

import csv
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sweep.messages import (
    MOMENTUM,
    Ended,
    Quit,
    Ready,
    Report,
    Start,
    Status,
    Stop,
    TrialSpec,
    Vitals,
    Wait,
)
from sweep.results import TrialRow
from tests.studies import EPOCHS, Bench, bench, found, metrics, plan, report, score


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Bench]:
    """Eight random trials, not pruned, and nobody who trains them yet."""
    with bench(plan(tmp_path)) as opened:
        yield opened


def statuses(desk: Bench) -> dict[int, str]:
    return {row.number: row.status for row in desk.rows}


def key(spec: TrialSpec | TrialRow) -> tuple[int, int, dict[str, object]]:
    """What a trial is, however often it starts, but for what its training finds."""
    asked = {name: value for name, value in spec.params.items() if name != MOMENTUM}
    return spec.number, spec.seed, asked


# The total


def test_the_total_is_exact_and_numbers_have_no_gaps(desk: Bench) -> None:
    trained = desk.run()
    assert [spec.number for spec in trained] == list(range(8))
    assert statuses(desk) == dict.fromkeys(range(8), "complete")
    assert desk.ask() == []
    assert desk.conductor.ended == desk.conductor.total == 8


@pytest.mark.parametrize("lanes", [1, 3, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_total_is_exact_whoever_asks_and_dies(tmp_path: Path, workers: int, lanes: int) -> None:
    """Workers ask, report, end and die in a random order until all of them are told to quit."""
    draw = random.Random(workers + 10 * lanes)
    started: Counter[int] = Counter()
    with bench(plan(tmp_path, "study.trials=30", "study.retries=100")) as desk:
        busy: dict[str, list[TrialSpec]] = {f"w{i}": [] for i in range(workers)}
        while busy:
            worker, mine = draw.choice(list(busy.items()))
            if mine and draw.random() < 0.1:
                desk.lose(worker)
                mine.clear()
            elif mine and draw.random() < 0.5:
                desk.finish(mine.pop(), worker)
            else:
                orders = desk.say(
                    worker, Ready(lanes - len(mine)) if lanes > len(mine) else Ready(0)
                )
                specs = [order.spec for order in orders if isinstance(order, Start)]
                started.update(spec.number for spec in specs)
                mine += specs
                assert len(mine) <= lanes
                if any(isinstance(order, Quit) for order in orders):
                    del busy[worker]
        assert [row.number for row in desk.rows] == list(range(30))
        assert set(statuses(desk).values()) == {"complete"}
    assert started.total() > 30  # some ran twice; none counts twice


def test_a_grid_smaller_than_the_budget_is_the_total(tmp_path: Path) -> None:
    grid = ("sampler=grid", "sampler.points=2", "optimizer.lr=interval(0.001,0.01)")
    with bench(plan(tmp_path, *grid, "study.trials=50")) as desk:
        assert desk.conductor.total == desk.results.total == 4
        points = {tuple(spec.params.values()) for spec in desk.run()}
    assert points == {(0.0, 0.001), (0.0, 0.01), (0.7, 0.001), (0.7, 0.01)}


def test_a_thousand_trials_are_all_kept(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=1000")) as desk:
        orders = desk.say("a", Ready(50))
        while not any(isinstance(order, Quit) for order in orders):
            specs = [order.spec for order in orders if isinstance(order, Start)]
            ends = [Ended(s.number, "complete", metrics(score(s.params)), 1.0) for s in specs]
            orders = desk.say("a", *ends, Ready(50))
        assert [row.number for row in desk.rows] == list(range(1000))
        best = max(desk.rows, key=lambda row: row.value or 0)
        assert desk.results.best == best


@pytest.mark.parametrize("trials, more", [(12, 4), (8, 0), (3, 0)])
def test_trials_is_a_total_and_never_more(tmp_path: Path, trials: int, more: int) -> None:
    with bench(plan(tmp_path)) as desk:
        desk.run()
    with bench(plan(tmp_path, f"study.trials={trials}")) as desk:
        assert len(desk.run()) == more
        assert len(desk.rows) == 8 + more
        assert desk.conductor.ended == 8 + more


def test_a_lowered_total_counts_trials_that_wait(tmp_path: Path) -> None:
    desk = Bench(plan(tmp_path))
    desk.run(2)
    desk.ask(lanes=6)
    desk.crash()
    with bench(plan(tmp_path, "study.trials=4")) as desk:
        assert [spec.number for spec in desk.run()] == [2, 3]
        assert Counter(statuses(desk).values()) == {"complete": 4, "waiting": 4}


# Workers that die


def test_trials_of_a_dead_worker_run_again_with_another(desk: Bench) -> None:
    (lost,) = desk.ask("a")
    desk.train(lost, "a", epochs=2)
    desk.lose("a", "worker died (SIGKILL)")
    (again,) = desk.ask("b")
    assert key(again) == key(lost)
    desk.finish(again, "b")
    row = desk.rows[0]
    assert (row.status, row.worker, list(row.curve)) == ("complete", "b", [1, 2, 3, 4])


def test_a_trial_whose_workers_die_is_failed_at_last(desk: Bench) -> None:
    for _ in range(3):  # once and two retries
        assert desk.ask()[0].number == 0
        desk.lose("a", "worker died (SIGKILL)")
    assert desk.rows[0].status == "failed"
    assert desk.rows[0].reason == "worker died (SIGKILL), 3 times"
    assert desk.ask()[0].number == 1


def test_without_retries_a_death_is_a_failure(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.retries=0")) as desk:
        desk.ask()
        desk.lose("a", "worker died (SIGKILL)")
        assert desk.rows[0].reason == "worker died (SIGKILL)"


def test_what_a_dead_worker_says_late_does_not_count(desk: Bench) -> None:
    (spec,) = desk.ask("a")
    desk.lose("a", "node lost")
    (again,) = desk.ask("b")
    late = Report(spec.number, 1, metrics(0.1))
    assert desk.say("a", late) == [Stop(spec.number, "interrupted")]
    assert desk.say("a", Ended(spec.number, "complete", metrics(0.99), 1.0)) == []
    desk.finish(again, "b")
    assert desk.conductor.ended == 1
    assert desk.rows[0].value == pytest.approx(score(spec.params))


def test_no_trial_counts_twice(desk: Bench) -> None:
    (spec,) = desk.ask()
    end = Ended(spec.number, "complete", metrics(0.5), 1.0)
    desk.say("a", end, end)
    desk.say("a", Ended(spec.number, "failed", reason="again"), Ended(99, "complete"))
    assert desk.conductor.ended == 1
    assert statuses(desk) == {0: "complete"}


def test_a_trial_makes_its_last_attempt_alone(tmp_path: Path) -> None:
    """One trial of a pack kills its worker each time; its neighbours must not fail with it."""
    with bench(plan(tmp_path)) as desk:
        while specs := desk.ask(lanes=4):
            if any(spec.number == 2 for spec in specs):
                desk.lose("a", "worker died (SIGSEGV)")
                continue
            for spec in specs:
                desk.finish(spec)
        assert statuses(desk) == dict.fromkeys(range(8), "complete") | {2: "failed"}


def test_nobody_joins_a_trial_on_its_last_attempt(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.retries=1")) as desk:
        desk.ask(lanes=1)
        desk.lose("a")
        neighbours = desk.ask("b", lanes=1)
        assert [spec.number for spec in neighbours] == [0]
        assert desk.say("b", Ready(3)) == []
        assert [spec.number for spec in desk.ask("c", lanes=2)] == [1, 2]


# Waiting and quitting


def test_a_worker_waits_while_others_may_die_and_quits_at_the_end(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=1")) as desk:
        (spec,) = desk.ask("a")
        assert desk.say("b", Ready()) == [Wait()]
        desk.lose("a")
        assert desk.ask("b") == [spec]
        assert desk.say("a", Ready()) == [Wait()]
        desk.finish(spec, "b")
        assert desk.say("a", Ready()) == desk.say("b", Ready()) == [Quit()]


def test_a_worker_with_lanes_is_filled_refilled_and_let_go(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=6")) as desk:
        pack = desk.ask(lanes=4)
        assert [spec.number for spec in pack] == [0, 1, 2, 3]
        end = Ended(1, "complete", metrics(0.5), 1.0)
        report = Report(0, 1, metrics(0.5))
        (start,) = desk.say("a", report, end, Ready(1))
        assert isinstance(start, Start)
        assert start.spec.number == 4
        assert [spec.number for spec in desk.ask(lanes=3)] == [5]
        assert desk.say("a", Ready(2)) == []  # nothing to add, and its others go on
        for number in (0, 2, 3, 4, 5):
            desk.say("a", Ended(number, "complete", metrics(0.5), 1.0))
        assert desk.say("a", Ready(4)) == [Quit()]


def test_everything_that_passes_is_seen(desk: Bench) -> None:
    desk.run(1)
    kinds = [type(message).__name__ for _, message in desk.seen]
    assert kinds == ["Ready", "Start", *["Report"] * EPOCHS, "Ended"]
    assert {worker for worker, _ in desk.seen} == {"a"}


# Pruning


PRUNED = ("pruner=asha", "pruner.first_rung=0.5")  # decides at the second epoch of four


def worse_and_worse(desk: Bench, has_norms: bool = True) -> dict[int, int]:
    """Trains trials that get worse one by one; the last epoch of each."""
    lasted: dict[int, int] = {}
    while specs := desk.ask():
        number = specs[0].number
        value = 0.5 - 0.01 * number
        for epoch in range(1, EPOCHS + 1):
            event = report(specs[0], epoch, value)
            orders = desk.say("a", event if has_norms else replace(event, bank=()))
            lasted[number] = epoch
            if orders == [Stop(number, "pruned")]:
                break
        status: Status = "pruned" if orders else "complete"
        desk.say("a", Ended(number, status, metrics(value), 1.0, found=found(specs[0])))
    return lasted


@pytest.mark.parametrize("has_norms", [True, False])
def test_bad_trials_are_stopped_at_the_first_rung(tmp_path: Path, has_norms: bool) -> None:
    """Whether a bank has been scored there, or there is no batch norm to have one."""
    with bench(plan(tmp_path, *PRUNED, "pruner.control=0.0", "study.trials=12")) as desk:
        assert worse_and_worse(desk, has_norms) == {n: 2 if n else EPOCHS for n in range(12)}
        assert statuses(desk) == {n: "pruned" if n else "complete" for n in range(12)}


def test_control_trials_are_never_pruned(tmp_path: Path) -> None:
    with bench(plan(tmp_path, *PRUNED, "pruner.control=0.3", "study.trials=40")) as desk:
        unpruned = [n for n, epochs in worse_and_worse(desk).items() if epochs == EPOCHS]
    assert 5 <= len(unpruned) <= 22  # 1 + 39 * 0.3, give or take 3.5 standard deviations
    with bench(plan(tmp_path / "all", *PRUNED, "pruner.control=1.0")) as desk:
        assert set(worse_and_worse(desk).values()) == {EPOCHS}
        # What the pruner would have done is kept with them.
        doomed = {r.number: r.doomed for r in desk.results.trials}
    assert doomed == {n: 2 if n else 0 for n in range(8)}


def test_a_pruned_trial_counts_and_keeps_what_it_reached(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=2")) as desk:
        (spec,) = desk.ask()
        desk.say("a", Report(spec.number, 1, metrics(0.4)))
        desk.say("a", Ended(spec.number, "pruned", metrics(0.4), 0.5, "pruned after epoch 1"))
        row = desk.rows[0]
        assert (row.status, row.value, dict(row.curve)) == ("pruned", 0.4, {1: 0.4})
        assert desk.results.best is None
        assert len(desk.run()) == 1


# Ending early


def test_draining_stops_at_the_next_report_and_starts_nothing(desk: Bench) -> None:
    (spec,) = desk.ask("a")
    desk.conductor.drain()
    assert desk.say("b", Ready()) == [Quit()]
    assert desk.train(spec, "a") == [Stop(spec.number, "interrupted")]
    assert desk.say("a", Ended(spec.number, "interrupted"), Ready()) == [Quit()]
    desk.conductor.close()
    assert statuses(desk) == {0: "waiting"}
    assert desk.conductor.failure is None


def test_a_trial_that_ends_while_draining_counts(desk: Bench) -> None:
    (spec,) = desk.ask()
    desk.conductor.drain()
    desk.say("a", Ended(spec.number, "complete", metrics(0.5), 1.0))
    assert statuses(desk) == {0: "complete"}


def test_halting_leaves_nothing_running(desk: Bench) -> None:
    desk.run(2)
    desk.ask("a", lanes=2)
    desk.ask("b")
    desk.lose("b")
    desk.conductor.halt()
    assert desk.conductor.halted
    desk.conductor.close()
    assert Counter(statuses(desk).values()) == {"complete": 2, "waiting": 3}


def test_after_the_time_budget_nothing_starts_and_what_runs_ends(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.timeout_s=100")) as desk:
        first, second = desk.ask(lanes=2)
        desk.now_s = 100.5
        assert desk.say("b", Ready()) == [Wait()]
        desk.finish(first)
        desk.lose("a")
        assert [key(spec) for spec in desk.ask("b")] == [key(second)]  # it had begun in time
        desk.finish(second, "b")
        assert desk.say("b", Ready()) == [Quit()]
        assert desk.conductor.failure is None
    with bench(plan(tmp_path, "study.timeout_s=100")) as desk:
        assert len(desk.run()) == 6


def test_time_counts_from_the_first_worker_that_is_ready(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.timeout_s=100")) as desk:
        desk.now_s = 200.0  # imports, and loops to be compiled
        (first,) = desk.ask()
        desk.finish(first)
        desk.now_s = 300.0
        (second,) = desk.ask()
        desk.now_s = 300.5
        desk.finish(second)
        assert desk.conductor.is_out_of_time
        assert desk.say("a", Ready()) == [Quit()]


LIMITED = ("study.trial_timeout_s=100", "study.trials=2")
LATE = "it trained for longer than study.trial_timeout_s, 100 s"


def test_a_trial_that_trains_for_too_long_fails_and_is_not_retried(tmp_path: Path) -> None:
    with bench(plan(tmp_path, *LIMITED)) as desk:
        slow, quick = desk.ask(lanes=2)
        desk.finish(quick)
        assert desk.train(slow, epochs=1) == []
        desk.now_s = 100.5
        assert desk.conductor.overdue("a") is None  # it may still come to the end of its epoch
        assert desk.say("a", report(slow, 2, 0.5)) == [Stop(slow.number, "failed")]
        desk.say("a", Ended(slow.number, "failed", reason="failed after epoch 2"))
        assert statuses(desk) == {0: "failed", 1: "complete"}
        assert desk.rows[0].reason == LATE
        assert desk.say("a", Ready()) == [Quit()]


def test_a_late_trial_that_does_not_report_ends_with_its_worker_and_alone(tmp_path: Path) -> None:
    """Its neighbour, which began later, is not late and runs again."""
    with bench(plan(tmp_path, *LIMITED)) as desk:
        desk.ask()
        desk.now_s = 100.0
        (other,) = desk.ask(lanes=1)
        desk.now_s = 160.5
        assert desk.conductor.overdue("a") == "trial 0 is beyond study.trial_timeout_s"
        desk.lose("a", "worker ended")
        assert (desk.rows[0].status, desk.rows[0].reason) == ("failed", LATE)
        (again,) = desk.ask("b")
        assert key(again) == key(other)
        desk.finish(again, "b")
        assert statuses(desk) == {0: "failed", 1: "complete"}
        assert desk.conductor.overdue("a") is None


def test_all_attempts_of_a_trial_count_and_its_last_epoch_completes_it(tmp_path: Path) -> None:
    with bench(plan(tmp_path, *LIMITED)) as desk:
        first, second = desk.ask(lanes=2)
        desk.train(first, epochs=3)
        desk.now_s = 60.0
        desk.say("a", Ended(second.number, "interrupted"))
        desk.now_s = 120.0
        assert desk.say("a", report(first, EPOCHS, 0.5)) == []  # late, but done
        desk.say("a", Ended(first.number, "complete", metrics(0.5), 1.0))
        (again,) = desk.ask()
        desk.now_s = 161.0  # 60 and 41 seconds
        assert desk.say("a", report(again, 1, 0.5)) == [Stop(again.number, "failed")]


def test_a_process_that_died_under_its_worker_counts_as_a_death(desk: Bench) -> None:
    for _ in range(3):
        (spec,) = desk.ask()
        desk.say("a", Ended(spec.number, "interrupted", reason="rank 1 died", died=True))
    assert (desk.rows[0].status, desk.rows[0].reason) == ("failed", "rank 1 died, 3 times")


def test_what_workers_use_is_seen_and_drawn_in_the_studys_run(desk: Bench) -> None:
    for worker, memory in (("a", 1), ("b", 2)):
        desk.now_s += 20
        desk.say(worker, Vitals("CPU", memory * 10**9, 0.5))
    assert [message.memory_bytes for _, message in desk.seen if isinstance(message, Vitals)] == [
        10**9,
        2 * 10**9,
    ]
    board = EventAccumulator(str(desk.record.folder / "tensorboard" / "study")).Reload()
    assert [point.value for point in board.Scalars("workers/memory_gb")] == [1.0, 3.0]
    assert [point.value for point in board.Scalars("workers/cpu_cores")] == [0.5, 1.0]


def fail(desk: Bench, reason: str = "ValueError: no") -> bool:
    """The next trial fails; False if there is none."""
    specs = desk.ask()
    for spec in specs:
        desk.say("a", Ended(spec.number, "failed", reason=reason))
    return bool(specs)


def test_a_study_whose_every_trial_fails_stops(desk: Bench) -> None:
    assert [fail(desk) for _ in range(6)] == [True] * 5 + [False]
    assert desk.conductor.failure is not None
    assert (
        "all of the first 5 trials failed, the last with: ValueError: no" in desk.conductor.failure
    )
    assert set(statuses(desk).values()) == {"failed"}


def test_one_good_trial_lets_a_study_go_on(desk: Bench) -> None:
    for _ in range(4):
        fail(desk)
    desk.run(1)
    while fail(desk):
        pass
    assert desk.conductor.ended == 8
    assert desk.conductor.failure is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_trial_without_a_finite_value_has_failed(desk: Bench, value: float | None) -> None:
    (spec,) = desk.ask()
    end = {} if value is None else metrics(value)
    desk.say("a", Ended(spec.number, "complete", end, 1.0, checkpoint=b"bad"))
    row = desk.rows[0]
    assert (row.status, row.value, row.reason) == ("failed", None, f"val_accuracy is {value}")
    assert desk.results.best is None
    assert not (desk.record.folder / "checkpoints" / "best.ckpt").exists()


# The best trial


def test_a_trial_is_told_the_best_value_when_it_starts(desk: Bench) -> None:
    first, second = desk.ask(lanes=2)
    assert first.best is second.best is None
    desk.finish(first)
    assert desk.ask()[0].best == pytest.approx(score(first.params))


@pytest.mark.parametrize(
    "metric, direction", [("val_accuracy", "maximize"), ("val_nll", "minimize")]
)
def test_the_checkpoint_is_that_of_the_best_trial(
    tmp_path: Path, metric: str, direction: str
) -> None:
    """Of equals it is the trial that was asked for first, whichever ended first."""
    aim = (f"study.metric={metric}", f"study.direction={direction}")
    with bench(plan(tmp_path, *aim)) as desk:
        desk.ask(lanes=6)
        values = {0: 0.5, 2: 0.9, 1: 0.9, 4: 0.1, 3: 0.1, 5: 0.5}
        for number, value in values.items():
            end = Ended(number, "complete", metrics(value), 1.0, checkpoint=b"trial %d" % number)
            desk.say("a", end)
        assert desk.results.best is not None
        assert desk.results.best.number == 1
        checkpoints = desk.record.folder / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == ["best.ckpt"]
        assert (checkpoints / "best.ckpt").read_bytes() == b"trial 1"


# Going on after an end or a crash


def test_a_study_goes_on_with_what_was_cut_short(tmp_path: Path) -> None:
    """Ended, running and waiting trials in any order keep their numbers, seeds and parameters."""
    desk = Bench(plan(tmp_path))
    specs = desk.ask(lanes=6)
    for number in (4, 1):
        desk.finish(specs[number])
    desk.conductor.drain()
    for number in (5, 0):
        desk.say("a", Report(number, 1, metrics(0.5)), Ended(number, "interrupted"))
    desk.crash()
    with bench(plan(tmp_path)) as desk:
        assert statuses(desk) == {n: "complete" if n in (1, 4) else "waiting" for n in range(6)}
        before = {row.number: row for row in desk.rows}
        rest = desk.run()
        assert [spec.number for spec in rest] == [0, 2, 3, 5, 6, 7]
        assert [key(spec) for spec in rest[:4]] == [key(specs[n]) for n in (0, 2, 3, 5)]
        assert [key(row) for row in desk.rows[:6]] == [key(spec) for spec in specs]
        assert [row for row in desk.rows if row.number in (1, 4)] == [before[1], before[4]]


STRATEGIES = [
    ("sampler=random", "pruner=none"),
    ("sampler=tpe", "sampler.n_startup_trials=4", "pruner=median", "pruner.startup_trials=2"),
    ("sampler=tpe", "sampler.n_startup_trials=4", "sampler.multivariate=false", *PRUNED),
    ("sampler=tpe", "sampler.n_startup_trials=4", "pruner=hyperband"),
    ("sampler=qmc", *PRUNED),
    ("sampler=grid", "sampler.points=4", "optimizer.lr=interval(0.001,0.01)", *PRUNED),
    ("sampler=cmaes", "sampler.n_startup_trials=4", "optimizer.lr=interval(0.001,0.01)"),
]


@pytest.mark.parametrize("overrides", STRATEGIES, ids=" ".join)
def test_interruptions_do_not_change_what_a_study_tries(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    with bench(plan(tmp_path / "whole", *overrides, "study.trials=16")) as desk:
        whole = [key(spec) for spec in desk.run()]
        rows = [(row.status, row.value, row.curve) for row in desk.rows]
    for ended in (5, 4):  # killed in the middle of the trial after those
        desk = Bench(plan(tmp_path / "parts", *overrides, "study.trials=16"))
        desk.run(ended)
        (cut,) = desk.ask()
        desk.train(cut, epochs=1)
        desk.crash()
    with bench(plan(tmp_path / "parts", *overrides, "study.trials=16")) as desk:
        desk.run()
        assert [key(row) for row in desk.rows] == whole
        assert [(row.status, row.value, row.curve) for row in desk.rows] == rows


def test_trials_that_optuna_was_asked_to_enqueue_are_trained(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=2")) as desk:
        desk.run()
    wished = {"model.dropout": 0.25}
    storage = f"sqlite:///{tmp_path}/synthetic/study.db"
    optuna.load_study(study_name="synthetic", storage=storage).enqueue_trial(wished)
    with bench(plan(tmp_path, "study.trials=4")) as desk:
        third, fourth = desk.run()
        assert (third.number, third.params) == (2, wished)
        assert fourth.params != wished
        assert [key(row) for row in desk.rows[2:]] == [key(third), key(fourth)]
        assert statuses(desk) == dict.fromkeys(range(4), "complete")


def test_a_better_trial_of_an_earlier_run_stays_the_best(tmp_path: Path) -> None:
    with bench(plan(tmp_path, "study.trials=1")) as desk:
        (spec,) = desk.ask()
        desk.say("a", Ended(spec.number, "complete", metrics(0.99), 1.0, checkpoint=b"first"))
    with bench(plan(tmp_path)) as desk:
        assert desk.ask()[0].best == 0.99
        desk.say("a", Ended(1, "complete", metrics(0.5), 1.0, checkpoint=b"second"))
        assert (desk.record.folder / "checkpoints" / "best.ckpt").read_bytes() == b"first"


def test_time_that_a_trial_waits_for_its_turn_is_not_its_own(tmp_path: Path) -> None:
    """A worker that trains one after the other has them all from the beginning."""
    with bench(plan(tmp_path, *LIMITED)) as desk:
        first, second = desk.ask(lanes=2)
        desk.now_s = 90.0
        assert desk.train(first, epochs=1) == []
        desk.now_s = 99.0
        desk.say("a", Ended(first.number, "complete", metrics(0.5)))
        desk.now_s = 190.0
        assert desk.conductor.overdue("a") is None
        assert desk.train(second, epochs=1) == []
        desk.now_s = 199.5
        assert desk.say("a", report(second, 2, 0.5)) == [Stop(second.number, "failed")]
    with bench(plan(tmp_path / "hangs", *LIMITED)) as desk:
        first, second = desk.ask(lanes=2)
        desk.now_s = 50.0
        desk.say("a", Ended(first.number, "complete", metrics(0.5)))
        desk.now_s = 200.0
        assert desk.conductor.overdue("a") is None
        desk.now_s = 211.0
        assert (
            desk.conductor.overdue("a") == f"trial {second.number} is beyond study.trial_timeout_s"
        )


def test_the_table_says_how_many_epochs_have_reported_of_trials_that_did_not_end_well(
    tmp_path: Path,
) -> None:
    with bench(plan(tmp_path)) as desk:
        cut, broken = desk.ask(lanes=2)
        desk.train(cut, epochs=2)
        desk.say("a", Report(broken.number, 1, {**metrics(0.5), "val_accuracy": math.nan}))
        desk.say("a", Ended(broken.number, "failed", reason="it broke"))
        desk.say("a", Ended(cut.number, "interrupted"))
        desk.conductor.close()
        with (desk.record.folder / "trials.csv").open() as table:
            rows = {row["status"]: row["epochs"] for row in csv.DictReader(table)}
        assert rows == {"waiting": "2", "failed": "1"}
        assert [row.epochs for row in desk.rows] == [0, 1]  # of the first the record has no end


def test_draining_gives_back_what_has_not_begun(desk: Bench) -> None:
    first, second, third = desk.ask(lanes=3)
    desk.train(first, epochs=1)
    desk.conductor.drain()
    stops = desk.say("a", report(first, 2, 0.5))
    assert stops == [Stop(spec.number, "interrupted") for spec in (first, second, third)]
