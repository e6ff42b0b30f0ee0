"""Where photos come from: folders and files, patterns, URLs, and the rows of Parquet files.

A source is what the user named. Everything that needs a package of its own is imported when such a
source is named: fsspec for URLs, pyarrow for Parquet.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from concepthash.errors import DataError, Skipped, UsageError
from concepthash.images import find_images
from concepthash.runtime.entries import absolute, changed_ns, is_url, valid_text

PARQUET = ".parquet"
UNMARKED = -1
"""The time of a photo of which nothing tells whether it has changed: it is read every time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a photo are: a file of its own, or a row of a Parquet file.

    Args:
        file: path or URL.
        row: of a Parquet file, from 0; -1 for a file of its own.
        column: of a Parquet file; that of a field within it is ``column.field``.
    """

    file: str
    row: int = -1
    column: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A photo of a source, before anyone has opened it.

    Args:
        path: its name, as :class:`concepthash.runtime.entries.Entry` has it.
        place: how to read it.
        size: bytes, of the file it lies in.
        mtime_ns: when that file was changed, or another number that changes with it;
            :data:`UNMARKED` if there is none.
        label: what the source calls its class.
        problem: why it cannot even be looked at; None if it can.
    """

    path: Path
    place: Place
    size: int = 0
    mtime_ns: int = UNMARKED
    label: str | None = None
    problem: str | None = None

    @property
    def marked(self) -> bool:
        """Whether size and time tell that it is as it was."""
        return self.mtime_ns != UNMARKED


class PhotoSource(Protocol):
    """Photos under one name that the user gave."""

    @property
    def root(self) -> Path | None:
        """What all their paths begin with; None if that says nothing of others that do."""

    @property
    def given(self) -> Path:
        """The name."""

    def photos(self, unread: Skipped) -> Iterator[Found]:
        """Each photo, in the order of the names; parts that cannot be read go to ``unread``."""

    def count(self) -> int:
        """How many photos there are."""

    def table(self) -> str | None:
        """A Parquet file that is not read, as photos lie beside it; None if there is none."""

    def named(self, path: Path) -> Path | None:
        """One of its photos as the user would write it; None if it is none of them."""

    def gone(self, path: Path) -> bool:
        """Whether a photo below the root is surely not there any more."""


@dataclass(frozen=True)
class Columns:
    """The columns of Parquet files to read; None: the one whose name or type says so.

    Args:
        image: encoded photos, or their paths.
        label: their classes.
    """

    image: str | None = None
    label: str | None = None


class Folder:
    """A folder of photos, or one photo."""

    def __init__(self, given: Path) -> None:
        self.given = given
        self._base = given.resolve() if given.is_dir() else absolute(given)
        self.root: Path | None = self._base

    def photos(self, unread: Skipped) -> Iterator[Found]:
        """As :meth:`PhotoSource.photos`; links to nothing are photos with a problem."""
        for path in self._files(unread):
            found = look(path, self._label(path))
            if found is not None:
                yield found

    def count(self) -> int:
        """As :meth:`PhotoSource.count`."""
        return sum(1 for _ in self._files(Skipped()))

    def table(self) -> str | None:
        """As :meth:`PhotoSource.table`."""
        file = next(self.given.rglob(f"*{PARQUET}"), None) if self.given.is_dir() else None
        return None if file is None else str(file)

    def named(self, path: Path) -> Path | None:
        """As :meth:`PhotoSource.named`."""
        below = path.is_relative_to(self._base)
        return self.given / path.relative_to(self._base) if below else None

    def gone(self, path: Path) -> bool:
        """As :meth:`PhotoSource.gone`."""
        return is_gone(path)

    def _files(self, unread: Skipped) -> Iterator[Path]:
        return find_images([self._base], unread)

    def _label(self, path: Path) -> str | None:
        """The name of the folder it lies in, unless that is the source itself."""
        return None if self._base in (path, path.parent) else valid_text(path.parent.name)


class Pattern(Folder):
    """What a pattern such as ``photos/*/*.jpg`` matches; its photos are not missed when gone."""

    def __init__(self, pattern: str) -> None:
        super().__init__(Path(_before_magic(pattern)))
        self.root = None
        self._pattern = pattern

    def table(self) -> None:
        """As :meth:`PhotoSource.table`: what it matches is read."""

    def _files(self, unread: Skipped) -> Iterator[Path]:
        outer = str(self.given)
        for match in sorted(glob.glob(self._pattern, recursive=True)):  # noqa: PTH207
            below = self._base / Path(match).relative_to(outer)
            if below.is_dir() or below.is_file():
                yield from find_images([below], unread)
            elif below.exists():
                unread.add(below, "not a regular file")  # a pipe would be waited for


def look(path: Path, label: str | None) -> Found | None:
    """A file as it is on disk now; None if it has just gone."""
    place = Place(str(path))
    try:
        status = path.stat()
    except OSError as error:
        if not is_gone(path):
            return Found(path, place, problem=error.strerror)
        if path.is_symlink():
            return Found(path, place, problem="a link to nothing")
        return None
    return Found(path, place, status.st_size, changed_ns(status), label)


def is_gone(path: Path) -> bool:
    """Whether there surely is no file: what cannot be looked at, as a URL, is no proof."""
    if is_url(str(path)):
        return False
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        file = row_of(path)
        return file is None or is_gone(file)
    except OSError:
        pass
    return False


def row_of(path: Path) -> Path | None:
    """The Parquet file that a photo's path says it is a row of; None if it is none."""
    name, _, row = path.name.rpartition("#")
    if row.isdecimal() and name.endswith(PARQUET):
        return type(path)(str(path)[: -len(row) - 1])
    return None


def open_sources(names: Sequence[str | Path], columns: Columns) -> list[PhotoSource]:
    """The sources of these names; URLs are listed and Parquet files looked into.

    Raises:
        UsageError: if nothing is there, a Parquet file has no column of photos, or columns are
            named and there is no Parquet file.
        DataError: if a URL cannot be listed.
        BackendError: if a package is missing.
    """
    opened = [_open(name, columns) for name in names]
    if columns != Columns():
        _check_columns(opened, columns)
    return opened


def table_beside(sources: Sequence[PhotoSource]) -> str | None:
    """A Parquet file that no source reads, as photos lie beside it.

    None if there is none, or others are named: then this one is left out on purpose.
    """
    if _has_rows(sources):
        return None
    return next((table for source in sources if (table := source.table()) is not None), None)


def _has_rows(sources: Sequence[PhotoSource]) -> bool:
    from concepthash.runtime.rows import Rows

    return any(isinstance(source, Rows) for source in sources)


def _check_columns(sources: Sequence[PhotoSource], columns: Columns) -> None:
    if _has_rows(sources):
        return
    table = table_beside(sources)
    raise UsageError(
        "columns are those of Parquet files, and none is read here"
        + ("" if table is None else ": photos lie beside them, so they are named themselves"),
        where="--label-column" if columns.image is None else "--image-column",
        hint="chash index FILE.parquet" if table is None else f"chash index {table}",
    )


def unreadable(sources: Sequence[PhotoSource]) -> DataError | None:
    """The error of sources without a photo if a part of them cannot be read; None if they can."""
    unread = Skipped()
    for source in sources:
        for _ in source.photos(unread):
            pass
    if not unread:
        return None
    first = unread.items[0]
    far = is_url(first.path)
    hint = "look at what its server answers: curl -I URL" if far else f"ls -l {first.path}"
    return DataError(first.reason, where=first.path, hint=hint)


def _open(name: str | Path, columns: Columns) -> PhotoSource:
    text = str(name)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if is_url(text):
        from concepthash.runtime.urls import Listing

        listing = Listing.of(text)
        tables = listing.tables()
        return _tables(listing.root, tables, columns) if tables else listing
    path = Path(text)
    if path.is_dir():
        files = sorted(path.rglob(f"*{PARQUET}")) if _no_photo(path) else []
        return _tables(path, list(map(str, files)), columns) if files else Folder(path)
    if path.suffix == PARQUET and path.is_file():
        return _tables(path, [text], columns)
    if not path.exists() and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        if matches and all(match.endswith(PARQUET) for match in matches):
            return _tables(None, matches, columns)
        if matches:
            return Pattern(text)
    if not path.exists():
        raise UsageError("no such file or folder", where=text, hint=f"ls {path.parent}")
    return Folder(path)


def _tables(given: Path | None, files: list[str], columns: Columns) -> PhotoSource:
    from concepthash.runtime.rows import Rows

    return Rows(given, files, columns)


def _no_photo(folder: Path) -> bool:
    return next(find_images([folder]), None) is None


def _before_magic(pattern: str) -> str:
    """The folders of a pattern before the first part that is one."""
    parts = Path(pattern).parts
    return str(Path(*takewhile(lambda part: not glob.has_magic(part), parts)))
