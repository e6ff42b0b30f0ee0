"""What is wrong with a gallery: bytes against their checksums, records against each other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from concepthash.errors import GalleryError, GalleryLocked, GalleryUnreadable
from concepthash.runtime import records
from concepthash.runtime.codefiles import CodeFiles
from concepthash.runtime.entries import Damage
from concepthash.runtime.place import TABLES
from concepthash.runtime.records import Extent
from concepthash.runtime.storage import storage_errors

if TYPE_CHECKING:
    from concepthash.runtime.snapshot import Snapshot


def damage(
    gallery: Snapshot, database: sqlite3.Connection, files: CodeFiles, file: Path
) -> Iterator[Damage]:
    """Everything wrong with a gallery's files.

    The database has no checksums of its own: SQLite checks its structure, we check the values and
    that images and codes add up. A flipped bit within a path or a label is not noticed.

    Raises:
        GalleryUnreadable, GalleryLocked: if a file cannot be looked at, which says nothing of it.
    """
    from concepthash.runtime import tablestore

    tables = file.parent / TABLES
    try:
        for line in corruption(database, file):
            yield Damage(file, line)
        extents = records.extents(database, file)
        for _ in gallery.entries():
            pass  # each is whole
        yield from (Damage(file, what) for what in _strays(database, file, extents))
        for extent, end in records.ends(extents):
            batches = records.batches(database, file, extent.segment)
            broken = [Damage(*found) for found in files.damage(extent, batches)]
            yield from broken
            if not broken:
                yield from (
                    Damage(file, what) for what in differences(database, file, files, extent, end)
                )
        owner = files.gallery.hex()
        yield from (Damage(*found) for found in tablestore.damage(tables, owner, extents))
    except (GalleryUnreadable, GalleryLocked):
        raise
    except GalleryError as error:
        yield Damage(file, error.what)


def corruption(database: sqlite3.Connection, file: Path) -> Iterator[str]:
    """What SQLite finds wrong with the database."""
    with storage_errors(file):
        for (line,) in database.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield str(line)


def _strays(database: sqlite3.Connection, file: Path, extents: list[Extent]) -> Iterator[str]:
    """Images, there or removed, that no codes belong to."""
    both = "SELECT COUNT(*) FROM images WHERE id IN (SELECT id FROM tombstones)"
    twice = records.numbers(database, file, both, columns=1)[0, 0]
    if twice:
        yield f"{twice} images are there and removed"
    at = 0
    for extent, end in [*records.ends(extents), (None, 0)]:
        below = extent.first_id if extent else records.LARGEST
        for table in ("images", "tombstones"):
            if count := _count(database, file, table, at, below):
                yield f"{count} of the {table} with ids from {at} on have no codes"
        at = end


def differences(
    database: sqlite3.Connection, file: Path, files: CodeFiles, extent: Extent, end: int
) -> Iterator[str]:
    """Where the codes of a segment and its images, up to id ``end``, do not add up."""
    images = _count(database, file, "images", extent.first_id, end)
    removed = _count(database, file, "tombstones", extent.first_id, end)
    if images + removed != extent.rows:
        yield f"{images} images have {extent.rows - removed} codes"
    elif extent.sparse:
        known = records.known_ids(database, file, extent.first_id, end)
        if not np.array_equal(files.map_ids(extent.segment, extent.rows), known):
            yield f"the ids of segment {extent.segment} are not those of its images"


def _count(database: sqlite3.Connection, file: Path, table: str, first: int, end: int) -> int:
    query = f"SELECT COUNT(*) FROM {table} WHERE id >= ? AND id < ?"
    return int(records.numbers(database, file, query, first, end, columns=1)[0, 0])
