"""CUB-200-2011 (Wah et al. 2011) and NABirds (Van Horn et al. 2015): four text files, joined by id.

``images.txt`` (id, path below ``images/``), ``image_class_labels.txt`` (id, class id),
``classes.txt`` (class id, name) and ``train_test_split.txt`` (id, 1 for train).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from concepthash.datasets.records import Entry, Listing, Part
from concepthash.datasets.text import read_pairs, some
from concepthash.errors import DataError
from concepthash.files import relative_path


def detect_cub(root: Path) -> str | None:
    """``"cub"``, ``"nabirds"`` (it adds a class hierarchy) or None."""
    if not all((root / name).is_file() for name in ("images.txt", "image_class_labels.txt")):
        return None
    return "nabirds" if (root / "hierarchy.txt").is_file() else "cub"


def read_cub(root: Path, layout: str) -> Listing:
    """The photos in the order of ``images.txt``; classes in the order of ``classes.txt``.

    Raises:
        DataError: if a file is missing or damaged, or the ids of two files differ.
    """
    source = root / "images.txt"
    images = _by_id(source)
    labels = _by_id(root / "image_class_labels.txt")
    flags = _by_id(root / "train_test_split.txt")
    names = {key: name for key, (_, name) in _by_id(root / "classes.txt").items()}
    _same_ids(images, labels, root / "image_class_labels.txt")
    _same_ids(images, flags, root / "train_test_split.txt")
    entries = []
    for key, (line, path) in images.items():
        label, flag = labels[key], flags[key]
        if label[1] not in names:
            raise DataError(
                f"class {label[1]!r} is not in classes.txt",
                where=f"{root / 'image_class_labels.txt'}, line {label[0]}",
                hint="restore the files as they were published",
            )
        if flag[1] not in ("0", "1"):
            raise DataError(
                f"a split is 1 (train) or 0 (test), not {flag[1]!r}",
                where=f"{root / 'train_test_split.txt'}, line {flag[0]}",
                hint="restore the file as it was published",
            )
        where = f"{source}, line {line}"
        part: Part = "train" if flag[1] == "1" else "test"
        entries.append(Entry(relative_path(f"images/{path}", where), label[1], part, where))
    return Listing(root, layout, source, tuple(entries), names)


def _by_id(file: Path) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for line, key, value in read_pairs(file):
        if key in found:
            raise DataError(
                f"the id {key!r} is listed twice",
                where=f"{file}, lines {found[key][0]} and {line}",
                hint="keep one of the two lines",
            )
        found[key] = line, value
    return found


def _same_ids(images: Iterable[str], other: Iterable[str], file: Path) -> None:
    ours, theirs = set(images), set(other)
    if ours == theirs:
        return
    if theirs - ours:
        what = f"ids without an image in images.txt: {some(sorted(theirs - ours))}"
    else:
        what = f"images without a line in {file.name}: {some(sorted(ours - theirs))}"
    raise DataError(what, where=file, hint="make the files list the same ids")
