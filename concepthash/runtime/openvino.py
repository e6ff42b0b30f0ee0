"""A bundle's graph in OpenVINO: the fastest int8 on x86 processors."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from concepthash.codes import Codes
from concepthash.encoder import BACKGROUND, INPUT, OUTPUTS, Encoded, InThread
from concepthash.errors import BackendError, BundleError
from concepthash.formats import Precision
from concepthash.images import Pixels
from concepthash.quiet import import_openvino
from concepthash.runtime.session import check_ports, count_threads, first_line, plural

INSTALL = "pip install 'concepthash[openvino]'"

# OpenVINO's names of the types in the graph contract.
_TYPES = {"u8": "tensor(uint8)", "f32": "tensor(float)"}


class OpenVino(InThread):
    """A compiled graph; make one with :func:`open_openvino`. Every thread may call.

    Args:
        compiled: OpenVINO's model.
        backend: version, device, precision and threads in one line, for reports.
    """

    device = "cpu"

    def __init__(self, compiled: Any, *, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.note: str | None = None
        """What the user should know of the choice of this back end; None if nothing."""
        self._request = compiled.create_infer_request()
        self._lock = Lock()  # one request computes one batch at a time
        self._side = compiled.input(INPUT).get_partial_shape()[1]
        self._bytes = compiled.output("codes").get_partial_shape()[1]
        self._names = [*OUTPUTS]
        if any(BACKGROUND in port.names for port in compiled.outputs):
            self._names.append(BACKGROUND)

    @property
    def image_side(self) -> int | None:
        """The side of the square images the graph takes, pixels; None if it takes any."""
        return _fixed(self._side)

    @property
    def code_bytes(self) -> int | None:
        """Bytes of a code, K / 8; None if the graph does not say."""
        return _fixed(self._bytes)

    def run(self, pixels: Pixels) -> Encoded:
        """All outputs for a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if OpenVINO cannot compute it.
        """
        return Encoded(*self._run(self._names, pixels))

    def codes(self, pixels: Pixels) -> Codes:
        """Only the codes ``(B, K / 8)`` uint8 of a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if OpenVINO cannot compute it.
        """
        codes: Codes = self._run(["codes"], pixels)[0]
        return codes

    def _run(self, outputs: list[str], pixels: Pixels) -> list[Any]:
        image = {INPUT: np.ascontiguousarray(pixels)}
        with self._lock:
            try:
                found = self._request.infer(image, share_inputs=True, share_outputs=True)
            except RuntimeError as error:
                raise BackendError(
                    f"inference failed: {_reason(error)}",
                    where=self.backend,
                    hint="a smaller --batch-size, or --backend onnxruntime",
                ) from error
            return [found[name].copy() for name in outputs]  # the next batch overwrites them


def open_openvino(
    model: Path,
    *,
    threads: int | None = None,
    precision: Precision | None = None,
) -> OpenVino:
    """A graph ready to run on the CPU, checked against the graph contract.

    What is no integer is computed in float32, also where the processor has faster formats of fewer
    digits: bfloat16, which OpenVINO would take, moves a logit by 0.008 (float32: 0.000001).

    Args:
        model: the ONNX file.
        threads: CPU threads of one inference; by default every CPU this process may use.
        precision: of the graph, for reports.

    Raises:
        UsageError: for fewer than one thread.
        BackendError: if OpenVINO is missing, or does not start.
        BundleError: if the file cannot be loaded or is not a graph of this project.
    """
    count = count_threads(threads)
    version, core = openvino_core()
    try:
        graph = core.read_model(str(model))
        compiled = core.compile_model(graph, "CPU", settings(count))
    except RuntimeError as error:
        raise BundleError(
            f"OpenVINO {version} cannot load the graph: {_reason(error)}",
            where=model,
            hint="pip install --upgrade openvino, or export again: chash export RUN --force",
        ) from None
    check_ports(_types(compiled.inputs), _types(compiled.outputs), model)
    words = [f"openvino {version} CPU", *([precision] if precision else [])]
    return OpenVino(compiled, backend=", ".join([*words, plural(count, "thread")]))


def settings(threads: int) -> dict[str, str]:
    """How a graph is compiled; nothing is left to a default that depends on the processor."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }


@cache
def openvino_core() -> tuple[str, Any]:
    """OpenVINO's version and its core, one a process: two that end out of turn crash it."""
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise BackendError(
            f"OpenVINO cannot be imported: {error}", where="openvino", hint=INSTALL
        ) from None
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        raise BackendError(
            f"OpenVINO finds no CPU, only {', '.join(core.available_devices) or 'nothing'}",
            where="openvino",
            hint=f"{INSTALL}, or --backend onnxruntime",
        )
    return openvino.__version__.split("-")[0], core


def _types(ports: Any) -> dict[str, str]:
    """Names and types of inputs or outputs, the types as ONNX Runtime names them."""
    found = {}
    for port in ports:
        kind = port.get_element_type().get_type_name()
        found[port.get_any_name()] = _TYPES.get(kind, kind)
    return found


def _fixed(dimension: Any) -> int | None:
    return int(dimension.get_length()) if dimension.is_static else None


def _reason(error: Exception) -> str:
    """What OpenVINO says: its last line that is no place in its own sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return told[-1] if told else first_line(error)
