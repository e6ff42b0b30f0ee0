"""What is on disk of a gallery, ordinary or sharded, and what a killed writer left there."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from concepthash.runtime.gallery import Gallery

SHARDS = "shards.json"
_DATABASE = "gallery.sqlite"
_IMAGES = "SELECT id, path, label, size, mtime_ns, sha256 FROM images"
_WAL_HEADER, _FRAME = 32, struct.Struct(">IIII")


@dataclass(frozen=True, order=True)
class Row:
    """An image as a reader sees it; equal rows are the same content at the same path."""

    path: str
    label: str
    size: int
    mtime_ns: int
    sha256: str


Rows = dict[Row, int]
"""The id of each row."""


def parts(path: Path) -> list[Path]:
    """The ordinary galleries that a gallery consists of."""
    if (path / SHARDS).is_file():
        return sorted(folder for folder in path.iterdir() if (folder / _DATABASE).is_file())
    return [path] if (path / _DATABASE).is_file() else []


def rows(path: Path, right: Mapping[str, bytes] | None = None) -> tuple[Rows, list[str]]:
    """Every image, and what is wrong with the gallery: damage, wrong codes, paths held twice.

    Args:
        path: of the gallery; one that is not there has no rows.
        right: the code of each content; None if a code is the first bytes of its digest.
    """
    found: Rows = {}
    wrong: list[str] = []
    paths: set[str] = set()
    for part in parts(path):
        with Gallery.open(part) as gallery:
            wrong += [f"{damage.file.name}: {damage.what}" for damage in gallery.damage()]
            ids, codes = gallery.codes()
            code = dict(zip(ids.tolist(), codes, strict=True))
            # The records as SQLite has them: what reads them otherwise is under test.
            for id, name, label, size, mtime, content in gallery._database.execute(_IMAGES):
                row = Row(name, label or "", size, mtime, content.hex())
                if name in paths:
                    wrong.append(f"{name} is there twice")
                paths.add(name)
                found[row] = id
                expected = content[: gallery.layout.nbytes] if right is None else right[row.sha256]
                if id not in code or code[id].tobytes() != expected:
                    wrong.append(f"the code of {name} (id {id}) is not that of its content")
    if len(set(found.values())) < len(found):
        wrong.append("two images share an id")
    return found, wrong


def unfinished(path: Path, folder: Path) -> list[str]:
    """What a killed writer left of a write: kinds of things, none if it was not inside one.

    Args:
        path: of the gallery.
        folder: that holds it, and whatever else the command writes.
    """
    found = [kind for part in parts(path) for kind in _unfinished(part)]
    if path.is_dir() and not parts(path):
        found.append("a gallery without its database")
    return found + ["a file written aside" for _ in asides(folder)]


def _unfinished(part: Path) -> Iterator[str]:
    with Gallery.open(part) as gallery:
        extents = gallery._extents()
        if any(gallery._files.uncommitted(extents)):
            yield "a segment nobody refers to"
        for extent in extents:
            size = gallery._files.path(extent.segment).stat().st_size
            if size > gallery._files.size(extent.rows):
                yield "codes after the last commit"
    if _open_transaction(part / f"{_DATABASE}-wal"):
        yield "frames after the last commit"
    if list(part.glob(f"{_DATABASE}.new*")):
        yield "a database written aside"


def _open_transaction(log: Path) -> bool:
    """Whether a write-ahead log ends within a transaction."""
    data = log.read_bytes() if log.exists() else b""
    if len(data) < _WAL_HEADER:
        return False
    page, salts = int.from_bytes(data[8:12], "big"), data[16:24]
    committed = True
    for start in range(_WAL_HEADER, len(data) - _FRAME.size, page + 24):
        _, pages, *_ = _FRAME.unpack_from(data, start)
        if data[start + 8 : start + 16] != salts:
            break
        committed = bool(pages)
    return not committed


def asides(folder: Path) -> list[Path]:
    """Files and folders below one that were being written aside."""
    return [p for p in folder.rglob(".*") if p.name.endswith((".tmp", ".old"))]


def leftovers(path: Path, folder: Path, *, allowed: Iterable[str] = ()) -> list[str]:
    """Files in and beside a gallery at rest that belong to nothing.

    Args:
        path, folder: see :func:`unfinished`.
        allowed: names of folders that may be there, such as a repair's.
    """
    left = [str(found.relative_to(folder)) for found in asides(folder)]
    for part in parts(path):
        with Gallery.open(part) as gallery:
            left += [p.name for p in gallery._files.uncommitted(gallery._extents())]
        known = {_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-shm", "segments", "tables", "lock"}
        left += [
            str(found.relative_to(path.parent))
            for found in part.iterdir()
            if found.name not in known and not found.name.startswith(tuple(allowed))
        ]
        if len(list((part / "tables").glob("*"))) > 1:
            left.append(f"{part.name}/tables: more than one file")
    if (path / SHARDS).is_file():
        own = {SHARDS, "lock", *(part.name for part in parts(path))}
        left += [
            found.name
            for found in path.iterdir()
            if found.name not in own and not found.name.startswith(tuple(allowed))
        ]
    return left
