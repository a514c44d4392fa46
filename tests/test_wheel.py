"""The wheel carries all it needs: configuration, MNIST, the report's template."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from this tree, has been installed."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return target


@pytest.mark.slow
def test_a_study_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert run("-c", "import sweep; print(sweep.__file__)").startswith(str(installed))
    budget = [
        "study.trials=2",
        "trainer.max_epochs=1",
        "data.train_size=2000",
        "executor.devices=1",
        "confirm.seeds=1",
        "confirm.top=1",
    ]
    run("-m", "sweep", "+study=mnist", *budget)
    assert "load_from_checkpoint" in run("-m", "sweep", "best", "mnist")
    assert (tmp_path / "sweeps/mnist/report/index.html").stat().st_size > 10_000
