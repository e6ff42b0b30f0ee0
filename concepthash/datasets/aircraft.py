"""FGVC-Aircraft (Maji et al. 2013): lists of image numbers with their variant, one a split."""

from __future__ import annotations

from pathlib import Path

from concepthash.datasets.records import Entry, Listing, Part
from concepthash.datasets.text import read_pairs
from concepthash.files import relative_path


def locate_aircraft(root: Path, level: str) -> Path | None:
    """The folder that holds the lists, ``root/data`` or ``root``, or None."""
    for base in (root / "data", root):
        if (base / f"images_{level}_trainval.txt").is_file():
            return base
    return None


def read_aircraft(root: Path, level: str) -> Listing:
    """The official trainval and test lists, images as ``images/NUMBER.jpg`` beside them.

    ``level`` is variant (100 classes), family (70) or manufacturer (30).

    Raises:
        DataError: if a list is missing or damaged.
    """
    base = locate_aircraft(root, level) or root
    entries = []
    lists: tuple[tuple[str, Part], ...] = (("trainval", "train"), ("test", "test"))
    for word, part in lists:
        file = base / f"images_{level}_{word}.txt"
        for line, number, label in read_pairs(file):
            where = f"{file}, line {line}"
            path = (base / "images").relative_to(root) / relative_path(f"{number}.jpg", where)
            entries.append(Entry(path.as_posix(), label, part, where))
    return Listing(root, "aircraft", base, tuple(entries))
