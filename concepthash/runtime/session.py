"""A bundle's graph in ONNX Runtime: the provider that was asked for, or an error that says why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from concepthash.codes import Codes
from concepthash.decode import usable_cpus
from concepthash.encoder import BACKGROUND, INPUT, OUTPUTS, Encoded, InThread
from concepthash.errors import BackendError, BundleError, UsageError
from concepthash.images import Pixels

if TYPE_CHECKING:
    import onnxruntime

MOST_THREADS = 1024

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_GPU_HINT = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
_ERRORS_ONLY = 3


class Session(InThread):
    """A loaded graph; make one with :func:`open_session`.

    Args:
        native: the ONNX Runtime session.
        backend: version, provider and threads in one line, for reports.
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
                f"inference failed: {_first_line(error)}",
                where=self.backend,
                hint="a smaller --batch-size, or --device cpu",
            ) from error


def open_session(model: Path, *, device: str = "auto", threads: int | None = None) -> Session:
    """A graph ready to run, checked against the graph contract.

    Args:
        model: the ONNX file.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it works, else the CPU.
        threads: CPU threads of one inference; by default every CPU this process may use.

    Raises:
        UsageError: for a device of another name or fewer than one thread.
        BackendError: if ONNX Runtime is missing, or CUDA was asked for and is not to be had.
        BundleError: if the file cannot be loaded or is not a graph of this project.
    """
    kind, number = _device(device)
    count = usable_cpus() if threads is None else threads
    if not 1 <= count <= MOST_THREADS:
        raise UsageError(f"{count} threads cannot work", where="threads", hint="--threads 1")
    ort = _onnxruntime()
    available = ort.get_available_providers()
    native, reason = None, f"this ONNX Runtime offers only {', '.join(available)}"
    if kind != "cpu" and CUDA in available:
        native, reason = _on_cuda(ort, model, number, count)
    if native is None:
        native = _on_cpu(ort, model, count)  # before blaming CUDA: a broken file raises here
        if kind == "cuda":
            raise BackendError(
                f"CUDA was asked for and cannot be used: {reason}",
                where=f"device {device}",
                hint=f"--device cpu, or: {_GPU_HINT}",
            )
    _check(native, model)
    provider = native.get_providers()[0]
    return Session(
        native,
        backend=f"onnxruntime {ort.__version__} {provider}, {count} thread{'s'[: count > 1]}",
        device=f"cuda:{number}" if provider == CUDA else "cpu",
        note=f"using the CPU: {reason}" if provider != CUDA and CUDA in available else None,
    )


def _device(device: str) -> tuple[str, int]:
    """``cuda:1`` as ("cuda", 1)."""
    kind, colon, number = device.partition(":")
    known = kind in ("auto", "cpu", "cuda") and (not colon or (kind == "cuda" and number.isdigit()))
    if not known:
        raise UsageError(
            f"no device is called '{device}'", where="device", hint="--device auto|cpu|cuda|cuda:N"
        )
    return kind, int(number or 0)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported: {error}",
            where="onnxruntime",
            hint="pip install onnxruntime (on a machine with CUDA: pip install onnxruntime-gpu)",
        ) from None
    return onnxruntime


def _create(ort: Any, model: Path, providers: list[Any], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _ERRORS_ONLY
    # ONNX Runtime's own fallback prints to stdout, where only results belong.
    return ort.InferenceSession(
        str(model), sess_options=options, providers=providers, enable_fallback=0
    )


def _on_cuda(ort: Any, model: Path, number: int, threads: int) -> tuple[Any | None, str]:
    """A session on the GPU, or None and the reason."""
    try:
        native = _create(ort, model, [(CUDA, {"device_id": number}), (CPU, {})], threads)
    except Exception as error:  # ONNX Runtime's own classes share no base but this
        return None, f"CUDA does not start: {_first_line(error)}"
    actual = native.get_providers()[0]  # a missing library or driver is only logged
    if actual != CUDA:
        return None, f"CUDA does not start: ONNX Runtime took {actual} instead"
    return native, ""


def _on_cpu(ort: Any, model: Path, threads: int) -> Any:
    try:
        return _create(ort, model, [(CPU, {})], threads)
    except Exception as error:
        raise BundleError(
            f"ONNX Runtime {ort.__version__} cannot load the graph: {_first_line(error)}",
            where=model,
            hint="pip install --upgrade onnxruntime, or export again: chash export RUN --force",
        ) from None


def _check(native: Any, model: Path) -> None:
    """Compare the graph's inputs and outputs with the contract."""
    inputs = {node.name: node.type for node in native.get_inputs()}
    outputs = {node.name: node.type for node in native.get_outputs()}
    if inputs != {INPUT: "tensor(uint8)"} or OUTPUTS.items() - outputs.items():
        raise BundleError(
            f"not a graph of this project: inputs {inputs}, outputs {outputs}",
            where=model,
            hint="chash export RUN",
        )


def _fixed(dimension: object) -> int | None:
    return dimension if isinstance(dimension, int) else None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
