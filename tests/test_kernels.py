"""The fused kernels: in Triton's interpreter on the CPU, compiled for a GPU, and on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dropnorm.kernels import code, updates, usable

CHECKS = Path(__file__).with_name("kernel_checks.py")
HOPPER = GPUTarget("cuda", 90, 32)


def checked(interpret: str) -> str:
    """The output of pytest on the checks; a failure shows all of it."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        cwd=CHECKS.parents[1], capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.slow
def test_interpreted_kernels_compute_what_torch_does() -> None:
    last = checked("1").splitlines()[-1]
    assert "passed" in last
    assert "skipped" not in last


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_compiled_kernels_compute_what_torch_does() -> None:
    assert "passed" in checked("0").splitlines()[-1]


WHOLE = {"AFFINE": True, "ACTIVATION": "gelu", "DROPS": True, "BLOCK_N": 64, "BLOCK_C": 32}
BARE = {"AFFINE": False, "ACTIVATION": "none", "DROPS": False, "BLOCK_N": 2048, "BLOCK_C": 1}
UNUSED_IF_BARE = ("weight", "bias", "dweight", "dbias", "rate", "seed", "step", "key")
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "forward": (code.forward, WHOLE),
    "backward": (code.backward, WHOLE),
    "bare forward": (code.forward, {**BARE, **dict.fromkeys(UNUSED_IF_BARE)}),
    "bare backward": (code.backward, {**BARE, **dict.fromkeys(UNUSED_IF_BARE)}),
    "adam": (updates.adam, {"BLOCK": 1024}),
    "sgd": (updates.sgd, {"BLOCK": 1024}),
}
TYPES = {
    **dict.fromkeys(("x", "y", "dy", "dx"), "*bf16"),
    **dict.fromkeys(("seed", "step", "key"), "*i64"),
    **dict.fromkeys(("channels", "inner", "per_lane"), "i32"),
    **dict.fromkeys(("x_lane", "x_row", "x_channel", "x_inner"), "i32"),
    "eps": "fp32",
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_a_gpu_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The interpreter takes what the compiler does not."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, constants = KERNELS[name]
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    # A step of an update has a size too, but that is a tensor.
    number = {"size": "*fp32" if "per_lane" in kernel.arg_names else "i32"}
    types = {name: (TYPES | number).get(name, "*fp32") for name in kernel.arg_names}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    options = {"num_warps": 8, "enable_fp_fusion": True}
    assert triton.compile(source, target=HOPPER, options=options).asm["cubin"]


def test_tensors_on_the_cpu_go_without_kernels() -> None:
    assert not usable(torch.zeros(3))
