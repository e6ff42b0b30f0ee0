"""The gallery: images and their codes in one folder, safe against a pulled plug.

::

    NAME.chg/
      gallery.sqlite      what is in the gallery (:mod:`concepthash.runtime.schema`), WAL mode
      segments/*.codes    the codes (:mod:`concepthash.runtime.codefiles`), only appended to
      tables/             of :meth:`Gallery.accelerate` (:mod:`concepthash.runtime.tablestore`)
      damaged-N/          what a repair replaced (:mod:`concepthash.runtime.repair`)
      lock                held by the one writer

A commit appends codes, flushes them to disk, then commits the database: that is the moment the
images are in the gallery. A writer that is killed before it leaves bytes nobody refers to.

An id belongs to a content: a file that moves keeps its id, one whose content changes gets a new
one. Ids ascend in the order of the codes, so their order is stored nowhere.

Removed images leave their codes behind until :meth:`Gallery.compact` writes new segments. Old ones
are deleted at once: a reader has mapped them when it opened (Windows keeps them until the reader
has let go and the next writer deletes them).

Paths are kept relative to the folder that holds the gallery where they lie below it, absolute
otherwise: photos and gallery move together, or the gallery moves alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError
from concepthash.runtime import schema
from concepthash.runtime.codefiles import SEGMENT_BYTES, CodeFiles
from concepthash.runtime.entries import Damage
from concepthash.runtime.place import (
    DATABASE,
    LOCK,
    SEGMENTS,
    refuse_gallery,
    refuse_strays,
)
from concepthash.runtime.schema import Identity
from concepthash.runtime.snapshot import Snapshot
from concepthash.runtime.storage import storage_errors, writer_lock
from concepthash.runtime.writing import Writer

_TRIES = 3


class Gallery(Writer):
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
        super().__init__(path, database, identity, files, write=write)
        self._held = ExitStack()
        self._watch: sqlite3.Connection | None = None
        self._seen = 0

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
            refuse_strays(folder)
            (folder / SEGMENTS).mkdir(parents=True, exist_ok=True)
            with writer_lock(folder / LOCK):
                refuse_gallery(folder)  # another writer may have been first
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
        if file.is_dir():
            raise GalleryError(
                "a folder is where the database should be",
                where=file,
                hint=f"move it away, then chash index PHOTOS --out {folder}",
            )
        if not file.is_file():
            if folder.exists():
                what, hint = (
                    f"not a gallery: no {DATABASE} in it",
                    f"chash index {folder} makes one",
                )
            else:
                what, hint = "no such gallery", f"chash index PHOTOS --out {folder}"
            raise GalleryError(what, where=folder, hint=hint)
        with ExitStack() as stack:
            if write:
                stack.enter_context(writer_lock(folder / LOCK))
            with storage_errors(file, reading=not write):
                database = stack.enter_context(closing(schema.connect(file, write=write)))
                identity = schema.read_identity(database, file)
            owner = bytes.fromhex(identity.gallery)
            files = CodeFiles(folder / SEGMENTS, identity.layout, owner, segment_bytes)
            gallery = cls(folder, database, identity, files, write=write)
            stack.enter_context(gallery._held)
            if write:
                with storage_errors(files.folder):
                    files.folder.mkdir(exist_ok=True)
                    files.recover(gallery._extents())
            else:
                gallery._begin()
            gallery._held = stack.pop_all()
        return gallery

    def close(self) -> None:
        """Let go of the files and, for a writer, of the lock."""
        self._unmap()
        self._held.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Let a reader see what was committed since it opened; a writer always does."""
        if not self._write:
            self._begin()

    def changed(self) -> bool:
        """Whether anything was committed since a reader opened or was refreshed; cheap to ask.

        A gallery that was put in the place of this one is not seen.

        Raises:
            GalleryError: if the database cannot be read any more.
        """
        return not self._write and self._version() != self._seen

    def damage(self) -> Iterator[Damage]:
        """Everything wrong with the gallery's files; reads all of them.

        Where a writer commits meanwhile, what it replaced is no damage: the gallery is looked at
        again as it is then, at most three times.
        """
        now: Gallery = self
        found = super().damage()
        first = next(found, None)
        with ExitStack() as stack:
            for _ in range(_TRIES):
                if first is None or not now.changed():
                    break
                now = stack.enter_context(Gallery.open(self.path))
                found = Snapshot.damage(now)
                first = next(found, None)
            if first is not None:
                yield first
                yield from found

    def _version(self) -> int:
        """A number that another one's commit changes, as a connection without a moment sees it."""
        with storage_errors(self._file):
            if self._watch is None:
                watch = schema.connect(self._file, write=False)
                self._watch = self._held.enter_context(closing(watch))
            (version,) = self._watch.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _begin(self) -> None:
        """Begin a reader's moment, with the files that belong to it."""
        self._seen = self._version()  # asked before: a commit in between is seen twice, not missed
        for _ in range(_TRIES):  # a writer may delete a segment between the two
            with storage_errors(self._file):
                if self._database.in_transaction:
                    self._database.execute("COMMIT")
                self._database.execute("BEGIN")
                schema.check_version(self._database, self._file)
                self._identity = schema.read_identity(self._database, self._file)
            self._files = replace(self._files, layout=self.layout)
            if self._pin():
                break
