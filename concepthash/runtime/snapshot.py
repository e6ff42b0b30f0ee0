"""A gallery as one moment left it: what a reader can ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryError, MismatchError
from concepthash.runtime import records
from concepthash.runtime.codefiles import CodeFiles
from concepthash.runtime.entries import Anchor, Damage, Entry, Labels, Stats, place
from concepthash.runtime.place import DATABASE, TABLES, anchor_folder
from concepthash.runtime.records import Extent
from concepthash.runtime.schema import Identity
from concepthash.runtime.storage import bytes_below, damaged, storage_errors

if TYPE_CHECKING:
    from concepthash.runtime.index import HammingIndex
    from concepthash.runtime.shardreads import ShardedSnapshot


Found = TypeVar("Found")

_DIGEST = 32  # bytes of a SHA-256
_ENDLESS = 1 << 48  # ids are below
_TOGETHER = 500  # ids in one statement: SQLite may have been built to take 999 at most


def joined(
    blocks: Iterable[tuple[npt.NDArray[np.int64], Codes]], layout: CodeLayout
) -> tuple[npt.NDArray[np.int64], Codes]:
    """Ids and codes of blocks as two arrays; a single block is not copied."""
    found = list(blocks)
    if len(found) == 1:
        return found[0]
    ids = [ids for ids, _ in found]
    codes = [codes for _, codes in found]
    nothing = np.empty(0, np.int64), np.empty((0, layout.nbytes), np.uint8)
    return np.concatenate([nothing[0], *ids]), np.concatenate([nothing[1], *codes])


def no_image(id: int, gallery: Path) -> GalleryError:
    """The error of an id without a record."""
    return GalleryError(
        f"no image has the id {id}",
        where=gallery,
        hint=f"an id of an answer; if it was one: chash index verify {gallery}",
    )


def check_model(gallery: Snapshot | ShardedSnapshot, fingerprint: str) -> None:
    """Refuse to mix code spaces.

    Raises:
        MismatchError: if ``fingerprint`` is not the one the gallery's codes were made with.
    """
    if fingerprint != gallery.fingerprint:
        raise MismatchError(
            f"the gallery was made with model {gallery.fingerprint[:8]} ({gallery.model}), "
            f"this one is {fingerprint[:8]}",
            where=gallery.path,
            hint="give the bundle the gallery was made with, or chash index ... --rebuild",
        )


class Snapshot:
    """The reading half of :class:`concepthash.runtime.gallery.Gallery`."""

    def __init__(
        self, path: Path, database: sqlite3.Connection, identity: Identity, files: CodeFiles
    ) -> None:
        self.path = path
        self._database = database
        self._identity = identity
        self._files = files
        self._anchor = Anchor(anchor_folder(path))
        self._maps: dict[int, Codes] = {}
        self._id_maps: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        rows = self._number("SELECT COALESCE(SUM(rows), 0) FROM batches")
        removed = self._number("SELECT COUNT(*) FROM tombstones")
        if removed > rows:
            raise damaged(f"{removed} images were removed of {rows}", self._file)
        return rows - removed

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
        check_model(self, fingerprint)

    def entries(self, first: int = 0, last: int = records.LARGEST) -> Iterator[Entry]:
        """The images in id order: all, or those with ids from ``first`` to ``last``."""
        return self._entries("WHERE id BETWEEN ? AND ? ORDER BY id", first, last)

    def entry(self, id: int) -> Entry:
        """The image with an id.

        Raises:
            GalleryError: if there is none.
        """
        for entry in self._entries("WHERE id = ?", id):
            return entry
        raise no_image(id, self.path)

    def entries_of(self, ids: npt.ArrayLike) -> dict[int, Entry]:
        """The images with these ids, each once, looked up together.

        Raises:
            GalleryError: if one of them is not there.
        """

        def read(clause: str, some: list[int]) -> Iterator[tuple[int, Entry]]:
            return ((entry.id, entry) for entry in self._entries(clause, *some))

        return self._together(ids, read)

    def names_of(self, ids: npt.ArrayLike) -> dict[int, tuple[str, str | None]]:
        """The path and the label of the images with these ids: all of an entry that hits show.

        Raises:
            GalleryError: as :meth:`entries_of`.
        """
        name = self._anchor.names(Path.cwd())

        def read(clause: str, some: list[int]) -> Iterator[tuple[int, tuple[str, str | None]]]:
            for id, path, label in self._rows(
                f"SELECT id, path, label FROM images {clause}", *some
            ):
                if not isinstance(path, str | bytes) or not isinstance(label, str | None):
                    raise damaged(f"the record of image {id} is damaged", self._file)
                yield id, (name(path), label)

        return self._together(ids, read)

    def _together(
        self, ids: npt.ArrayLike, read: Callable[[str, list[int]], Iterator[tuple[int, Found]]]
    ) -> dict[int, Found]:
        """What ``read`` finds of each id, given the condition of a statement and its values."""
        wanted = np.unique(np.asarray(ids, np.int64)).tolist()
        found: dict[int, Found] = {}
        for first in range(0, len(wanted), _TOGETHER):
            some = wanted[first : first + _TOGETHER]
            found.update(read(f"WHERE id IN ({','.join('?' * len(some))})", some))
        if len(found) < len(wanted):
            missing = next(id for id in wanted if id not in found)
            raise no_image(missing, self.path)
        return found

    def labels(self) -> Labels:
        """The label of every image; a million take about half a second.

        Raises:
            GalleryError: if one is damaged.
        """
        pairs = list(self._rows("SELECT id, label FROM images ORDER BY id"))
        given = {label for _, label in pairs}
        given.discard(None)
        if not all(isinstance(label, str) for label in given):
            raise damaged("a label is damaged", self._file)
        names = tuple(sorted(given))
        places: dict[str | None, int] = {name: place for place, name in enumerate(names)}
        places[None] = -1
        ids = np.fromiter((id for id, _ in pairs), np.int64, len(pairs))
        numbers = np.fromiter((places[label] for _, label in pairs), np.int32, len(pairs))
        return Labels(ids, numbers, names)

    def label_names(self) -> set[str]:
        """The labels there are."""
        labelled = "SELECT DISTINCT label FROM images WHERE label IS NOT NULL"
        return {str(label) for (label,) in self._rows(labelled)}

    def find(self, path: str | Path) -> Entry | None:
        """The image indexed from a path; None if there is none."""
        return next(self._entries("WHERE path = ?", self._anchor.key(place(path))), None)

    def key(self, path: Path) -> str | bytes:
        """A path as the gallery stores it."""
        return self._anchor.key(path)

    def ids_at(self, keys: Sequence[str | bytes]) -> dict[str | bytes, int]:
        """The ids of the images indexed from stored paths, of those there are."""
        return dict(self._known("path, id", "path", keys))

    def keys_of(self, ids: Sequence[int]) -> dict[int, str | bytes]:
        """The stored paths of the images with these ids, of those there are."""
        return dict(self._known("id, path", "id", ids))

    def _known(
        self, columns: str, column: str, values: Sequence[object]
    ) -> Iterator[tuple[Any, ...]]:
        for first in range(0, len(values), _TOGETHER):
            some = values[first : first + _TOGETHER]
            places = ",".join("?" * len(some))
            yield from self._rows(
                f"SELECT {columns} FROM images WHERE {column} IN ({places})", *some
            )

    def same_content(self, sha256: str) -> list[Entry]:
        """The images whose file had this content, in id order."""
        return list(self._entries("WHERE sha256 = ? ORDER BY id", bytes.fromhex(sha256)))

    def contents(self) -> npt.NDArray[np.uint8]:
        """The digests of all images, each once: ``(n, 32)`` uint8, in no order to rely on.

        Raises:
            GalleryError: if one is damaged.
        """
        digests = [digest for (digest,) in self._rows("SELECT DISTINCT sha256 FROM images")]
        if not all(isinstance(digest, bytes) and len(digest) == _DIGEST for digest in digests):
            raise damaged("the digest of an image is damaged", self._file)
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)

    def code(self, id: int) -> Codes:
        """The code of an image ``(K / 8,)`` uint8.

        Raises:
            GalleryError: if no image has the id, or its segment is damaged.
        """
        self.entry(id)
        batch = records.batch_of(self._database, self._file, id)
        if batch is not None:
            rows = np.arange(batch.first_row, batch.first_row + batch.rows)
            ids = rows - batch.first_row + batch.first_id
            if batch.segment in records.sparse(self._database, self._file):
                ids = self._sparse_ids(batch.segment, int(rows[-1]) + 1)[rows]
            for row in rows[ids == id]:
                code: Codes = self._map(batch.segment, int(rows[-1]) + 1)[row]
                return code
        raise damaged(f"image {id} has no code", self._file)

    def codes(self) -> tuple[npt.NDArray[np.int64], Codes]:
        """Ids ``(n,)`` int64, ascending, and their codes ``(n, K / 8)`` uint8.

        One segment without removed images is the file itself, memory-mapped and read-only.

        Raises:
            GalleryError: if a segment is missing or truncated.
        """
        return joined(self.blocks(), self.layout)

    def index(self) -> HammingIndex:
        """A search index over the images there are.

        Codes of a multiple of 64 bits are not copied: the index reads the mapped files. It uses the
        tables of :meth:`concepthash.runtime.gallery.Gallery.accelerate`, if there are any.

        Raises:
            GalleryError: as :meth:`codes`.
        """
        from concepthash.runtime import tablestore
        from concepthash.runtime.index import HammingIndex
        from concepthash.runtime.planes import WORD, to_words
        from concepthash.runtime.segment import Segment

        extents, segments = self._extents(), []
        for extent, end in records.ends(extents):
            codes, dead = self._map(extent.segment, extent.rows), self._dead(extent, end)
            whole = not self.layout.bits % 64
            planes = codes.view(WORD).T if whole else to_words(codes, self.layout)
            ids = self._ids(extent)
            segments.append(Segment(planes, ids, ascending=True, sealed=True, dead=dead))
        index = HammingIndex.of(self.layout, segments, self.last_id())
        tables = tablestore.find(self.path / TABLES, self._identity.gallery, extents)
        if tables is not None:
            index.attach(tables)
        return index

    def stats(self) -> Stats:
        """The gallery in numbers."""
        committed = self._extents()
        with storage_errors(self.path, reading=True):
            total = bytes_below(self.path)
        return Stats(
            images=len(self),
            labels=self._number("SELECT COUNT(DISTINCT label) FROM images"),
            bits=self.layout.bits,
            concepts=self.layout.concepts,
            model=self.model,
            fingerprint=self.fingerprint,
            segments=len(committed),
            removed_rows=self._number("SELECT COUNT(*) FROM tombstones"),
            code_bytes=sum(self._files.size(extent.rows) for extent in committed),
            total_bytes=total,
        )

    def damage(self) -> Iterator[Damage]:
        """Everything wrong with the gallery's files; reads all of them."""
        from concepthash.runtime.soundness import damage

        yield from damage(self, self._database, self._files, self._file)

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
        for row in self._rows(query, *values):
            try:
                path, label, size, mtime_ns, content, id = row
                if not (type(size) is type(mtime_ns) is int and isinstance(label, str | None)):
                    raise TypeError
                if b"\0" in (path if isinstance(path, bytes) else path.encode()):
                    raise ValueError
                place = self._anchor.path(path, here)
                entry = Entry(place, label, size, mtime_ns, content.hex(), id)
            except (TypeError, ValueError, AttributeError):
                raise damaged(f"the record of image {row[-1]} is damaged", self._file) from None
            yield entry

    @property
    def _file(self) -> Path:
        return self.path / DATABASE

    def _rows(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with storage_errors(self._file):
            yield from self._database.execute(query, values)

    def _number(self, query: str) -> int:
        for (value,) in records.numbers(self._database, self._file, query, columns=1).tolist():
            return int(value)
        raise damaged("a record of the gallery is missing", self._file)

    def last_id(self) -> int:
        """The largest id ever given."""
        given = "SELECT MAX(seq) AS id FROM sqlite_sequence UNION SELECT MAX(id) FROM images"
        last = self._number(f"SELECT COALESCE(MAX(id), 0) FROM ({given})")
        if last >= _ENDLESS:
            raise damaged(f"the last id is {last}, which no gallery reaches", self._file)
        return last

    def end_ids(self) -> list[int]:
        """The first id of each segment, and the largest of an image."""
        last = self._number("SELECT COALESCE(MAX(id), 0) FROM images")
        return [*(extent.first_id for extent in self._extents()), *[last] * (last > 0)]

    def known_ids(self) -> npt.NDArray[np.int64]:
        """The ids of all images that are there, or whose codes are, ascending."""
        return records.known_ids(self._database, self._file, 0, records.LARGEST)

    def paths(self) -> Iterator[tuple[str | bytes, int]]:
        """Every path as it is stored, in the order of the bytes, and the id of its image."""
        yield from self._rows("SELECT path, id FROM images ORDER BY path")

    def _extents(self) -> list[Extent]:
        return records.extents(self._database, self._file)

    def _map(self, segment: int, rows: int) -> Codes:
        """At least the first ``rows`` codes of a segment, mapped once."""
        codes = self._maps.get(segment)
        if codes is None or len(codes) < rows:
            codes = self._maps[segment] = self._files.map(segment, rows)
        return codes

    def _sparse_ids(self, segment: int, rows: int) -> npt.NDArray[np.int64]:
        ids = self._id_maps.get(segment)
        if ids is None or len(ids) < rows:
            ids = self._id_maps[segment] = self._files.map_ids(segment, rows)
        return ids

    def _ids(self, extent: Extent) -> npt.NDArray[np.int64] | range:
        if not extent.sparse:
            return range(extent.first_id, extent.first_id + extent.rows)
        return self._sparse_ids(extent.segment, extent.rows)

    def _dead(self, extent: Extent, end: int) -> npt.NDArray[np.bool_] | None:
        """Which rows of a segment are removed; None if none is."""
        removed = records.removed(self._database, self._file, extent, end)
        if not len(removed):
            return None
        ids = self._ids(extent)
        if isinstance(ids, range):
            rows = removed - extent.first_id
            known = rows[0] >= 0 and rows[-1] < extent.rows and (np.diff(rows) > 0).all()
        else:
            rows = np.searchsorted(ids, removed)
            known = np.array_equal(ids[np.minimum(rows, len(ids) - 1)], removed)
        if not known:
            raise damaged("a removed image has no code", self._file)
        dead = np.zeros(extent.rows, dtype=bool)
        dead[rows] = True
        return dead

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], Codes]]:
        """Ids and codes of the images there are, a segment at a time, ids ascending."""
        for extent, end in records.ends(self._extents()):
            ids = np.asarray(self._ids(extent), dtype=np.int64)
            codes = self._map(extent.segment, extent.rows)
            dead = self._dead(extent, end)
            yield (ids, codes) if dead is None else (ids[~dead], codes[~dead])

    def _pin(self) -> bool:
        """Map every segment: a writer may delete one that this moment still refers to.

        Returns whether all were there; what is missing is reported by whoever asks for it.
        """
        self._unmap()
        try:
            for extent in self._extents():
                self._map(extent.segment, extent.rows)
                self._ids(extent)
        except GalleryError:
            return False
        return True

    def _unmap(self) -> None:
        self._maps.clear()
        self._id_maps.clear()
