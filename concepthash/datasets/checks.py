"""Checks that look at the files themselves: what is missing, what is there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from concepthash.datasets.records import Dataset
from concepthash.errors import Skipped
from concepthash.files import sha256


def check_files(dataset: Dataset) -> Skipped:
    """The listed photos that are not there or empty, each with the reason; opens none.

    ``chash train`` calls it before the first epoch. A missing photo is reported, not an error:
    ``--strict`` makes it one. A name that differs in case only is pointed out.
    """
    skipped = Skipped()
    folders: dict[Path, dict[str, str]] = {}
    for path in (*dataset.train.paths, *dataset.test.paths):
        file = dataset.root / path
        try:
            if not file.is_file():
                skipped.add(path, _why_missing(file, folders))
            elif not file.stat().st_size:
                skipped.add(path, "the file is empty")
        except OSError as error:
            skipped.add(path, error.strerror)
    return skipped


def _why_missing(file: Path, folders: dict[Path, dict[str, str]]) -> str:
    if file.is_dir():
        return "a folder, not a file"
    folder = file.parent
    if folder not in folders:
        there = folder.iterdir() if folder.is_dir() else ()
        folders[folder] = {entry.name.casefold(): entry.name for entry in there}
    similar = folders[folder].get(file.name.casefold())
    if similar is not None:
        return f"no such file, but {similar} is there: upper and lower case matter"
    return "no such file" if folder.is_dir() else f"no such folder: {folder.name}"


def find_duplicates(
    dataset: Dataset, *, across: Literal["labels", "splits"] = "labels"
) -> list[tuple[str, str]]:
    """Pairs of photos with identical content under two labels (or in train and in test).

    The first of a pair is the earliest listed photo with that content. ``chash train`` calls it
    before the first epoch: one photo under two labels is a contradiction, one photo in both
    splits makes the test split easier than it looks. Only files of equal size are read (sizes
    first, then SHA-256); missing and empty files are left to :func:`check_files`.
    """
    labels = [*dataset.train.labels.tolist(), *dataset.test.labels.tolist()]
    splits = [0] * len(dataset.train) + [1] * len(dataset.test)
    side = labels if across == "labels" else splits
    paths = (*dataset.train.paths, *dataset.test.paths)
    pairs = []
    for same in _identical(dataset.root, paths):
        pairs += [(paths[same[0]], paths[row]) for row in same[1:] if side[row] != side[same[0]]]
    return pairs


def _identical(root: Path, paths: tuple[str, ...]) -> Iterator[list[int]]:
    sizes: dict[int, list[int]] = defaultdict(list)
    for row, path in enumerate(paths):
        file = root / path
        if file.is_file():
            sizes[file.stat().st_size].append(row)
    for size, rows in sizes.items():
        if size and len(rows) > 1:
            contents: dict[str, list[int]] = defaultdict(list)
            for row in rows:
                contents[sha256(root / paths[row])].append(row)
            yield from (same for same in contents.values() if len(same) > 1)
