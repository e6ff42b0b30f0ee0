"""Who reads, digests and hashes the photos of an indexing run: threads of this process, here."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import ConceptHashError
from concepthash.files import reason, sha256
from concepthash.images import Source
from concepthash.runtime.entries import Entry, IndexReport, is_url
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.rows import RowReader
from concepthash.runtime.sources import Place

FAR_AT_ONCE = 32
"""URLs that are read at the same time: what is waited for there is the network."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a source, and the image the gallery has from its path."""

    entry: Entry
    known: Entry | None
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of a photo.

    Args:
        digest: sha256 of its content, hexadecimal; None if it cannot be read.
        code: ``(K / 8,)`` uint8; None if its content was not hashed.
        reason: why it cannot be read or decoded; None if it can, or nobody tried.
    """

    photo: Photo
    digest: str | None
    code: Codes | None = None
    reason: str | None = None


class Desk(Protocol):
    """Where outcomes are taken: the run, which knows the gallery.

    Args:
        report: of the run; whoever hashes counts it there.
        dry: photos are not to be hashed.
    """

    report: IndexReport
    dry: bool

    def has(self, digest: str) -> bool:
        """Whether a content needs no hashing: the gallery has it, or is about to."""

    def contents(self) -> npt.NDArray[np.uint8]:
        """The digests the gallery has ``(n, 32)`` uint8."""

    def take(self, outcome: Outcome) -> bool:
        """Settle a photo; false if its content has to be hashed after all."""


@runtime_checkable
class Engine(Protocol):
    """What gives every photo an outcome, in any order; see the members of :class:`Hasher`."""

    @property
    def name(self) -> str:
        """The bundle's name."""

    @property
    def layout(self) -> CodeLayout:
        """How a code's bits are shared."""

    @property
    def fingerprint(self) -> str:
        """The name of the code space."""

    def process(self, photos: Iterable[Photo], desk: Desk) -> None:
        """Take each photo's outcome to the desk.

        Raises:
            ConceptHashError: if the work cannot go on; what a photo is to blame for is an outcome.
        """


class LocalEngine:
    """A hasher, and threads that read ahead of it.

    Args:
        hasher: it hashes each content once, however many photos have it.
    """

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._rows = RowReader()

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self._hasher.name

    @property
    def layout(self) -> CodeLayout:
        """How a code's bits are shared."""
        return self._hasher.layout

    @property
    def fingerprint(self) -> str:
        """The name of the code space."""
        return self._hasher.fingerprint

    def process(self, photos: Iterable[Photo], desk: Desk) -> None:
        """As :meth:`Engine.process`: outcomes of contents that are known come first."""
        # Contents on their way through the model, in its order, and the photos that have them.
        hashing: deque[str] = deque()
        waiting: dict[str, list[Photo]] = {}

        def needed() -> Generator[Source, None, None]:
            with closing(digested(photos, self._rows, threads=self._hasher.threads)) as read:
                for photo, digest, source in read:
                    if source is None:
                        desk.take(Outcome(photo, None, reason=digest))
                    elif digest in waiting:
                        waiting[digest].append(photo)
                    elif (photo.known and photo.known.sha256 == digest) or desk.has(digest):
                        desk.take(Outcome(photo, digest))
                    else:
                        waiting[digest] = [photo]
                        hashing.append(digest)
                        yield source

        if desk.dry:
            digest_only(photos, desk, threads=self._hasher.threads)
            return
        waits = desk.report.waits
        with (
            closing(needed()) as contents,
            closing(self._hasher.hash(contents, waits=waits)) as records,
        ):
            for record in records:
                desk.report.hashed += 1
                digest = hashing.popleft()
                why = None if record.code is not None else "unknown"
                why = record.error.what if record.error is not None else why
                for photo in waiting.pop(digest):
                    desk.take(Outcome(photo, digest, record.code, why))


def digest_only(photos: Iterable[Photo], desk: Desk, *, threads: int) -> None:
    """Take the outcomes of a dry run to the desk."""
    with closing(digested(photos, RowReader(), threads=threads)) as read:
        for photo, digest, source in read:
            failed = source is None
            desk.take(Outcome(photo, None if failed else digest, reason=digest if failed else None))


def digested(
    photos: Iterable[Photo], rows: RowReader, *, threads: int
) -> Generator[tuple[Photo, str, Source | None], None, None]:
    """Each photo with its digest and what to hash, in order, read by threads a little ahead.

    Of one that cannot be read: the reason, and nothing to hash.
    """
    near = ThreadPoolExecutor(threads, thread_name_prefix="digest")
    far = ThreadPoolExecutor(FAR_AT_ONCE, thread_name_prefix="fetch")
    pending: deque[tuple[Photo, Future[tuple[str, Source | None]]]] = deque()
    try:
        for photo in photos:
            away = photo.place.row < 0 and is_url(photo.place.file)
            pending.append((photo, (far if away else near).submit(_read, photo.place, rows)))
            if len(pending) > (FAR_AT_ONCE if away else 2 * threads):
                first, job = pending.popleft()
                yield (first, *job.result())
        while pending:
            first, job = pending.popleft()
            yield (first, *job.result())
    finally:
        near.shutdown(wait=False, cancel_futures=True)
        far.shutdown(wait=False, cancel_futures=True)


def _read(place: Place, rows: RowReader) -> tuple[str, Source | None]:
    """The digest of a photo and its path, or the bytes of one that is in no file of its own."""
    try:
        if place.row >= 0:
            content = rows.read(place)
        elif is_url(place.file):
            from concepthash.runtime.urls import read

            content = read(place.file)
        else:
            path = Path(place.file)
            return sha256(path), path
    except ConceptHashError as error:
        return error.what, None
    except OSError as error:
        return reason(error), None
    return hashlib.sha256(content).hexdigest(), content
