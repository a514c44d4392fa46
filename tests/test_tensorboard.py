"""The TensorBoard of a study, read back from real files by TensorBoard's own readers."""

from __future__ import annotations

import datetime as dt
import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from google.protobuf import json_format
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as ExperimentHandler
from tensorboard.plugins.hparams.list_session_groups import Handler as SessionGroupsHandler

from sweep.confirm.contenders import code_of
from sweep.dashboards import show_figures
from sweep.hparams import Outcome
from sweep.messages import Value
from sweep.results import ConfirmRow
from sweep.space import Dimension, parse_dimension
from sweep.tensorboard import Board

SEARCH: dict[str, object] = {
    "model.dropout": "interval(0, 0.7)",
    "model.bn_momentum": "tag(log, interval(0.001, 1))",
    "model.width": "choice(128, 256)",
    "model.activation": ["relu", None, 2],
    "model.bias": "choice(true, false)",
}
PARAMS: dict[str, Value] = {
    "model.dropout": 0.25,
    "model.bn_momentum": 0.1,
    "model.width": 256,
    "model.activation": "relu",
    "model.bias": True,
}


def space(search: Mapping[str, object] = SEARCH) -> dict[str, Dimension]:
    return {key: parse_dimension(key, text) for key, text in search.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a study" / "tensorboard"


@pytest.fixture
def board(folder: Path) -> Board:
    return Board(folder, space(), "val_accuracy")


def metrics(accuracy: float) -> dict[str, float]:
    return {"val_accuracy": accuracy, "val_nll": 1 - accuracy, "val_ece": 0.5, "train_loss": 2.0}


def train(board: Board, number: int, *accuracies: float) -> None:
    board.start(number)
    for epoch, accuracy in enumerate(accuracies, start=1):
        board.report(number, epoch, metrics(accuracy))


def end(
    board: Board,
    number: int,
    status: Outcome = "complete",
    last: Mapping[str, float] | None = None,
    params: Mapping[str, Value] = PARAMS,
) -> None:
    last = metrics(0.5) if last is None else last
    board.end(number, params, status, last, started_s=100.0, finished_s=160.0)


def curve(run: Path, tag: str) -> list[tuple[int, float]]:
    """Every scalar in the run's files, whatever a later attempt made void."""
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    reader.Reload()
    return [(point.step, point.value) for point in reader.Scalars(tag)] if tag in tags(run) else []


def tags(run: Path) -> list[str]:
    found: list[str] = EventAccumulator(str(run)).Reload().Tags()["scalars"]
    return found


def backend(logdir: Path) -> Context:
    runs = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    runs.Reload()
    return Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(logdir))))


def columns(logdir: Path) -> api_pb2.Experiment:
    context = backend(logdir)
    return ExperimentHandler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()


def rows(logdir: Path) -> dict[str, api_pb2.SessionGroup]:
    """What HPARAMS shows, by the name of the row."""
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=api_pb2.Status.values(), start_index=0, slice_size=1000
    )
    shown = SessionGroupsHandler(RequestContext(), backend(logdir), "", request).run()
    json_format.MessageToJson(shown)  # as it travels to the page
    return {group.name: group for group in shown.session_groups}


def params(row: api_pb2.SessionGroup) -> dict[str, Value]:
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in row.hparams.items()}


def results(row: api_pb2.SessionGroup) -> dict[str, float]:
    return {value.name.tag: value.value for value in row.metric_values}


def test_a_trial_is_a_run_with_a_point_an_epoch(folder: Path, board: Board) -> None:
    train(board, 7, 0.25, 0.5)
    assert curve(folder / "trial_0007", "val_accuracy") == [(1, 0.25), (2, 0.5)]
    assert curve(folder / "trial_0007", "train_loss") == [(1, 2.0), (2, 2.0)]
    assert sorted(tags(folder / "trial_0007")) == sorted(metrics(0.0))


def test_points_can_be_read_as_soon_as_they_are_reported(folder: Path, board: Board) -> None:
    for epoch in (1, 2, 3):
        board.report(0, epoch, metrics(0.5))
        assert len(curve(folder / "trial_0000", "val_nll")) == epoch


def test_the_study_run_shows_the_best_value_so_far(folder: Path, board: Board) -> None:
    for finished, best in enumerate((None, 0.5, 0.5, 0.75), start=1):
        board.study(finished, best)
    assert curve(folder / "study", "best/val_accuracy") == [(2, 0.5), (3, 0.5), (4, 0.75)]


def test_hparams_shows_parameters_final_metrics_and_status(folder: Path, board: Board) -> None:
    train(board, 0, 0.25, 0.75)
    end(board, 0, "complete", metrics(0.75))
    train(board, 1, 0.125)
    end(board, 1, "pruned", metrics(0.125), PARAMS | {"model.width": 128, "model.bias": False})
    train(board, 2)
    end(board, 2, "failed", {}, PARAMS | {"model.activation": None})
    train(board, 3, 0.5)  # still running: not in the table

    table = rows(folder)
    assert list(table) == ["trial_0000", "trial_0001", "trial_0002"]
    complete, pruned, failed = table.values()
    assert params(complete) == {
        "dropout": 0.25,
        "bn_momentum": 0.1,
        "width": 256,
        "activation": "relu",
        "bias": True,
        "status": "complete",
    }
    assert results(complete) == {f"final/{k}": v for k, v in metrics(0.75).items()}
    assert params(pruned) == params(complete) | {"width": 128, "bias": False, "status": "pruned"}
    assert results(pruned) == {f"final/{k}": v for k, v in metrics(0.125).items()}
    assert params(failed) == params(complete) | {"activation": "null", "status": "failed"}
    assert results(failed) == {}

    sessions = [session for row in table.values() for session in row.sessions]
    success, failure = api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE
    assert [session.status for session in sessions] == [success, success, failure]
    assert {(s.start_time_secs, s.end_time_secs) for s in sessions} == {(100.0, 160.0)}


def test_hparams_has_a_typed_column_for_each_key_and_metric(folder: Path, board: Board) -> None:
    experiment = columns(folder)
    by_name = {info.name: info for info in experiment.hparam_infos}
    assert next(iter(by_name)) == "status"  # among the five that are shown at first
    dropout = by_name["dropout"]
    assert dropout.type == api_pb2.DATA_TYPE_FLOAT64
    assert (dropout.domain_interval.min_value, dropout.domain_interval.max_value) == (0.0, 0.7)
    domains = {
        name: list(info.domain_discrete)
        for name, info in by_name.items()
        if info.HasField("domain_discrete")
    }
    assert domains == {
        "status": ["complete", "pruned", "failed", "confirmed"],
        "width": [128, 256],
        "activation": ["relu", "null", "2"],
        "bias": [True, False],
    }
    assert [(m.name.tag, m.display_name) for m in experiment.metric_infos] == [
        (f"final/{name}", name) for name in ("val_accuracy", "val_nll", "val_ece", "train_loss")
    ]


def test_the_studys_own_metric_is_the_first_column(folder: Path) -> None:
    Board(folder, space(), "val_nll")
    names = [info.display_name for info in columns(folder).metric_infos]
    assert names == ["val_nll", "val_accuracy", "val_ece", "train_loss"]


def test_keys_keep_their_dotted_name_where_the_last_word_is_not_enough(folder: Path) -> None:
    keys = ("a.lr", "b.lr", "c.status", "c.momentum")
    board = Board(folder, space({key: "interval(0.0, 1.0)" for key in keys}), "val_accuracy")
    end(board, 0, params=dict.fromkeys(keys, 0.5))
    names = {"a.lr", "b.lr", "c.status", "momentum", "status"}
    assert {info.name for info in columns(folder).hparam_infos} == names
    assert set(rows(folder)["trial_0000"].hparams) == names


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_shown_as_nan(
    folder: Path, board: Board, value: float
) -> None:
    end(board, 0, "failed", {"train_loss": value})
    assert math.isnan(results(rows(folder)["trial_0000"])["final/train_loss"])


def test_hparams_is_right_from_the_folder_above_too(folder: Path, board: Board) -> None:
    end(board, 0)
    assert results(rows(folder.parent)["trial_0000"])["final/val_accuracy"] == 0.5
    assert len(columns(folder.parent).metric_infos) == 4


def test_a_resumed_study_goes_on_and_describes_its_columns_once(folder: Path, board: Board) -> None:
    train(board, 0, 0.5)
    end(board, 0)
    board.study(1, 0.5)
    before = sorted(folder.glob("study/*hparams"))

    resumed = Board(folder, space(), "val_accuracy")
    train(resumed, 1, 0.75)
    end(resumed, 1)
    resumed.study(2, 0.75)

    assert sorted(folder.glob("study/*hparams")) == before
    assert len(before) == 1
    assert curve(folder / "study", "best/val_accuracy") == [(1, 0.5), (2, 0.75)]
    assert list(rows(folder)) == ["trial_0000", "trial_0001"]
    assert len(columns(folder).hparam_infos) == 6


def test_columns_whose_writing_was_interrupted_are_written_again(folder: Path) -> None:
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "unfinished").write_bytes(b"half a rec")
    Board(folder, space(), "val_accuracy")
    assert len(columns(folder).hparam_infos) == 6
    assert [file.name for file in (folder / "study").iterdir()] == ["events.out.tfevents.0.hparams"]


def test_a_trial_that_runs_again_shows_nothing_of_its_first_attempt(
    folder: Path, board: Board
) -> None:
    train(board, 0, 0.125, 0.25, 0.375)
    end(board, 0, "failed", {"val_accuracy": 0.375})

    train(board, 0, 0.5, 0.75)
    end(board, 0, "complete", metrics(0.75))
    assert curve(folder / "trial_0000", "val_accuracy") == [(1, 0.5), (2, 0.75)]
    assert curve(folder / "trial_0000", "final/val_accuracy") == [(2, 0.75)]
    row = rows(folder)["trial_0000"]
    assert params(row)["status"] == "complete"
    assert results(row)["final/val_accuracy"] == 0.75


def test_an_open_tensorboard_drops_the_first_attempt(folder: Path, board: Board) -> None:
    train(board, 0, 0.125, 0.25, 0.375)
    reader = EventAccumulator(str(folder / "trial_0000"), size_guidance={"scalars": 0}).Reload()
    assert [point.step for point in reader.Scalars("val_accuracy")] == [1, 2, 3]
    train(board, 0, 0.5, 0.75)
    reader.Reload()
    points = [(point.step, point.value) for point in reader.Scalars("val_accuracy")]
    assert points == [(1, 0.5), (2, 0.75)]


def test_a_trial_goes_on_after_a_torn_record(folder: Path, board: Board) -> None:
    train(board, 0, 0.25, 0.5)
    (torn,) = (folder / "trial_0000").iterdir()
    os.truncate(torn, torn.stat().st_size - 5)

    resumed = Board(folder, space(), "val_accuracy")
    resumed.report(0, 2, metrics(0.75))
    end(resumed, 0)
    assert curve(folder / "trial_0000", "val_accuracy") == [(1, 0.25), (2, 0.75)]
    assert list(rows(folder)) == ["trial_0000"]


def test_a_folder_that_cannot_be_written_is_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir()
    folder.write_text("a file is in the way")
    with caplog.at_level(logging.WARNING):
        board = Board(folder, space(), "val_accuracy")
        for number in range(3):
            train(board, number, 0.5)
            end(board, number)
            board.study(number + 1, 0.5)
    (warning,) = caplog.messages
    assert str(folder) in warning
    assert folder.read_text() == "a file is in the way"


def test_writing_goes_on_once_it_is_possible_again(
    folder: Path, board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    run = folder / "trial_0000"
    run.write_text("a file is in the way")
    board.report(0, 1, metrics(0.25))
    run.unlink()
    board.report(0, 2, metrics(0.5))
    end(board, 0)
    assert curve(run, "val_accuracy") == [(2, 0.5)]
    assert len(caplog.messages) == 1


def test_two_hundred_trials_leave_no_open_file_and_one_event_file_each(
    folder: Path, board: Board
) -> None:
    open_before = os.listdir("/proc/self/fd")
    for number in range(200):
        train(board, number, 0.25, 0.5)
        end(board, number)
        board.study(number + 1, 0.5)
    assert len(os.listdir("/proc/self/fd")) == len(open_before)
    assert {len(list(run.iterdir())) for run in folder.glob("trial_*")} == {1}
    assert len(rows(folder)) == 200
    assert len(curve(folder / "study", "best/val_accuracy")) == 200


def test_it_imports_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    """Even where TensorFlow is installed, which TensorBoard likes to import."""
    (tmp_path / "tensorflow.py").touch()
    code = (
        "import sys; from pathlib import Path; from sweep.tensorboard import Board\n"
        f"board = Board(Path({str(tmp_path / 'tensorboard')!r}), {{}}, 'val_accuracy')\n"
        "board.end(0, {}, 'complete', {'val_accuracy': 0.5}, 0.0, 1.0)\n"
        "print({'torch', 'tensorflow'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"
    assert rows(tmp_path / "tensorboard")


def test_trainings_of_the_confirmation_are_one_row_a_setting_averaged(
    folder: Path, board: Board
) -> None:
    end(board, 0)
    started = dt.datetime(2026, 1, 1, 12)
    times = {"started": started, "finished": started + dt.timedelta(seconds=60)}
    for seed, accuracy in ((1, 0.4), (2, 0.6), (3, 0.8)):
        last = {**metrics(accuracy), "test_accuracy": 0.1}
        for _ in range(2):  # and again
            board.confirmed(ConfirmRow("1st", 0, PARAMS, seed, last, **times))
    shown = rows(folder)
    name = f"confirm {code_of(PARAMS)}"
    assert set(shown) == {"trial_0000", name}
    row = shown[name]
    assert params(row) == {**params(shown["trial_0000"]), "status": "confirmed"}
    assert len(row.sessions) == 3
    assert {s.end_time_secs - s.start_time_secs for s in row.sessions} == {60.0}
    assert results(row)["final/val_accuracy"] == pytest.approx(0.6)


def test_another_setting_of_the_same_rank_is_another_row(folder: Path, board: Board) -> None:
    """More trials may bring a better 1st; what was confirmed of the old one stays as it is."""
    settings = [{**PARAMS, "model.dropout": dropout} for dropout in (0.25, 0.5)]
    for setting, accuracy in zip(settings, (0.5, 0.75), strict=True):
        board.confirmed(ConfirmRow("1st", 0, setting, 1, metrics(accuracy)))
    shown = {params(row)["dropout"]: results(row) for row in rows(folder).values()}
    assert [shown[x]["final/val_accuracy"] for x in (0.25, 0.5)] == [0.5, 0.75]


def test_diagnostics_of_the_confirmation_are_few_tags(folder: Path, board: Board) -> None:
    found = {"variance_shift": 1.5, "variance_shift/net.1": 1.25, "gap/val_nll": -0.5}
    found |= {"gap/val_ece": 0.25, "lag_cost/val_accuracy": 0.125, "dead_units/net.2": 0.75}
    board.confirmed(ConfirmRow("1st", 0, PARAMS, 1, metrics(0.5), diagnostics=found))
    run = folder / f"confirm_{code_of(PARAMS)}_1"
    shown = {tag for tag in tags(run) if tag.startswith("diagnostics/")}
    wanted = ("variance_shift", "gap/val_nll", "lag_cost/val_accuracy")
    assert shown == {f"diagnostics/{name}" for name in wanted}
    assert curve(run, "diagnostics/gap/val_nll") == [(0, -0.5)]


def test_custom_scalars_shows_a_chart_of_each_metric(folder: Path, board: Board) -> None:
    reader = EventAccumulator(str(folder / "study")).Reload()
    (event,) = reader.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    titles = [[chart.title for chart in category.chart] for category in layout.category]
    curves = ["val_accuracy", "val_nll", "val_ece", "train_loss"]
    assert titles == [["best val_accuracy so far"], curves]
    assert columns(folder).hparam_infos  # in the same file


def test_figures_are_images_of_the_study(folder: Path, board: Board, tmp_path: Path) -> None:
    png = tmp_path / "surface.png"
    Figure(figsize=(2, 1), dpi=50).savefig(png)
    for _ in range(2):
        show_figures(folder / "study", [png])
    reader = EventAccumulator(str(folder / "study")).Reload()
    (image,) = reader.Images("report/surface")
    assert (image.width, image.height) == (100, 50)
    assert image.encoded_image_string == png.read_bytes()
