"""``EngineEncoder``: a TensorRT engine that encodes batches, the next copied while one computes.

Not run on hardware: tests run it on a fake engine and a fake CUDA.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.encoder import BACKGROUND, DEPTH, INPUT, OUTPUTS, Encoded
from concepthash.errors import BackendError
from concepthash.formats import Precision
from concepthash.images import Pixels
from concepthash.runtime.tensorrt.cuda import Cuda
from concepthash.runtime.tensorrt.library import check_ports, logger_of
from concepthash.runtime.tensorrt.slots import HINT, Piece, Port, Slot


class _Submitted:
    """A batch under way; see :class:`concepthash.encoder.Pending`."""

    def __init__(self, result: Callable[[], Codes]) -> None:
        self.result = result


class DeviceCodes:
    """Codes in the memory of the GPU, freed with this object.

    ``torch.as_tensor(codes, device=codes.device)`` takes them without copying and keeps the
    object; so does everything else that knows ``__cuda_array_interface__``. They are whole: the
    GPU has finished.

    Args:
        shape: ``(B, K / 8)``; the data is uint8.
        device: ``cuda:N``.
    """

    def __init__(self, cuda: Cuda, pointer: int, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.device = f"cuda:{cuda.device}"
        self._pointer = pointer
        if pointer:
            # At the end of the process CUDA may be gone first, and frees everything itself.
            weakref.finalize(self, cuda.free, pointer).atexit = False

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface."""
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self._pointer, False),
            "strides": None,
            "version": 3,
        }


class EngineEncoder:
    """An :class:`concepthash.encoder.Encoder` over an engine; make one with :func:`open_engine`.

    Batches above the largest that the engine was built for are cut. Every thread may call.

    Args:
        trt: the module.
        runtime: its runtime, which must outlive the engine.
        engine: the deserialised engine.
        cuda: the GPU.
        backend: library, version, GPU and precision in one line, for reports.
        note: what the user should know, such as that the engine was built anew; None if nothing.

    Raises:
        BackendError: if the GPU has too little memory.
        BundleError: if it is not an engine of a graph of this project.
    """

    def __init__(
        self,
        trt: Any,
        runtime: Any,
        engine: Any,
        cuda: Cuda,
        *,
        backend: str,
        note: str | None = None,
    ) -> None:
        self.backend = backend
        self.device = f"cuda:{cuda.device}"
        self.note = note
        self._log = logger_of(trt)
        self._cuda = cuda
        self._lock = RLock()
        self._turn = 0
        self._slots: list[Slot] = []
        self._image, self._outputs = _ports(trt, engine, backend)
        self._native: tuple[Any, Any] | None = (runtime, engine)
        try:
            for _ in range(DEPTH):
                context = engine.create_execution_context()
                if context is None:
                    raise self._failed("the GPU has no room for the engine", "too little memory")
                most = self._image.shape
                if not context.set_input_shape(INPUT, most):
                    raise self._failed("the engine does not take its own batch", "no reason given")
                outputs = [_sized(port, context) for port in self._outputs]
                self._slots.append(Slot(context, cuda, self._image, outputs))
            self._outputs = outputs
        except BaseException:
            self.close()
            raise

    @property
    def image_side(self) -> int:
        """The side of the square images the engine takes, pixels."""
        return self._image.shape[1]

    @property
    def code_bytes(self) -> int:
        """Bytes of a code, K / 8."""
        return self._port("codes").shape[1]

    @property
    def most(self) -> int:
        """The largest batch the engine takes at once; larger ones are cut."""
        return self._image.shape[0]

    def run(self, pixels: Pixels) -> Encoded:
        """All outputs for a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if the engine cannot compute it.
        """
        pieces = self._start(pixels, self._outputs)
        found = self._collect(pieces, self._outputs)
        return Encoded(**{name: found[name] for name in (*OUTPUTS, BACKGROUND) if name in found})

    def codes(self, pixels: Pixels) -> Codes:
        """Only the codes ``(B, K / 8)`` uint8 of a batch ``(B, H, W, 3)`` uint8.

        Raises:
            BackendError: if the engine cannot compute it.
        """
        codes: Codes = self.submit(pixels).result()
        return codes

    def submit(self, pixels: Pixels) -> _Submitted:
        """Start on a batch and return at once, unless the two before it are still under way.

        The pixels are copied, so they may change afterwards.

        Raises:
            BackendError: if the engine cannot start on it; later failures come with the result.
        """
        wanted = [self._port("codes")]
        pieces = self._start(pixels, wanted)
        return _Submitted(lambda: self._collect(pieces, wanted)["codes"])

    def device_codes(self, pixels: Pixels) -> DeviceCodes:
        """The codes of a batch ``(B, H, W, 3)`` uint8, left in the memory of the GPU.

        Raises:
            BackendError: if the engine cannot compute it.
        """
        with self._lock:
            self._check(pixels)
            self._cuda.activate()
            nbytes = len(pixels) * self.code_bytes
            pointer = self._cuda.allocate(nbytes) if nbytes else 0
            try:
                self._collect(self._start(pixels, [], keep=pointer), [])
            except BaseException:
                self._cuda.free(pointer)
                raise
        return DeviceCodes(self._cuda, pointer, (len(pixels), self.code_bytes))

    def close(self) -> None:
        """Finish what is under way and free everything; a second call does nothing."""
        with self._lock:
            if self._native is None:
                return
            with suppress(BackendError):
                self._cuda.activate()
            for slot in self._slots:
                if slot.piece is not None:
                    slot.piece.finish()
            for slot in self._slots:
                slot.close()
            self._slots.clear()
            self._native = None

    def _start(self, pixels: Pixels, wanted: Sequence[Port], *, keep: int = 0) -> list[Piece]:
        """Every piece of a batch on its way; ``keep`` is where on the GPU the codes shall stay."""
        pieces = []
        with self._lock:
            self._check(pixels)
            self._cuda.activate()
            for first in range(0, len(pixels), self.most):
                part = pixels[first : first + self.most]
                slot = self._slots[self._turn]
                self._turn = (self._turn + 1) % len(self._slots)
                if slot.piece is not None:
                    slot.piece.finish()
                self._log.clear()
                slot.piece = Piece(slot, len(part), [port.name for port in wanted])
                pieces.append(slot.piece)
                try:
                    slot.start(part, wanted, lambda: self._log.last("the engine gives no reason"))
                    if keep:
                        target = keep + first * self.code_bytes
                        slot.keep("codes", target, len(part) * self.code_bytes)
                except BackendError:
                    for piece in pieces:  # nothing may still be copied when the caller goes on
                        piece.finish()
                    raise
        return pieces

    def _collect(
        self, pieces: Sequence[Piece], wanted: Sequence[Port]
    ) -> dict[str, npt.NDArray[Any]]:
        with self._lock:
            for piece in pieces:  # all of them, before the first that failed raises
                piece.finish()
            found = [piece.outputs() for piece in pieces]
        if len(found) == 1:
            return found[0]
        return {
            port.name: np.concatenate(
                [np.empty((0, *port.shape[1:]), port.dtype), *(part[port.name] for part in found)]
            )
            for port in wanted
        }

    def _check(self, pixels: Pixels) -> None:
        if self._native is None:
            raise BackendError(
                "the encoder was closed", where=self.backend, hint="open the bundle again"
            )
        side = self._image.shape[1:]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != side:
            raise BackendError(
                f"the engine takes uint8 (B, {', '.join(map(str, side))}), "
                f"not {pixels.dtype} {pixels.shape}",
                where=self.backend,
                hint="prepare each image with hasher.preprocess(image)",
            )

    def _port(self, name: str) -> Port:
        return next(port for port in self._outputs if port.name == name)

    def _failed(self, what: str, otherwise: str) -> BackendError:
        return BackendError(f"{what}: {self._log.last(otherwise)}", where=self.backend, hint=HINT)


def open_engine(
    content: bytes, *, trt: Any, cuda: Cuda, precision: Precision, note: str | None = None
) -> EngineEncoder:
    """An engine ready to run on a GPU.

    Args:
        content: the engine, as it was built.
        trt: the module that built it, of the same version.
        cuda: the GPU.
        precision: of the graph it was built from, for the report.
        note: for :attr:`EngineEncoder.note`.

    Raises:
        BackendError: if the library does not take it, or the GPU has too little memory.
        BundleError: if it is not an engine of a graph of this project.
    """
    gpu = cuda.gpu()
    log = logger_of(trt)
    log.clear()
    library = f"{trt.__name__} {trt.__version__}"
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendError(
            f"{library} does not take the engine: {log.last('it gives no reason')}",
            where=gpu,
            hint="nvidia-smi shows the GPU and its driver; --device cpu runs the bundle's ONNX",
        )
    backend = f"{library} {gpu.name}, {precision}"
    return EngineEncoder(trt, runtime, engine, cuda, backend=backend, note=note)


def _ports(trt: Any, engine: Any, where: str) -> tuple[Port, list[Port]]:
    """The input at its largest batch, and the outputs, whose batch is open."""
    names = [engine.get_tensor_name(position) for position in range(engine.num_io_tensors)]
    types = {name: engine.get_tensor_dtype(name) for name in names}
    inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    check_ports(trt, {n: types[n] for n in inputs}, {n: types[n] for n in outputs}, where)
    _, _, most = engine.get_tensor_profile_shape(INPUT, 0)
    dtypes = {name: np.uint8 if types[name] == trt.DataType.UINT8 else np.float32 for name in names}
    return (
        Port(INPUT, np.uint8, tuple(most)),
        [Port(n, dtypes[n], tuple(engine.get_tensor_shape(n))) for n in outputs],
    )


def _sized(port: Port, context: Any) -> Port:
    """An output at the largest batch, which the context has been told."""
    return Port(port.name, port.dtype, tuple(context.get_tensor_shape(port.name)))
