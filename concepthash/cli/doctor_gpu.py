"""What ``chash doctor`` says of GPUs, and of the libraries for them and for OpenVINO."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from concepthash.cli.doctor_check import Check, Imported, try_imports, version
from concepthash.runtime import machine

MODULES = {
    "openvino": "print(m.__version__.split('-')[0], *m.Core().available_devices)",
    "tensorrt": "print(m.__version__)",
    "tensorrt_rtx": "print(m.__version__)",
}
"""Module -> what to print of it."""

_OLDEST_TENSORRT = 10
_ORT_TENSORRT = 10
"""The major version that the TensorRT provider of ONNX Runtime is built for."""

_JETSON_PYTHON = "sudo apt install nvidia-jetpack; python3 -m venv --system-site-packages .venv"


def checks(root: Path = machine.SYSTEM) -> Iterator[Check]:
    """All lines about accelerators.

    Args:
        root: of the file system that is looked at.
    """
    board = machine.jetson(root)
    gpu = jetson_gpu(board) if board else nvidia_gpu(shutil.which("nvidia-smi"))
    imports = try_imports(MODULES)
    present = gpu.status == "ok"
    yield gpu
    yield openvino(imports)
    yield tensorrt(imports, board, gpu=present)
    yield tensorrt_rtx(imports, gpu=present)
    yield cuda_bindings(gpu=present)
    yield torch_cuda(_torch_build(), gpu=present)


def jetson_gpu(board: machine.Jetson) -> Check:
    """A Jetson, and which TensorRT its JetPack has."""
    value = f"NVIDIA Jetson, JetPack {board.jetpack} (Jetson Linux {board.linux})"
    if board.tensorrt < _OLDEST_TENSORRT:
        return Check(
            "gpu",
            "warning",
            f"{value}: TensorRT {board.tensorrt}, too old",
            "flash JetPack 6 or newer: TensorRT 10 is the oldest that serves",
        )
    return Check(
        "gpu",
        "ok",
        f"{value}: TensorRT {board.tensorrt}",
        "onnxruntime-gpu comes from NVIDIA's own index, not from PyPI",
    )


def nvidia_gpu(program: str | None) -> Check:
    """The GPUs that ``nvidia-smi``, found at ``program``, lists."""
    if program is None:
        return Check("gpu", "missing", "no NVIDIA driver", "not needed: the CPU will be used")
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", "warning", f"nvidia-smi fails: {error}", "nvidia-smi")
    return Check("gpu", "ok", "; ".join(line for line in found.stdout.splitlines() if line))


def openvino(imports: Mapping[str, Imported]) -> Check:
    """OpenVINO, and the devices it sees."""
    found = imports.get("openvino")
    if found is None:
        hint = "pip install 'concepthash[openvino]': the fastest int8 on x86 CPUs"
        return Check("openvino", "missing", "not installed", hint)
    if found.error:
        return _broken("openvino", found, "openvino")
    release, *devices = found.text.split()
    return Check("openvino", "ok", f"{release} ({', '.join(devices) or 'no device'})")


def tensorrt(imports: Mapping[str, Imported], board: machine.Jetson | None, *, gpu: bool) -> Check:
    """TensorRT, and whether it is the one that the JetPack of a Jetson means."""
    found = imports.get("tensorrt")
    if found is None:
        if board is not None:
            return Check("tensorrt", "missing", "not to be imported here", _JETSON_PYTHON)
        hint = "pip install 'concepthash[trt]'" if gpu else "not needed without an NVIDIA GPU"
        return Check("tensorrt", "missing", "not installed", hint)
    if found.error:
        return _broken("tensorrt", found, "trt")
    major = int(found.text.partition(".")[0])
    if major < _OLDEST_TENSORRT:
        hint = "TensorRT 10 or newer: pip install --upgrade 'concepthash[trt]'"
        return Check("tensorrt", "warning", f"{found.text}, too old", hint)
    if board is not None and major != board.tensorrt:
        return Check(
            "tensorrt",
            "warning",
            f"{found.text}, but JetPack {board.jetpack} has TensorRT {board.tensorrt}",
            f"use the one of JetPack: {_JETSON_PYTHON}",
        )
    hint = ""
    if version("onnxruntime-gpu") and major != _ORT_TENSORRT:
        hint = f"ONNX Runtime's TensorRT provider wants {_ORT_TENSORRT}; --format trt works with it"
    return Check("tensorrt", "ok", found.text, hint)


def tensorrt_rtx(imports: Mapping[str, Imported], *, gpu: bool) -> Check:
    """TensorRT-RTX, which builds engines without a GPU."""
    found = imports.get("tensorrt_rtx")
    if found is None:
        hint = "pip install 'concepthash[trt-rtx]': builds engines for RTX GPUs, on any PC"
        return Check("trt-rtx", "missing", "not installed", hint)
    if found.error:
        return _broken("trt-rtx", found, "trt-rtx")
    return Check("trt-rtx", "ok", found.text + ("" if gpu else ", to build; running needs a GPU"))


def cuda_bindings(*, gpu: bool) -> Check:
    """The CUDA calls that running an engine takes."""
    found = version("cuda-bindings")
    if found is None:
        hint = "pip install cuda-bindings" if gpu else "not needed without an NVIDIA GPU"
        return Check("cuda", "missing", "cuda-bindings is not installed", hint)
    return Check("cuda", "ok", f"cuda-bindings {found}")


def torch_cuda(build: str | None, *, gpu: bool) -> Check:
    """Whether torch can use the GPU; ``build`` is the text of its ``version.py``."""
    if build is None:
        hint = "pip install 'concepthash[train]'" + ("" if gpu else ", to train")
        return Check("torch", "missing", "not installed", hint)
    values = dict(_assignment(line) for line in build.splitlines() if "=" in line)
    release, cuda = values.get("__version__", "unknown version"), values.get("cuda", "None")
    if cuda == "None":
        value = f"{release}, built without CUDA"
        if gpu:
            hint = "install a build with CUDA: https://pytorch.org/get-started/locally"
            return Check("torch", "warning", value, hint)
        return Check("torch", "ok", value)
    return Check("torch", "ok", f"{release}, CUDA {cuda}" + ("" if gpu else " (no GPU here)"))


def _torch_build() -> str | None:
    """torch's own record of its build: importing torch would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        return (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""


def _assignment(line: str) -> tuple[str, str]:
    """``cuda: Optional[str] = '13.0'`` as ("cuda", "13.0")."""
    name, _, value = line.partition("=")
    return name.partition(":")[0].strip(), value.strip().strip("'\"")


def _broken(name: str, found: Imported, extra: str) -> Check:
    return Check(
        name,
        "warning",
        f"installed, and fails: {found.error}",
        f"pip install --force-reinstall 'concepthash[{extra}]'",
    )
