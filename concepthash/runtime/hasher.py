"""From photos to codes, as a stream: decoding in threads while the graph computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from concepthash.bundle import Bundle
from concepthash.codes import CodeLayout, Codes
from concepthash.decode import Waits, decode_batches, usable_cpus
from concepthash.encoder import DEPTH, Encoded, Pending
from concepthash.errors import BundleError, ImageError, UsageError
from concepthash.images import Pixels, Preprocess, Source
from concepthash.runtime.backends import open_encoder


@dataclass(frozen=True, eq=False)
class Hashed:
    """What became of one image: a code, or the reason there is none.

    Args:
        source: the image as it was given.
        code: ``(K / 8,)`` uint8; None if the image cannot be decoded.
        error: why not; None if there is a code.
    """

    source: Source
    code: Codes | None
    error: ImageError | None = None


CPU_BATCH = 8
"""More at once does not fit the caches of a CPU: measured slower by 5 to 10 % at 32. Less is left
to compute, too, once the last photo is decoded."""

DEVICE_BATCH = 32

Results: TypeAlias = "list[tuple[Codes | None, ImageError | None]]"
"""Code or error of each image of a batch, in source order."""


class Hasher:
    """A bundle ready to hash images.

    Args:
        bundle: a bundle or its folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see
            :func:`concepthash.runtime.backends.open_encoder`, as of ``backend`` and ``precision``.
        threads: CPU threads of the graph, and as many that decode; by default every usable CPU.
        batch_size: images a run of the graph; by default :data:`CPU_BATCH` or
            :data:`DEVICE_BATCH`.
        tell: told before an engine is built anew, which takes minutes.

    Raises:
        BundleError: if the bundle cannot be read, or its graph does not fit its manifest.
        BackendError: if ONNX Runtime or the device is missing.
        UsageError: for a device, thread count or batch size that cannot be.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int | None = None,
        backend: str = "auto",
        precision: str | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(
                f"a batch has at least one image, not {batch_size}",
                where="batch_size",
                hint="--batch-size 32",
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.threads = usable_cpus() if threads is None else threads
        self._encoder = open_encoder(
            self.bundle,
            backend=backend,
            precision=precision,
            device=device,
            threads=self.threads,
            tell=tell,
        )
        self._check()
        on_cpu = self._encoder.device == "cpu"
        self.batch_size = batch_size or (CPU_BATCH if on_cpu else DEVICE_BATCH)

    def _check(self) -> None:
        encoder = self._encoder
        for what, graph, manifest in (
            ("image side", encoder.image_side, self.preprocess.crop),
            ("code bytes", encoder.code_bytes, self.layout.nbytes),
        ):
            if graph not in (None, manifest):
                raise BundleError(
                    f"graph and manifest disagree: {what} {graph} and {manifest}",
                    where=self.bundle.path,
                    hint="chash export RUN --force",
                )

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.manifest.name

    @property
    def layout(self) -> CodeLayout:
        """How a code's bits are shared."""
        return self.bundle.manifest.layout

    @property
    def fingerprint(self) -> str:
        """The name of the code space, 64 hexadecimal digits."""
        return self.bundle.manifest.fingerprint

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes pixels for :meth:`encode`."""
        return self.bundle.manifest.preprocess

    @property
    def backend(self) -> str:
        """What computes, in one line: ONNX Runtime's version, provider and threads."""
        return self._encoder.backend

    @property
    def note(self) -> str | None:
        """Why ``device="auto"`` did not take a GPU that seemed to be there; else None."""
        return self._encoder.note

    def hash(
        self,
        sources: Iterable[Source],
        *,
        strict: bool = False,
        waits: Waits | None = None,
    ) -> Generator[Hashed, None, None]:
        """One record an image, in order, once its batch is computed and the next is under way.

        Four batches at most are read ahead of the record, so ``sources`` may be endless. An image
        that cannot be decoded is a record with an error; the rest goes on. Closing the iterator
        stops the threads, once what is being computed is done.

        Args:
            sources: paths, encoded bytes, Pillow images or ``(H, W, 3)`` uint8 arrays.
            strict: raise at the first image that cannot be decoded.
            waits: what was waited for is added to it.

        Raises:
            ImageError: under ``strict``.
            BackendError: if the graph cannot be computed.
        """
        waiting: deque[Source] = deque()

        def remembered() -> Iterator[Source]:
            for source in sources:
                waiting.append(source)
                yield source

        waits = Waits() if waits is None else waits
        with closing(self._batches(remembered(), waits)) as batches:
            for results in batches:
                for code, error in results:
                    if strict and error is not None:
                        raise error
                    yield Hashed(waiting.popleft(), code, error)

    def encode(self, pixels: Pixels) -> Encoded:
        """Codes, logits and attention of prepared pixels ``(B, crop, crop, 3)`` uint8.

        Raises:
            UsageError: if the pixels have another shape or dtype.
            BackendError: if the graph cannot be computed.
        """
        side = self.preprocess.crop
        if pixels.dtype != "uint8" or pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
            raise UsageError(
                f"pixels are uint8 (B, {side}, {side}, 3), not {pixels.dtype} {pixels.shape}",
                where="pixels",
                hint="prepare each image with hasher.preprocess(image)",
            )
        return self._encoder.run(pixels)

    def close(self) -> None:
        """Give back the encoder's threads and device memory; nothing can be hashed afterwards.

        A second call does nothing.
        """
        self._encoder.close()

    def _batches(self, sources: Iterable[Source], waits: Waits) -> Generator[Results, None, None]:
        """Codes and errors of each batch: the next is gathered while one is computed."""
        decoded = decode_batches(
            sources,
            self.preprocess,
            batch_size=self.batch_size,
            threads=self.threads,
            waits=waits,
        )
        under_way: deque[tuple[Pending | None, list[int], dict[int, ImageError]]] = deque()

        def first() -> Results:
            pending, positions, failed = under_way[0]
            with waits.adding("model"):
                codes = iter(() if pending is None else pending.result())
            under_way.popleft()
            return [
                (None, failed[position]) if position in failed else (next(codes), None)
                for position in sorted([*positions, *failed])
            ]

        try:
            with closing(decoded):
                for batch in decoded:
                    pending = self._encoder.submit(batch.pixels) if batch.positions else None
                    under_way.append((pending, batch.positions, dict(batch.failed)))
                    del batch
                    if len(under_way) == DEPTH:
                        yield first()
            while under_way:
                yield first()
        finally:
            for pending, _, _ in under_way:  # whoever hashes next may have as many under way
                if pending is not None:
                    with suppress(Exception):  # nobody is told of these any more
                        pending.result()
