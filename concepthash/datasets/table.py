"""A CSV file with a line per photo: path, label and, optionally, split."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from concepthash.datasets.records import Entry, Listing, Part
from concepthash.datasets.text import decode, read_text, some
from concepthash.errors import ConceptHashError, DataError, UsageError
from concepthash.files import relative_path

CSV_SUFFIXES = frozenset({".csv", ".tsv"})

PATH_NAMES = (
    *("path", "image_path", "file_path", "filepath", "image"),
    *("file_name", "filename", "file", "img"),
)
LABEL_NAMES = ("label", "class", "class_name", "label_name", "category", "species")
SPLIT_NAMES = ("split", "official_split", "set", "subset", "partition", "is_training_image")
"""Column names recognised without a flag, in order of preference; the first is the default."""

SPLIT_VALUES: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "1": "train",
    "test": "test",
    "testing": "test",
    "0": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""What a split column may say, in any case. 1 and 0 as in CUB-200-2011: 1 is train."""


@dataclass(frozen=True)
class ColumnNames:
    """The columns to read; a default name also stands for its synonyms."""

    path: str = PATH_NAMES[0]
    label: str = LABEL_NAMES[0]
    split: str = SPLIT_NAMES[0]


@dataclass(frozen=True)
class _Columns:
    path: int
    label: int
    split: int | None
    notes: tuple[str, ...]


def _csv_files(folder: Path) -> list[Path]:
    """The CSV and TSV files directly in ``folder``, without hidden ones."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in CSV_SUFFIXES and file.name[0] != "." and file.is_file()
    )


def fitting_files(folder: Path, names: ColumnNames) -> tuple[list[Path], list[str]]:
    """The CSV files in ``folder`` with the columns needed, and why each other one is not."""
    fitting, reasons = [], []
    for file in _csv_files(folder):
        try:
            with file.open("rb") as stream:
                header = decode(stream.readline(1 << 16), file)
            _find_columns(_records(header, file)[0][1], names, file)
        except ConceptHashError as error:
            reasons.append(f"{file.name}: {error.what}")
        except OSError as error:
            reasons.append(f"{file.name}: {error.strerror}")
        else:
            fitting.append(file)
    return fitting, reasons


def choose_file(root: Path, names: ColumnNames) -> Path:
    """``root`` itself if it is a file, else the one CSV file in it that fits.

    Raises:
        DataError: if no file fits, or several.
    """
    if root.is_file():
        return root
    fitting, reasons = fitting_files(root, names)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"several CSV files fit: {some(file.name for file in fitting)}",
            where=root,
            hint=f"name one (chash train {fitting[0]}) or the class folders (--layout folder)",
        )
    raise DataError(
        "no CSV file with the columns needed: " + ("; ".join(reasons) or "there is none"),
        where=root,
        hint="name the columns: --path-column NAME --label-column NAME",
    )


def read_table(file: Path, names: ColumnNames) -> Listing:
    """The photos of a CSV file, with paths relative to its folder.

    The separator is a comma, semicolon or tab, whichever the header has most of.

    Raises:
        DataError: not UTF-8, a column missing, or a line that cannot be used (with its number).
        UsageError: if a column that was asked for by name is missing.
    """
    records = _records(read_text(file), file)
    columns = _find_columns(records[0][1], names, file)
    notes = [f"read from {file.name}", *columns.notes]
    entries = []
    digits = False
    for line, row in records[1:]:
        where = f"{file}, line {line}"
        if len(row) != len(records[0][1]):
            raise DataError(
                f"a line has {len(row)} values, the header {len(records[0][1])}",
                where=where,
                hint="put quotes around values that contain the separator",
            )
        part = None
        if columns.split is not None:
            part = _part(row[columns.split], where)
            digits = digits or row[columns.split].strip().isdecimal()
        label = row[columns.label].strip()
        if not label:
            raise DataError("a line has no label", where=where, hint="label it or remove the line")
        entries.append(Entry(relative_path(row[columns.path].strip(), where), label, part, where))
    if digits:
        notes.append("split 1 is train and 0 is test, as in CUB-200-2011")
    return Listing(file.parent, "csv", file, tuple(entries), notes=tuple(notes))


def _records(text: str, file: Path) -> list[tuple[int, list[str]]]:
    header = text.lstrip().partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True
    )
    try:
        records = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(
            f"the CSV cannot be parsed: {error}",
            where=f"{file}, line {reader.line_num}",
            hint="look for an unbalanced quotation mark",
        ) from error
    if not records:
        raise DataError("the CSV is empty", where=file, hint="write a header: path,label,split")
    return records


def _find_columns(header: list[str], names: ColumnNames, file: Path) -> _Columns:
    header = [name.strip() for name in header]
    notes: list[str] = []
    path = _find(header, names.path, PATH_NAMES, file, notes)
    label = _find(header, names.label, LABEL_NAMES, file, notes)
    split = _find(header, names.split, SPLIT_NAMES, file, notes)
    for column, role in ((path, PATH_NAMES[0]), (label, LABEL_NAMES[0])):
        if column is None:
            raise DataError(
                f"no {role} column among {', '.join(header)}",
                where=f"{file}, line 1",
                hint=f"--{role}-column NAME",
            )
    assert path is not None
    assert label is not None
    return _Columns(path, label, split, tuple(notes))


def _find(
    header: list[str], wanted: str, synonyms: tuple[str, ...], file: Path, notes: list[str]
) -> int | None:
    role = synonyms[0]
    folded = [name.casefold() for name in header]
    for name in (wanted.strip(), *(synonyms if wanted == role else ())):
        # An exact match first: a header may have both "Label" and "label".
        found = [i for i, column in enumerate(header) if column == name]
        found = found or [i for i, column in enumerate(folded) if column == name.casefold()]
        if len(found) > 1:
            raise DataError(
                f"the {role} column is ambiguous: {', '.join(header[i] for i in found)}",
                where=f"{file}, line 1",
                hint=f"rename one, or --{role}-column NAME",
            )
        if found:
            if header[found[0]] != wanted:
                notes.append(f"column {header[found[0]]!r} is read as {role}")
            return found[0]
    if wanted != role:
        raise UsageError(
            f"no column {wanted!r} among {', '.join(header)}",
            where=f"{file}, line 1",
            hint=f"--{role}-column with one of these names",
        )
    return None


def _part(value: str, where: str) -> Part:
    part = SPLIT_VALUES.get(value.strip().casefold())
    if part is None:
        raise DataError(
            f"unknown split {value!r}",
            where=where,
            hint=f"use one of {', '.join(SPLIT_VALUES)}",
        )
    return part
