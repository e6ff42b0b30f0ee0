"""The records and segments of a damaged gallery, made to agree again."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.files import sync, sync_folder, write_bytes
from concepthash.runtime import records, schema
from concepthash.runtime.codefiles import HEADER_BYTES, CodeFiles, checksum
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import DATABASE, SEGMENTS
from concepthash.runtime.records import Batch, Extent
from concepthash.runtime.rewrite import Block
from concepthash.runtime.soundness import differences
from concepthash.runtime.storage import beyond_repair, storage_errors

Ids: TypeAlias = npt.NDArray[np.int64] | range
_REMOVED = "removed.jsonl"
_BATCH = ("first_id", "segment", "first_row", "rows", "crc32")
_RECORD = ("id", "path", "label", "size", "mtime_ns", "sha256")
_UNFIT = (
    "typeof(path) NOT IN ('text', 'blob') OR typeof(label) NOT IN ('text', 'null') OR "
    "typeof(size) != 'integer' OR typeof(mtime_ns) != 'integer' OR typeof(sha256) != 'blob' OR "
    "instr(path, CASE typeof(path) WHEN 'blob' THEN x'00' ELSE char(0) END)"
)


class _Kept(NamedTuple):
    """A batch whose codes are as they were written, and their ids."""

    batch: Batch
    ids: Ids


class Mender:
    """One repair of a gallery whose database SQLite can read.

    Args:
        folder: of the gallery, locked by the caller.
        database: open to write.
        aside: the folder to keep what is replaced in.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, aside: Path) -> None:
        self._file = folder / DATABASE
        self._database = database
        self._aside = aside
        identity = schema.read_identity(database, self._file)
        owner = bytes.fromhex(identity.gallery)
        self._files = CodeFiles(folder / SEGMENTS, identity.layout, owner)
        self._gallery = Gallery(folder, database, identity, self._files, write=True)

    def mend(self) -> int:
        """Make records and segments agree; how many images were removed."""
        self._note_records()
        with self._gallery.transaction() as database:
            strange = " OR ".join(f"typeof({name}) != 'integer'" for name in _BATCH)
            database.execute(f"DELETE FROM batches WHERE {strange}")
        recorded, sparse = self._recorded(), records.sparse(self._database, self._file)
        kept = _apart(one for batches in recorded.values() for one in self._kept(batches))
        kept = [one for one in kept if not self._shifted(one, kept)]
        if not kept and (bits := self._files.other_bits()):
            said = f"codes of {self._files.layout.bits} bits in the database, of {bits} in segments"
            raise beyond_repair(said, self._file)
        removed = self._remove_without_codes(kept)
        for number, batches in recorded.items():
            mine = [one for one in kept if one.batch.segment == number]
            if not self._whole(batches, mine, number in sparse):
                self._rewrite(number, mine)
        for path in list(self._files.uncommitted(records.extents(self._database, self._file))):
            self._take(path)
        return removed

    def _note_records(self) -> None:
        tables = ["meta", "batches", *["sparse"] * records.sparse_table(self._database)]
        noted = {
            name: self._database.execute(f"SELECT * FROM {name}").fetchall() for name in tables
        }
        write_bytes(self._aside / "records.json", json.dumps(noted, default=repr).encode())

    def _recorded(self) -> dict[int, list[Batch]]:
        """The batches of each segment, both in id order."""
        query = f"SELECT {', '.join(_BATCH)} FROM batches ORDER BY first_id"
        recorded: dict[int, list[Batch]] = {}
        for row in records.numbers(self._database, self._file, query, columns=5).tolist():
            batch = Batch(*row)
            recorded.setdefault(batch.segment, []).append(batch)
        return recorded

    def _kept(self, batches: list[Batch]) -> Iterator[_Kept]:
        """The batches of one segment whose codes, and ids, are as they were written."""
        codes = self._codes(batches[0].segment)
        for batch in batches:
            end = batch.first_row + batch.rows
            if not (batch.first_id > 0 <= batch.first_row < end <= len(codes)):
                continue
            some = codes[batch.first_row : end]
            if checksum(some) == batch.crc32:
                yield _Kept(batch, range(batch.first_id, batch.first_id + batch.rows))
                continue
            for ids in (self._filed_ids(batch), self._known_ids(batch)):
                if len(ids) == batch.rows and checksum(some, ids) == batch.crc32:
                    yield _Kept(batch, ids)
                    break

    def _shifted(self, one: _Kept, kept: list[_Kept]) -> bool:
        """Whether a batch seems to say a wrong first id, which no checksum covers.

        Some of the ids it claims are of no image, while an image beside it is in no batch.
        """
        if not isinstance(one.ids, range):
            return False
        before, after = one.ids[0] - 1, one.ids[-1] + 1
        known = records.known_ids(self._database, self._file, before, after + 1)
        inside = int(np.count_nonzero((known > before) & (known < after)))
        claimed = {int(other.ids[0]) for other in kept} | {int(other.ids[-1]) for other in kept}
        left_out = [id for id in (before, after) if id in known and id not in claimed]
        return inside < len(one.ids) and bool(left_out)

    def _codes(self, segment: int) -> Codes:
        """Whatever codes are in a segment's file, its header aside."""
        path, width = self._files.path(segment), self._files.layout.nbytes
        with _present(path):
            rows = (path.stat().st_size - HEADER_BYTES) // width
            if path.is_file() and rows > 0:
                return np.memmap(path, np.uint8, "r", HEADER_BYTES, (rows, width)).view(np.ndarray)
        return np.empty((0, width), np.uint8)

    def _filed_ids(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Whatever a segment's ids file has for a batch, its header aside."""
        path, end = self._files.ids_path(batch.segment), batch.first_row + batch.rows
        with _present(path):
            if path.stat().st_size >= HEADER_BYTES + 8 * end and path.is_file():
                ids = np.memmap(path, "<i8", "r", HEADER_BYTES, (end,)).view(np.ndarray)
                return ids[batch.first_row :]
        return np.empty(0, np.int64)

    def _known_ids(self, batch: Batch) -> npt.NDArray[np.int64]:
        """The ids a batch of a sparse segment must have, if no record of an image is lost."""
        later = "SELECT MIN(first_id) FROM batches WHERE first_id > ?"
        (end,) = self._database.execute(later, (batch.first_id,)).fetchone()
        return records.known_ids(self._database, self._file, batch.first_id, end or records.LARGEST)

    def _remove_without_codes(self, kept: list[_Kept]) -> int:
        """Note and remove the images that have no codes or a damaged record; how many."""
        between, at = "id >= ? AND id < ?", -records.LARGEST
        gaps = []
        for one in kept:
            gaps.append((at, int(one.ids[0])))
            at = int(one.ids[-1]) + 1
            if not isinstance(one.ids, range):
                known = records.known_ids(self._database, self._file, int(one.ids[0]), at)
                gaps += [(id, id + 1) for id in np.setdiff1d(known, one.ids).tolist()]
        gaps.append((at, records.LARGEST))
        with self._gallery.transaction() as database:
            removed = self._note_images(_UNFIT, ())
            removed += sum(self._note_images(between, gap) for gap in gaps)
            sync(self._aside / _REMOVED)
            database.execute(
                f"INSERT OR IGNORE INTO tombstones SELECT id FROM images WHERE {_UNFIT}"
            )
            database.execute(f"DELETE FROM images WHERE {_UNFIT}")
            for table in ("images", "tombstones"):
                database.executemany(f"DELETE FROM {table} WHERE {between}", gaps)
        return removed

    def _note_images(self, where: str, values: tuple[int, ...]) -> int:
        query = f"SELECT {', '.join(_RECORD)} FROM images WHERE {where}"
        count = 0
        with (self._aside / _REMOVED).open("a", encoding="utf-8") as file:
            for row in self._database.execute(query, values):
                count += 1
                record = {name: _plain(value) for name, value in zip(_RECORD, row, strict=True)}
                file.write(json.dumps(record) + "\n")
        return count

    def _whole(self, batches: list[Batch], mine: list[_Kept], sparse: bool) -> bool:
        """Whether a segment may stay as it is."""
        if [one.batch for one in mine] != batches:
            return False
        row, end = 0, batches[0].first_id
        for one in mine:
            if one.batch.first_row != row or (not sparse and one.ids[0] != end):
                return False
            row, end = row + one.batch.rows, int(one.ids[-1]) + 1
        extent = Extent(batches[0].segment, row, batches[0].first_id, sparse)
        broken = any(self._files.damage(extent, batches))
        return not broken and not any(
            differences(self._database, self._file, self._files, extent, end)
        )

    def _rewrite(self, segment: int, mine: list[_Kept]) -> None:
        """Put what is left of a segment into a new one."""
        codes = self._codes(segment)
        blocks = [self._block(one, codes) for one in mine]
        for path in (self._files.path(segment), self._files.ids_path(segment)):
            if path.is_file():
                _copy(path, self._aside / path.name)
            elif path.exists():
                self._take(path)
        with self._gallery.rewriting([segment], blocks) as database:
            ranges = [(int(one.ids[0]), int(one.ids[-1])) for one in mine]
            database.executemany("DELETE FROM tombstones WHERE id BETWEEN ? AND ?", ranges)

    def _block(self, one: _Kept, codes: Codes) -> Block:
        """The images of a batch that are there, with their codes."""
        ids = np.asarray(one.ids, dtype=np.int64)
        query = "SELECT id FROM images WHERE id BETWEEN ? AND ?"
        first, last = int(ids[0]), int(ids[-1])
        there = records.numbers(self._database, self._file, query, first, last, columns=1)
        live = np.isin(ids, there.ravel())
        rows = slice(one.batch.first_row, one.batch.first_row + one.batch.rows)
        return ids[live], codes[rows][live]

    def _take(self, path: Path) -> None:
        path.rename(self._aside / path.name)


@contextmanager
def _present(path: Path) -> Iterator[None]:
    """Pass over what a missing file has; one that cannot be read must not count as empty."""
    with storage_errors(path, reading=True), suppress(FileNotFoundError, NotADirectoryError):
        yield


def _apart(kept: Iterable[_Kept]) -> list[_Kept]:
    """In id order, without any two that claim the same id: one of them is wrong."""
    ordered = sorted(kept, key=lambda one: one.batch.first_id)
    clashes = {
        id(one) for pair in pairwise(ordered) for one in pair if pair[0].ids[-1] >= pair[1].ids[0]
    }
    return [one for one in ordered if id(one) not in clashes]


def _copy(path: Path, to: Path) -> None:
    """Keep a file that is about to be deleted: its bytes stay where they are, if that can be."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copy2(path, to)
        sync(to)
    sync_folder(to.parent)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
