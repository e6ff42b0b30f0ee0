"""Which layout a folder has, and the one function that reads any of them."""

from __future__ import annotations

from pathlib import Path

from concepthash.datasets.aircraft import locate_aircraft, read_aircraft
from concepthash.datasets.assemble import assemble
from concepthash.datasets.cars import detect_cars, read_cars
from concepthash.datasets.cub import detect_cub, read_cub
from concepthash.datasets.folder import read_folder, visible_folders
from concepthash.datasets.records import Dataset, Listing
from concepthash.datasets.table import (
    CSV_SUFFIXES,
    ColumnNames,
    choose_file,
    fitting_files,
    read_table,
)
from concepthash.datasets.text import some
from concepthash.errors import DataError, UsageError

LAYOUTS = ("folder", "csv", "cub", "nabirds", "aircraft", "cars")
LEVELS = ("variant", "family", "manufacturer")


def load_dataset(
    root: str | Path,
    *,
    layout: str = "auto",
    path_column: str = "path",
    label_column: str = "label",
    split_column: str = "split",
    level: str = "variant",
    test_share: float | None = None,
    seed: int = 0,
) -> Dataset:
    """The photos, classes and splits below ``root``, read without opening or checking any photo.

    Args:
        root: a folder in one of the layouts, or a CSV file.
        layout: one of :data:`LAYOUTS`, or ``auto``: native files first, then a CSV file with
            the columns needed, then class folders. Column names other than the defaults mean CSV.
        path_column: CSV column of the path, relative to the folder of the CSV file.
        label_column: CSV column of the class.
        split_column: CSV column of the split: train, test, val, or 1 (train) and 0 (test). The
            three default names also stand for common synonyms.
        level: which FGVC-Aircraft labels, one of :data:`LEVELS`.
        test_share: share of each class held out where the layout has no test split, in [0, 1);
            None means 0.2.
        seed: of that hold-out.

    Raises:
        UsageError: an argument does not fit (no such root, layout, level or column).
        DataError: the data set cannot be used as it is.
        BackendError: Stanford Cars without SciPy.
    """
    root = Path(root)
    names = ColumnNames(path_column, label_column, split_column)
    _check_arguments(root, layout, level)
    if layout == "auto":
        layout = _detect(root, names, level)
    if level != LEVELS[0] and layout != "aircraft":
        raise UsageError(
            f"only FGVC-Aircraft has levels, this is {layout}", where=root, hint="drop --level"
        )
    return assemble(_read(root, layout, names, level), test_share=test_share, seed=seed)


def _check_arguments(root: Path, layout: str, level: str) -> None:
    if not root.exists():
        raise UsageError("no such folder or file", where=root, hint=f"ls {root.parent}")
    for value, allowed, option in (
        (layout, ("auto", *LAYOUTS), "layout"),
        (level, LEVELS, "level"),
    ):
        if value not in allowed:
            raise UsageError(
                f"unknown {option} {value!r}", where=option, hint=f"use one of {', '.join(allowed)}"
            )
    if root.is_file() and layout not in ("auto", "csv"):
        raise UsageError(
            f"the layout {layout} is a folder, this is a file", where=root, hint="--layout csv"
        )


def _read(root: Path, layout: str, names: ColumnNames, level: str) -> Listing:
    if layout == "csv":
        return read_table(choose_file(root, names), names)
    if layout in ("cub", "nabirds"):
        return read_cub(root, layout)
    if layout == "aircraft":
        return read_aircraft(root, level)
    if layout == "cars":
        return read_cars(root)
    return read_folder(root)


def _detect(root: Path, names: ColumnNames, level: str) -> str:
    if root.is_file():
        if root.suffix.lower() not in CSV_SUFFIXES:
            raise UsageError(
                "a data set is a folder or a CSV file", where=root, hint="--layout csv if it is one"
            )
        return "csv"
    folders = visible_folders(root)
    if names != ColumnNames():
        return "csv"
    native = _detect_native(root, level)
    if native is not None:
        return native
    fitting, reasons = fitting_files(root, names)
    if fitting:
        return "csv"
    inner = [folder for folder in folders if _detect_native(folder, level)]
    if folders and not inner:
        return "folder"
    hint = f"chash train {inner[0]}" if inner else "chash train FOLDER_OF_CLASS_FOLDERS"
    raise DataError(_nothing_recognised(root, reasons), where=root, hint=hint)


def _detect_native(root: Path, level: str) -> str | None:
    if locate_aircraft(root, level) is not None:
        return "aircraft"
    return detect_cub(root) or ("cars" if detect_cars(root) else None)


def _nothing_recognised(root: Path, reasons: list[str]) -> str:
    found = [entry.name + "/" * entry.is_dir() for entry in sorted(root.iterdir())]
    return (
        "no known layout here. Looked for: class folders; a CSV file with path and label "
        "columns; images.txt and image_class_labels.txt (CUB-200-2011, NABirds); "
        "images_variant_trainval.txt (FGVC-Aircraft); cars_annos.mat or cars_train_annos.mat "
        f"(Stanford Cars). Found: {some(found, 8) or 'nothing'}"
        + (f". CSV files do not fit: {'; '.join(reasons)}" if reasons else "")
    )
