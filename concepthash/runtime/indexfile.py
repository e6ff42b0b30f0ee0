"""The file of a Hamming index: one header, word planes, ids; made to be memory-mapped.

Little-endian, every section on a multiple of 64 bytes::

    0    magic 8s, version u32, bits u32, concepts u32, word bits u32, flags u32, count i64,
         largest id ever given i64, sha256 of everything from byte 128 on, first id i64, zeros,
         crc32 of bytes 0..123 u32
    128  W = ceil(bits / 64) planes of ``count`` uint64, each padded to 64 bytes
    ...  ``count`` int64 ids, padded to 64 bytes; not there if they are consecutive

Flag 1: the ids are ascending. Flag 2: they are consecutive from the first on, which is all that is
stored of them. Such a file is of version 2, any other of version 1, whose first id is 0. The
file's size follows from the header, so a truncated one is refused at once; the payload's checksum
is compared on demand (:meth:`IndexFile.verify`).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, UsageError
from concepthash.files import reason, refuse_pipe, replacing
from concepthash.runtime.planes import WORD, ids_at
from concepthash.runtime.segment import Segment, is_ascending

MAGIC = b"\x89CHIDX\r\n"
VERSION = 2
"""The latest; a file says the earliest that can read it."""

_HEADER = struct.Struct("<8sIIIIIqq32sq")
_HEADER_SIZE = 128
_CRC = struct.Struct("<I")
_ASCENDING = 1
_CONSECUTIVE = 2
_STEP = 1 << 17
_RESTORE = "restore the file from a copy, or build the index again from its codes"


@dataclass(frozen=True)
class IndexFile:
    """An index file that was opened: its layout, its one sealed segment, its checksum."""

    path: Path
    layout: CodeLayout
    largest: int
    segment: Segment
    payload: npt.NDArray[np.uint8]
    digest: bytes
    mapped: bool

    def verify(self) -> None:
        """Read the whole payload and compare it with the checksum in the header.

        Raises:
            GalleryError: if a byte differs.
        """
        if hashlib.sha256(self.payload.data).digest() != self.digest:
            raise GalleryError(
                "the index file is damaged: its contents do not match their checksum",
                where=self.path,
                hint=_RESTORE,
            )


def read(path: Path, *, mmap: bool) -> IndexFile:
    """Open an index file, memory-mapped or copied.

    Raises:
        GalleryError: if it is missing, no index file, truncated, damaged or from a later version.
    """
    try:
        refuse_pipe(path)
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
            layout, flags, count, largest, first, digest = _parse(header, path)
            raw = _load(file, mmap)
    except (OSError, ValueError) as error:
        raise GalleryError(
            f"the index file cannot be read: {reason(error)}",
            where=path,
            hint="check the path, or write one with HammingIndex.save",
        ) from error
    words, consecutive = -(-layout.bits // 64), bool(flags & _CONSECUTIVE)
    stride = _padded(8 * count)
    size = _HEADER_SIZE + (words + (not consecutive)) * stride
    if len(raw) != size:
        raise GalleryError(
            f"the index file has {len(raw)} bytes instead of {size}: truncated or overwritten",
            where=path,
            hint=_RESTORE,
        )
    payload = raw[_HEADER_SIZE:]
    planes = payload[: words * stride].view(WORD).reshape(words, stride // 8)[:, :count]
    stored = payload[words * stride :].view("<i8")[:count]
    ids = range(first, first + count) if consecutive else stored
    segment = Segment(planes, ids, ascending=bool(flags & _ASCENDING), sealed=True)
    return IndexFile(path, layout, largest, segment, payload, digest, mmap)


def write(path: Path, layout: CodeLayout, largest: int, segments: Sequence[Segment]) -> None:
    """Write the live rows of ``segments``: to a temporary name, fsynced, then renamed.

    Raises:
        GalleryError: if the file cannot be written; an earlier file of that name is then intact.
    """
    try:
        with replacing(path) as file:
            _write(file, layout, largest, segments)
    except (OSError, ValueError) as error:
        raise GalleryError(
            f"the index file cannot be written: {reason(error)}",
            where=path,
            hint="check free space and permissions of the folder, then save again",
        ) from error


def _padded(size: int) -> int:
    return -(-size // 64) * 64


def _parse(header: bytes, path: Path) -> tuple[CodeLayout, int, int, int, int, bytes]:
    """Layout, flags, count, largest and first id and digest of a header that holds."""
    magic = header[: len(MAGIC)]
    if magic != MAGIC:
        cut = MAGIC.startswith(magic)
        raise GalleryError(
            "the index file is truncated" if cut else "this is not a Hamming index file",
            where=path,
            hint=_RESTORE if cut else "give a file written by HammingIndex.save",
        )
    if len(header) < _HEADER_SIZE:
        raise GalleryError("the index file is truncated", where=path, hint=_RESTORE)
    _, version, bits, concepts, word, flags, count, largest, digest, first = _HEADER.unpack_from(
        header
    )
    if not 1 <= version <= VERSION:
        raise GalleryError(
            f"the index file has format version {version}, this program reads 1 to {VERSION}",
            where=path,
            hint="pip install --upgrade concepthash",
        )
    sealed = _HEADER_SIZE - _CRC.size
    if zlib.crc32(header[:sealed]) != _CRC.unpack_from(header, sealed)[0]:
        raise GalleryError("the index file has a damaged header", where=path, hint=_RESTORE)
    try:
        layout = CodeLayout(bits, concepts)
    except UsageError as error:
        raise GalleryError(
            f"the index file has an impossible layout: {error.what}", where=path, hint=_RESTORE
        ) from error
    if version == 1:
        possible = not flags & ~_ASCENDING and count >= 0 and largest >= -1 and first == 0
    else:
        possible = flags == _ASCENDING | _CONSECUTIVE and count > 0 and first >= 0
        possible = possible and first + count - 1 <= largest
    if word != 8 * WORD.itemsize or not possible:
        raise GalleryError("the index file has an impossible header", where=path, hint=_RESTORE)
    return layout, flags, count, largest, first, digest


def _load(file: BinaryIO, mmap: bool) -> npt.NDArray[np.uint8]:
    if mmap:
        return np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
    file.seek(0)
    return np.fromfile(file, dtype=np.uint8)


def _write(file: BinaryIO, layout: CodeLayout, largest: int, segments: Sequence[Segment]) -> None:
    first = _consecutive_from(segments)
    digest = hashlib.sha256()
    file.write(bytes(_HEADER_SIZE))
    for section in _sections(layout, segments, ids=first is None):
        size = 0
        for chunk in section:
            data = np.ascontiguousarray(chunk).view(np.uint8).data
            file.write(data)
            digest.update(data)
            size += len(data)
        padding = bytes(_padded(size) - size)
        file.write(padding)
        digest.update(padding)
    count = sum(segment.count - segment.removed for segment in segments)
    if first is not None:
        version, flags = 2, _ASCENDING | _CONSECUTIVE
    else:
        version, flags = 1, _ASCENDING if _live_ascending(segments) else 0
    header = _HEADER.pack(
        MAGIC,
        version,
        layout.bits,
        layout.concepts,
        8 * WORD.itemsize,
        flags,
        count,
        largest,
        digest.digest(),
        first or 0,
    ).ljust(_HEADER_SIZE - _CRC.size, b"\0")
    file.seek(0)
    file.write(header + _CRC.pack(zlib.crc32(header)))


def _sections(
    layout: CodeLayout, segments: Sequence[Segment], *, ids: bool
) -> Iterator[Iterator[npt.NDArray[Any]]]:
    """The live rows of each plane, then of the ids if they are wanted, in bounded pieces."""
    for word in range(-(-layout.bits // 64)):
        yield (piece for s in segments for piece in _pieces(s.planes[word], s))
    if ids:
        yield (piece for s in segments for piece in _ids(s))


def _pieces(column: npt.NDArray[Any], segment: Segment) -> Iterator[npt.NDArray[Any]]:
    for low in range(0, segment.count, _STEP):
        piece = column[low : low + _STEP]
        dead = segment.dead
        yield piece if dead is None else piece[~dead[low : low + _STEP]]


def _ids(segment: Segment) -> Iterator[npt.NDArray[np.int64]]:
    for low in range(0, segment.count, _STEP):
        rows = np.arange(low, min(low + _STEP, segment.count))
        dead = segment.dead
        yield ids_at(segment.ids, rows if dead is None else rows[~dead[low : low + _STEP]])


def _live_ascending(segments: Sequence[Segment]) -> bool:
    last = -1
    for segment in segments:
        for ids in _ids(segment):
            if len(ids) and (ids[0] <= last or not is_ascending(ids)):
                return False
            last = int(ids[-1]) if len(ids) else last
    return True


def _consecutive_from(segments: Sequence[Segment]) -> int | None:
    """The first live id, if all follow it one by one; None if not, or if there is none."""
    first = following = None
    for segment in segments:
        for ids in _ids(segment):
            if not len(ids):
                continue
            first = int(ids[0]) if first is None else first
            following = first if following is None else following
            if ids[0] != following or (np.diff(ids) != 1).any():
                return None
            following += len(ids)
    return first
