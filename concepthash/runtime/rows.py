"""Photos in Parquet files: as bytes in a column, or named in one."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from concepthash.datasets.table import LABEL_NAMES, PATH_NAMES
from concepthash.errors import ConceptHashError, Skipped, UsageError
from concepthash.runtime.entries import absolute, changed_ns, is_url, place
from concepthash.runtime.sources import UNMARKED, Columns, Found, Place, look, row_of
from concepthash.runtime.urls import Listing, bare, open_far

_IMAGE_NAMES = ("image", "img", "bytes", "image_bytes", "photo", "picture", "content", "jpg", "png")
_BINARY = ("binary", "large_binary")
_WITH_BYTES = "a struct with bytes"
_TOGETHER = 64
"""Rows decoded at once by who reads photos."""
_NAMES_TOGETHER = 4096
_BUFFER = 2**20


@dataclass(frozen=True)
class _Layout:
    """Which columns of a file are read.

    Args:
        image: of the photos, or of their paths; a field of a column after a dot.
        names: whether it holds paths.
        label: of the classes; None if there is none.
        classes: the names of classes that are numbers there.
    """

    image: str
    names: bool
    label: str | None
    classes: list[str]

    @classmethod
    def of(cls, schema: Any, columns: Columns, name: str) -> _Layout:
        """The columns that were asked for, or found by name and type.

        Raises:
            UsageError: if the file ``name`` has no such columns.
        """
        types = {field.name: _kind(field.type) for field in schema}
        there = ", ".join(types)
        for flag, column in (("--image-column", columns.image), ("--label-column", columns.label)):
            if column is not None and column not in types:
                raise UsageError(f"no column {column!r}; there are {there}", where=name, hint=flag)
        if columns.label is not None and not _is_label(types[columns.label]):
            raise UsageError(
                f"column {columns.label!r} is of {types[columns.label]}, which is no label",
                where=name,
                hint="--label-column with a column of text or numbers",
            )
        image = columns.image or _pick(types, _IMAGE_NAMES, _holds_bytes, only=True)
        image = image or _pick(types, PATH_NAMES, _holds_text)
        if image is not None and not (_holds_bytes(types[image]) or _holds_text(types[image])):
            raise UsageError(
                f"column {image!r} is of {types[image]}: neither photos nor their paths",
                where=name,
                hint=f"--image-column with one of {there}",
            )
        if image is None:
            raise UsageError(
                f"no column of photos or of their paths; there are {there}",
                where=name,
                hint="--image-column NAME",
            )
        label = columns.label or _pick(types, LABEL_NAMES, _is_label)
        return cls(
            f"{image}.bytes" if types[image] == _WITH_BYTES else image,
            _holds_text(types[image]),
            label,
            _class_names(schema, label),
        )

    def class_of(self, value: object) -> str | None:
        """The label of a row, by name where the file says which number it is."""
        if isinstance(value, int) and 0 <= value < len(self.classes):
            return self.classes[value]
        return None if value is None else str(value)


class Rows:
    """The rows of Parquet files, in order; ``FILE.parquet#ROW`` is their name.

    Where the column holds paths, photos have these for names: relative to the folder of the file.

    Args:
        given: the file or the folder; None for a pattern.
        files: paths or URLs.
        columns: which to read; those not named are found in each file.

    Raises:
        UsageError: if no file that can be read has such columns.
        BackendError: if pyarrow is missing.
    """

    def __init__(self, given: Path | None, files: list[str], columns: Columns) -> None:
        self.given = place(files[0]) if given is None else given
        self.root = None if given is None else _whole(given)
        self._files: dict[str, str] = {}
        self._read_from: dict[str, str] = {}
        for file in files:
            name = bare(file) if is_url(file) else file
            whole = str(_whole(place(name)))
            self._files[whole] = name
            self._read_from[whole] = file if is_url(file) else whole
        self._rows: dict[str, int] = {}
        self._layouts: dict[str, _Layout] = {}
        self._unread = Skipped()
        unfit: UsageError | None = None
        for whole, name in self._files.items():
            try:
                with opened(self._read_from[whole]) as table:
                    self._layouts[whole] = _Layout.of(table.schema_arrow, columns, name)
                    self._rows[whole] = table.metadata.num_rows
            except UsageError as error:
                unfit = unfit or error
                self._unread.add(name, error.what)
            except OSError as error:
                self._unread.add(name, error)
        if unfit is not None and not self._rows:
            raise unfit

    def photos(self, unread: Skipped) -> Iterator[Found]:
        """As :meth:`concepthash.runtime.sources.PhotoSource.photos`."""
        for skip in self._unread.items:
            unread.add(skip.path, skip.reason)
        for file, rows in self._rows.items():
            layout, source = self._layouts[file], self._read_from[file]
            try:
                size, changed = _mark(source, layout.image)
                for row, (name, label) in enumerate(_values(source, rows, layout)):
                    there = Place(source, row, layout.image)
                    found = Found(place(f"{file}#{row}"), there, size, changed, label)
                    yield _pointed(found, name, layout) if layout.names else found
            except OSError as error:
                unread.add(self._files[file], error)

    def table(self) -> None:
        """As :meth:`concepthash.runtime.sources.PhotoSource.table`: all of them are read."""

    def count(self) -> int:
        """As :meth:`concepthash.runtime.sources.PhotoSource.count`."""
        return sum(self._rows.values())

    def named(self, path: Path) -> Path | None:
        """As :meth:`concepthash.runtime.sources.PhotoSource.named`."""
        file = row_of(path)
        if file is None or str(file) not in self._files:
            return None
        return place(f"{self._files[str(file)]}#{path.name.rpartition('#')[2]}")

    def gone(self, path: Path) -> bool:
        """As :meth:`concepthash.runtime.sources.PhotoSource.gone`: no file has this row."""
        file = row_of(path)
        if file is None or (str(file) in self._files and str(file) not in self._rows):
            return False
        return int(path.name.rpartition("#")[2]) >= self._rows.get(str(file), 0)


def _values(file: str, rows: int, layout: _Layout) -> Iterator[tuple[str | None, str | None]]:
    """The path, if the column has paths, and the label of each row."""
    with opened(file) as table:
        wanted = [name for name in (layout.image if layout.names else None, layout.label) if name]
        if not wanted:
            for _ in range(rows):
                yield None, None
            return
        for batch in table.iter_batches(_NAMES_TOGETHER, columns=wanted):
            values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
            for row in range(batch.num_rows):
                path = values[layout.image][row] if layout.names else None
                kind = values[layout.label][row] if layout.label else None
                yield path, layout.class_of(kind)


def _pointed(row: Found, name: str | None, layout: _Layout) -> Found:
    """The photo that a row names; of a URL nothing but the row's file tells when it changes."""
    if not name:
        return Found(row.path, row.place, problem="no path in this row")
    folder = str(row.place.file).rpartition("/")[0]
    whole = name if is_url(name) or Path(name).is_absolute() else f"{folder}/{name}"
    path = place(bare(whole) if is_url(whole) else whole)
    label = row.label if layout.label else path.parent.name
    if is_url(whole):
        return Found(path, Place(whole), row.size, row.mtime_ns, label)
    path = absolute(path)
    gone = Found(path, Place(str(path)), problem="no such file")
    return look(path, label) or gone


class RowReader:
    """Reads photos of Parquet files; fast where rows are asked for about in their order."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._file: Any = None
        self._place = Place("")
        self._batches: Iterator[Any] = iter(())
        self._next = self._end = 0
        self._kept: deque[tuple[Place, Any]] = deque(maxlen=2)  # threads ask a little out of order

    def read(self, wanted: Place) -> bytes:
        """The photo of a row.

        Raises:
            OSError: if the file cannot be read, or there is none in the row.
        """
        with self._lock:
            value = self._value(wanted)
        if not isinstance(value, bytes):
            raise OSError("no photo in this row")
        return value

    def _value(self, wanted: Place) -> object:
        while True:
            for first, values in self._kept:
                row = wanted.row - first.row
                if (first.file, first.column) == (wanted.file, wanted.column) and (
                    0 <= row < len(values)
                ):
                    return values[row].as_py()
            with _arrow_errors():
                self._advance(wanted)

    def _advance(self, wanted: Place) -> None:
        same = (self._place.file, self._place.column) == (wanted.file, wanted.column)
        if not same:
            self._place, self._file = wanted, _open(wanted.file)
        if not same or not self._next <= wanted.row < self._end:
            self._seek(wanted)
        batch = next(self._batches, None)
        if batch is None:
            self._next = self._end = 0
            raise OSError("the file has not as many rows as it says")
        values = batch.column(0)
        for field in wanted.column.split(".")[1:]:
            values = values.field(field)
        self._kept.append((Place(wanted.file, self._next, wanted.column), values))
        self._next += len(values)

    def _seek(self, wanted: Place) -> None:
        """Begin with the row group of a row."""
        first = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if first <= wanted.row < first + rows:
                self._batches = self._file.iter_batches(
                    _TOGETHER, row_groups=[group], columns=[wanted.column]
                )
                self._next, self._end = first, first + rows
                return
            first += rows
        raise OSError("the file has no such row any more")


@contextmanager
def opened(file: str) -> Iterator[Any]:
    """A Parquet file, local or far.

    Raises:
        OSError: if it cannot be read.
        BackendError: if a package is missing.
    """
    with _arrow_errors():
        table = _open(file)
        try:
            yield table
        finally:
            table.close(force=True)


def _open(file: str) -> Any:
    from concepthash.runtime.parquetfile import pyarrow

    _, parquet = pyarrow()
    if is_url(file):
        return parquet.ParquetFile(open_far(file), pre_buffer=False)
    return parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)


@contextmanager
def _arrow_errors() -> Iterator[None]:
    try:
        yield
    except (ConceptHashError, OSError):
        raise
    except Exception as error:  # Arrow's, and those of file systems
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        if "range requests" in text or "seek streaming" in text:  # fsspec's of a web server
            raise OSError(
                "its server sends whole files only (no Range requests): fetch it, index the copy"
            ) from None
        raise OSError(f"not a Parquet file that can be read: {text}") from None


def _mark(file: str, column: str) -> tuple[int, int]:
    """Size and mark of a file, which those of its rows are; another column has another mark."""
    if is_url(file):
        size, changed = Listing.of(file).files[bare(file)]
    else:
        status = Path(file).stat()
        size, changed = status.st_size, changed_ns(status)
    return size, changed if changed == UNMARKED else changed ^ zlib.crc32(column.encode())


def _whole(given: Path) -> Path:
    if is_url(str(given)):
        return given
    return given.resolve() if given.is_dir() else absolute(given)


def _kind(of: Any) -> str:
    """The type of a column in words; of a struct, whether it has the bytes of photos."""
    kind = str(of)
    if not kind.startswith("struct"):
        return kind
    fields = {of.field(number).name: str(of.field(number).type) for number in range(of.num_fields)}
    return _WITH_BYTES if fields.get("bytes") in _BINARY else "a struct without bytes"


def _holds_bytes(kind: str) -> bool:
    values = kind.removeprefix("dictionary<values=").partition(",")[0]
    return kind == _WITH_BYTES or values in _BINARY


def _is_label(kind: str) -> bool:
    return not (_holds_bytes(kind) or kind.startswith(("a struct", "list", "large_list", "map")))


def _holds_text(kind: str) -> bool:
    return kind in ("string", "large_string") or kind.startswith("dictionary<values=string")


def _pick(types: dict[str, str], names: Any, fits: Any, *, only: bool = False) -> str | None:
    """The first column of these names, or the only one, that holds what is looked for."""
    fitting = [name for name, kind in types.items() if fits(kind)]
    lower = {name.lower(): name for name in fitting}
    known = next((lower[name] for name in names if name in lower), None)
    return fitting[0] if known is None and only and len(fitting) == 1 else known


def _class_names(schema: Any, label: str | None) -> list[str]:
    """The names of classes that are numbers, where the file was written by Hugging Face's tools."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return list(map(str, info["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError):
        return []
