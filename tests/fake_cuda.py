"""A fake of CUDA, for tests on machines without a GPU.

It does what was queued on a stream only when somebody waits for it, so memory that is used again
too early gives wrong codes; it also remembers every mistake that a real GPU would punish later.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any


class FakeCudart:
    """A fake ``cuda.bindings.runtime``: memory of this process, streams that do all they can late.

    Args:
        driver: whether there is a GPU.
    """

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )
    cudaError_t = SimpleNamespace(
        cudaSuccess=0, cudaErrorMemoryAllocation=2, cudaErrorInsufficientDriver=35
    )

    def __init__(self, *, driver: bool = True, name: str = "NVIDIA Fake 100") -> None:
        self.driver = driver
        self.name = name
        self.live: dict[int, tuple[str, Any]] = {}
        self.freed: list[Any] = []
        self.streams: dict[int, list[tuple[str, Any]]] = {}
        self.events: list[tuple[str, int]] = []
        self.mistakes: list[str] = []
        self.failures: dict[str, int] = {}  # call -> how many times it still works
        self.chosen: list[int] = []

    def _failing(self, call: str) -> bool:
        left = self.failures.get(call)
        if left is None:
            return False
        self.failures[call] = max(left - 1, 0)
        return left == 0

    def cudaSetDevice(self, device: int) -> tuple[int]:
        self.chosen.append(device)
        return (0 if self.driver else 35,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=self.name.encode() + b"\0\0", major=8, minor=6)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, {2: b"out of memory", 35: b"no driver"}.get(error, b"unspecified launch failure")

    def _take(self, kind: str, nbytes: int) -> tuple[int, int | None]:
        if self._failing(kind):
            return 2, None
        buffer = ctypes.create_string_buffer(b"\xee" * nbytes, nbytes)
        self.live[ctypes.addressof(buffer)] = (kind, buffer)
        return 0, ctypes.addressof(buffer)

    def _give(self, kind: str, pointer: int) -> tuple[int]:
        found = self.live.pop(pointer, None)
        if found is None or found[0] != kind:
            self.mistakes.append(f"{kind} memory that is not there was freed")
            return (1,)
        if any(self.streams.values()):
            self.mistakes.append("memory was freed while something was queued")
        self.freed.append(found[1])
        return (0,)

    def cudaMalloc(self, nbytes: int) -> tuple[int, int | None]:
        return self._take("device", nbytes)

    def cudaFree(self, pointer: int) -> tuple[int]:
        return self._give("device", pointer)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[int, int | None]:
        return self._take("pinned", nbytes)

    def cudaFreeHost(self, pointer: int) -> tuple[int]:
        return self._give("pinned", pointer)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int | None]:
        if self._failing("stream"):
            return 2, None
        assert flags == self.cudaStreamNonBlocking
        self.streams[stream := 7000 + len(self.streams)] = []
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        if self.streams.pop(stream, None) is None:
            self.mistakes.append("a stream that is not there was destroyed")
        return (0,)

    def cudaMemcpyAsync(
        self, target: int, source: int, nbytes: int, kind: int, stream: int
    ) -> tuple[int]:
        if self._failing("copy"):
            return (1,)
        name, origin, destination = {
            1: ("upload", "pinned", "device"),
            2: ("download", "device", "pinned"),
            3: ("duplicate", "device", "device"),
        }[kind]
        work = lambda: self.write(target, self.read(source, nbytes, origin), destination)  # noqa: E731
        self.queue(stream, name, work)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        self.events.append(("wait", stream))
        queued, self.streams[stream] = self.streams[stream], []
        if self._failing("wait"):
            return (719,)
        for _, work in queued:
            work()
        return (0,)

    def queue(self, stream: int, name: str, work: Any) -> None:
        self.events.append((name, stream))
        self.streams[stream].append((name, work))

    def _within(self, pointer: int, nbytes: int, kind: str) -> bool:
        for start, (found, buffer) in self.live.items():
            if found == kind and start <= pointer and pointer + nbytes <= start + len(buffer):
                return True
        self.mistakes.append(f"{nbytes} bytes that are not {kind} memory were used")
        return False

    def read(self, pointer: int, nbytes: int, kind: str) -> bytes:
        return ctypes.string_at(pointer, nbytes) if self._within(pointer, nbytes, kind) else b""

    def write(self, pointer: int, content: bytes, kind: str) -> None:
        if self._within(pointer, len(content), kind):
            ctypes.memmove(pointer, content, len(content))
