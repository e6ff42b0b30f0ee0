"""Photos decoded in threads while something else computes: ordered, bounded, never fatal."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from concepthash.errors import ImageError
from concepthash.images import Pixels, Preprocess, Source


@dataclass(frozen=True)
class Decoded:
    """A batch of prepared photos.

    Args:
        positions: which sources these are, ascending.
        pixels: ``(B, crop, crop, 3)`` uint8, aligned with ``positions``.
        failed: the sources between them that could not be decoded.
    """

    positions: list[int]
    pixels: Pixels
    failed: list[tuple[int, ImageError]]


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        return os.cpu_count() or 1


def decode_batches(
    sources: Iterable[Source], spec: Preprocess, *, batch_size: int = 32, threads: int | None = None
) -> Generator[Decoded, None, None]:
    """Stream ``sources`` as prepared batches, in order.

    Two batches are decoded ahead; nothing more of ``sources`` is read, so it may be endless. A
    photo that cannot be decoded is reported in its batch and leaves a gap in ``positions``.
    """

    def prepare(source: Source) -> Pixels | ImageError:
        try:
            return spec(source)
        except ImageError as error:
            return error
        except Exception as error:  # a lazily loaded image, or one too large for the memory
            return ImageError(f"cannot prepare: {error or type(error).__name__}")

    numbered = enumerate(sources)
    pool = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="decode")
    pending: deque[tuple[int, Future[Pixels | ImageError]]] = deque()
    try:
        while True:
            wanted = 3 * batch_size - len(pending)
            for position, source in islice(numbered, wanted):
                pending.append((position, pool.submit(prepare, source)))
            if not pending:
                return
            yield _collect([pending.popleft() for _ in range(min(batch_size, len(pending)))], spec)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(jobs: list[tuple[int, Future[Pixels | ImageError]]], spec: Preprocess) -> Decoded:
    positions: list[int] = []
    pixels: list[Pixels] = []
    failed: list[tuple[int, ImageError]] = []
    for position, job in jobs:
        result = job.result()
        if isinstance(result, ImageError):
            failed.append((position, result))
        else:
            positions.append(position)
            pixels.append(result)
    shape = (0, spec.crop, spec.crop, 3)
    return Decoded(positions, np.stack(pixels) if pixels else np.empty(shape, np.uint8), failed)
