"""The writing half of a gallery: one commit at a time, each whole or absent."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import MismatchError, UsageError
from concepthash.runtime import records, schema
from concepthash.runtime.codefiles import CodeFiles
from concepthash.runtime.entries import Entry, valid_text
from concepthash.runtime.place import TABLES
from concepthash.runtime.rewrite import Block, write_segments
from concepthash.runtime.schema import Identity
from concepthash.runtime.snapshot import Snapshot
from concepthash.runtime.storage import storage_errors


def codes_of(images: Sequence[Entry], codes: npt.ArrayLike | None, layout: CodeLayout) -> Codes:
    """The codes of images that are added, ``(n, K / 8)`` uint8; None stands for those of none.

    Raises:
        MismatchError: if they are not as many or as wide as they should be.
    """
    packed = layout.check(np.empty((0, layout.nbytes), np.uint8) if codes is None else codes)
    if len(packed) != len(images):
        raise MismatchError(f"{len(images)} images need as many codes, got {len(packed)}")
    return packed


class Writer(Snapshot):
    """What :class:`concepthash.runtime.gallery.Gallery` can change; ``write`` says if it may."""

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
        packed = codes_of(add, codes, self.layout)
        first = self.last_id() + 1
        batches = self._files.append(
            packed,
            first_id=first,
            last=records.last_batch(self._database, self._file),
            last_segment=self._last_segment(),
        )
        with self.transaction() as database:
            numbers = [(int(id),) for id in remove]  # SQLite takes numpy's for blobs
            known = "INSERT OR IGNORE INTO tombstones SELECT id FROM images WHERE id = ?"
            database.executemany(known, numbers)
            database.executemany("DELETE FROM images WHERE id = ?", numbers)
            database.executemany(
                "UPDATE images SET path = ?, label = ?, size = ?, mtime_ns = ?, sha256 = ? "
                "WHERE id = ?",
                [(*self._values(entry), entry.id) for entry in update],
            )
            ids = range(first, first + len(add))
            self._insert(database, [replace(e, id=id) for e, id in zip(add, ids, strict=True)])
            records.write_batches(database, batches)
        return ids

    def start_ids(self, first: int) -> None:
        """Give new images ids from ``first`` on, unless larger ones were given already."""
        self._require_writer()
        if self.last_id() < first - 1:
            with self.transaction() as database:
                database.execute("DELETE FROM sqlite_sequence WHERE name = 'images'")
                database.execute("INSERT INTO sqlite_sequence VALUES ('images', ?)", (first - 1,))

    def restore(self, blocks: Iterable[tuple[list[Entry], Codes]]) -> None:
        """Fill an empty gallery with images that keep their ids.

        Not one commit: for a gallery that is not in its place yet.

        Args:
            blocks: images, ids ascending, and their codes ``(n, K / 8)`` uint8.
        """
        self._require_writer()

        def coded() -> Iterator[Block]:
            for entries, codes in blocks:
                with self.transaction() as database:
                    self._insert(database, entries)
                yield np.array([entry.id for entry in entries], dtype=np.int64), codes

        for written in write_segments(self._files, self._last_segment(), coded()):
            with self.transaction() as database:
                records.write_batches(database, written.batches)
                if written.sparse:
                    records.write_sparse(database, written.segment)

    def accelerate(self, *, copy_codes: bool = False, threads: int | None = None) -> int:
        """Build search tables over the codes there are and keep them for later; returns how many.

        Readers that open from now on use them. Codes added later are searched without, until this
        is called again: it extends them. Arguments and errors as
        :meth:`concepthash.runtime.HammingIndex.accelerate`.

        Raises:
            UsageError: if the gallery was opened to read.
            GalleryError: as :meth:`codes`, or if they cannot be written.
        """
        from concepthash.runtime import tablestore

        self._require_writer()
        index = self.index()
        index.accelerate(copy_codes=copy_codes, threads=threads)
        if index.tables is None or not index.tables.rows:
            return 0
        folder, gallery = self.path / TABLES, self._identity.gallery
        tablestore.store(folder, gallery, self._extents(), index.tables)
        return index.tables.rows

    def compact(self) -> int:
        """Rewrite the segments without the codes of removed images; returns how many went.

        One commit: readers keep what they see, a crash leaves the gallery as it was.

        Raises:
            UsageError: if the gallery was opened to read.
            GalleryError: as :meth:`codes`, or if nothing can be written; nothing is changed then.
        """
        self._require_writer()
        freed = self._number("SELECT COUNT(*) FROM tombstones")
        if freed:
            old = [extent.segment for extent in self._extents()]
            with self.rewriting(old, self.blocks()) as database:
                database.execute("DELETE FROM tombstones")
        return freed

    @contextmanager
    def rewriting(self, old: list[int], blocks: Iterable[Block]) -> Iterator[sqlite3.Connection]:
        """Replace the segments ``old`` by new ones with ``blocks``, in one commit with the body's.

        Args:
            old: numbers of segments; their files are deleted in the end.
            blocks: ids, ascending, that lay in ``old``, and their codes.
        """
        self._require_writer()
        new, last = [], self._last_segment()
        try:
            for written in write_segments(self._files, last, blocks):
                new.append(written)
            with self.transaction() as database:
                records.forget(database, self._file, old)
                for written in new:
                    records.write_batches(database, written.batches)
                    if written.sparse:
                        records.write_sparse(database, written.segment)
                yield database
        except BaseException:
            if self._last_segment() == last:  # an interrupt may come after the commit
                self._files.delete(range(last + 1, last + len(new) + 2))
            raise
        self._unmap()
        self._files.delete(old)
        self._drop_tables()

    def reset(self, *, layout: CodeLayout, fingerprint: str, model: str) -> None:
        """Commit an empty gallery for another model; ids and segments go on counting.

        Readers keep what they see. The old segments are deleted when it is next opened to write.
        """
        self._require_writer()
        identity = Identity(layout, fingerprint, model, self._identity.gallery)
        with self.transaction() as database:
            records.forget(database, self._file, [e.segment for e in self._extents()])
            for table in ("images", "batches", "tombstones"):
                database.execute(f"DELETE FROM {table}")
            schema.write_identity(database, identity)
        self._identity = identity
        self._files = replace(self._files, layout=layout)
        self._unmap()
        self._drop_tables()

    def _drop_tables(self) -> None:
        # What Windows will not delete, or a crash leaves, is stale and noticed by its key.
        shutil.rmtree(self.path / TABLES, ignore_errors=True)

    def _insert(self, database: sqlite3.Connection, entries: Iterable[Entry]) -> None:
        database.executemany(
            "INSERT INTO images (path, label, size, mtime_ns, sha256, id) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(*self._values(entry), entry.id) for entry in entries],
        )

    def _require_writer(self) -> None:
        if not self._write:
            raise UsageError(
                "the gallery was opened to read",
                where=self.path,
                hint="Gallery.open(..., write=True)",
            )

    def _last_segment(self) -> int:
        return self._number("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'last_segment'")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block does, or none of it."""
        with storage_errors(self._file):
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
