"""Who may import whom, held on the syntax trees of src/, and how long files and functions may be.

`dropnorm` trains and has never heard of what searches; `sweep` searches and touches tensors only in
its workers' code; nothing imports in a circle; reading a record loads no torch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FILES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SRC.rglob("*.py"))
}
TRAINING = ("torch", "pytorch_lightning", "lightning", "torchmetrics")
SEARCHING = ("sweep", "optuna", "hydra", "omegaconf")
# Worker code, and what runs in a user's own training script.
WORKERS = ("sweep.worker", "sweep.executors.child", "sweep.optuna_pruning")
MOST_LINES_OF_A_FILE = 260
MOST_LINES_OF_A_FUNCTION = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def parsed(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def import_nodes(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import that can run, those inside functions included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not for_type_checkers(child):
            yield from import_nodes(child)


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """The modules that `tree` imports, ours down to the module, others as they are written."""
    for node in import_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            continue
        assert not node.level, f"{module}: relative import; write the whole name"
        assert node.module is not None
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in FILES else node.module


@cache
def imported(module: str) -> frozenset[str]:
    return frozenset(imports(module, parsed(module)))


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def reached(module: str) -> frozenset[str]:
    """What importing a module of ours may load: all it imports, and what that imports of ours."""
    seen, waiting = set[str](), [module]
    while waiting:
        for name in imported(waiting.pop()) - seen:
            seen.add(name)
            if name in FILES:
                waiting.append(name)
    return frozenset(seen)


def loads_torch(module: str) -> bool:
    return any(is_within(name, TRAINING) for name in reached(module))


# The reading of imports itself


def test_reader_of_imports_sees_functions_and_skips_what_is_for_type_checkers() -> None:
    tree = ast.parse(
        "import a.b as c\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import hidden\n"
        "def f():\n    if f:\n        from dropnorm import seeds, mlp\n"
        "class C:\n    from dropnorm.blocks import Dropout\n"
    )
    found = {"a.b", "typing", "dropnorm.seeds", "dropnorm", "dropnorm.blocks"}
    assert set(imports("x", tree)) == found


def test_all_of_src_is_looked_at() -> None:
    assert {"dropnorm", "dropnorm.blocks.dropout", "sweep", "sweep.worker"} <= FILES.keys()
    assert loads_torch("dropnorm.module")
    assert not loads_torch("dropnorm.seeds")


# Layers


@pytest.mark.parametrize("module", [m for m in FILES if is_within(m, ("dropnorm",))])
def test_dropnorm_has_never_heard_of_what_searches(module: str) -> None:
    assert not [name for name in imported(module) if is_within(name, SEARCHING)]


@pytest.mark.parametrize(
    "module", [m for m in FILES if is_within(m, ("sweep",)) and not is_within(m, WORKERS)]
)
def test_sweep_touches_tensors_only_in_its_workers_code(module: str) -> None:
    direct = imported(module)
    assert not [name for name in direct if is_within(name, TRAINING)]
    ours = [name for name in direct if is_within(name, ("dropnorm",)) and name in FILES]
    assert not [name for name in ours if loads_torch(name)]


def test_worker_code_is_where_tensors_are() -> None:
    """Or the exception above would be out of date."""
    assert all(any(is_within(name, TRAINING) for name in reached(m)) for m in WORKERS)


def test_nothing_imports_in_a_circle() -> None:
    ours = {module: imported(module) & FILES.keys() for module in FILES}
    try:
        TopologicalSorter(ours).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_reading_a_record_loads_no_torch() -> None:
    code = "from sweep import load_study; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "sweep.record" in loaded
    assert not [name for name in loaded if is_within(name, TRAINING)]


@pytest.mark.parametrize("module", ["sweep.executors", "sweep.executors.child", "sweep.worker"])
def test_a_workers_process_waits_for_nothing_that_only_the_conductor_needs(module: str) -> None:
    needless = ("optuna", "pydantic", "scipy", "matplotlib", "sweep.config")
    assert not [name for name in reached(module) if is_within(name, needless)]


def test_a_study_starts_without_what_only_its_end_needs() -> None:
    code = "import sweep.config, sweep.run, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needless = (*TRAINING, "matplotlib", "scipy.stats", "scipy.linalg")
    assert not [name for name in run.stdout.split() if is_within(name, needless)]


# Sizes


@pytest.mark.parametrize("module", FILES)
def test_file_and_its_functions_are_short(module: str) -> None:
    length = len(FILES[module].read_text().splitlines())
    assert length <= MOST_LINES_OF_A_FILE
    functions = [node for node in ast.walk(parsed(module)) if isinstance(node, Function)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno}
    assert {name: n for name, n in long.items() if n > MOST_LINES_OF_A_FUNCTION} == {}
