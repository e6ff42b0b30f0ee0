"""The database of a gallery: its tables, its identity, and how it is opened.

``application_id`` marks the file as a gallery's and ``user_version`` is the format's version, so
a foreign or newer file is told apart before any table is read. Tables:

- ``meta``: bits, concepts, bit order, model and fingerprint, gallery id, last segment used;
- ``images``: one row an image; ids are never reused, also not those of removed images;
- ``batches``: which ids lie where, with a crc32: ids ``first_id ..`` are rows ``first_row ..``;
- ``tombstones``: ids whose image is gone while its code still lies in a segment;
- ``sparse``: the segments with an ids file (:mod:`concepthash.runtime.records`). Only a gallery
  that was compacted, repaired or split has this table and with it version 2: all others are still
  read by a program that knows version 1.
"""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from concepthash.bundle import BIT_ORDER
from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, UsageError
from concepthash.files import sync_folder
from concepthash.runtime.records import SPARSE_VERSION
from concepthash.runtime.storage import beyond_repair, damaged

APPLICATION_ID = 0x43484147  # "CHAG"
FORMAT_VERSION = 1
"""Of a new gallery; :data:`concepthash.runtime.records.SPARSE_VERSION` is the newest."""
_BUSY_SECONDS = 10.0

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE images (
        id INTEGER PRIMARY KEY AUTOINCREMENT, path NOT NULL UNIQUE, label TEXT,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 BLOB NOT NULL)""",
    "CREATE INDEX images_by_content ON images (sha256)",
    """CREATE TABLE batches (
        first_id INTEGER PRIMARY KEY, segment INTEGER NOT NULL, first_row INTEGER NOT NULL,
        rows INTEGER NOT NULL, crc32 INTEGER NOT NULL)""",
    "CREATE TABLE tombstones (id INTEGER PRIMARY KEY)",
)


@dataclass(frozen=True)
class Identity:
    """What a gallery holds.

    Args:
        layout: of its codes.
        fingerprint: of the model that made them, 64 hexadecimal digits.
        model: the bundle's name, for people.
        gallery: 32 hexadecimal digits of its own, written into every segment.
    """

    layout: CodeLayout
    fingerprint: str
    model: str
    gallery: str


def create(file: Path, identity: Identity) -> None:
    """Write an empty database; a crash leaves a whole one or none."""
    aside = file.with_name(f"{file.name}.new")
    for side in ("", "-wal", "-shm"):
        aside.with_name(f"{aside.name}{side}").unlink(missing_ok=True)
    with closing(sqlite3.connect(aside, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = MEMORY")  # nothing beside it that could be left
        database.execute("BEGIN")
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        for table in _TABLES:
            database.execute(table)
        write_identity(database, identity)
        database.execute("INSERT INTO meta VALUES ('last_segment', '0')")
        database.execute("COMMIT")
        # A reader that is here before the first writer would keep that from changing the mode.
        database.execute("PRAGMA journal_mode = WAL")
    for side in ("-wal", "-shm"):  # of a deleted database; SQLite would replay them into this one
        file.with_name(f"{file.name}{side}").unlink(missing_ok=True)
    aside.replace(file)
    sync_folder(file.parent)


def new_gallery_id() -> str:
    """A random gallery id."""
    return secrets.token_hex(16)


def write_identity(database: sqlite3.Connection, identity: Identity) -> None:
    """Record what the gallery holds, inside the caller's transaction."""
    values = {
        "bits": identity.layout.bits,
        "concepts": identity.layout.concepts,
        "bit_order": BIT_ORDER,
        "fingerprint": identity.fingerprint,
        "model": identity.model,
        "gallery": identity.gallery,
    }
    database.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)", [(k, str(v)) for k, v in values.items()]
    )


def connect(file: Path, *, write: bool) -> sqlite3.Connection:
    """The database, opened to read or to write; a reader never changes the file.

    Raises:
        GalleryError: if the file is empty, no gallery's or of a newer format.
    """
    if not file.stat().st_size:
        raise beyond_repair("the database is empty", file)
    database = _connect(file, "mode=rw" if write else "mode=ro")
    try:
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
        except sqlite3.OperationalError:
            # A reader in a folder it cannot write has no place for the -shm file. Where no
            # -wal file has content there is no writer either: read the file as it is.
            log = file.with_name(f"{file.name}-wal")
            if write or (log.exists() and log.stat().st_size):
                raise
            database.close()
            database = _connect(file, "mode=ro&immutable=1")
            (application,) = database.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise _foreign(file)
        check_version(database, file)
        _check_tables(database, file)
        if write:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


def _connect(file: Path, query: str) -> sqlite3.Connection:
    database = sqlite3.connect(
        f"{file.resolve().as_uri()}?{query}",
        uri=True,
        isolation_level=None,
        timeout=_BUSY_SECONDS,
        check_same_thread=False,
    )
    # A gallery may come from elsewhere: what is defined in it calls no function with side effects.
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def check_version(database: sqlite3.Connection, file: Path) -> None:
    """Make sure that the gallery's format is one that is known.

    Raises:
        GalleryError: if it is not.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if not FORMAT_VERSION <= version <= SPARSE_VERSION:
        known = f"{FORMAT_VERSION} and {SPARSE_VERSION}"
        raise GalleryError(
            f"gallery format {version} is not one this version reads ({known})",
            where=file,
            hint="pip install --upgrade concepthash, or chash index PHOTOS --rebuild",
        )


def _check_tables(database: sqlite3.Connection, file: Path) -> None:
    """Refuse a database that runs statements of its own, which may never end.

    Raises:
        GalleryError: if there are views or triggers in it.
    """
    others = "SELECT COUNT(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')"
    if database.execute(others).fetchone()[0]:
        raise beyond_repair("there are views or triggers in the database, none of ours", file)


def _foreign(file: Path) -> GalleryError:
    return GalleryError(
        "an SQLite file, but not a gallery's",
        where=file,
        hint="give another place: chash index PHOTOS --out ANOTHER.chg",
    )


def refuse_foreign(file: Path) -> None:
    """Make sure that a file about to be deleted is not some other program's database.

    Raises:
        GalleryError: if it is readable and not a gallery's.
    """
    if not file.exists() or not file.stat().st_size:
        return
    with closing(_connect(file, "mode=ro&immutable=1")) as database, suppress(sqlite3.Error):
        (application,) = database.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise _foreign(file)


def read_identity(database: sqlite3.Connection, file: Path) -> Identity:
    """What the gallery says it holds.

    Raises:
        GalleryError: if the record is incomplete.
    """
    meta = dict(database.execute("SELECT key, value FROM meta"))
    try:
        if not all(isinstance(value, str) for value in meta.values()):
            raise ValueError("a value is not text")
        if meta["bit_order"] != BIT_ORDER:
            raise UsageError(f"unknown bit order {meta['bit_order']!r}")
        layout = CodeLayout(int(meta["bits"]), int(meta["concepts"]))
        bytes.fromhex(meta["gallery"])
        return Identity(layout, meta["fingerprint"], meta["model"], meta["gallery"])
    except (KeyError, ValueError, UsageError) as error:
        raise damaged(f"the gallery's record of itself is damaged: {error}", file) from None
