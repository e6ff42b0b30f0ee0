"""Binary index files of faiss, read and written without it.

Little-endian, as faiss's ``index_write.cpp`` writes them on the machines it runs on::

    kind 4s, bits i32, bytes of a code i32, count i64, trained u8, metric i32
    IBxF        IndexBinaryFlat: size u64, the codes, one after the other
    IBMp, IBM2  IndexBinaryIDMap and 2: another index, then count u64, ids i64

The bytes of a code are those of ours.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from concepthash.errors import GalleryError
from concepthash.files import replacing
from concepthash.runtime.foreign import Content, in_blocks, unreadable
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.resharding import pieces

_HEADER = struct.Struct("<4siiqBi")
_SIZE = struct.Struct("<Q")
_FLAT, _MAPS = b"IBxF", (b"IBMp", b"IBM2")
_L2 = 1  # the metric that faiss writes for every binary index


def read(path: Path) -> Content:
    """The codes of an IndexBinaryFlat, or of one under an IndexBinaryIDMap.

    Raises:
        GalleryError: if the file is truncated, damaged or another kind of index.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        kind, bits, width, count = _header(file, path)
        mapped = kind in _MAPS
        if mapped and _header(file, path) != (_FLAT, bits, width, count):
            raise unreadable(path, "the id map does not fit the index under it")
        if bits < 8 or bits != 8 * width or count < 0:
            raise unreadable(path, f"{count} codes of {bits} bits in {width} bytes")
        _expect(file, count * width, path)
        codes_at = file.tell()
        if mapped:
            file.seek(count * width, 1)
            _expect(file, count, path)
        size, end = path.stat().st_size, file.tell() + (8 * count if mapped else count * width)
        if size != end:
            raise unreadable(path, f"{size} bytes instead of {end}")
        if not count:
            return Content(bits, None, iter(()))
    codes = np.memmap(path, np.uint8, "r", codes_at, (count, width))
    ids = np.memmap(path, "<i8", "r", end - 8 * count, (count,)) if mapped else None
    return Content(bits, None, in_blocks(codes, ids))


def write(path: Path, index: HammingIndex) -> None:
    """Write an IndexBinaryFlat, under an IndexBinaryIDMap unless the ids are 0, 1, 2, ...

    Raises:
        OSError: if the file cannot be written; an earlier one is then intact.
    """
    count, width = len(index), index.layout.nbytes
    head = (index.bits, width, count, 1, _L2)
    mapped = not np.array_equal(index.ids, np.arange(count))
    with replacing(path) as file:
        if mapped:
            file.write(_HEADER.pack(_MAPS[0], *head))
        file.write(_HEADER.pack(_FLAT, *head) + _SIZE.pack(count * width))
        for codes, _ in pieces(index):
            file.write(codes.tobytes())
        if mapped:
            file.write(_SIZE.pack(count))
            for _, ids in pieces(index):
                file.write(ids.astype("<i8", copy=False).tobytes())


def _header(file: BinaryIO, path: Path) -> tuple[bytes, int, int, int]:
    head = file.read(_HEADER.size)
    kind = head[:4]
    if kind not in (_FLAT, *_MAPS):
        raise GalleryError(
            f"not a flat binary index of faiss ({kind!r})",
            where=path,
            hint="faiss.write_index_binary of an IndexBinaryFlat or IndexBinaryIDMap",
        )
    if len(head) < _HEADER.size:
        raise unreadable(path, "truncated")
    _, bits, width, count, _, _ = _HEADER.unpack(head)
    return kind, bits, width, count


def _expect(file: BinaryIO, size: int, path: Path) -> None:
    raw = file.read(_SIZE.size)
    if len(raw) < _SIZE.size or _SIZE.unpack(raw)[0] != size:
        raise unreadable(path, "truncated or overwritten")
