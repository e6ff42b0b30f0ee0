"""Photos decoded in threads while something else computes: ordered, bounded, never fatal."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
from PIL import Image

from concepthash.errors import ImageError
from concepthash.images import Pixels, Preprocess, Source

BATCHES_AHEAD = 3
BYTES_AHEAD = 2**28
"""Where reading ahead ends: what is pending holds this much, in sources and in pixels."""


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


Stage = Literal["files", "decoding", "model"]


@dataclass
class Waits:
    """Where a stream of photos lost time: seconds that its consumer waited for each stage.

    The stages run beside each other, so the one that is waited for most is the one that bounds.

    Args:
        files: for the next source: to be found, read and looked up.
        decoding: for the pixels of a batch.
        model: for the codes of a batch.
    """

    files: float = 0.0
    decoding: float = 0.0
    model: float = 0.0

    @property
    def longest(self) -> Stage:
        """The stage that was waited for most."""
        stages: tuple[Stage, ...] = ("files", "decoding", "model")
        return max(stages, key=lambda stage: getattr(self, stage))

    @contextmanager
    def adding(self, stage: Stage) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.perf_counter() - started)


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        return os.cpu_count() or 1


def decode_batches(
    sources: Iterable[Source],
    spec: Preprocess,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    waits: Waits | None = None,
) -> Generator[Decoded, None, None]:
    """Stream ``sources`` as prepared batches, in order.

    Two batches are decoded ahead; nothing more of ``sources`` is read, so it may be endless. Less
    is read where that would hold more than :data:`BYTES_AHEAD`, and a batch may be smaller then. A
    photo that cannot be decoded is reported in its batch and leaves a gap in ``positions``.

    Args:
        waits: what was waited for is added to it.
    """

    def prepare(source: Source) -> Pixels | ImageError:
        try:
            return spec(source)
        except ImageError as error:
            return error
        except Exception as error:  # a lazily loaded image, or one too large for the memory
            return ImageError(f"cannot prepare: {str(error) or type(error).__name__}")

    waits = Waits() if waits is None else waits
    numbered = enumerate(sources)
    pool = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="decode")
    pending: deque[_Job] = deque()
    held = 0
    try:
        while True:
            while not pending or (len(pending) < BATCHES_AHEAD * batch_size and held < BYTES_AHEAD):
                with waits.adding("files"):
                    position, source = next(numbered, (-1, None))
                if source is None:
                    break
                size = _bytes(source) + 3 * spec.crop**2
                pending.append(_Job(position, size, pool.submit(prepare, source)))
                held += size
            if not pending:
                return
            count = min(batch_size, len(pending))
            held -= sum(job.size for job in islice(pending, count))
            with waits.adding("decoding"):
                batch = _collect([pending.popleft() for _ in range(count)], spec)
            yield batch
            del batch  # its consumer may be done with it before the next is there
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Job:
    position: int
    size: int
    pixels: Future[Pixels | ImageError]


def _bytes(source: Source) -> int:
    """The memory that a source holds until its batch is done."""
    if isinstance(source, bytes):
        return len(source)
    if isinstance(source, np.ndarray):
        return source.nbytes
    return 4 * source.width * source.height if isinstance(source, Image.Image) else 0


def _collect(jobs: list[_Job], spec: Preprocess) -> Decoded:
    positions: list[int] = []
    pixels: list[Pixels] = []
    failed: list[tuple[int, ImageError]] = []
    for job in jobs:
        result = job.pixels.result()
        if isinstance(result, ImageError):
            failed.append((job.position, result))
        else:
            positions.append(job.position)
            pixels.append(result)
    shape = (0, spec.crop, spec.crop, 3)
    return Decoded(positions, np.stack(pixels) if pixels else np.empty(shape, np.uint8), failed)
