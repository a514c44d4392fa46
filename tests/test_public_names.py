"""What `from dropnorm import ...` promises: these names, documented, and nothing loaded early."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dropnorm

HEAVY = {"torch", "pytorch_lightning", "optuna", "hydra", "omegaconf", "sweep"}
SEARCH = {"optuna", "hydra", "omegaconf", "sweep"}


def loaded_after(*imports: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after these imports."""
    code = "\n".join([*imports, "import sys", r"print('\n'.join(sys.modules))"])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


LAYERS = ["BatchNorm", "Block", "Classifier", "Dropout", "MNIST", "Pack", "Synthetic", "cnn", "mlp"]
TOOLS = ["Bank", "Diagnostics", "DropoutSchedule", "MCDropout", "MomentumBank", "PreciseBatchNorm",
         "retrofit", "unretrofit"]  # fmt: skip


def test_these_are_the_names() -> None:
    assert sorted(dropnorm.__all__) == sorted([*LAYERS, *TOOLS])


def test_a_name_is_no_module() -> None:
    """A submodule of the same name would take its place once it is imported."""
    for name in dropnorm.__all__:
        for _ in range(2):
            assert not inspect.ismodule(getattr(dropnorm, name))


@pytest.mark.parametrize("name", dropnorm.__all__)
def test_name_exists_under_its_own_name_and_says_what_it_is(name: str) -> None:
    thing = getattr(dropnorm, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("dropnorm.")
    assert "__doc__" in vars(thing) or inspect.isfunction(thing)  # its own, not an ancestor's
    first, *_ = inspect.getdoc(thing).split("\n\n")
    assert len(first.split()) >= 5
    assert first.endswith(".")


@pytest.mark.parametrize("name", dropnorm.__all__)
def test_name_documents_its_errors_and_layers_their_shapes(name: str) -> None:
    text = inspect.getdoc(getattr(dropnorm, name))
    assert "Errors: " in text
    assert "Shapes: " in text or name in TOOLS


@pytest.mark.parametrize("name", dropnorm.__all__)
def test_signature_has_a_type_everywhere(name: str) -> None:
    signature = inspect.signature(getattr(dropnorm, name))
    assert all(p.annotation is not p.empty for p in signature.parameters.values())


def test_type_checkers_see_the_same_names_in_the_same_places() -> None:
    """They read the imports under TYPE_CHECKING; at run time `_HOMES` is read."""
    tree = ast.parse(Path(dropnorm.__file__).read_text())
    (guarded,) = [node for node in tree.body if isinstance(node, ast.If)]
    homes = {
        alias.name: node.module.removeprefix("dropnorm.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert homes == dropnorm._HOMES
    assert sorted(homes) == sorted(dropnorm.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'dropnorm' has no attribute 'Droput'"):
        dropnorm.Droput  # noqa: B018


def test_package_is_typed() -> None:
    assert (Path(dropnorm.__file__).parent / "py.typed").is_file()


# What an import loads, in a fresh interpreter


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_after("import dropnorm") & HEAVY


def test_seeds_come_without_torch() -> None:
    assert not loaded_after("import dropnorm.seeds") & HEAVY


def test_no_module_of_the_package_loads_what_searches() -> None:
    root = Path(dropnorm.__file__).parent
    files = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py")]
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    assert len(modules) > 15
    loaded = loaded_after(*[f"import {module}" for module in sorted(modules)])
    assert "torch" in loaded
    assert not loaded & SEARCH
