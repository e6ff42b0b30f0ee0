"""Part annotations in the text files of CUB-200-2011 (Wah et al. 2011), joined by image id.

``parts/parts.txt`` (part id, name), ``parts/part_locs.txt`` (image id, part id, x, y, visible),
``images.txt``, ``train_test_split.txt`` and ``bounding_boxes.txt``. Sizes of the photos are not
written down; the photos themselves have them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from concepthash.errors import DataError
from concepthash.explain.keypoints import (
    AnnotatedImage,
    Annotations,
    Box,
    KeyPoint,
    is_visible,
    number,
    photo_root,
    read_lines,
    stands_once,
)
from concepthash.files import relative_path


def read_cub_parts(file: Path, *, root: Path | None = None) -> Annotations:
    """The annotations whose key points are in ``file``, ``parts/part_locs.txt`` of the data set.

    Args:
        file: the other files are found from it.
        root: folder of the photos; by default ``images/`` of the data set.

    Raises:
        DataError: for a file that is missing or damaged, with the line.
    """
    folder = file.parent.parent
    names = {key: " ".join(words) for key, words, _ in _lines(file.with_name("parts.txt"), 2)}
    points = _points(file, names)
    flags = {key: words[0] for key, words, _ in _lines(folder / "train_test_split.txt", 2)}
    boxes = {key: _box(words, at) for key, words, at in _lines(folder / "bounding_boxes.txt", 5)}
    images = []
    seen: dict[tuple[str, ...], str] = {}
    for key, words, where in _lines(folder / "images.txt", 2):
        if key not in flags:
            raise DataError(
                f"the image {key} is not in train_test_split.txt",
                where=where,
                hint="make the files list the same ids",
            )
        path = relative_path(" ".join(words), where)
        stands_once(seen, (path,), where)
        images.append(
            AnnotatedImage(
                path=path,
                split="train" if flags[key] == "1" else "test",
                points=tuple(points.get(key, ())),
                box=boxes.get(key),
            )
        )
    found = photo_root([folder / "images" if root is None else root], images)
    return Annotations(file, found, tuple(names.values()), tuple(images))


def _points(file: Path, names: dict[str, str]) -> dict[str, list[KeyPoint]]:
    found: defaultdict[str, list[KeyPoint]] = defaultdict(list)
    seen: dict[tuple[str, ...], str] = {}
    for key, (part, x, y, visible, *_), where in _lines(file, 5):
        if part not in names:
            raise DataError(
                f"the part {part} is not in parts.txt",
                where=where,
                hint="restore the files as they were published",
            )
        stands_once(seen, (names[part], key), where)
        if is_visible(visible, where):
            found[key].append(KeyPoint(names[part], number(x, where), number(y, where)))
    return found


def _box(words: list[str], where: str) -> Box:
    x, y, width, height = (number(word, where) for word in words[:4])
    return x, y, width, height


def _lines(file: Path, words: int) -> Iterator[tuple[str, list[str], str]]:
    """The id of each line, its other words, and where it stands."""
    for line, text in enumerate(read_lines(file).splitlines(), start=1):
        found = text.split()
        if not found:
            continue
        where = f"{file}, line {line}"
        if len(found) < words:
            raise DataError(
                f"a line needs {words} words, this one has {len(found)}",
                where=where,
                hint="restore the file as it was published",
            )
        yield found[0], found[1:], where
