"""What can still be read of a damaged database, as a new one."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from concepthash.errors import GalleryError
from concepthash.files import sync_folder
from concepthash.runtime import records, schema
from concepthash.runtime.storage import beyond_repair, storage_errors

_TABLES = {
    "images": "id, path, label, size, mtime_ns, sha256",
    "batches": "first_id, segment, first_row, rows, crc32",
    "tombstones": "id",
    "sparse": "segment",
}
_SIDES = ("-wal", "-shm", "-journal")


def salvage(file: Path, aside: Path) -> int:
    """Replace a damaged database by what can be read of it; how many images that lost.

    The old files are copied to the folder ``aside`` first. For the only writer.

    Raises:
        GalleryError: if what the gallery is can no longer be read; nothing is changed then.
    """
    with storage_errors(file):
        fresh = aside / "salvaged.sqlite"
        lost = _rescue(file, fresh)
        for side in ("", *_SIDES):
            part = file.with_name(file.name + side)
            if part.exists():
                shutil.copy2(part, aside)
        sync_folder(aside)
        for side in _SIDES:  # SQLite would replay them into the new database
            file.with_name(file.name + side).unlink(missing_ok=True)
        fresh.replace(file)
        sync_folder(file.parent)
    return lost


def _rescue(file: Path, into: Path) -> int:
    """Write the rows that can be read into a new database; how many images are missing."""
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as old:
        old.text_factory = _text
        old.execute("PRAGMA writable_schema = ON")  # go on where the list of tables is damaged
        try:
            identity = schema.read_identity(old, file)
            query = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'last_segment'"
            (last_segment,) = old.execute(query).fetchone()
        except (sqlite3.Error, GalleryError, TypeError, ValueError):
            raise beyond_repair("the database's record of itself is damaged", file) from None
        schema.create(into, identity)
        with closing(sqlite3.connect(into)) as new, new:
            new.execute("UPDATE meta SET value = ? WHERE key = 'last_segment'", (last_segment,))
            new.execute(records.SPARSE_TABLE)
            new.execute(f"PRAGMA user_version = {records.SPARSE_VERSION}")
            for table, columns in _TABLES.items():
                places = ", ".join("?" * (columns.count(",") + 1))
                for row in _readable(old, table, columns):
                    with suppress(sqlite3.Error):  # a path twice, or no value where one must be
                        new.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)
            _count_on(old, new)
            rows = "(SELECT COALESCE(SUM(rows), 0) FROM batches)"
            gone = "(SELECT COUNT(*) FROM tombstones)"
            there = "(SELECT COUNT(*) FROM images)"
            (lost,) = new.execute(f"SELECT {rows} - {gone} - {there}").fetchone()
    return max(0, int(lost))


def _count_on(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Let ids continue after the largest one ever given."""
    query = "SELECT MAX(id) FROM (SELECT MAX(id) AS id FROM tombstones UNION "
    query += "SELECT MAX(first_id + rows - 1) FROM batches UNION SELECT MAX(id) FROM images)"
    (largest,) = new.execute(query).fetchone()
    with suppress(sqlite3.Error, TypeError):
        (given,) = old.execute("SELECT MAX(seq) FROM sqlite_sequence").fetchone()
        largest = max(largest or 0, given)
    new.execute("DELETE FROM sqlite_sequence")
    new.execute("INSERT INTO sqlite_sequence VALUES ('images', ?)", (largest or 0,))


def _readable(database: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table in key order; what cannot be read is skipped in widening steps."""
    key = columns.split(",")[0]
    query = f"SELECT {columns} FROM {table} NOT INDEXED WHERE {key} >= ? ORDER BY {key}"
    at, step = 0, 1
    while at < records.LARGEST:
        with suppress(sqlite3.Error, UnicodeDecodeError):
            for row in database.execute(query, (at,)):
                yield row
                if row[0] >= at:  # in a damaged tree keys need not ascend
                    at, step = row[0] + 1, 1
            return
        at, step = at + step, 2 * step


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
