"""The code segments of a gallery: append-only files of packed codes.

::

    000001.codes      64-byte header, then one code of K / 8 bytes a row
    header            magic "CHASHSEG", version u32, K u32, gallery id (16 bytes), zeros

Which rows exist is not written here: the gallery's database says so. Bytes beyond its count are of
a commit that never happened and are cut off by the next writer.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryError
from concepthash.files import sync_folder
from concepthash.runtime.storage import damaged, storage_errors

MAGIC = b"CHASHSEG"
VERSION = 1
HEADER_BYTES = 64
SEGMENT_BYTES = 64 * 2**20
"""A segment takes no more codes once they reach this size."""

_HEADER = struct.Struct("<8sII16s")


@dataclass(frozen=True)
class Run:
    """Rows written together: where they lie, and their checksum."""

    segment: int
    first_row: int
    rows: int
    crc32: int


@dataclass(frozen=True)
class CodeFiles:
    """The folder of segments of one gallery.

    Args:
        folder: where they are.
        layout: of the codes.
        gallery: the gallery's 16 random bytes, so that a stray segment of another one is noticed.
        segment_bytes: see :data:`SEGMENT_BYTES`.
    """

    folder: Path
    layout: CodeLayout
    gallery: bytes
    segment_bytes: int = SEGMENT_BYTES

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{segment:06d}.codes"

    def size(self, rows: int) -> int:
        """Bytes of a segment with ``rows`` codes."""
        return HEADER_BYTES + rows * self.layout.nbytes

    def append(self, codes: Codes, *, segment: int, rows: int) -> list[Run]:
        """Write codes to disk after row ``rows`` of ``segment``, and into new segments beyond.

        They are on disk when this returns, and count once the caller commits the runs.

        Args:
            codes: ``(n, K / 8)`` uint8.
            segment: the last segment ever used; 0 if there is none.
            rows: its committed rows; none of them begins a new segment.
        """
        capacity = max(1, self.segment_bytes // self.layout.nbytes)
        runs: list[Run] = []
        start = 0
        while start < len(codes):
            if rows == 0 or rows >= capacity:
                segment, rows = segment + 1, 0
            part = codes[start : start + capacity - rows]
            self._write(part, segment, rows)
            runs.append(Run(segment, rows, len(part), zlib.crc32(part.tobytes())))
            start += len(part)
            rows += len(part)
        return runs

    def _write(self, codes: Codes, segment: int, rows: int) -> None:
        path = self.path(segment)
        with storage_errors(path), path.open("r+b" if rows else "wb") as file:
            if rows:
                file.seek(self.size(rows))
                file.truncate()
            else:
                file.write(self._header().ljust(HEADER_BYTES, b"\0"))
            file.write(codes.tobytes())
            file.flush()
            os.fsync(file.fileno())
        if not rows:
            sync_folder(self.folder)

    def _header(self) -> bytes:
        return _HEADER.pack(MAGIC, VERSION, self.layout.bits, self.gallery)

    def map(self, segment: int, rows: int) -> Codes:
        """The first ``rows`` codes of a segment, memory-mapped, ``(rows, K / 8)`` uint8.

        Raises:
            GalleryError: naming the file, if it is missing, truncated or not of this gallery.
        """
        self.check(segment, rows)
        path, shape = self.path(segment), (rows, self.layout.nbytes)
        with storage_errors(path):
            return np.memmap(path, np.uint8, "r", HEADER_BYTES, shape).view(np.ndarray)

    def check(self, segment: int, rows: int) -> None:
        """Compare a segment's header and size with what was committed.

        Raises:
            GalleryError: as :meth:`map`.
        """
        path = self.path(segment)
        if not path.is_file():
            raise damaged("a segment of the gallery is missing", path)
        with storage_errors(path), path.open("rb") as file:
            header = file.read(_HEADER.size)
            size = os.fstat(file.fileno()).st_size
        if size < self.size(rows):
            raise damaged(
                f"the segment is truncated: {size} bytes, {self.size(rows)} were committed", path
            )
        if header != self._header():
            raise self._foreign(header, path)

    def _foreign(self, header: bytes, path: Path) -> GalleryError:
        magic, version, bits, gallery = _HEADER.unpack(header)
        if magic == MAGIC and version > VERSION:
            return GalleryError(
                f"segment format {version} is newer than this version reads ({VERSION})",
                where=path,
                hint="pip install --upgrade concepthash",
            )
        if magic == MAGIC and version == VERSION and gallery != self.gallery:
            return damaged("the segment belongs to another gallery", path)
        return damaged(f"the segment's header is damaged ({magic!r}, {version}, {bits})", path)

    def damage(self, segment: int, runs: Iterable[Run]) -> Iterator[str]:
        """What differs between a segment and the runs that were committed to it, in row order."""
        runs = list(runs)
        try:
            codes = self.map(segment, sum(run.rows for run in runs))
        except GalleryError as error:
            yield error.what
            return
        end = 0
        for run in runs:
            if run.first_row != end:
                yield f"rows {end} to {run.first_row - 1} were never committed"
            end = run.first_row + run.rows
            if zlib.crc32(codes[run.first_row : end].tobytes()) != run.crc32:
                yield f"the checksum of rows {run.first_row} to {end - 1} differs"

    def recover(self, committed: Mapping[int, int]) -> None:
        """Cut off what was never committed; for the only writer.

        Args:
            committed: rows of every segment that has any.

        Raises:
            GalleryError: if a committed row is missing; nothing is changed then.
        """
        for segment, rows in committed.items():
            self.check(segment, rows)
        for segment, rows in committed.items():
            if self.path(segment).stat().st_size > self.size(rows):
                os.truncate(self.path(segment), self.size(rows))
        for path in self.folder.glob("*.codes"):
            if path.stem.isdigit() and int(path.stem) not in committed:
                path.unlink()
