"""What every executor does, and what befalls processes: real workers, real signals."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweep.conductor import Conductor
from sweep.config import Plan, make_plan
from sweep.errors import StudyError
from sweep.executors import EXECUTORS
from sweep.executors.local import run_local
from sweep.messages import Ended, Event, Order, Report, Start, Stop
from sweep.record import Record
from sweep.results import ResultSet, TrialRow
from tests.studies import children, on_one_core, plan

CONF = str(Path(__file__).parent / "conf")
Passed = tuple[str, Event | Order]


def carry_out(plan: Plan, watch: Callable[[str, Event | Order], None]) -> Conductor:
    """What the main job does between plan and report."""
    with closing(Record(plan)) as record:
        record.describe()
        conductor = Conductor(plan, record, watch)
        with closing(conductor):
            EXECUTORS[plan.executor.name](conductor, plan)
    return conductor


# Conformance: the same study, in which every kind of trial happens once, under each executor


@dataclass
class Ran:
    """A finished study, and all that passed between its conductor and its workers."""

    results: ResultSet
    passed: list[Passed]
    log: str
    left_over: set[int]

    def trial(self, deed: str) -> TrialRow:
        (found,) = [t for t in self.results.trials if t.params["model.deed"] == deed]
        return found

    def reports(self, deed: str) -> list[Report]:
        number = self.trial(deed).number
        return [m for _, m in self.passed if isinstance(m, Report) and m.trial == number]


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """For this process and its children: one worker, of one thread, unless a test wants more."""
    before = os.sched_getaffinity(0)
    on_one_core()
    yield
    os.sched_setaffinity(0, before)


DEEDS = ["fine", "raises", "is_nan", "logs_nothing", "is_bad"]
DEADLY = ["dies", "hangs"]  # not in this process. Other trials come after each of them
SILENCE_S = 10


@pytest.fixture(scope="module", params=["inline", "local", "ray"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    deeds, typed = DEEDS, [f"executor={request.param}", "study.retries=0"]
    if request.param != "inline":
        deeds, typed = DEEDS + DEADLY, [*typed, f"executor.silence_s={SILENCE_S}"]
    folder = tmp_path_factory.mktemp(request.param)
    return run(folder, *typed, f"model.deed=choice({','.join(deeds)})")


def run(folder: Path, *overrides: str) -> Ran:
    """The awkward study from its start to its end."""
    passed: list[Passed] = []
    before = descendants()
    plan = make_plan(["+study=awkward", f"study.folder={folder}", *overrides], CONF)
    carry_out(plan, lambda *message: passed.append(message))
    with closing(Record(plan)) as record:
        results = record.results()
    log = "".join(path.read_text() for path in (plan.folder / "logs").iterdir())
    return Ran(results, passed, log, descendants() - before)


def descendants() -> set[int]:
    """All living processes that this one has started, and those that they have started."""
    parents, found = {}, {os.getpid()}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            parents[int(stat.parent.name)] = 0 if state == "Z" else int(parent)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid for pid in found if not is_tracker(pid)}


def is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's own, which lives as long as this process."""
    return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_every_trial_is_run_once(ran: Ran) -> None:
    assert {t.params["model.deed"] for t in ran.results.trials} >= set(DEEDS)
    numbers = list(range(len(ran.results.trials)))
    assert [t.number for t in ran.results.trials] == numbers
    assert all(t.ended for t in ran.results.trials)
    started = [m.spec.number for _, m in ran.passed if isinstance(m, Start)]
    ended = [m.trial for _, m in ran.passed if isinstance(m, Ended)]
    assert sorted(started) == sorted(ended) == numbers


def test_a_trial_reports_every_epoch_in_order(ran: Ran) -> None:
    reports = ran.reports("fine")
    assert [report.epoch for report in reports] == [1, 2, 3, 4]
    row = ran.trial("fine")
    assert (row.status, row.value) == ("complete", pytest.approx(0.8))
    assert dict(row.curve) == pytest.approx({1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8})
    assert row.history["val_nll"] == [0.25] * 4
    assert row.seconds > 0
    assert row.worker == ran.passed[0][0]


def test_a_trial_that_is_told_to_stop_stops(ran: Ran) -> None:
    row = ran.trial("is_bad")
    assert Stop(row.number, "pruned") in [message for _, message in ran.passed]
    assert [report.epoch for report in ran.reports("is_bad")] == [1, 2]
    assert (row.status, row.value, len(row.curve)) == ("pruned", pytest.approx(0.1), 2)


def test_an_error_in_a_trial_fails_it_and_is_in_the_log(ran: Ran) -> None:
    row = ran.trial("raises")
    assert (row.status, row.value, row.reason) == ("failed", None, "ValueError: as it was told to")
    assert [report.epoch for report in ran.reports("raises")] == [1]
    assert "Traceback (most recent call last)" in ran.log
    assert 'raise ValueError("as it was told to")' in ran.log


def test_a_loss_that_is_not_finite_fails_the_trial_with_that_reason(ran: Ran) -> None:
    row = ran.trial("is_nan")
    assert (row.status, row.value, row.reason) == ("failed", None, "train_loss is nan in epoch 2")
    assert math.isnan(row.metrics["train_loss"])


def test_a_metric_that_is_never_logged_fails_the_trial_listing_what_is(ran: Ran) -> None:
    row = ran.trial("logs_nothing")
    assert row.status == "failed"
    assert row.reason is not None
    assert "the module never logs val_accuracy; it logs train_loss, val_nll" in row.reason


def test_the_best_checkpoint_comes_home(ran: Ran) -> None:
    assert ran.results.best == ran.trial("fine")
    assert (ran.results.folder / "checkpoints" / "best.ckpt").stat().st_size > 1000


def test_no_process_is_left(ran: Ran) -> None:
    assert ran.left_over == set()


# Conformance of those whose workers are processes: what would end this one

in_processes = pytest.mark.parametrize("ran", ["local", "ray"], indirect=True, scope="module")


@pytest.mark.slow
@in_processes
def test_a_trial_that_kills_its_worker_fails_with_that_reason(ran: Ran) -> None:
    row = ran.trial("dies")
    assert row.status == "failed"
    assert row.reason is not None
    assert row.reason.startswith("worker died (")
    assert [report.epoch for report in ran.reports("dies")] == [1]


@pytest.mark.slow
@in_processes
def test_a_trial_that_hangs_is_ended_after_a_silence(ran: Ran) -> None:
    row = ran.trial("hangs")
    assert row.status == "failed"
    assert row.reason is not None
    assert row.reason.startswith("worker hung, it said nothing for 1")
    assert [report.epoch for report in ran.reports("hangs")] == [1]


@pytest.mark.slow
@in_processes
@pytest.mark.parametrize("deed", DEADLY)
def test_the_other_trials_are_run_by_the_next_worker(ran: Ran, deed: str) -> None:
    number = ran.trial(deed).number
    seen = [message for _, message in ran.passed]
    (end,) = [i for i, m in enumerate(seen) if isinstance(m, Ended) and m.trial == number]
    assert [message for message in seen[end:] if isinstance(message, Start)]
    assert len(ran.results.trials) == len(DEEDS + DEADLY)


# Local: processes that die, or never live


def worker_pids() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid and p.name[:6] == "worker"]


@pytest.mark.slow
def test_trials_of_a_killed_worker_run_again_and_the_total_is_exact(tmp_path: Path) -> None:
    before = children(os.getpid())
    lost: list[Ended] = []
    workers = set()

    def watch(worker: str, message: Event | Order) -> None:
        if isinstance(message, Report) and (message.trial, message.epoch) == (1, 2) and not lost:
            os.kill(worker_pids()[0], signal.SIGKILL)
        if isinstance(message, Ended) and message.status == "interrupted":
            lost.append(message)
        workers.update(worker_pids())

    overrides = ("executor=local", "executor.lanes=2", "study.trials=4")
    conductor = carry_out(plan(tmp_path, *overrides), watch)
    assert sorted(death.trial for death in lost) == [0, 1]
    reason = "worker died (SIGKILL, probably out of memory); it will run again"
    assert {death.reason for death in lost} == {reason}
    assert len(workers) == 2
    assert conductor.ended == conductor.total == 4
    with closing(Record(plan(tmp_path, *overrides))) as record:
        rows = record.results().trials
    assert [(row.number, row.status) for row in rows] == [(n, "complete") for n in range(4)]
    assert [len(row.curve) for row in rows] == [4] * 4
    assert children(os.getpid()) == before


def test_workers_that_cannot_start_stop_the_study_naming_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "pytorch_lightning.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.syspath_prepend(str(broken))  # spawned processes inherit the path
    with pytest.raises(StudyError) as stop:
        carry_out(plan(tmp_path, "executor=local", "executor.devices=1"), lambda *_: None)
    assert "could not start (exit code 1): ImportError: a broken installation; see" in str(
        stop.value
    )
    log = Path(str(stop.value).rpartition("see ")[2])
    assert "Traceback" in log.read_text()
    assert worker_pids() == []


def test_nothing_is_started_when_nothing_is_left(tmp_path: Path) -> None:
    finished = plan(tmp_path, "study.trials=1")
    carry_out(finished, lambda *_: None)
    passed: list[Passed] = []
    with closing(Record(finished)) as record:
        run_local(Conductor(finished, record, lambda *message: passed.append(message)), finished)
    assert passed == []
