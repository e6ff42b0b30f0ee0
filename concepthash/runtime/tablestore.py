"""The search tables of a gallery: kept beside its segments, used only for the codes they are of.

A file ``tables/ROWS.mih`` holds the tables of the first ROWS codes. Segments are only appended to
and their numbers never used twice, so the numbers and rows of the segments that hold those codes
say which codes they are: that is the file's key. Codes committed later are searched without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from concepthash.errors import GalleryDamaged, GalleryError
from concepthash.files import half_written
from concepthash.runtime.records import Extent
from concepthash.runtime.storage import storage_errors
from concepthash.runtime.tablefile import DAMAGED
from concepthash.runtime.tables import Tables

SUFFIX = ".mih"


def find(folder: Path, gallery: str, extents: Sequence[Extent]) -> Tables | None:
    """The tables that cover most of a gallery, memory-mapped; None if none fits.

    Args:
        folder: where they are.
        gallery: the gallery's id.
        extents: its segments, in id order.
    """
    total = sum(extent.rows for extent in extents)
    for rows in sorted(_stored(folder), reverse=True):
        if rows <= total:
            # Of codes that are gone, damaged, or of another version: searches are slower without.
            with suppress(GalleryError):
                return Tables.open(_file(folder, rows), key=_key(gallery, extents, rows))
    return None


def damage(folder: Path, gallery: str, extents: Sequence[Extent]) -> Iterator[tuple[Path, str]]:
    """What is wrong with files of tables, and with all of those that :func:`find` gives.

    Tables of codes that are gone, or of another version, are no damage.
    """
    for rows in _stored(folder):
        try:
            Tables.open(_file(folder, rows), key=_key(gallery, extents, rows))
        except GalleryDamaged as error:
            yield _file(folder, rows), error.what
        except GalleryError:
            continue
    tables = find(folder, gallery, extents)
    if tables is not None and not tables.intact:
        yield _file(folder, tables.rows), DAMAGED


def store(folder: Path, gallery: str, extents: Sequence[Extent], tables: Tables) -> None:
    """Keep tables for later, in the place of those there are.

    Raises:
        GalleryError: if they cannot be written; those there are stay then.
    """
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        tables.save(_file(folder, tables.rows), _key(gallery, extents, tables.rows))
        for other in folder.iterdir():
            # Only files of ours: the folder may be a link to anywhere.
            ours = half_written(other.name) or other.suffix == SUFFIX
            if ours and other != _file(folder, tables.rows):
                with suppress(PermissionError):  # Windows: a reader has mapped it
                    other.unlink()


def _stored(folder: Path) -> list[int]:
    files: list[Path] = []
    with suppress(OSError):  # none yet, or a writer has just deleted it
        files += folder.iterdir()
    return [int(file.stem) for file in files if file.suffix == SUFFIX and file.stem.isdecimal()]


def _file(folder: Path, rows: int) -> Path:
    return folder / f"{rows:012d}{SUFFIX}"


def _key(gallery: str, extents: Sequence[Extent], rows: int) -> str:
    parts, left = [gallery], rows
    for extent in extents:
        if left > 0:
            parts.append(f"{extent.segment}:{min(left, extent.rows)}")
            left -= extent.rows
    return " ".join(parts)
