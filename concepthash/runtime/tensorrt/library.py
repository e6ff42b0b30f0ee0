"""The TensorRT module of a format, what it logs, and the graph contract in its types."""

from __future__ import annotations

import importlib
from collections import deque
from functools import lru_cache
from typing import Any

from concepthash.encoder import BACKGROUND, INPUT, OUTPUTS
from concepthash.errors import BackendError, BundleError
from concepthash.formats import FORMATS

MODULES = {"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}
"""The module of each format that is an engine."""

OLDEST = 10
"""The first major version of TensorRT whose execution contexts share an optimisation profile."""

_KEPT = 50
_WARNING = 2  # ILogger.Severity: INTERNAL_ERROR 0, ERROR 1, WARNING 2, INFO 3, VERBOSE 4


def import_library(form: str) -> Any:
    """The module of a format: ``tensorrt`` for ``trt``, ``tensorrt_rtx`` for ``trt-rtx``.

    Raises:
        BackendError: if it is not installed or too old.
    """
    name, extra = MODULES[form], FORMATS[form].extra
    hint = f"pip install 'concepthash[{extra}]' on the machine with the GPU"
    if form == "trt":
        hint += " (a Jetson has its own: docs/tensorrt.md)"
    try:
        trt = importlib.import_module(name)
    except ImportError as error:
        raise BackendError(f"{name} cannot be imported: {error}", where=name, hint=hint) from None
    if form == "trt" and int(trt.__version__.split(".")[0]) < OLDEST:
        raise BackendError(
            f"TensorRT {trt.__version__} is too old: {OLDEST} or newer is needed",
            where=name,
            hint=hint,
        )
    return trt


def is_rtx(trt: Any) -> bool:
    """Whether a module is TensorRT-RTX, whose engines are finished on the user's GPU."""
    return bool(trt.__name__ == MODULES["trt-rtx"])


@lru_cache
def logger_of(trt: Any) -> Any:
    """The one logger of a module: TensorRT keeps the first it is given, for the whole process.

    It has ``clear()`` and ``last(otherwise)``, the latest errors since then as one line.
    """

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._messages: deque[tuple[int, str]] = deque(maxlen=_KEPT)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= _WARNING:
                self._messages.append((int(severity), message))

        def clear(self) -> None:
            self._messages.clear()

        def last(self, otherwise: str) -> str:
            errors = [message for level, message in self._messages if level < _WARNING]
            chosen = errors or [message for _, message in self._messages]
            return "; ".join(dict.fromkeys(chosen[-3:])) or otherwise

    return Log()


def check_ports(trt: Any, inputs: dict[str, Any], outputs: dict[str, Any], where: object) -> None:
    """Compare the names and data types of a network or an engine with the graph contract.

    Raises:
        BundleError: listing what was found.
    """
    types = {"tensor(uint8)": trt.DataType.UINT8, "tensor(float)": trt.DataType.FLOAT}
    wanted = {name: types[kind] for name, kind in OUTPUTS.items()}
    found = dict(outputs)
    background = found.pop(BACKGROUND, trt.DataType.FLOAT)
    fits = found == wanted and background == trt.DataType.FLOAT
    if inputs != {INPUT: trt.DataType.UINT8} or not fits:
        raise BundleError(
            f"not a graph of this project: inputs {_named(inputs)}, outputs {_named(outputs)}",
            where=where,
            hint="chash export RUN",
        )


def _named(ports: dict[str, Any]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in ports.items()) or "none"
