"""A gallery as one moment left it: what a reader can ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryError, MismatchError
from concepthash.runtime.codefiles import CodeFiles, Run
from concepthash.runtime.entries import Anchor, Damage, Entry, Stats
from concepthash.runtime.schema import Identity
from concepthash.runtime.storage import damaged, storage_errors

if TYPE_CHECKING:
    from concepthash.runtime.index import HammingIndex

DATABASE = "gallery.sqlite"


class Snapshot:
    """The reading half of :class:`concepthash.runtime.gallery.Gallery`."""

    def __init__(
        self, path: Path, database: sqlite3.Connection, identity: Identity, files: CodeFiles
    ) -> None:
        self.path = path
        self._database = database
        self._identity = identity
        self._files = files
        self._anchor = Anchor(path.resolve().parent)
        self._maps: dict[int, Codes] = {}

    def __len__(self) -> int:
        rows = "(SELECT COALESCE(SUM(rows), 0) FROM batches)"
        return int(self._row(f"SELECT {rows} - (SELECT COUNT(*) FROM tombstones)")[0])

    def __repr__(self) -> str:
        layout = self.layout
        shape = f"{layout.bits} bits, {layout.concepts} concepts"
        return f"Gallery({self.path}, {len(self):,} images, {shape}, model {self._identity.model})"

    @property
    def layout(self) -> CodeLayout:
        """How the bits of its codes are shared."""
        return self._identity.layout

    @property
    def fingerprint(self) -> str:
        """Of the model that made the codes."""
        return self._identity.fingerprint

    @property
    def model(self) -> str:
        """The name of the bundle that made the codes."""
        return self._identity.model

    def check_model(self, fingerprint: str) -> None:
        """Refuse to mix code spaces.

        Raises:
            MismatchError: if ``fingerprint`` is not the one the codes were made with.
        """
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"the gallery was made with model {self.fingerprint[:8]} ({self.model}), "
                f"this one is {fingerprint[:8]}",
                where=self.path,
                hint="give the bundle the gallery was made with, or chash index ... --rebuild",
            )

    def entries(self) -> Iterator[Entry]:
        """All images in id order."""
        return self._entries("ORDER BY id")

    def entry(self, id: int) -> Entry:
        """The image with an id.

        Raises:
            GalleryError: if there is none.
        """
        for entry in self._entries("WHERE id = ?", id):
            return entry
        raise GalleryError(f"no image has the id {id}", where=self.path)

    def find(self, path: str | Path) -> Entry | None:
        """The image indexed from a path; None if there is none."""
        return next(self._entries("WHERE path = ?", self._anchor.key(Path(path))), None)

    def same_content(self, sha256: str) -> list[Entry]:
        """The images whose file had this content, in id order."""
        return list(self._entries("WHERE sha256 = ? ORDER BY id", bytes.fromhex(sha256)))

    def code(self, id: int) -> Codes:
        """The code of an image ``(K / 8,)`` uint8.

        Raises:
            GalleryError: if no image has the id, or its segment is damaged.
        """
        self.entry(id)
        query = "SELECT segment, first_row - first_id FROM batches WHERE first_id <= ?"
        segment, shift = self._row(f"{query} ORDER BY first_id DESC LIMIT 1", id)
        code: Codes = self._map(segment)[id + shift]
        return code

    def codes(self) -> tuple[npt.NDArray[np.int64], Codes]:
        """Ids ``(n,)`` int64, ascending, and their codes ``(n, K / 8)`` uint8.

        One segment without removed images is the file itself, memory-mapped and read-only.

        Raises:
            GalleryError: if a segment is missing or truncated.
        """
        batches = self._table("SELECT first_id, rows FROM batches ORDER BY first_id", 2)
        first, rows = batches.T
        before = np.cumsum(rows) - rows
        ids = np.repeat(first - before, rows) + np.arange(rows.sum(), dtype=np.int64)
        parts = [self._map(segment) for segment in self._committed()]
        if len(parts) == 1:
            codes = parts[0]
        else:
            codes = np.concatenate([np.empty((0, self.layout.nbytes), np.uint8), *parts])
        if len(ids) != len(codes):
            raise damaged(f"{len(ids)} ids have {len(codes)} codes", self.path / DATABASE)
        removed = self._table("SELECT id FROM tombstones", 1).ravel()
        if len(removed):
            live = np.isin(ids, removed, invert=True)
            ids, codes = ids[live], codes[live]
        return ids, codes

    def index(self) -> HammingIndex:
        """A search index over the images there are.

        Raises:
            GalleryError: as :meth:`codes`.
        """
        from concepthash.runtime.index import HammingIndex

        index = HammingIndex(bits=self.layout.bits, concepts=self.layout.concepts)
        ids, codes = self.codes()
        index.add(codes, ids=ids)
        return index

    def stats(self) -> Stats:
        """The gallery in numbers."""
        committed = self._committed()
        with storage_errors(self.path):
            total = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return Stats(
            images=len(self),
            labels=self._row("SELECT COUNT(DISTINCT label) FROM images")[0],
            bits=self.layout.bits,
            concepts=self.layout.concepts,
            model=self.model,
            fingerprint=self.fingerprint,
            segments=len(committed),
            removed_rows=self._row("SELECT COUNT(*) FROM tombstones")[0],
            code_bytes=sum(self._files.size(rows) for rows in committed.values()),
            total_bytes=total,
        )

    def damage(self) -> Iterator[Damage]:
        """Everything wrong with the gallery's files; reads all of them."""
        file = self.path / DATABASE
        try:
            for (line,) in self._rows("PRAGMA integrity_check"):
                if line != "ok":
                    yield Damage(file, str(line))
            images, codes = self._row("SELECT COUNT(*) FROM images")[0], len(self)
            committed = self._committed()
        except GalleryError as error:
            yield Damage(file, error.what)
            return
        if images != codes:
            yield Damage(file, f"{images} images have {codes} codes")
        query = "SELECT segment, first_row, rows, crc32 FROM batches WHERE segment = ?"
        for segment in committed:
            runs = [Run(*row) for row in self._rows(f"{query} ORDER BY first_row", segment)]
            for what in self._files.damage(segment, runs):
                yield Damage(self._files.path(segment), what)

    def verify(self) -> None:
        """Compare every byte with its checksum.

        Raises:
            GalleryError: naming the first damaged file; :meth:`damage` lists all.
        """
        for found in self.damage():
            raise damaged(found.what, found.file)

    def _entries(self, clause: str, *values: object) -> Iterator[Entry]:
        here = Path.cwd()
        query = f"SELECT path, label, size, mtime_ns, sha256, id FROM images {clause}"
        for path, label, size, mtime_ns, content, id in self._rows(query, *values):
            place = self._anchor.path(path, here)
            yield Entry(place, label, size, mtime_ns, content.hex(), id)

    def _rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with storage_errors(self.path / DATABASE):
            yield from self._database.execute(query, values)

    def _row(self, query: str, *values: object) -> tuple[Any, ...]:
        return next(self._rows(query, *values))

    def _table(self, query: str, columns: int) -> npt.NDArray[np.int64]:
        return np.array(list(self._rows(query)), dtype=np.int64).reshape(-1, columns)

    def _committed(self) -> dict[int, int]:
        """Rows of each segment, in segment order."""
        return dict(self._rows("SELECT segment, SUM(rows) FROM batches GROUP BY segment"))

    def _map(self, segment: int) -> Codes:
        if segment not in self._maps:
            (rows,) = self._row("SELECT SUM(rows) FROM batches WHERE segment = ?", segment)
            self._maps[segment] = self._files.map(segment, rows)
        return self._maps[segment]
