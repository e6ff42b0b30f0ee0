"""The gallery: images and their codes in one folder, safe against a pulled plug.

::

    NAME.chg/
      gallery.sqlite      what is in the gallery (:mod:`concepthash.runtime.schema`), WAL mode
      segments/*.codes    the codes (:mod:`concepthash.runtime.codefiles`), only appended to
      lock                held by the one writer

A commit appends codes, flushes them to disk, then commits the database: that is the moment the
images are in the gallery. A writer that is killed before it leaves bytes nobody refers to.

An id belongs to a content: a file that moves keeps its id, one whose content changes gets a new
one. Ids ascend in the order of the codes, so their order is stored nowhere.

Paths are kept relative to the folder that holds the gallery where they lie below it, absolute
otherwise: photos and gallery move together, or the gallery moves alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryError, MismatchError, UsageError
from concepthash.runtime import schema
from concepthash.runtime.codefiles import SEGMENT_BYTES, CodeFiles, Run
from concepthash.runtime.entries import Entry, valid_text
from concepthash.runtime.schema import Identity
from concepthash.runtime.snapshot import DATABASE, Snapshot
from concepthash.runtime.storage import storage_errors, writer_lock

SUFFIX = ".chg"
SEGMENTS = "segments"
LOCK = "lock"

_OURS = {LOCK, SEGMENTS, f"{DATABASE}.new", f"{DATABASE}-wal", f"{DATABASE}-shm"}


class Gallery(Snapshot):
    """An open gallery: make one with :meth:`create` or :meth:`open`, use it in a ``with`` block.

    A reader sees the gallery as it was when opened, whatever a writer does meanwhile, until
    :meth:`refresh`. There is one writer at a time, and any number of readers.
    """

    def __init__(
        self,
        path: Path,
        database: sqlite3.Connection,
        identity: Identity,
        files: CodeFiles,
        *,
        write: bool,
    ) -> None:
        super().__init__(path, database, identity, files)
        self._write = write
        self._held = ExitStack()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layout: CodeLayout,
        fingerprint: str,
        model: str,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Gallery:
        """A new, empty gallery, open to write.

        Raises:
            GalleryError: if the folder holds a gallery or other files already.
            GalleryLocked: if another process is creating it.
        """
        folder = Path(path)
        with storage_errors(folder):
            _refuse(folder, _names(folder) - _OURS)
            (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
            with writer_lock(folder / LOCK):
                _refuse(folder, _names(folder) & {DATABASE})  # another writer may have been first
                identity = Identity(layout, fingerprint, model, schema.new_gallery_id())
                schema.create(folder / DATABASE, identity)
        return cls.open(folder, write=True, segment_bytes=segment_bytes)

    @classmethod
    def open(
        cls, path: str | Path, *, write: bool = False, segment_bytes: int = SEGMENT_BYTES
    ) -> Gallery:
        """A gallery on disk; a writer first cuts off what an earlier one did not commit.

        Raises:
            GalleryError: if it is missing, damaged, of a newer format, or not a gallery.
            GalleryLocked: to write, while another process does.
        """
        folder = Path(path)
        file = folder / DATABASE
        if not file.is_file():
            what = f"not a gallery: no {DATABASE} in it" if folder.exists() else "no such gallery"
            raise GalleryError(what, where=folder, hint=f"chash index PHOTOS --out {folder}")
        with ExitStack() as stack:
            if write:
                stack.enter_context(writer_lock(folder / LOCK))
            with storage_errors(file):
                database = stack.enter_context(closing(schema.connect(file, write=write)))
                if not write:
                    database.execute("BEGIN")  # the snapshot, from the first SELECT on
                identity = schema.read_identity(database, file)
            owner = bytes.fromhex(identity.gallery)
            files = CodeFiles(folder / SEGMENTS, identity.layout, owner, segment_bytes)
            gallery = cls(folder, database, identity, files, write=write)
            if write:
                with storage_errors(files.folder):
                    files.folder.mkdir(exist_ok=True)
                    files.recover(gallery._committed())
            gallery._held = stack.pop_all()
        return gallery

    @staticmethod
    def discard(path: str | Path) -> None:
        """Delete the files of a gallery that cannot be opened, to make way for a new one.

        Raises:
            GalleryError: if the folder holds anything that is not a gallery's.
            GalleryLocked: if another process is writing to it.
        """
        folder = Path(path)
        with storage_errors(folder):
            _refuse(folder, _names(folder) - _OURS - {DATABASE})
            with writer_lock(folder / LOCK):
                schema.refuse_foreign(folder / DATABASE)
                (folder / DATABASE).unlink(missing_ok=True)
                for file in (folder / SEGMENTS).glob("*.codes"):
                    file.unlink()

    def close(self) -> None:
        """Let go of the files and, for a writer, of the lock."""
        self._maps.clear()
        self._held.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Let a reader see what was committed since it opened; a writer always does."""
        if not self._write:
            with storage_errors(self.path / DATABASE):
                self._database.execute("COMMIT")
                self._database.execute("BEGIN")
                self._identity = schema.read_identity(self._database, self.path / DATABASE)
            self._files = replace(self._files, layout=self.layout)
            self._maps.clear()

    def add(self, entries: Sequence[Entry], codes: npt.ArrayLike) -> range:
        """Commit images with their codes and return their ids; all of them or, on an error, none.

        Args:
            entries: whatever their ``id``, each gets a new one.
            codes: ``(n, K / 8)`` uint8, aligned with ``entries``.

        Raises:
            MismatchError: if the codes are not as many or as wide as they should be.
            GalleryError: if a path is in the gallery already, or nothing can be written.
        """
        return self.commit(add=entries, codes=codes)

    def remove(self, ids: Iterable[int]) -> int:
        """Commit the removal of images; ids without one are passed over. Returns how many went."""
        before = len(self)
        self.commit(remove=ids)
        return before - len(self)

    def update(self, entries: Iterable[Entry]) -> None:
        """Commit new paths, labels, sizes, times or hashes for images; their codes stay."""
        self.commit(update=entries)

    def commit(
        self,
        *,
        add: Sequence[Entry] = (),
        codes: npt.ArrayLike | None = None,
        update: Iterable[Entry] = (),
        remove: Iterable[int] = (),
    ) -> range:
        """Removals, updates and additions, in this order, as one commit; returns the new ids.

        Raises:
            UsageError: if the gallery was opened to read.
            MismatchError, GalleryError: as :meth:`add`; nothing is changed then.
        """
        self._require_writer()
        packed = self.layout.check(
            np.empty((0, self.layout.nbytes), np.uint8) if codes is None else codes
        )
        if len(packed) != len(add):
            raise MismatchError(f"{len(add)} images need as many codes, got {len(packed)}")
        runs = self._append(packed)
        with self._transaction() as database:
            numbers = [(id,) for id in remove]
            known = "INSERT OR IGNORE INTO tombstones SELECT id FROM images WHERE id = ?"
            database.executemany(known, numbers)
            database.executemany("DELETE FROM images WHERE id = ?", numbers)
            database.executemany(
                "UPDATE images SET path = ?, label = ?, size = ?, mtime_ns = ?, sha256 = ? "
                "WHERE id = ?",
                [(*self._values(entry), entry.id) for entry in update],
            )
            (last,) = self._row("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence")
            ids = range(last + 1, last + 1 + len(add))
            database.executemany(
                "INSERT INTO images (path, label, size, mtime_ns, sha256, id) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [(*self._values(entry), id) for entry, id in zip(add, ids, strict=True)],
            )
            first = ids.start
            for run in runs:
                batch = (first, run.segment, run.first_row, run.rows, run.crc32)
                database.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", batch)
                database.execute(
                    "UPDATE meta SET value = ? WHERE key = 'last_segment'", (str(run.segment),)
                )
                first += run.rows
        for run in runs:
            self._maps.pop(run.segment, None)
        return ids

    def reset(self, *, layout: CodeLayout, fingerprint: str, model: str) -> None:
        """Commit an empty gallery for another model; ids and segments go on counting.

        Readers keep what they see. The old segments are deleted when it is next opened to write.
        """
        self._require_writer()
        identity = Identity(layout, fingerprint, model, self._identity.gallery)
        with self._transaction() as database:
            for table in ("images", "batches", "tombstones"):
                database.execute(f"DELETE FROM {table}")
            schema.write_identity(database, identity)
        self._identity = identity
        self._files = replace(self._files, layout=layout)
        self._maps.clear()

    def _require_writer(self) -> None:
        if not self._write:
            raise UsageError(
                "the gallery was opened to read",
                where=self.path,
                hint="Gallery.open(..., write=True)",
            )

    def _append(self, codes: Codes) -> list[Run]:
        last = "SELECT segment, first_row + rows FROM batches ORDER BY first_id DESC LIMIT 1"
        segment, rows = next(self._rows(last), (self._last_segment(), 0))
        return self._files.append(codes, segment=segment, rows=rows)

    def _last_segment(self) -> int:
        return int(self._row("SELECT value FROM meta WHERE key = 'last_segment'")[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block does, or none of it."""
        with storage_errors(self.path / DATABASE):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:  # a full disk has rolled it back already
                    self._database.execute("ROLLBACK")

    def _values(self, entry: Entry) -> tuple[str | bytes, str | None, int, int, bytes]:
        label = None if entry.label is None else valid_text(entry.label)
        content = bytes.fromhex(entry.sha256)
        return self._anchor.key(entry.path), label, entry.size, entry.mtime_ns, content


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def _refuse(folder: Path, found: set[str]) -> None:
    if found:
        what = "a gallery" if DATABASE in found else f"something else ({min(found)})"
        raise GalleryError(
            f"the folder holds {what} already",
            where=folder,
            hint="give another place with --out",
        )
