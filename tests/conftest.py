"""What tests of several modules share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


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
