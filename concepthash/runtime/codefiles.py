"""The code segments of a gallery: append-only files of packed codes.

::

    000001.codes      64-byte header, then one code of K / 8 bytes a row
    000001.ids        of a segment whose ids have gaps: 64-byte header, then one id (i64) a row
    header            magic "CHASHSEG" or "CHASHIDS", version u32, K u32, gallery id 16s, zeros

Which rows exist is not written here: the gallery's database says so. Bytes beyond its count are of
a commit that never happened and are cut off by the next writer.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryError, GalleryUnreadable
from concepthash.files import sync_folder
from concepthash.runtime.records import Batch, Extent
from concepthash.runtime.storage import damaged, storage_errors

MAGIC = b"CHASHSEG"
IDS_MAGIC = b"CHASHIDS"
VERSION = 1
HEADER_BYTES = 64
SEGMENT_BYTES = 64 * 2**20
"""A segment takes no more codes once they reach this size."""
BATCH_ROWS = 16384
"""Codes that share a checksum at most: what a damaged byte costs, and few records a gallery."""

_HEADER = struct.Struct("<8sII16s")


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

    @property
    def capacity(self) -> int:
        """Codes a segment takes."""
        return max(1, self.segment_bytes // self.layout.nbytes)

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{segment:06d}.codes"

    def ids_path(self, segment: int) -> Path:
        """The file of a sparse segment's ids."""
        return self.folder / f"{segment:06d}.ids"

    def size(self, rows: int) -> int:
        """Bytes of a segment with ``rows`` codes."""
        return HEADER_BYTES + rows * self.layout.nbytes

    def append(
        self, codes: Codes, *, first_id: int, last: Batch | None, last_segment: int
    ) -> list[Batch]:
        """Write codes to disk after those there are, and into new segments beyond.

        They are on disk when this returns, and count once the caller commits the batches, the
        first of which may be ``last``, grown longer.

        Args:
            codes: ``(n, K / 8)`` uint8.
            first_id: of the first code; the others follow it.
            last: the batch to go on after; None begins a new segment, and so do other ids.
            last_segment: the largest number ever given to a segment; 0 if there is none.
        """
        if last is not None and last.first_id + last.rows != first_id:
            last = None
        written: list[Batch] = []
        start = 0
        while start < len(codes):
            if last is None or last.first_row + last.rows >= self.capacity:
                last_segment, last = last_segment + 1, None
            segment = last_segment if last is None else last.segment
            rows = 0 if last is None else last.first_row + last.rows
            part = codes[start : start + self.capacity - rows]
            self._write(part, segment, rows)
            written += _batches(part, first_id + start, segment, rows, last)
            start, last = start + len(part), written[-1]
        return written

    def write(
        self, segment: int, ids: npt.NDArray[np.int64], codes: Codes
    ) -> tuple[list[Batch], bool]:
        """Write a whole new segment, and its ids if they have gaps; on disk when this returns.

        Returns:
            Its batches, and whether it has a file of ids.
        """
        self._write(codes, segment, 0)
        sparse = bool(ids[-1] - ids[0] + 1 != len(ids))
        if not sparse:
            return list(_batches(codes, int(ids[0]), segment, 0, None)), sparse
        path = self.ids_path(segment)
        with storage_errors(path), path.open("wb") as file:
            file.write(self._header(IDS_MAGIC).ljust(HEADER_BYTES, b"\0"))
            file.write(ids.astype("<i8").tobytes())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.folder)
        batches = []
        for low in range(0, len(ids), BATCH_ROWS):
            some = slice(low, low + BATCH_ROWS)
            crc32 = checksum(codes[some], ids[some])
            batches.append(Batch(int(ids[low]), segment, low, len(ids[some]), crc32))
        return batches, sparse

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

    def _header(self, magic: bytes = MAGIC) -> bytes:
        return _HEADER.pack(magic, VERSION, self.layout.bits, self.gallery)

    def map(self, segment: int, rows: int) -> Codes:
        """The first ``rows`` codes of a segment, memory-mapped, ``(rows, K / 8)`` uint8.

        Raises:
            GalleryError: naming the file, if it is missing, truncated or not of this gallery.
        """
        self.check(segment, rows)
        path, shape = self.path(segment), (rows, self.layout.nbytes)
        with storage_errors(path, reading=True):
            return np.memmap(path, np.uint8, "r", HEADER_BYTES, shape).view(np.ndarray)

    def map_ids(self, segment: int, rows: int) -> npt.NDArray[np.int64]:
        """The ids of a sparse segment, memory-mapped, ``(rows,)`` int64; errors as :meth:`map`."""
        path = self.ids_path(segment)
        self._check(path, HEADER_BYTES + 8 * rows, IDS_MAGIC)
        with storage_errors(path, reading=True):
            return np.memmap(path, "<i8", "r", HEADER_BYTES, (rows,)).view(np.ndarray)

    def check(self, segment: int, rows: int) -> None:
        """Compare a segment's header and size with what was committed.

        Raises:
            GalleryError: as :meth:`map`.
        """
        self._check(self.path(segment), self.size(rows), MAGIC)

    def _check(self, path: Path, committed: int, magic: bytes) -> None:
        with storage_errors(path, reading=True):
            try:
                mode = path.stat().st_mode
            except (FileNotFoundError, NotADirectoryError):
                raise damaged("a segment of the gallery is missing", path) from None
            if not stat.S_ISREG(mode):
                raise damaged("a segment of the gallery is not a file", path)
            with path.open("rb") as file:
                header = file.read(_HEADER.size)
                size = os.fstat(file.fileno()).st_size
        if size < committed:
            raise damaged(
                f"the segment is truncated: {size} bytes, {committed} were committed", path
            )
        if header != self._header(magic):
            raise self._foreign(header, path, magic)

    def _foreign(self, header: bytes, path: Path, expected: bytes) -> GalleryError:
        magic, version, bits, gallery = _HEADER.unpack(header)
        if magic == expected and version > VERSION:
            return GalleryError(
                f"segment format {version} is newer than this version reads ({VERSION})",
                where=path,
                hint="pip install --upgrade concepthash",
            )
        if magic == expected and version == VERSION and gallery != self.gallery:
            return damaged("the segment belongs to another gallery", path)
        return damaged(f"the segment's header is damaged ({magic!r}, {version}, {bits})", path)

    def other_bits(self) -> int | None:
        """What a segment of this gallery says of its codes' bits, if it says something else."""
        for path in sorted(self.folder.glob("*.codes")):
            with storage_errors(path, reading=True):
                if not path.is_file():
                    continue
                with path.open("rb") as file:
                    header = file.read(_HEADER.size)
            if len(header) == _HEADER.size:
                magic, _, bits, gallery = _HEADER.unpack(header)
                if (magic, gallery) == (MAGIC, self.gallery) and bits != self.layout.bits:
                    return int(bits)
        return None

    def damage(self, extent: Extent, batches: Iterable[Batch]) -> Iterator[tuple[Path, str]]:
        """Files of a segment that differ from what was committed, and in what, in row order.

        Raises:
            GalleryUnreadable: if one cannot be read.
        """
        for path in (self.path(extent.segment), self.ids_path(extent.segment))[: 1 + extent.sparse]:
            try:
                if path.suffix == ".ids":
                    self.map_ids(extent.segment, extent.rows)
                else:
                    self.check(extent.segment, extent.rows)
            except GalleryUnreadable:
                raise
            except GalleryError as error:
                yield path, error.what
                return
        codes, ids = self.map(extent.segment, extent.rows), None
        if extent.sparse:
            ids = self.map_ids(extent.segment, extent.rows)
        for batch in batches:
            rows = slice(batch.first_row, batch.first_row + batch.rows)
            if checksum(codes[rows], None if ids is None else ids[rows]) != batch.crc32:
                what = f"the checksum of rows {rows.start} to {rows.stop - 1} differs"
                yield self.path(extent.segment), what + (" (codes or ids)" if extent.sparse else "")

    def recover(self, committed: Iterable[Extent]) -> None:
        """Cut off what was never committed; for the only writer.

        Raises:
            GalleryError: if a committed row is missing; nothing is changed then.
        """
        committed = list(committed)
        for extent in committed:
            self.check(extent.segment, extent.rows)
            if extent.sparse:
                self.map_ids(extent.segment, extent.rows)
        for extent in committed:
            path, size = self.path(extent.segment), self.size(extent.rows)
            if path.stat().st_size > size:
                os.truncate(path, size)
        for path in self.uncommitted(committed):
            _unlink(path)

    def uncommitted(self, committed: Iterable[Extent]) -> Iterator[Path]:
        """The segment files nobody refers to."""
        kept = {self.path(extent.segment) for extent in committed}
        kept |= {self.ids_path(e.segment) for e in committed if e.sparse}
        for suffix in (".codes", ".ids"):
            for path in self.folder.glob(f"*{suffix}"):
                if path.stem.isdigit() and path not in kept:
                    yield path

    def delete(self, segments: Iterable[int]) -> None:
        """Delete the files of segments that are no longer committed."""
        for segment in segments:
            _unlink(self.path(segment))
            _unlink(self.ids_path(segment))


def checksum(codes: Codes, ids: npt.NDArray[np.int64] | None = None) -> int:
    """The crc32 of a batch: of its ids, if it is of a sparse segment, and its codes."""
    before = 0 if ids is None else zlib.crc32(ids.astype("<i8").tobytes())
    return zlib.crc32(codes.tobytes(), before)


def _batches(
    codes: Codes, first_id: int, segment: int, first_row: int, last: Batch | None
) -> Iterator[Batch]:
    """Codes written at ``first_row`` as batches; the first goes on with ``last`` if it is short."""
    start = 0
    if last is not None and last.rows < BATCH_ROWS:
        start = min(BATCH_ROWS - last.rows, len(codes))
        crc32 = zlib.crc32(codes[:start].tobytes(), last.crc32)
        yield replace(last, rows=last.rows + start, crc32=crc32)
    for low in range(start, len(codes), BATCH_ROWS):
        piece = codes[low : low + BATCH_ROWS]
        crc32 = checksum(piece)
        yield Batch(first_id + low, segment, first_row + low, len(piece), crc32)


def _unlink(path: Path) -> None:
    with suppress(PermissionError):  # Windows keeps a file a reader has mapped: the next writer's
        path.unlink(missing_ok=True)
