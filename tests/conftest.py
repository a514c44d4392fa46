"""What tests of several modules share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# Before torch is loaded, and for child processes: tests run side by side, a core each, and threads
# that outnumber the cores make each other wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# The bytecode of src/ is kept, or each of a hundred child processes would compile it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: last, one of them would run beside idle cores."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """A test's unkeyed draws (initial weights, say) do not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    """Float64 as the default, so that rates and momenta (buffers) are exact to 1e-16 too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
