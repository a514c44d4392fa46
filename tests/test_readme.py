"""The README's recipes run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
STUDIES = dict(re.findall(r"<!-- study: (\w+) -->\n```yaml\n(.*?)```", README, re.DOTALL))
RECIPES = dict(re.findall(r"<!-- recipe: (\w+) -->\n```python\n(.*?)```", README, re.DOTALL))


def run(folder: Path, *arguments: str) -> None:
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small study called mnist has run, for the recipe that reads one."""
    path = tmp_path_factory.mktemp("readme")
    small = [
        "study.trials=1",
        "confirm.seeds=0",
        "trainer.max_epochs=1",
        "data.train_size=1000",
        "executor=inline",
    ]
    run(path, "-m", "sweep", "+study=mnist", *small)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_runs(folder: Path, recipe: str) -> None:
    advice = "error:Your `val_dataloader`"  # of Lightning's, to whoever copies the recipe
    run(folder, "-W", "ignore", "-W", advice, "-c", RECIPES[recipe])


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_study_of_a_module_of_your_own_runs(tmp_path: Path, study: str) -> None:
    """The package that it names has the module of the recipe, and data that is there."""
    module, _ = RECIPES["retrofit"].replace("class Old(", "class MyModule(").split("\nmodule = ")
    data = "class MyData(MNIST):\n    def __init__(self):\n        super().__init__(train_size=500)"
    (tmp_path / "my_package.py").write_text(f"{module}\n\n{data}\n")
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / f"{study}.yaml").write_text(STUDIES[study])
    small = ["study.trials=2", "trainer.max_epochs=2", "confirm.seeds=1", "executor=inline"]
    run(tmp_path, "-m", "sweep", f"+study={study}", "--config-dir", "conf", *small)
    assert "dropout" in (tmp_path / "sweeps" / study / "report" / "REPORT.md").read_text()


def test_the_readme_has_its_recipes_its_study_and_two_commands() -> None:
    assert sorted(RECIPES) == ["blocks", "module", "pack", "results", "retrofit"]
    assert list(STUDIES) == ["mine"]
    for name, needed in (("main", "-m sweep +study=mnist"), ("test", "-m pytest -n auto")):
        (command,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*)\n```", README)
        assert command.startswith("python3 -m venv .venv && ") and command.endswith(needed)


def test_every_test_that_the_readme_names_exists() -> None:
    named = re.findall(r"`(test_\w+)::(test_\w+)`", README)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (Path(__file__).parent / f"{file}.py").read_text(), test
