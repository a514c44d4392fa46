"""One trial in two processes (gloo, on the CPU), started by a worker: real ones, really killed."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.executors import EXECUTORS
from sweep.messages import Ended, Event, Order, Report, Start, Stop
from sweep.record import Record
from sweep.results import TrialRow
from tests.studies import children, plan
from tests.test_executors import Ran, descendants, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TWO = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.sync_batchnorm=true")
ONE_TRIAL = ("study.trials=1", "model.dropout=0.0")  # what is left is bn_momentum, which is scored


def train(plan: Plan, watch: object = None) -> TrialRow:
    """The only trial of a study, after this run of it."""
    with closing(Record(plan)) as record:
        record.describe()
        conductor = Conductor(plan, record, watch or (lambda *_: None))  # type: ignore[arg-type]
        with closing(conductor):
            EXECUTORS[plan.executor.name](conductor, plan)
        (row,) = record.results().trials
    return row


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrialRow:
    """The trial in one process, as a pack of one, with the batch of both."""
    return train(plan(tmp_path_factory.mktemp("one"), *ONE_TRIAL, "data.batch_size=64"))


def assert_same(both: TrialRow, whole: TrialRow) -> None:
    """Sums over the batch in another order, over 64 steps: Adam lets their rounding grow to 1e-4.

    One of 512 images more or less is 0.002, and a few may lie that near to the border.
    """
    assert both.status == whole.status == "complete"
    for name in ("val_nll", "train_loss"):
        assert both.history[name] == pytest.approx(whole.history[name], rel=2e-3)
    assert both.history["val_accuracy"] == pytest.approx(whole.history["val_accuracy"], abs=0.005)
    assert both.momentum is not None
    assert whole.momentum is not None
    assert list(both.momentum.momenta) == list(whole.momentum.momenta)
    assert both.momentum.values == pytest.approx(whole.momentum.values, abs=0.01)


def test_two_ranks_are_one_process_with_twice_the_batch(tmp_path: Path, whole: TrialRow) -> None:
    """Stopped in the middle, and gone on with by the next command."""
    before = children(os.getpid())
    some = plan(tmp_path, *ONE_TRIAL, *TWO, "data.batch_size=32")
    passed: list[Event | Order] = []

    def stop(worker: str, message: Event | Order) -> None:
        passed.append(message)
        if isinstance(message, Report) and message.epoch == 2:
            conductors[-1].drain()

    conductors = []
    with closing(Record(some)) as record:
        record.describe()
        conductors.append(Conductor(some, record, stop))
        with closing(conductors[-1]):
            EXECUTORS["inline"](conductors[-1], some)
        assert [row.status for row in record.results().trials] == ["waiting"]
    assert Stop(0, "interrupted") in passed
    row = train(some, lambda _, message: passed.append(message))
    reports = [message.epoch for message in passed if isinstance(message, Report)]
    assert reports == [1, 2, 3, 4]  # each epoch once, and only one of two processes speaks
    assert_same(row, whole)
    assert children(os.getpid()) == before


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    deeds = "model.deed=choice(fine,is_bad,loses_a_rank,fails_in_a_rank)"
    settings = ("executor=inline", "study.retries=1")
    return run(tmp_path_factory.mktemp("ranks"), *TWO[:2], *settings, deeds)


def test_a_study_of_such_trials_has_its_exact_total(ran: Ran) -> None:
    assert [row.number for row in ran.results.trials] == [0, 1, 2, 3]
    started = [message.spec.number for _, message in ran.passed if isinstance(message, Start)]
    assert len(started) == 5  # the one that was killed ran twice
    row = ran.trial("fine")
    assert (row.status, row.value) == ("complete", pytest.approx(0.8))
    assert [report.epoch for report in ran.reports("fine")] == [1, 2, 3, 4]
    assert (ran.results.folder / "checkpoints" / "best.ckpt").stat().st_size > 1000


def test_all_ranks_stop_when_the_trial_is_pruned(ran: Ran) -> None:
    row = ran.trial("is_bad")
    assert (row.status, len(row.curve)) == ("pruned", 2)


def test_a_killed_rank_ends_the_others_and_the_trial_runs_again(ran: Ran) -> None:
    row = ran.trial("loses_a_rank")
    assert row.status == "failed"
    assert row.reason == "rank 1 died (SIGKILL, probably out of memory), 2 times"
    ends = [m for _, m in ran.passed if isinstance(m, Ended) and m.trial == row.number]
    assert [end.status for end in ends] == ["interrupted", "failed"]


def test_an_error_in_one_rank_is_the_trials_and_in_the_log(ran: Ran) -> None:
    row = ran.trial("fails_in_a_rank")
    assert (row.status, row.reason) == ("failed", "ValueError: in one of two")
    assert "rank 1 failed\nTraceback (most recent call last)" in ran.log


def test_no_rank_is_left(ran: Ran) -> None:
    assert ran.left_over == set()


def test_ranks_die_with_their_worker(tmp_path: Path) -> None:
    """The worker is killed in the middle of a trial: its ranks go, and the trial runs again."""
    before = descendants()
    some = plan(tmp_path, *ONE_TRIAL, *TWO[:2], "executor=local", "executor.devices=2")
    lost: list[Ended] = []

    def watch(worker: str, message: Event | Order) -> None:
        if isinstance(message, Report) and message.epoch == 1 and not lost:
            (pid,) = children(os.getpid())
            os.kill(pid, 9)
        if isinstance(message, Ended) and message.status == "interrupted":
            lost.append(message)

    row = train(some, watch)
    assert (row.status, len(lost), len(row.curve)) == ("complete", 1, 4)
    assert descendants() == before
