"""Libraries that report to their makers when they are imported, imported so that they do not.

ONNX Runtime (on Linux since 1.29) keeps a data base of events below ``~/.cache/Microsoft`` and
uploads it; OpenVINO sends an event at each import and keeps an identifier in ``~/intel``. Nothing
here tells anyone anything, so both are imported through this module only. What the user imported
before, or switched on in the environment, stays as it is.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_REPORTER = "openvino_telemetry"


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``, with its telemetry off.

    Raises:
        ImportError: if it is not installed, or broken.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when the library is loaded
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # Windows does not look at the variable
    return onnxruntime


def import_openvino() -> Any:
    """The module ``openvino``, which finds no telemetry and takes the stand-in it has for that.

    Raises:
        ImportError: if it is not installed, or broken.
    """
    kept = sys.modules.get(_REPORTER)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        import openvino
    finally:
        del sys.modules[_REPORTER]
        if kept is not None:
            sys.modules[_REPORTER] = kept
    return openvino
