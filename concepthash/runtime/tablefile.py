"""The file of search tables: mapped, checked before use, and bound to the codes it is of.

Little-endian::

      0  8s   magic          28  I    runs
      8  I    version        32  32s  SHA-256 of the key
     12  I    bits          124  I    CRC-32 of the header before it and of the list of runs
     16  I    concepts      128  qqqII a run: first row, rows, bytes, CRC-32 of its bytes, 0
     20  I    flags              the list is padded to 64 bytes; the blocks of the runs follow

Flag 1: sub-codes are copied beside the row numbers. What is in a block is the kernel's business; a
change of it is a new version.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryDamaged, GalleryError, UsageError
from concepthash.files import reason, replacing

MAGIC = b"\x89CHMIH\r\n"
VERSION = 1

_HEADER = struct.Struct("<8sIIIIII32s")
_HEADER_SIZE = 128
_RUN = struct.Struct("<qqqII")
_CRC = struct.Struct("<I")
_COPIED = 1
_STEP = 1 << 26
DAMAGED = "the tables are damaged: their contents do not match their checksum"
_AGAIN = "build the tables again: chash index --accelerate"


class Run(NamedTuple):
    """Tables of the rows ``first .. first + rows``, in a block of bytes laid out by the kernel.

    ``checksum`` is the one its file tells, None if it was built here.
    """

    first: int
    rows: int
    block: npt.NDArray[np.uint8]
    checksum: int | None = None


class TableFile(NamedTuple):
    """A file that was opened."""

    layout: CodeLayout
    copied: bool
    runs: tuple[Run, ...]


def read(path: Path, key: bytes | str) -> TableFile:
    """Map a file of tables.

    Raises:
        GalleryDamaged: if it is truncated or damaged.
        GalleryError: if it is missing, from another version, or of other codes.
    """
    try:
        with path.open("rb") as file:
            data = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise GalleryError(
            f"the tables cannot be read: {reason(error)}", where=path, hint=_AGAIN
        ) from error
    except ValueError:  # numpy's of an empty file
        raise GalleryDamaged("the file of tables is empty", where=path, hint=_AGAIN) from None
    header = data[:_HEADER_SIZE].tobytes()
    if header[: len(MAGIC)] != MAGIC or len(header) < _HEADER_SIZE:
        raise GalleryDamaged(
            "this is no file of tables, or a truncated one", where=path, hint=_AGAIN
        )
    _, version, bits, concepts, flags, _, count, digest = _HEADER.unpack_from(header)
    if version != VERSION:
        raise GalleryError(
            f"the tables have format version {version}, this program reads version {VERSION}",
            where=path,
            hint=_AGAIN,
        )
    start = _HEADER_SIZE + _padded(_RUN.size * count)
    listed = data[_HEADER_SIZE:start].tobytes()
    sealed = _HEADER_SIZE - _CRC.size
    if zlib.crc32(listed, zlib.crc32(header[:sealed])) != _CRC.unpack_from(header, sealed)[0]:
        raise GalleryDamaged("the tables have a damaged header", where=path, hint=_AGAIN)
    if digest != _digest(key):
        raise GalleryError("the tables are of other codes", where=path, hint=_AGAIN)
    runs = []
    for first, rows, size, told, _ in _RUN.iter_unpack(listed[: _RUN.size * count]):
        runs.append(Run(first, rows, data[start : start + size], told))
        start += size
    if start != len(data):
        raise GalleryDamaged(
            f"the tables have {len(data)} bytes instead of {start}: truncated or overwritten",
            where=path,
            hint=_AGAIN,
        )
    try:
        layout = CodeLayout(bits, concepts)
    except UsageError as error:
        raise GalleryDamaged(
            f"the tables have an impossible layout: {error.what}", where=path, hint=_AGAIN
        ) from error
    return TableFile(layout, bool(flags & _COPIED), tuple(runs))


def write(
    path: Path, key: bytes | str, layout: CodeLayout, copied: bool, runs: Sequence[Run]
) -> None:
    """Write tables: to a temporary name, fsynced, then renamed.

    Raises:
        GalleryError: if the file cannot be written; an earlier file of that name is then intact.
    """
    listed = b"".join(
        _RUN.pack(run.first, run.rows, run.block.nbytes, checksum(run.block), 0) for run in runs
    )
    listed = listed.ljust(_padded(len(listed)), b"\0")
    flags = _COPIED if copied else 0
    header = _HEADER.pack(
        MAGIC, VERSION, layout.bits, layout.concepts, flags, 0, len(runs), _digest(key)
    ).ljust(_HEADER_SIZE - _CRC.size, b"\0")
    try:
        with replacing(path) as file:
            file.write(header + _CRC.pack(zlib.crc32(listed, zlib.crc32(header))) + listed)
            for run in runs:
                file.write(run.block.data)
    except OSError as error:
        raise GalleryError(
            f"the tables cannot be written: {reason(error)}",
            where=path,
            hint="check free space and permissions of the folder, then build them again",
        ) from error


def checksum(block: npt.NDArray[np.uint8]) -> int:
    """CRC-32 of the bytes of a run."""
    value = 0
    for low in range(0, len(block), _STEP):
        value = zlib.crc32(block[low : low + _STEP].data, value)
    return value


def damaged(path: Path) -> GalleryDamaged:
    """What to raise when a block does not match its checksum."""
    return GalleryDamaged(DAMAGED, where=path, hint=_AGAIN)


def _digest(key: bytes | str) -> bytes:
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).digest()


def _padded(size: int) -> int:
    return -(-size // 64) * 64
