"""Which rows of which segment hold the codes of which ids, as a gallery's database records it.

A commit is recorded as *batches*: rows that lie together, with consecutive ids and one checksum.
All batches of a segment are its *extent*. Only a rewritten segment (removed rows left out) has gaps
in its ids; those are in a file beside it, and the ``sparse`` table names the segment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.runtime.storage import damaged, storage_errors

SPARSE_VERSION = 2
"""The format of a gallery with a ``sparse`` table."""

SPARSE_TABLE = "CREATE TABLE IF NOT EXISTS sparse (segment INTEGER PRIMARY KEY)"
LARGEST = 2**63 - 1
"""Above every id."""
_LIMIT = 1 << 48  # no gallery is larger: a number above it is damage, and would overflow in sums
_BATCHES = "SELECT first_id, segment, first_row, rows, crc32 FROM batches"


@dataclass(frozen=True)
class Batch:
    """Rows ``first_row ..`` of a segment and the crc32 of their codes.

    ``first_id`` is the id of the first; the others follow it. In a sparse segment they need not,
    and the crc32 is that of the ids (int64) and the codes after them.
    """

    first_id: int
    segment: int
    first_row: int
    rows: int
    crc32: int


@dataclass(frozen=True)
class Extent:
    """What was committed to one segment.

    Args:
        segment: its number.
        rows: how many codes it has, removed ones too.
        first_id: of its first row.
        sparse: whether its ids are in a file; else they follow one another.
    """

    segment: int
    rows: int
    first_id: int
    sparse: bool = False


def extents(database: sqlite3.Connection, file: Path) -> list[Extent]:
    """All segments, in id order; the records are checked, the segments are not looked at.

    Raises:
        GalleryError: if the records contradict each other.
    """
    table = numbers(database, file, _BATCHES + " ORDER BY first_id", columns=5)
    first_id, segment, first_row, rows, _ = table.T
    gaps = sparse(database, file)
    if not len(table):
        return []
    starts = np.flatnonzero(np.concatenate(([True], segment[1:] != segment[:-1])))
    ends = np.concatenate((starts[1:], [len(table)]))
    gap = first_id[1:] - first_id[:-1] - rows[:-1]
    expected_row = np.cumsum(rows) - rows
    expected_row -= np.repeat(expected_row[starts], ends - starts)
    joined = (segment[1:] == segment[:-1]) & ~np.isin(segment[1:], list(gaps))
    sound = (
        len(np.unique(segment[starts])) == len(starts)
        and (first_row == expected_row).all()
        and ((rows > 0) & (rows < _LIMIT)).all()
        and ((first_id > 0) & (first_id < _LIMIT)).all()
        and (gap >= 0).all()
        and not gap[joined].any()
    )
    if not sound:
        raise damaged("the records of the codes contradict each other", file)
    counts = np.add.reduceat(rows, starts)
    found = zip(segment[starts].tolist(), counts.tolist(), first_id[starts].tolist(), strict=True)
    return [Extent(number, count, first, number in gaps) for number, count, first in found]


def sparse(database: sqlite3.Connection, file: Path) -> set[int]:
    """The segments with an ids file."""
    with storage_errors(file):
        if not sparse_table(database):
            return set()
    query = "SELECT segment FROM sparse"
    return set(numbers(database, file, query, columns=1).ravel().tolist())


def sparse_table(database: sqlite3.Connection) -> bool:
    """Whether the gallery can have sparse segments."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    return bool(version >= SPARSE_VERSION)


def batches(database: sqlite3.Connection, file: Path, segment: int) -> list[Batch]:
    """The batches of a segment, in row order."""
    query = f"{_BATCHES} WHERE segment = ? ORDER BY first_row"
    return [Batch(*row) for row in numbers(database, file, query, segment, columns=5).tolist()]


def batch_of(database: sqlite3.Connection, file: Path, id: int) -> Batch | None:
    """The batch that has an id, if any has."""
    query = f"{_BATCHES} WHERE first_id <= ? ORDER BY first_id DESC LIMIT 1"
    for row in numbers(database, file, query, id, columns=5).tolist():
        return Batch(*row)
    return None


def last_batch(database: sqlite3.Connection, file: Path) -> Batch | None:
    """The batch that new codes may follow: the one of the highest ids, unless it is sparse."""
    last = batch_of(database, file, LARGEST)
    return None if last is None or last.segment in sparse(database, file) else last


def write_batches(database: sqlite3.Connection, new: Iterable[Batch]) -> None:
    """Record batches, in the caller's transaction; one that goes on replaces its shorter self."""
    for batch in new:
        database.execute(
            "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?)",
            (batch.first_id, batch.segment, batch.first_row, batch.rows, batch.crc32),
        )
        database.execute(
            "UPDATE meta SET value = ? WHERE key = 'last_segment' AND CAST(value AS INTEGER) < ?",
            (str(batch.segment), batch.segment),
        )


def write_sparse(database: sqlite3.Connection, segment: int) -> None:
    """Record that a segment has an ids file, in the caller's transaction."""
    database.execute(SPARSE_TABLE)
    database.execute(f"PRAGMA user_version = {SPARSE_VERSION}")
    database.execute("INSERT OR REPLACE INTO sparse VALUES (?)", (segment,))


def forget(database: sqlite3.Connection, file: Path, segments: Iterable[int]) -> None:
    """Delete the records of segments, in the caller's transaction."""
    numbered = [(segment,) for segment in segments]
    with_ids = sparse(database, file)
    database.executemany("DELETE FROM batches WHERE segment = ?", numbered)
    if with_ids:
        database.executemany("DELETE FROM sparse WHERE segment = ?", numbered)


def numbers(
    database: sqlite3.Connection, file: Path, query: str, *values: int, columns: int
) -> npt.NDArray[np.int64]:
    """The answer of a query as ``(n, columns)`` int64.

    Raises:
        GalleryError: if it has anything but whole numbers, as a damaged database may.
    """
    with storage_errors(file):
        rows = database.execute(query, values)
        flat = (_whole(value, file) for row in rows for value in row)
        return np.fromiter(flat, dtype=np.int64).reshape(-1, columns)


def _whole(value: object, file: Path) -> int:
    if type(value) is not int:
        raise damaged(f"the database has {value!r} where a number should be", file)
    return value


def removed(
    database: sqlite3.Connection, file: Path, extent: Extent, end: int
) -> npt.NDArray[np.int64]:
    """The removed ids from an extent's first id up to ``end``, ascending."""
    query = "SELECT id FROM tombstones WHERE id >= ? AND id < ? ORDER BY id"
    return numbers(database, file, query, extent.first_id, end, columns=1).ravel()


def known_ids(
    database: sqlite3.Connection, file: Path, first_id: int, end: int
) -> npt.NDArray[np.int64]:
    """The ids from ``first_id`` to ``end`` of images that are there or were removed, ascending."""
    query = (
        "SELECT id FROM images WHERE id >= ?1 AND id < ?2 "
        "UNION SELECT id FROM tombstones WHERE id >= ?1 AND id < ?2 ORDER BY id"
    )
    return numbers(database, file, query, first_id, end, columns=1).ravel()


def ends(extents: list[Extent]) -> Iterator[tuple[Extent, int]]:
    """Each extent with an id above its last and at most that of the next extent's first."""
    for number, extent in enumerate(extents):
        later = extents[number + 1].first_id if number + 1 < len(extents) else LARGEST
        yield extent, later if extent.sparse else extent.first_id + extent.rows
