"""A bundle's graph in ONNX Runtime: the provider that was asked for, or an error that says why."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concepthash.codes import Codes
from concepthash.decode import usable_cpus
from concepthash.encoder import BACKGROUND, INPUT, OUTPUTS, Encoded, InThread
from concepthash.errors import BackendError, BundleError, UsageError
from concepthash.files import sha256
from concepthash.formats import Precision
from concepthash.images import Pixels
from concepthash.quiet import import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

MOST_THREADS = 1024
LARGEST_BATCH = 32
"""Of the engines that the TensorRT provider builds; larger batches make it build another."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"

# Packages of ONNX Runtime overwrite each other, so the one that is there has to go first.
PACKAGES = {
    CPU: "pip install onnxruntime",
    CUDA: "pip uninstall -y onnxruntime && pip install onnxruntime-gpu",
    TENSORRT: "pip uninstall -y onnxruntime && pip install onnxruntime-gpu 'tensorrt>=10,<11'",
    OPENVINO: "pip uninstall -y onnxruntime && pip install onnxruntime-openvino",
}
"""How to install an ONNX Runtime that has a provider."""

_ERRORS_ONLY = 3


class Session(InThread):
    """A loaded graph; make one with :func:`open_session`.

    Args:
        native: the ONNX Runtime session.
        backend: version, provider, precision and threads in one line, for reports.
        device: ``cpu`` or ``cuda:N``.
        note: why ``auto`` did not take the GPU that seemed to be there; None otherwise.
    """

    def __init__(
        self,
        native: onnxruntime.InferenceSession,
        *,
        backend: str,
        device: str = "cpu",
        note: str | None = None,
    ) -> None:
        super().__init__()
        self.device = device
        self._native = native
        self.backend = backend
        self.note = note

    @property
    def native(self) -> onnxruntime.InferenceSession:
        """The ONNX Runtime session itself, for what needs its own calls, such as IO binding."""
        return self._native

    @property
    def image_side(self) -> int | None:
        """The side of the square images the graph takes, pixels; None if it takes any."""
        return _fixed(self._native.get_inputs()[0].shape[1])

    @property
    def code_bytes(self) -> int | None:
        """Bytes of a code, K / 8; None if the graph does not say."""
        shapes = {node.name: node.shape for node in self._native.get_outputs()}
        return _fixed(shapes["codes"][-1])

    def run(self, pixels: Pixels) -> Encoded:
        """All outputs for a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if ONNX Runtime cannot compute it.
        """
        known = {node.name for node in self._native.get_outputs()}
        return Encoded(*self._run([*OUTPUTS, *({BACKGROUND} & known)], pixels))

    def codes(self, pixels: Pixels) -> Codes:
        """Only the codes ``(B, K / 8)`` uint8 of a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if ONNX Runtime cannot compute it.
        """
        codes: Codes = self._run(["codes"], pixels)[0]
        return codes

    def _run(self, outputs: list[str], pixels: Pixels) -> list[Any]:
        try:
            return list(self._native.run(outputs, {INPUT: np.ascontiguousarray(pixels)}))
        except Exception as error:  # ONNX Runtime's own classes share no base but this
            raise BackendError(
                f"inference failed: {first_line(error)}",
                where=self.backend,
                hint="a smaller --batch-size, or --device cpu",
            ) from error


def open_session(
    model: Path,
    *,
    provider: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Session:
    """A graph ready to run, checked against the graph contract.

    Args:
        model: the ONNX file.
        provider: of ONNX Runtime, as it names it, and no other; by default that of the device.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it works, else the CPU.
        threads: CPU threads of one inference; by default every CPU this process may use.
        precision: of the graph, for reports and for what a provider has to be told of it.

    Raises:
        UsageError: for a device of another name or fewer than one thread.
        BackendError: if ONNX Runtime is missing, or the provider or CUDA was asked for and is not
            to be had.
        BundleError: if the file cannot be loaded or is not a graph of this project.
    """
    kind, number = parse_device(device)
    count = count_threads(threads)
    ort = _onnxruntime()
    available = ort.get_available_providers()
    wanted = provider or (CUDA if kind != "cpu" else CPU)
    native, reason = None, f"this ONNX Runtime offers only {', '.join(available)}"
    if wanted != CPU and wanted in available:
        native, reason = _on_provider(ort, model, wanted, number, count, precision)
    if native is None:
        native = _on_cpu(ort, model, count)  # before blaming the rest: a broken file raises here
        if wanted != CPU and (provider or kind == "cuda"):
            otherwise = "--backend onnxruntime" if provider else "--device cpu"
            raise BackendError(
                f"{_short(wanted)} was asked for and cannot be used: {reason}",
                where=f"device {device}",
                hint=f"{otherwise}, or: {PACKAGES[wanted]}",
            )
    check_ports(
        {node.name: node.type for node in native.get_inputs()},
        {node.name: node.type for node in native.get_outputs()},
        model,
    )
    actual = native.get_providers()[0]
    words = [f"onnxruntime {ort.__version__} {actual}", *([precision] if precision else [])]
    return Session(
        native,
        backend=", ".join([*words, plural(count, "thread")]),
        device=f"cuda:{number}" if actual in (CUDA, TENSORRT) else "cpu",
        note=f"using the CPU: {reason}" if actual != wanted and wanted in available else None,
    )


def available_providers() -> list[str]:
    """The providers of this ONNX Runtime, as it names them.

    Raises:
        BackendError: if it is not installed.
    """
    return list(_onnxruntime().get_available_providers())


def parse_device(device: str) -> tuple[str, int]:
    """``cuda:1`` as ("cuda", 1).

    Raises:
        UsageError: if it is none of ``auto``, ``cpu``, ``cuda`` and ``cuda:N``.
    """
    kind, colon, number = device.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not colon or (kind == "cuda" and number.isdigit()))
    if not known:
        raise UsageError(
            f"no device is called '{device}'", where="device", hint="--device auto|cpu|cuda|cuda:N"
        )
    return kind, int(number or 0)


def count_threads(threads: int | None) -> int:
    """The CPU threads that were asked for; by default every CPU this process may use.

    Raises:
        UsageError: if so many cannot work.
    """
    count = usable_cpus() if threads is None else threads
    if not 1 <= count <= MOST_THREADS:
        raise UsageError(f"{count} threads cannot work", where="threads", hint="--threads 1")
    return count


def check_ports(inputs: dict[str, str], outputs: dict[str, str], model: Path) -> None:
    """Compare a graph's inputs and outputs with the contract, types as ONNX Runtime names them.

    Raises:
        BundleError: naming what the graph has instead.
    """
    if inputs != {INPUT: "tensor(uint8)"} or OUTPUTS.items() - outputs.items():
        raise BundleError(
            f"not a graph of this project: inputs {inputs}, outputs {outputs}",
            where=model,
            hint="chash export RUN",
        )


def plural(count: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {noun}{'s'[: count > 1]}"


def first_line(error: Exception) -> str:
    """What a library says of an error, without the lines for its own developers."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _onnxruntime() -> Any:
    try:
        return import_onnxruntime()
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported: {error}",
            where="onnxruntime",
            hint="pip install onnxruntime (on a machine with CUDA: pip install onnxruntime-gpu)",
        ) from None


def _create(
    ort: Any, model: Path, providers: list[tuple[str, dict[str, Any]]], threads: int
) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # Threads that wait in a loop take the CPUs from those that decode photos: beside another busy
    # process an inference then takes twice as long, and alone it gains at most 4 %.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if providers[0][0] == OPENVINO:  # which optimises the graph itself, from what was exported
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # ONNX Runtime's own fallback prints to stdout, where only results belong.
    return ort.InferenceSession(
        str(model), sess_options=options, providers=providers, enable_fallback=0
    )


def _on_provider(
    ort: Any, model: Path, provider: str, number: int, threads: int, precision: Precision | None
) -> tuple[Any | None, str]:
    """A session on another provider than the CPU's, or None and the reason."""
    gpu = {"device_id": number}
    rest: list[tuple[str, dict[str, Any]]] = [(CPU, {})]
    try:
        options: dict[str, Any] = {**gpu}
        if provider == OPENVINO:
            options = _openvino_options(threads)
        elif provider == TENSORRT:
            options |= _tensorrt_options(ort, model, precision)
            rest = [(CUDA, gpu), *rest]
        native = _create(ort, model, [(provider, options), *rest], threads)
    except BundleError:
        raise
    except Exception as error:  # ONNX Runtime's own classes share no base but this
        return None, f"{_short(provider)} does not start: {first_line(error)}"
    actual = native.get_providers()[0]  # a missing library or driver is only logged
    if actual != provider:
        return None, f"{_short(provider)} does not start: ONNX Runtime took {actual} instead"
    return native, ""


def _openvino_options(threads: int) -> dict[str, Any]:
    # Without a precision, OpenVINO computes in bfloat16 on processors that have it.
    return {
        "device_type": "CPU",
        "precision": "FP32",
        "num_of_threads": str(threads),
        "num_streams": "1",
    }


def _tensorrt_options(ort: Any, model: Path, precision: Precision | None) -> dict[str, Any]:
    """What the TensorRT provider has to know of a graph. Not run on hardware."""
    side = _on_cpu(ort, model, threads=1).get_inputs()[0].shape[1]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # The provider names engines after the graph's nodes, not its weights, hence a folder a model.
    cache = home / "concepthash" / f"onnxruntime-{ort.__version__}" / sha256(model)[:16]
    cache.mkdir(parents=True, exist_ok=True)
    shape = f"{side}x{side}x3"
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
        "trt_profile_min_shapes": f"{INPUT}:1x{shape}",
        "trt_profile_opt_shapes": f"{INPUT}:{LARGEST_BATCH}x{shape}",
        "trt_profile_max_shapes": f"{INPUT}:{LARGEST_BATCH}x{shape}",
    }


def _on_cpu(ort: Any, model: Path, threads: int) -> Any:
    try:
        return _create(ort, model, [(CPU, {})], threads)
    except Exception as error:
        raise BundleError(
            f"ONNX Runtime {ort.__version__} cannot load the graph: {first_line(error)}",
            where=model,
            hint="pip install --upgrade onnxruntime, or export again: chash export RUN --force",
        ) from None


def _short(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _fixed(dimension: object) -> int | None:
    return dimension if isinstance(dimension, int) else None
