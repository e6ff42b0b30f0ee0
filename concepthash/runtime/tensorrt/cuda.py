"""The few CUDA calls that running an engine takes; every failure is a BackendError.

Through the module ``cuda.bindings.runtime`` (package cuda-bindings). Not run on hardware.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from concepthash.errors import BackendError


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Args:
        name: the vendor's, such as ``NVIDIA GeForce RTX 4090``.
        capability: its compute capability, such as ``8.9``.
    """

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability})"


class Cuda:
    """One GPU. Sizes are bytes, pointers whole numbers, streams the module's own objects.

    Args:
        runtime: the module ``cuda.bindings.runtime``.
        device: the number of the GPU.

    Raises:
        BackendError: of every method but those that free, if CUDA says no.
    """

    def __init__(self, runtime: Any, device: int) -> None:
        self._runtime = runtime
        self.device = device

    def activate(self) -> None:
        """Make it the GPU of this thread, which TensorRT takes."""
        self._check(self._runtime.cudaSetDevice(self.device), "choosing the GPU")

    def gpu(self) -> Gpu:
        """Its name and compute capability; it is this thread's GPU from then on.

        Raises:
            BackendError: if there is no such GPU, or no driver.
        """
        try:
            self.activate()
        except BackendError as error:
            raise BackendError(
                f"no GPU can be used here: {error.what}",
                where=error.where,
                hint="run it on the machine with the GPU (nvidia-smi lists its GPUs); "
                "here: --device cpu",
            ) from None
        found = self._check(self._runtime.cudaGetDeviceProperties(self.device), "asking the GPU")
        name = found.name.split(b"\0")[0].decode(errors="replace")
        return Gpu(name, f"{found.major}.{found.minor}")

    def stream(self) -> Any:
        """A stream that does not wait for the default one; ``int()`` of it is its handle."""
        flags = self._runtime.cudaStreamNonBlocking
        return self._check(self._runtime.cudaStreamCreateWithFlags(flags), "creating a stream")

    def allocate(self, nbytes: int) -> int:
        """GPU memory."""
        return int(self._check(self._runtime.cudaMalloc(nbytes), _of("GPU memory", nbytes)))

    def pin(self, nbytes: int) -> int:
        """Host memory that the GPU copies from and to while the CPU does something else."""
        flags = self._runtime.cudaHostAllocDefault
        result = self._runtime.cudaHostAlloc(nbytes, flags)
        return int(self._check(result, _of("pinned memory", nbytes)))

    def upload(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Queue a copy from pinned memory to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(target, source, nbytes, kind, stream)

    def download(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Queue a copy from the GPU to pinned memory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(target, source, nbytes, kind, stream)

    def duplicate(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        """Queue a copy within the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._copy(target, source, nbytes, kind, stream)

    def wait(self, stream: Any) -> None:
        """Return once all that was queued is done; earlier failures show here."""
        self._check(self._runtime.cudaStreamSynchronize(stream), "waiting for the GPU")

    # Freeing says nothing of its failures: CUDA repeats there what went wrong before.

    def free(self, pointer: int) -> None:
        """Give back GPU memory."""
        with suppress(BackendError):
            self._check(self._runtime.cudaFree(pointer), "freeing")

    def unpin(self, pointer: int) -> None:
        """Give back pinned memory."""
        with suppress(BackendError):
            self._check(self._runtime.cudaFreeHost(pointer), "freeing")

    def destroy(self, stream: Any) -> None:
        """Give back a stream."""
        with suppress(BackendError):
            self._check(self._runtime.cudaStreamDestroy(stream), "freeing")

    def _copy(self, target: int, source: int, nbytes: int, kind: Any, stream: Any) -> None:
        result = self._runtime.cudaMemcpyAsync(target, source, nbytes, kind, stream)
        self._check(result, "copying")

    def _check(self, result: tuple[Any, ...], doing: str) -> Any:
        error, *values = result
        codes = self._runtime.cudaError_t
        if error == codes.cudaSuccess:
            return values[0] if values else None
        _, text = self._runtime.cudaGetErrorString(error)
        reason = text.decode() if isinstance(text, bytes) else error
        if error == codes.cudaErrorMemoryAllocation:
            hint = "close other programs on the GPU (nvidia-smi lists them), or --device cpu"
        else:
            hint = "nvidia-smi shows the GPUs and their driver; without one: --device cpu"
        raise BackendError(f"CUDA: {reason}, {doing}", where=f"cuda:{self.device}", hint=hint)


def open_cuda(device: int = 0) -> Cuda:
    """GPU number ``device``; whether it is there, :meth:`Cuda.gpu` tells.

    Raises:
        BackendError: if the package cuda-bindings is missing.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f"the CUDA bindings cannot be imported: {error}",
            where="cuda.bindings.runtime",
            hint="pip install cuda-bindings, of the driver's CUDA version (nvidia-smi shows it)",
        ) from None
    return Cuda(runtime, device)


def _of(what: str, nbytes: int) -> str:
    return f"taking {nbytes / 2**20:.1f} MiB of {what}"
