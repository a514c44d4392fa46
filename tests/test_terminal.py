"""What a person sees: drawn on terminals of several sizes, and printed where there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sweep.messages import Ended, Report, Start, TrialSpec, Value, Vitals
from sweep.results import ResultSet, TrialRow
from sweep.show import show_best, show_end, show_plan
from sweep.terminal import Terminal, minutes, show, spell
from sweep.workers import Workers
from tests.studies import metrics, plan, row

TWO = {"model.dropout": "interval(0, 0.7)", "model.bn_momentum": "tag(log, interval(0.001, 1))"}
MANY = {f"model.parameter_{i}": "interval(0, 1)" for i in range(12)}


def study(*rows: TrialRow, search: Mapping[str, str] = TWO, **changes: Any) -> ResultSet:
    settings: dict[str, Any] = {
        "name": "synthetic",
        "folder": Path("sweeps/synthetic"),
        "metric": "val_accuracy",
        "direction": "maximize",
        "total": 20,
        "search": search,
        "config": {},
    }
    return ResultSet(**settings | changes, trials=rows)


class Screen:
    """A terminal whose study runs by what the test says, and what can be seen of it."""

    def __init__(self, width: int, before: ResultSet, height: int = 24, real: bool = True) -> None:
        self._file = StringIO()
        self.console = Console(
            file=self._file, force_terminal=real, width=width, height=height, color_system=None
        )
        self.terminal = Terminal(self.console, before, before.total)

    def start(self, number: int, params: Mapping[str, Value] | None = None) -> None:
        params = params or {"model.dropout": 0.6 - number / 100, "model.bn_momentum": 0.00123456}
        spec = TrialSpec(number, 1, params, {"trainer": {"max_epochs": 10}})
        self.terminal.watch("worker-0", Start(spec))

    def report(self, number: int, epoch: int, value: float) -> None:
        self.terminal.watch("worker-0", Report(number, epoch, metrics(value)))

    def end(self, number: int, status: Any, value: float = 0.5, reason: str | None = None) -> None:
        found = {} if status == "failed" else metrics(value)
        self.terminal.watch("worker-0", Ended(number, status, found, 12.34, reason))

    def drawn(self) -> list[str]:
        """The lines of the live table as they are now."""
        with self.console.capture() as capture:
            self.console.print(self.terminal._view())
        return [line.rstrip() for line in capture.get().splitlines()]

    def printed(self) -> str:
        return self._file.getvalue()


def busy(width: int, search: Mapping[str, str] = TWO, height: int = 24) -> Screen:
    """Trials of every kind: six complete, one pruned, one failed, two that run."""
    screen = Screen(width, study(search=search), height)
    params = {key: 0.123456789 / (i + 1) for i, key in enumerate(search)}
    for number in range(10):
        screen.start(number, params)
        screen.report(number, 3, 0.9 + number / 1000)
    for number in range(6):
        screen.end(number, "complete", 0.95 + number / 1000)
    screen.end(6, "pruned", 0.4)
    screen.end(7, "failed", reason="ValueError: " + "a long reason " * 10)
    return screen


# The live table


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("search", [TWO, MANY], ids=["two parameters", "twelve parameters"])
def test_no_line_is_wider_than_the_terminal_and_no_cell_is_cut(
    width: int, search: Mapping[str, str]
) -> None:
    lines = busy(width, search).drawn()
    assert max(map(cell_len, lines)) <= width
    end = next(i for i, line in enumerate(lines) if line.startswith("6 complete"))
    table = lines[1:end]
    shown = len(table[0].split()) - 3  # trial, metric and epochs are not parameters
    assert shown == 2 if search is TWO else 0 < shown < 12
    for line in table[1:]:
        values = line.split()[-shown:]
        assert values == [f"{0.123456789 / (i + 1):.3g}" for i in range(shown)]


def test_parameters_without_room_are_counted() -> None:
    lines = busy(80, MANY).drawn()
    shown = sum("parameter_" in word for word in lines[1].split())
    assert lines[-1].startswith("6 complete, 1 failed, 1 pruned, 2 running, ")
    assert lines[-1].endswith(f" {12 - shown} parameters are in trials.csv")


def test_the_best_five_and_the_running_trials_are_shown() -> None:
    lines = busy(80).drawn()
    assert re.match(r"synthetic ━+.* 8/20 .* left$", lines[0])
    assert lines[1].split() == ["trial", "val_accuracy", "epochs", "dropout", "bn_momentum"]
    assert [line.split()[-5:-2] for line in lines[2:7]] == [
        [str(n), f"{95 + n / 10:.2f}", "%"] for n in (5, 4, 3, 2, 1)
    ]
    assert lines[2].startswith("★  5")
    assert lines[7].split() == ["▶", "8", "90.80", "%", "3/10", "0.123", "0.0617"]
    assert lines[8].split() == ["▶", "9", "90.90", "%", "3/10", "0.123", "0.0617"]
    assert lines[9] == "6 complete, 1 failed, 1 pruned, 2 running"


def test_a_loss_is_best_when_it_is_small() -> None:
    screen = Screen(80, study(metric="val_nll", direction="minimize"))
    for number, value in enumerate((0.5, 0.9, 0.7)):
        screen.start(number)
        screen.end(number, "complete", value)  # val_nll is 1 - value
    assert [line.split()[-5] for line in screen.drawn()[2:5]] == ["1", "2", "0"]


def test_many_running_trials_leave_the_best_on_the_screen() -> None:
    screen = Screen(80, study(), height=24)
    for number in range(200):
        screen.start(number)
    assert len(screen.drawn()) <= 24


def test_nothing_is_hidden_before_the_first_trial() -> None:
    lines = Screen(80, study()).drawn()
    assert "0/20" in lines[0]
    assert lines[-1] == "the workers are starting"


def test_a_resumed_study_begins_with_what_is_recorded() -> None:
    rows = [row(0), row(1, "pruned"), row(2, "waiting", value=None)]
    lines = Screen(80, study(*rows)).drawn()
    assert "2/20" in lines[0]
    assert lines[2].split()[:3] == ["★", "0", "90.00"]
    assert lines[-1] == "1 complete, 1 pruned, the workers are starting"


def test_a_finished_study_waits_for_nobody() -> None:
    lines = Screen(80, study(row(0), total=1)).drawn()
    assert "1/1" in lines[0]
    assert lines[-1] == "1 complete"


def test_a_reason_is_printed_above_the_table() -> None:
    screen = Screen(80, study())
    screen.start(0)
    screen.end(0, "failed", reason="KeyError: [no such thing]")
    screen.start(1)
    screen.end(1, "interrupted", reason="worker died (SIGKILL); it will run again")
    assert screen.printed().splitlines() == [
        "trial 0 failed: KeyError: [no such thing]",
        "trial 1: worker died (SIGKILL); it will run again",
    ]


def test_a_worker_is_a_line_with_its_place_trials_and_use() -> None:
    screen = Screen(100, study())
    for number in (3, 4):
        screen.start(number)
    screen.terminal.watch("worker-0", Vitals("GPU 0", 2_540_000_000, 1.07, 0.93, 30 * 10**9))
    screen.terminal.watch("worker-1", Vitals("CPU, 1 thread", 10**9, 0.0))
    lines = [line.split("  ") for line in screen.drawn() if line.startswith("worker")]
    assert [[part.strip() for part in line if part] for line in lines] == [
        ["worker-0", "GPU 0", "2.5 GB + 30.0 GB GPU", "107 % CPU, 93 % GPU", "2 trials: 3, 4"],
        ["worker-1", "CPU, 1 thread", "1.0 GB", "0 % CPU", "idle"],
    ]


def test_workers_that_find_no_room_are_counted_and_those_that_are_gone_are_not() -> None:
    now_s = 0.0
    workers = Workers(lambda: now_s)
    for i in range(12):
        workers.watch(f"worker-{i}", Vitals("CPU", 10**9, 1.0))
    lines = [line.plain for line in workers.lines(40, 4)]
    assert [line.split()[0] for line in lines] == ["worker-0", "worker-1", "worker-2", "and"]
    assert lines[-1] == "and 9 more workers"
    assert max(map(len, lines)) <= 40
    now_s = 100.0
    workers.watch("worker-7", Vitals("CPU", 10**9, 1.0))
    assert [line.plain.split()[0] for line in workers.lines(40, 4)] == ["worker-7"]
    assert workers.height(4) == 1


def test_many_workers_leave_the_trials_on_the_screen() -> None:
    screen = Screen(80, study(), height=24)
    for number in range(200):
        screen.start(number)
        screen.terminal.watch(f"worker-{number}", Vitals("CPU, 1 thread", 10**9, 1.0))
    assert len(screen.drawn()) <= 24


def test_a_note_stays_in_view() -> None:
    screen = Screen(80, study())
    screen.terminal.note("Ctrl-C: stopping")
    assert screen.drawn()[-1] == "Ctrl-C: stopping"


def test_a_whole_study_is_drawn_live() -> None:
    screen = Screen(80, study())
    with screen.terminal:
        for number in range(3):
            screen.start(number)
            screen.report(number, 1, 0.5)
            screen.end(number, "complete", 0.9)
    assert "3/20" in screen.printed()
    assert "3 complete" in screen.printed()


# Where there is no terminal


def test_elsewhere_each_trial_is_a_line() -> None:
    screen = Screen(80, study(row(0), row(1, "failed", value=None)), real=False)
    with screen.terminal:
        screen.start(2)
        screen.report(2, 1, 0.5)
        screen.end(2, "complete", 0.95)
        screen.start(3)
        screen.end(3, "failed", reason="ValueError: no")
        screen.start(4)
        screen.end(4, "interrupted")
    assert screen.printed().splitlines() == [
        "[3/20] trial 2 complete  val_accuracy 95.00 %  dropout 0.58  bn_momentum 0.00123  12.3 s  "
        "best 95.00 % (trial 2)",
        "[4/20] trial 3 failed  dropout 0.57  bn_momentum 0.00123  12.3 s  best 95.00 % (trial 2)  "
        "ValueError: no",
    ]


def test_a_note_goes_to_the_error_output(capfd: pytest.CaptureFixture[str]) -> None:
    Screen(80, study(), real=False).terminal.note("Ctrl-C: stopping")
    assert capfd.readouterr().err == "Ctrl-C: stopping\n"


# Words and figures


def test_metrics_and_parameters_are_spelled_for_reading() -> None:
    assert show("val_accuracy", 0.98765) == "98.77 %"
    assert show("val_nll", 0.0123456) == "0.01235 nats"
    assert spell({"model.dropout": 0.31234, "retrofit.dropout": None}) == (
        "model.dropout 0.312  retrofit.dropout null"
    )
    assert spell({"model.name": "cnn", "optimizer.name": "sgd", "model.lr": 1}) == (
        "model.name cnn  optimizer.name sgd  lr 1"
    )
    assert spell({"model.dropout": 0.30001, "model.activation": "gelu"}) == (
        "dropout 0.3  activation gelu"
    )
    assert minutes(59.9) == "00:59"
    assert minutes(3661) == "01:01:01"
    assert minutes(100000) == "27:46:40"


def test_an_accuracy_that_is_in_percent_stays_as_it_is() -> None:
    assert show("val_accuracy", 98.12) == "98.12"
    assert show("val_accuracy", 0.5, [98.12]) == "0.50"
    screen = Screen(80, study(row(0, value=98.12)))
    screen.start(1)
    screen.report(1, 1, 0.5)
    assert [line.split()[2] for line in screen.drawn()[2:4]] == ["98.12", "0.50"]
    assert not any("%" in line for line in screen.drawn()[2:4])
    screen = Screen(80, study(row(0, value=98.12)), real=False)
    screen.start(1)
    screen.end(1, "complete", 0.5)
    assert "val_accuracy 0.50  " in screen.printed()
    assert "best 98.12 (trial 0)" in screen.printed()


# Before and after a study


def text_of(width: int, print_it: Any, *arguments: Any) -> str:
    file = StringIO()
    print_it(*arguments, Console(file=file, width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80])
def test_commands_and_paths_are_never_broken(tmp_path: Path, width: int) -> None:
    folder = tmp_path / "a rather long name of a folder" / "synthetic"
    results = study(row(0), row(1, "failed", value=None), folder=folder)
    text = text_of(width, show_end, results, folder / "report" / "index.html", 75.0)
    assert f"tensorboard --logdir '{folder}'" in text
    assert f"python -m sweep best '{folder}'" in text
    assert str(folder / "report" / "index.html") in text
    assert str(folder / "checkpoints" / "best.ckpt") in text
    assert "1 complete, 1 failed" in text
    assert "01:15" in text
    assert len(text.splitlines()) <= 24


def test_a_study_below_sweeps_is_called_by_its_name() -> None:
    results = study(row(0))
    text = text_of(80, show_end, results, results.folder / "report" / "index.html", 1.0)
    assert "python -m sweep best synthetic\n" in text


def test_a_study_that_was_stopped_says_how_many_of_its_trials_have_ended() -> None:
    stopped = study(row(0), row(1, "pruned"), row(2, "waiting", value=None))
    assert "trials        2 of 20 ended (1 complete, 1 pruned, 1 waiting)" in text_of(
        80, show_best, stopped
    )
    over = replace(stopped, trials=stopped.trials[:2], total=2)
    assert "trials        1 complete, 1 pruned\n" in text_of(80, show_best, over)


def test_parameters_are_in_the_order_of_the_search_whatever_a_trial_found_last() -> None:
    found = {"model.bn_momentum": 0.1, "model.dropout": 0.3}
    assert "dropout 0.3  bn_momentum 0.1  (trial 0)" in text_of(
        80, show_best, study(row(0, params=found), search=TWO)
    )


def test_a_metric_that_is_logged_alone_has_nothing_beside_it() -> None:
    text = text_of(80, show_best, study(row(0, metrics={"val_accuracy": 0.9})))
    assert "val_accuracy  90.00 %\n" in text


def test_the_best_trial_comes_with_the_lines_that_load_it() -> None:
    text = text_of(80, show_best, study(row(0)))
    assert "best          dropout 0.1  bn_momentum 0.1  (trial 0)" in text
    assert (
        "    from dropnorm import Classifier\n"
        "    model = "
        'Classifier.load_from_checkpoint("sweeps/synthetic/checkpoints/best.ckpt").eval()\n'
    ) in text


def test_a_plan_says_what_remains_of_a_recorded_study(tmp_path: Path) -> None:
    wanted = plan(tmp_path)
    text = text_of(80, show_plan, wanted, None)
    assert "8 trials of at most 4 epochs" in text
    assert "interval(0, 0.7)" in text
    text = text_of(80, show_plan, wanted, study(row(0), row(1)))
    assert "2 trials; 6 remain" in text
    assert "1.5 s a trial so far; about 00:09 one at a time" in text
