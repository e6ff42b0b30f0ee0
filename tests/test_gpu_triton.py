"""The Triton kernels: run by the interpreter, and compiled for CUDA, both without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
triton = pytest.importorskip("triton")

HERE = Path(__file__).parent
I32, I64 = "*i32", "*i64"
COMMON = {
    "asked": "i32",
    "words": I64,
    "stride": "i64",
    "count": "i32",
    "allowed": "*u8",
    "queries": I64,
    "masks": I64,
    "factors": I32,
    "terms": "i32",
    "never": "i32",
    "limits": I32,
}
KERNELS: dict[str, dict[str, str]] = {
    "_near": {"least": I32, "counts": I32},
    "_tally": {"nearer": I32, "ties": I32, "least": I32},
    "_take": {
        "out": I64, "taken": I64, "starts": I64, "ties": I64, "room": I64, "first": "i64",
        "depth": "i32",
    },
}  # fmt: skip


@pytest.mark.slow
def test_kernels__interpreted_equal_the_cpu() -> None:
    """The interpreter must be chosen before Triton is imported: a process of its own."""
    tests = HERE / "test_gpu_search.py"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "search__", tests],
        cwd=HERE.parent,
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "CHASH_TEST_KERNEL": "triton",
            "CHASH_TEST_DEVICE": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("words", "filtered", "bins"), [(1, False, 128), (8, True, 131072)])
def test_kernels__compile_for_cuda(
    capability: int,
    words: int,
    filtered: bool,
    bins: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter takes what the compiler does not."""
    from concepthash.gpu import kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    constants = {"W": words, "BLOCK": 1024, "FILTERED": filtered, "ROW_BITS": 46}
    constants |= {"BINS": bins, "WIDE": bins > 1024}
    for name, own in KERNELS.items():
        function: Any = getattr(kernel, name)
        types = {**COMMON, **own}
        signature = {n: types.get(n, "constexpr") for n in function.arg_names}
        values = {n: value for n, value in constants.items() if n in function.arg_names}
        source = triton.compiler.ASTSource(fn=function, signature=signature, constexprs=values)
        assert triton.compile(source, target=target).asm["cubin"]
