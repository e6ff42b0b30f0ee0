"""A fake worker of ``chash bench``: the real one, over encoders that behave as a test needs.

Asked for int8 it kills its process; of the back end openvino the codes depend on the batch. All
else is the real thing.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from concepthash.bundle import Bundle
from concepthash.codes import Codes
from concepthash.encoder import Encoded, Encoder
from concepthash.images import Pixels
from concepthash.runtime import backends
from concepthash.runtime.bench.worker import main


class FakeDynamicEncoder:
    """A fake whose codes are inverted in batches of more than one, as a bad quantisation's are."""

    backend, device = "fake dynamic int8", "cpu"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def codes(self, pixels: Pixels) -> Codes:
        codes = self._encoder.codes(pixels)
        return ~codes if len(pixels) > 1 else codes

    def run(self, pixels: Pixels) -> Encoded:
        return self._encoder.run(pixels)


real_open = backends.open_encoder


def fake_open(bundle: Bundle, *, backend: str, precision: str, **how: Any) -> Any:
    os.write(1, b"a library that prints\n")
    how["tell"]("this takes long")
    if precision == "int8":
        os.kill(os.getpid(), signal.SIGKILL)
    if backend == "openvino":
        return FakeDynamicEncoder(real_open(bundle, backend="onnxruntime", **how))
    return real_open(bundle, backend=backend, precision=precision, **how)


if __name__ == "__main__":
    backends.open_encoder = fake_open
    main()
