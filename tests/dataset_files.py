"""Small data sets on the disk, for tests of their layouts."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image

from concepthash.datasets import (
    Dataset,
    Split,
    load_dataset,
)
from concepthash.errors import ConceptHashError


def photos(root: Path, paths: Iterable[str]) -> None:
    """Tiny images, each of its own colour."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(file)


def table(root: Path, text: str, name: str = "images.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    file = root / name
    file.write_bytes(text.encode())
    return file


def pairs(split: Split, dataset: Dataset) -> set[tuple[str, str]]:
    named = [dataset.class_names[label] for label in split.labels]
    return set(zip(split.paths, named, strict=True))


def refused(kind: type[ConceptHashError], root: Path, **options: object) -> ConceptHashError:
    with pytest.raises(kind) as caught:
        load_dataset(root, **options)  # type: ignore[arg-type]
    assert caught.value.where
    assert caught.value.hint
    return caught.value


def rows(file: Path) -> list[dict[str, str]]:
    """The lines of a CSV file, by the names of its columns."""
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))
