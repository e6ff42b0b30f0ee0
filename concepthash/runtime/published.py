"""What a published gallery says of itself, and a gallery's files as one moment has them.

::

    URL/published.json   {"schema": "chash.published/1", "previous": ["...", ...],
                          "fingerprint": "...", "galleries": ["...", ...],
                          "files": [{"path": "gallery.sqlite", "bytes": 53248, "sha256": "..."},
                                    ...]}
    URL/content/SHA256   the content of a file, under its SHA-256

A content never changes and the manifest is written last, so a reader sees the old state or the new
one. ``previous`` names what the state before had: it is kept, for readers who began with that.
``fingerprint`` is that of the model and ``galleries`` are the ids of the gallery or of its shards:
a push tells by them whether it would replace another one.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from concepthash.errors import GalleryDamaged, GalleryError
from concepthash.runtime import records, schema
from concepthash.runtime.codefiles import HEADER_BYTES, CodeFiles
from concepthash.runtime.galleries import is_sharded
from concepthash.runtime.place import DATABASE, SEGMENTS, TABLES
from concepthash.runtime.shardfile import Manifest as ShardManifest
from concepthash.runtime.sharding import require_shard
from concepthash.runtime.storage import SHARDS, damaged, storage_errors
from concepthash.runtime.tablestore import SUFFIX as TABLES_SUFFIX

SCHEMA = "chash.published/1"
MANIFEST = "published.json"
CONTENT = "content"
"""Where contents lie, at the URL."""
MANIFEST_BYTES = 32 << 20
"""A manifest of the most files takes less."""
_FILES = 100_000
_FILE_BYTES = 1 << 42
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}(?<!\.)")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_DEEPEST = 4
DIGEST = re.compile("[0-9a-f]{64}")
_CHUNK = 1 << 20
_TRIES = 3


@dataclass(frozen=True)
class File:
    """A file of a gallery: where below its folder, how large, and its SHA-256."""

    path: str
    bytes: int
    sha256: str

    @property
    def content(self) -> str:
        """The name of its content at the URL."""
        return f"{CONTENT}/{self.sha256}"


@dataclass(frozen=True)
class Manifest:
    """The files of a published gallery, in the order of their paths, and what it had before.

    Args:
        files: of this state.
        previous: contents of the one before.
        fingerprint: of the model; empty if it is not told.
        galleries: ids of the gallery or of its shards.
    """

    files: tuple[File, ...]
    previous: tuple[str, ...] = ()
    fingerprint: str = ""
    galleries: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The file it is written as; the same for the same gallery."""
        values = {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "galleries": list(self.galleries),
            "files": [asdict(file) for file in self.files],
            "previous": list(self.previous),
        }
        return json.dumps(values, indent=1).encode() + b"\n"

    @property
    def version(self) -> str:
        """A name of this state of the files: 32 hexadecimal digits."""
        return hashlib.sha256(Manifest(self.files).encode()).hexdigest()[:32]

    @classmethod
    def decode(cls, data: bytes, where: str) -> Manifest:
        """A manifest that was read; every path in it is one below the gallery's folder.

        Raises:
            GalleryDamaged: on ``where``, if it is damaged or hostile.
            GalleryError: if it is of a newer form.
        """
        try:
            if len(data) > MANIFEST_BYTES:
                raise ValueError(f"larger than {MANIFEST_BYTES >> 20} MiB")
            return cls._decoded(json.loads(data), where)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise GalleryDamaged(
                f"not what a push writes: {what}"[:200],
                where=where,
                hint="chash index push GALLERY URL --force writes it anew",
            ) from None

    @classmethod
    def _decoded(cls, values: Any, where: str) -> Manifest:
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
        if re.fullmatch(r"chash\.published/[0-9]{1,9}", str(values["schema"])) is None:
            raise ValueError(f"its schema is {values['schema']!r:.60}")
        if values["schema"] != SCHEMA:
            raise GalleryError(
                f"a gallery of the form {values['schema']} is newer than this version reads",
                where=where,
                hint="pip install --upgrade concepthash",
            )
        listed, previous = values["files"], values.get("previous", [])
        galleries = values.get("galleries", [])
        if not all(isinstance(each, list) for each in (listed, previous, galleries)):
            raise ValueError("its files are no list")
        if max(map(len, (listed, previous, galleries))) > _FILES:
            raise ValueError(f"more than {_FILES} files")
        files = tuple(_file(each) for each in listed)
        _check_paths([file.path for file in files])
        told = values.get("fingerprint", "")
        fingerprint = _digest(told) if told else ""
        before = tuple(_digest(each) for each in previous)
        return cls(files, before, fingerprint, tuple(map(str, galleries)))


def _file(values: Any) -> File:
    if not isinstance(values, dict):
        raise ValueError("a file is not a JSON object")
    path, size = values["path"], values["bytes"]
    if not isinstance(path, str) or not _is_plain(path):
        raise ValueError(f"{path!r:.80} is not a path within a gallery")
    if type(size) is not int or not 0 <= size <= _FILE_BYTES:
        raise ValueError(f"{path} cannot have {size!r:.40} bytes")
    return File(path, size, _digest(values["sha256"]))


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no SHA-256")
    return value


def _is_plain(path: str) -> bool:
    """Whether a path is relative, goes down only, and means one file on every system."""
    parts = path.split("/")
    return len(parts) <= _DEEPEST and all(
        _NAME.fullmatch(part) and not _DEVICES.fullmatch(part) for part in parts
    )


def _check_paths(paths: Sequence[str]) -> None:
    """Refuse files that would be one, where case does not count, or a file and a folder."""
    seen: set[str] = set()
    for path in map(str.lower, paths):
        if path in seen:
            raise ValueError(f"{path} is listed twice")
        seen.add(path)
    for path in seen:
        above = path.rpartition("/")[0]
        while above:
            if above in seen:
                raise ValueError(f"{above} is a file and a folder")
            above = above.rpartition("/")[0]
    if not seen & {DATABASE, SHARDS}:
        raise ValueError(f"neither {DATABASE} nor {SHARDS} is among its files")


@dataclass(frozen=True)
class Source:
    """A file to publish: its path there, and the first bytes of an open file.

    Of a database it says what the gallery holds.
    """

    path: str
    file: BinaryIO
    size: int
    identity: schema.Identity | None = None

    def read(self) -> Iterator[bytes]:
        """Its content, piece by piece.

        Raises:
            GalleryError: if it is shorter than was committed.
        """
        self.file.seek(0)
        left = self.size
        while left:
            piece = self.file.read(min(left, _CHUNK))
            if not piece:
                raise damaged("the file is shorter than was committed", Path(self.file.name))
            left -= len(piece)
            yield piece

    def described(self) -> File:
        """It, with its digest: reads all of it."""
        digest = hashlib.sha256()
        for piece in self.read():
            digest.update(piece)
        return File(self.path, self.size, digest.hexdigest())


@contextmanager
def snapshot(gallery: Path) -> Iterator[list[Source]]:
    """The files of a gallery at one moment, whatever a writer does meanwhile.

    The database is copied to the folder for temporary files; the others are held open.

    Raises:
        GalleryError: if it is missing, damaged or cannot be read.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="chash-push-") as temporary:
        copies = Path(temporary)
        if not is_sharded(gallery):
            yield _ordinary(gallery, "", copies, stack)
            return
        manifest = ShardManifest.read(gallery)
        with storage_errors(gallery / SHARDS, reading=True):
            listed = stack.enter_context((gallery / SHARDS).open("rb"))
            size = (gallery / SHARDS).stat().st_size
        sources = [Source(SHARDS, listed, size)]
        for shard in manifest.shards:
            require_shard(gallery, shard.name)
            sources += _ordinary(gallery / shard.name, f"{shard.name}/", copies, stack)
        yield sources


def _ordinary(folder: Path, prefix: str, copies: Path, stack: ExitStack) -> list[Source]:
    """The files of an ordinary gallery, or of a shard."""
    file = folder / DATABASE
    if not file.is_file():
        raise GalleryError(
            f"not a gallery: no {DATABASE} in it" if folder.exists() else "no such gallery",
            where=folder,
            hint="chash index PHOTOS makes one",
        )
    for left in reversed(range(_TRIES)):  # a writer may take a segment away between the two
        with (
            storage_errors(file, reading=True),
            closing(schema.connect(file, write=False)) as database,
        ):
            database.execute("BEGIN")
            try:
                sources = list(_segments(folder, prefix, database, stack))
            except (GalleryError, FileNotFoundError):
                if not left:
                    raise
                continue
            sources += _tables(folder, prefix, stack)
            copy = _copied(database, copies / f"{len(list(copies.iterdir()))}.sqlite")
            opened = stack.enter_context(copy.open("rb"))
            identity = schema.read_identity(database, file)
            size = copy.stat().st_size
            return [Source(f"{prefix}{DATABASE}", opened, size, identity), *sources]
    raise AssertionError("the last try returns or raises")


def _segments(
    folder: Path, prefix: str, database: sqlite3.Connection, stack: ExitStack
) -> Iterator[Source]:
    file = folder / DATABASE
    identity = schema.read_identity(database, file)
    files = CodeFiles(folder / SEGMENTS, identity.layout, bytes.fromhex(identity.gallery))
    for extent in records.extents(database, file):
        files.check(extent.segment, extent.rows)
        wanted = [(files.path(extent.segment), files.size(extent.rows))]
        if extent.sparse:
            wanted.append((files.ids_path(extent.segment), HEADER_BYTES + 8 * extent.rows))
        for path, size in wanted:
            opened = stack.enter_context(path.open("rb"))
            yield Source(f"{prefix}{SEGMENTS}/{path.name}", opened, size)


def _tables(folder: Path, prefix: str, stack: ExitStack) -> Iterator[Source]:
    """Its search tables; they say themselves whether they fit."""
    for path in sorted((folder / TABLES).glob(f"*{TABLES_SUFFIX}")):
        opened = stack.enter_context(path.open("rb"))
        yield Source(f"{prefix}{TABLES}/{path.name}", opened, path.stat().st_size)


def _copied(database: sqlite3.Connection, path: Path) -> Path:
    """A copy of the database as the connection's moment has it, that needs no file beside it."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise GalleryError(
            f"the database cannot be copied: {error}",
            where=path.parent,
            hint="free some space there, or name another folder by TMPDIR=FOLDER",
        ) from None
    return path
