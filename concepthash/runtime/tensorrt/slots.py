"""Batches under way on a GPU: the memory and the stream that each has for itself.

Not run on hardware.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.encoder import INPUT
from concepthash.errors import BackendError
from concepthash.images import Pixels
from concepthash.runtime.tensorrt.cuda import Cuda

HINT = "a smaller --batch-size, or --device cpu"


@dataclass(frozen=True)
class Port:
    """An input or output tensor, at the largest batch."""

    name: str
    dtype: npt.DTypeLike
    shape: tuple[int, ...]

    @property
    def row(self) -> int:
        """Bytes of one image of the batch."""
        return prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the largest batch."""
        return self.shape[0] * self.row


class Slot:
    """What one batch under way needs for itself: context, stream, memory on both sides."""

    def __init__(self, context: Any, cuda: Cuda, image: Port, outputs: Sequence[Port]) -> None:
        self.context = context
        self.piece: Piece | None = None
        self._cuda = cuda
        self._image = image
        self._owned = ExitStack()
        self._host: dict[str, npt.NDArray[Any]] = {}
        self._pinned: dict[str, int] = {}
        self.device: dict[str, int] = {}
        try:
            self.stream = self._own(cuda.stream(), cuda.destroy)
            for port in (image, *outputs):
                self.device[port.name] = self._own(cuda.allocate(port.nbytes), cuda.free)
                self._pinned[port.name] = self._own(cuda.pin(port.nbytes), cuda.unpin)
                self._host[port.name] = _view(self._pinned[port.name], port)
                if not context.set_tensor_address(port.name, self.device[port.name]):
                    raise BackendError(f"the engine takes no address for {port.name}", hint=HINT)
        except BaseException:
            self._owned.close()
            raise

    def start(self, pixels: Pixels, wanted: Sequence[Port], failure: Callable[[], str]) -> None:
        """Queue copy, computation and the copies of the outputs that are ``wanted``."""
        count = len(pixels)
        self._host[INPUT][:count] = pixels
        source, target = self._pinned[INPUT], self.device[INPUT]
        self._cuda.upload(target, source, count * self._image.row, self.stream)
        taken = self.context.set_input_shape(INPUT, tuple(pixels.shape))
        if not taken or not self.context.execute_async_v3(int(self.stream)):
            raise BackendError(f"inference failed: {failure()}", hint=HINT)
        for port in wanted:
            source, target = self.device[port.name], self._pinned[port.name]
            self._cuda.download(target, source, count * port.row, self.stream)

    def keep(self, name: str, target: int, nbytes: int) -> None:
        """Queue a copy of an output to another place on the GPU."""
        self._cuda.duplicate(target, self.device[name], nbytes, self.stream)

    def wait(self) -> None:
        """Until all that was queued is done."""
        self._cuda.wait(self.stream)

    def read(self, name: str, count: int) -> npt.NDArray[Any]:
        """An output that was wanted, as an array of its own."""
        return self._host[name][:count].copy()

    def close(self) -> None:
        """Free its memory and its stream."""
        self._host.clear()
        self.context = None
        self._owned.close()

    def _own(self, resource: Any, release: Callable[[Any], None]) -> Any:
        self._owned.callback(release, resource)
        return resource


class Piece:
    """A part of a batch: under way in a slot, or what came of it."""

    def __init__(self, slot: Slot, count: int, names: Sequence[str]) -> None:
        self._slot: Slot | None = slot
        self._count = count
        self._names = names
        self._outputs: dict[str, npt.NDArray[Any]] = {}
        self._error: BackendError | None = None

    def finish(self) -> None:
        """Wait for it and leave the slot to the next; a failure is kept for :meth:`outputs`."""
        if self._slot is None:
            return
        slot, self._slot = self._slot, None
        slot.piece = None
        try:
            slot.wait()
            self._outputs = {name: slot.read(name, self._count) for name in self._names}
        except BackendError as error:
            self._error = error

    def outputs(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs that were wanted.

        Raises:
            BackendError: if the GPU could not compute them.
        """
        self.finish()
        if self._error is not None:
            raise self._error
        return self._outputs


def _view(pointer: int, port: Port) -> npt.NDArray[Any]:
    """Pinned memory as an array."""
    memory = (ctypes.c_uint8 * port.nbytes).from_address(pointer)
    return np.ctypeslib.as_array(memory).view(port.dtype).reshape(port.shape)
