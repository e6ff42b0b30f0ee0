"""The contract of an exported graph, and of whatever runs one: :class:`Encoder`.

Input ``image`` uint8 ``(B, H, W, 3)``; outputs ``codes``, ``logits``, ``attention`` and, where the
maps share out the object, ``background`` (design section 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.images import Pixels

INPUT = "image"
OUTPUTS = {"codes": "tensor(uint8)", "logits": "tensor(float)", "attention": "tensor(float)"}
"""Each output of a graph and its type, as ONNX Runtime names it."""

BACKGROUND = "background"
"""One more output where the maps share out the object: where no concept looks."""

DEPTH = 2
"""Batches that an encoder may have under way at once."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """All a graph says of a batch.

    Args:
        codes: ``(B, K / 8)`` uint8.
        logits: ``(B, K)`` float32; a bit is set where its logit is above 0.
        attention: ``(B, M, h, w)`` float32, one map a concept.
        background: ``(B, h, w)`` float32, where no concept looks; None if the graph does not say.
    """

    codes: Codes
    logits: npt.NDArray[np.float32]
    attention: npt.NDArray[np.float32]
    background: npt.NDArray[np.float32] | None = None


class Pending(Protocol):
    """A batch under way."""

    def result(self) -> Codes:
        """Its codes ``(B, K / 8)`` uint8, once they are there.

        Raises:
            BackendError: if the back end could not compute them.
        """


@runtime_checkable
class Encoder(Protocol):
    """A model that a back end is ready to run: ONNX Runtime, OpenVINO, TensorRT or torch.

    The code of an image does not depend on the others of its batch.
    """

    @property
    def backend(self) -> str:
        """What computes, in one line: library, version, provider, precision, threads."""

    @property
    def device(self) -> str:
        """``cpu``, or ``cuda:N``."""

    @property
    def note(self) -> str | None:
        """What the user should know of the choice of the back end; None if nothing."""

    @property
    def image_side(self) -> int | None:
        """The side of the square images the model takes, pixels; None if it takes any."""

    @property
    def code_bytes(self) -> int | None:
        """Bytes of a code, K / 8; None if the model does not say."""

    def run(self, pixels: Pixels) -> Encoded:
        """All outputs for a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if the back end cannot compute it.
        """

    def codes(self, pixels: Pixels) -> Codes:
        """Only the codes ``(B, K / 8)`` uint8 of a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if the back end cannot compute it.
        """

    def submit(self, pixels: Pixels) -> Pending:
        """Start on a batch and return at once; at most :data:`DEPTH` may be under way.

        ``pixels`` must not change until the result is there.
        """

    def close(self) -> None:
        """Give back threads and device memory; the encoder cannot be used afterwards."""


class InThread(ABC):
    """``submit`` for back ends whose call waits for its answer: one thread, in order.

    While it waits inside the library, which lets go of Python, the caller gathers the next batch.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    @abstractmethod
    def codes(self, pixels: Pixels) -> Codes:
        """As :meth:`Encoder.codes`."""

    def submit(self, pixels: Pixels) -> Pending:
        """As :meth:`Encoder.submit`."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        return self._pool.submit(self.codes, pixels)

    def close(self) -> None:
        """As :meth:`Encoder.close`."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
