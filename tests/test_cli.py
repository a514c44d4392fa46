"""The command line as a person meets it: real processes in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dropnorm import Classifier
from dropnorm.data.download import REMOTES
from sweep import load_study
from sweep.__main__ import main

SAMPLERS = ("cmaes", "gp", "grid", "qmc", "random", "tpe")
TINY = (
    "+study=synthetic",
    "executor=inline",
    "study.trials=2",
    "trainer.max_epochs=1",
    "confirm.seeds=0",
)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    folder = tmp_path / "an empty folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def sweep(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sweep", *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["+study=mnst"], ["study: no study mnst; did you mean mnist?"]),
        (
            ["study=mnist", "model.dropuot=0.3"],
            [
                "study: expected +study=NAME with a plus, got study=mnist; "
                "did you mean +study=mnist?",
                "model.dropuot: unknown key; did you mean model.dropout?",
            ],
        ),
        (
            ["+study=mnist", "model.dropout=interval(0,1.2)", "--config-dir", "."],
            [
                "search.model.dropout: expected a number from 0 to below 1, got 1.2 from "
                "interval(0,1.2); correct the range",
            ],
        ),
        (
            ["best", "mnist"],
            ["no recorded study at mnist; recorded below sweeps/: none"],
        ),
    ],
)
def test_errors_are_lines_without_a_traceback(
    words: list[str], lines: list[str], empty: Path
) -> None:
    result = sweep(*words)
    assert result.stderr.splitlines() == [f"error: {line}" for line in lines]
    assert result.stdout == "" and not list(empty.iterdir())
    assert result.returncode == (1 if words[0] == "best" else 2)


def test_unknown_options_are_bad_configuration_too(empty: Path) -> None:
    result = sweep("--nope")
    assert result.returncode == 2
    assert "unrecognized arguments: --nope" in result.stderr


def test_help_fits_one_screen() -> None:
    result = sweep("--help", COLUMNS="100")
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    for word in ("+study=mnist", "plan", "best", "report", "interval(0,0.5)", "--config-dir"):
        assert word in result.stdout


def test_every_example_of_the_help_can_be_read(empty: Path) -> None:
    """The words of the help are typed as they stand there, but for the data that is not here."""
    text = sweep("--help", COLUMNS="100").stdout
    typed = [word.strip("'") for word in text.split() if "=" in word and word[0] in "'mstpeod"]
    words = [w for w in typed if not w.startswith(("data=", "sampler="))]
    result = sweep("plan", "+study=mnist", *words)
    assert result.returncode == 0, result.stderr
    assert len(words) > 8


def test_cfg_prints_yaml_and_runs_nothing(empty: Path) -> None:
    result = sweep("--cfg", "job", "+study=synthetic", "model.dropout=0.2")
    config = yaml.safe_load(result.stdout)
    assert config["model"]["dropout"] == 0.2
    assert config["search"] == {"model.bn_momentum": "tag(log, interval(0.001, 1))"}
    assert result.returncode == 0 and result.stderr == "" and not list(empty.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ([], 0, ""),
        (["+study=synthetic", "model.dropout=2"], 0, ""),
        (["huh=1"], 2, "error: huh: unknown key; "),
    ],
)
def test_cfg_prints_what_is_not_yet_a_study(
    words: list[str], code: int, error: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--cfg", "job", *words]) == code
    out, err = capsys.readouterr()
    assert {"model", "data", "trainer", "search"} <= yaml.safe_load(out).keys()
    assert err.startswith(error) and bool(err) == bool(error)


def test_plan_says_what_would_run_and_writes_nothing(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "+study=synthetic", "study.trials=5"]) == 0
    out = capsys.readouterr().out
    for part in ("synthetic", "interval(0, 0.7)", "5 trials of at most 4 epochs", "val_accuracy"):
        assert part in out
    assert not list(empty.iterdir())


def test_plan_says_that_a_recorded_study_would_refuse_to_go_on_so(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY]) == 0
    capsys.readouterr()
    assert main(["plan", *TINY, "study.trials=3"]) == 0  # a larger total goes on
    assert "2 trials; 1 remain" in capsys.readouterr().out
    assert main(["plan", *TINY, "data.batch_size=32"]) == 2
    shown = capsys.readouterr()
    assert "interval(0, 0.7)" in shown.out
    assert "error:   data.batch_size: recorded 64, now 32\n" in shown.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("trainer.accelerator=gpu", "got gpu where there is no GPU; type trainer.accelerator=cpu"),
        ("trainer.accelerator=mps", "got mps on linux; type trainer.accelerator=auto"),
    ],
)
def test_an_accelerator_that_is_not_there_is_refused_before_anything_is_written(
    empty: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    message: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "platform", "linux")
    assert main([*TINY, typed]) == 2
    assert message in capsys.readouterr().err
    assert not list(empty.iterdir())


def test_data_that_cannot_be_downloaded_are_refused_before_anything_is_written(
    empty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = replace(REMOTES["fashion_mnist"], mirrors=("http://127.0.0.1:1/",))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(REMOTES, "fashion_mnist", nobody)
    assert main(["+study=fashion_mnist", "data.download=fashion_mnist", "executor=inline"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "downloading fashion_mnist into data/fashion_mnist\n"
    assert shown.err.startswith("error: data.download: expected train-images-idx3-ubyte.gz with")
    assert "try again when online" in shown.err
    assert not list(empty.iterdir())


def test_looking_at_a_study_that_is_not_there_names_those_that_are(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (empty / "sweeps" / name).mkdir(parents=True)
        (empty / "sweeps" / name / "study.db").touch()
    for word in ("best", "report"):
        assert main([word, "plans"]) == 1  # a study's name may be like a word
        expected = "error: no recorded study at plans; recorded below sweeps/: one, two\n"
        assert capsys.readouterr().err == expected
        assert main([word]) == 2
        expected = f"error: {word}: expected one study, by name or folder, got none; "
        assert capsys.readouterr().err == f"{expected}type for example {word} mnist\n"


def test_hydra_tells_about_the_configuration(empty: Path) -> None:
    result = sweep("--info", "defaults-tree", "+study=synthetic")
    assert result.returncode == 0 and "data: synthetic" in result.stdout
    assert not list(empty.iterdir())


def test_a_configuration_is_checked_without_torch(empty: Path) -> None:
    code = "import sys; from sweep.config import make_plan; make_plan(['+study=mnist']); "
    code += "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sweep plan +study=mn", {"+study=mnist"}),
        ("sweep +study=mnist sampler=", {f"sampler={s}" for s in SAMPLERS}),
        ("sweep model.bn_", {"model.bn_momentum="}),
        ("sweep best o", {"one"}),
    ],
)
def test_a_shell_completes_words(line: str, expected: set[str], empty: Path) -> None:
    script = shutil.which("sweep", path=str(Path(sys.executable).parent))
    assert script, "the console script is missing: pip install -e ."
    (empty / "sweeps" / "one").mkdir(parents=True)
    (empty / "sweeps" / "one" / "study.db").touch()
    asked = {**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))}
    result = subprocess.run(
        [script, "-sc", "query=bash"], env=asked, capture_output=True, text=True, timeout=60
    )
    assert result.stderr == "" and set(result.stdout.split()) == expected


def test_lists_are_searched_from_the_command_line_to_the_checkpoint(empty: Path) -> None:
    words = ["model.hidden=choice([8],[8,8])", "+trainer.limit_train_batches=0.5", "sampler=grid"]
    assert main([*TINY, "model.dropout=0.1", "model.bn_momentum=choice(null,0.1)", *words]) == 0
    study = load_study("synthetic")
    assert {t.params["model.hidden"] for t in study.trials} <= {"[8]", "[8,8]"}
    assert study.best is not None
    model = Classifier.load_from_checkpoint("sweeps/synthetic/checkpoints/best.ckpt")
    typed = str(list(model.hparams["hidden"])).replace(" ", "")
    assert typed == study.best.params["model.hidden"]
    assert model.hparams["bn_momentum"] == study.best.params["model.bn_momentum"]
