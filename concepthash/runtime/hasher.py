"""From photos to codes, as a stream: decoding in threads while the graph computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from concepthash.bundle import Bundle
from concepthash.codes import CodeLayout, Codes
from concepthash.decode import Decoded, decode_batches, usable_cpus
from concepthash.encoder import Encoded
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


class Hasher:
    """A bundle ready to hash images.

    Args:
        bundle: a bundle or its folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see
            :func:`concepthash.runtime.backends.open_encoder`, as of ``backend`` and ``precision``.
        threads: CPU threads of the graph, and as many that decode; by default every usable CPU.
        batch_size: images a run of the graph.

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
        batch_size: int = 32,
        backend: str = "auto",
        precision: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(
                f"a batch has at least one image, not {batch_size}",
                where="batch_size",
                hint="--batch-size 32",
            )
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.bundle.verify()  # a damaged or swapped graph would give other codes, not an error
        self.batch_size = batch_size
        self.threads = usable_cpus() if threads is None else threads
        self._encoder = open_encoder(
            self.bundle, backend=backend, precision=precision, device=device, threads=self.threads
        )
        self._check()

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
        self, sources: Iterable[Source], *, strict: bool = False
    ) -> Generator[Hashed, None, None]:
        """One record an image, in order, as soon as its batch is computed.

        Three batches at most are read ahead of the one that is computed, so ``sources`` may be
        endless. An image that cannot be decoded is a record with an error; the rest goes on.
        Closing the iterator stops the threads.

        Args:
            sources: paths, encoded bytes, Pillow images or ``(H, W, 3)`` uint8 arrays.
            strict: raise at the first image that cannot be decoded.

        Raises:
            ImageError: under ``strict``.
            BackendError: if the graph cannot be computed.
        """
        waiting: deque[Source] = deque()

        def remembered() -> Iterator[Source]:
            for source in sources:
                waiting.append(source)
                yield source

        batches = decode_batches(
            remembered(), self.preprocess, batch_size=self.batch_size, threads=self.threads
        )
        with closing(batches):
            for batch in batches:
                for code, error in self._results(batch):
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

    def _results(self, batch: Decoded) -> Iterator[tuple[Codes | None, ImageError | None]]:
        """Codes and errors of a batch, in source order."""
        codes = iter(self._encoder.codes(batch.pixels)) if batch.positions else iter(())
        failed = dict(batch.failed)
        for position in sorted([*batch.positions, *failed]):
            error = failed.get(position)
            yield (None, error) if error is not None else (next(codes), None)
