"""The choice of a backend for matrix products: measured here, accurate, and left switched on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dropnorm import matmul
from dropnorm.matmul import FP32_ERROR, SETTINGS, Backend, choose_matmul_backend


@pytest.fixture(autouse=True)
def setting_restored() -> Iterator[None]:
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_chosen_backend_is_switched_on_and_accurate() -> None:
    chosen = choose_matmul_backend(size=128, repeats=2)
    assert chosen.setting in SETTINGS
    assert torch.backends.mkldnn.matmul.fp32_precision == chosen.setting
    assert chosen.gflops > 0
    a, b = torch.randn(2, 300, 300).unbind()
    exact = a.double() @ b.double()
    error = (a @ b - exact).norm() / exact.norm()
    assert error < FP32_ERROR
    assert chosen.error < FP32_ERROR


def test_measuring_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    choose_matmul_backend(size=64, repeats=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("none", "bf16", "expected"),
    [
        pytest.param((160, 2.5e-7), (350, 3.7e-7), "bf16", id="AMD: oneDNN is faster"),
        pytest.param((350, 2.5e-7), (160, 3.7e-7), "none", id="oneDNN is slower"),
        pytest.param((160, 2.5e-7), (190, 3.7e-7), "none", id="as fast, but for chance"),
        pytest.param((160, 2.5e-7), (900, 3e-3), "none", id="AMX: fast, but really bf16"),
    ],
)
def test_the_fastest_accurate_backend_wins(
    monkeypatch: pytest.MonkeyPatch,
    none: tuple[float, float],
    bf16: tuple[float, float],
    expected: str,
) -> None:
    """Measurements of machines that are not here, so they are given instead of taken."""
    known = {"none": Backend("none", *none), "bf16": Backend("bf16", *bf16)}
    monkeypatch.setattr(matmul, "_measure", lambda *_: [known[s] for s in SETTINGS])
    assert choose_matmul_backend() == known[expected]
    assert torch.backends.mkldnn.matmul.fp32_precision == expected


def test_one_fast_round_is_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([350.0, 190.0, 350.0])
    monkeypatch.setattr(
        matmul,
        "_measure",
        lambda *_: [Backend("none", 160.0, 2.5e-7), Backend("bf16", next(rounds), 3.7e-7)],
    )
    assert choose_matmul_backend().setting == "none"


def test_an_arithmetic_that_was_noted_can_be_used_again() -> None:
    threads = torch.get_num_threads()
    matmul.use_arithmetic(threads=1, matmul="bf16")
    noted = matmul.arithmetic()
    matmul.use_arithmetic(threads=threads, matmul="none")
    matmul.use_arithmetic(**noted)
    assert (torch.get_num_threads(), torch.backends.mkldnn.matmul.fp32_precision) == (1, "bf16")
    torch.set_num_threads(threads)


def test_printed_form_says_what_was_measured() -> None:
    assert str(Backend("none", 160.4, 2.5e-7)) == (
        "default library, 160 GFLOP/s, relative error 2.5e-07"
    )
    assert str(Backend("bf16", 350.0, 3.7e-7)).startswith("oneDNN, 350 GFLOP/s")
