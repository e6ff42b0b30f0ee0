"""Part annotations: the visible key points, box and split of every photo, as they were published.

Read are CSV files in the columns of :mod:`concepthash.demo.dataset` (``part_locs.csv`` with
``images.csv`` beside it) and the text files of CUB-200-2011 (``parts/part_locs.txt``, see
:mod:`concepthash.explain.cubfiles`). Coordinates are pixels of the *stored* file, from its top left
corner, before any EXIF orientation: annotators drew on what was stored.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from concepthash.errors import DataError
from concepthash.files import reason, relative_path

Box = tuple[float, float, float, float]
"""Left, top, width and height, pixels."""

_POINTS, _IMAGES = "part_locs.csv", "images.csv"
_IMAGE_COLUMNS = ("cub_image_id", "path", "official_split")
_POINT_COLUMNS = ("cub_image_id", "part", "x", "y", "visible")
_BOX_COLUMNS = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
_CUB_POINTS = "part_locs.txt"
_RESTORE = "restore the file as it was published"


@dataclass(frozen=True)
class KeyPoint:
    """A visible key point: the name of its part, and where it lies in the stored file."""

    part: str
    x: float
    y: float


@dataclass(frozen=True)
class AnnotatedImage:
    """What is known of one photo.

    Args:
        path: relative to the root of the annotations, with forward slashes.
        split: "train", "test" or what else the file says.
        points: the visible key points.
        size: width and height of the stored file; None if they were not written down.
        box: of the object in the stored file; None if it has none.
    """

    path: str
    split: str
    points: tuple[KeyPoint, ...]
    size: tuple[int, int] | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Masks:
    """Part masks: palette or grey PNGs whose values are part numbers, 0 the background.

    Args:
        folder: the mask of ``a/b.jpg`` is ``a/b.png`` in it.
        parts: names by value; the first is the background.
    """

    folder: Path
    parts: tuple[str, ...]

    def path(self, image: AnnotatedImage) -> Path:
        """Where the mask of a photo is."""
        return self.folder / PurePosixPath(image.path).with_suffix(".png")


@dataclass(frozen=True)
class Annotations:
    """The part annotations of a data set.

    Args:
        source: the file the key points were read from.
        root: what the paths of the photos are relative to.
        parts: the names of the key points, in the order of the file.
        images: every annotated photo.
        masks: known part masks, if there are any.
    """

    source: Path
    root: Path
    parts: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    masks: Masks | None = None

    def of_split(self, split: str) -> tuple[AnnotatedImage, ...]:
        """The photos of a split; of "all", every one.

        Raises:
            DataError: if the split has no photo, or not one visible key point.
        """
        chosen = tuple(image for image in self.images if split in ("all", image.split))
        if not chosen:
            there = ", ".join(sorted({image.split for image in self.images})) or "none"
            raise DataError(
                f"no photo of the split {split!r}; there are: {there}",
                where=self.source,
                hint="--split all",
            )
        if not any(image.points for image in chosen):
            raise DataError(
                f"no visible key point in the split {split!r}",
                where=self.source,
                hint="mark at least one point of each photo as visible",
            )
        return chosen


def read_annotations(source: str | Path, *, data: str | Path | None = None) -> Annotations:
    """The part annotations of a file, or of the folder that has it.

    Args:
        source: ``part_locs.csv`` with ``images.csv`` beside it, ``parts/part_locs.txt`` of
            CUB-200-2011, or a folder with one of them (also below ``annotations/``).
        data: folder the photos' paths are relative to; by default that of ``images.csv``, or the
            one above it, whichever has the photos.

    Raises:
        DataError: for a file or column that is missing, a value that cannot be read, a part or
            photo that is listed twice, a path that leads out of the folder (all with their line),
            or photos that are not where they should be.
    """
    file = _find(Path(source))
    if file.suffix.lower() == ".txt":
        from concepthash.explain.cubfiles import read_cub_parts

        return read_cub_parts(file, root=None if data is None else Path(data))
    listing = file.with_name(_IMAGES)
    points, parts = _points(file)
    images = _images(listing, points, file)
    places = [file.parent, file.parent.parent] if data is None else [Path(data)]
    return Annotations(file, photo_root(places, images), parts, images, _masks(file.parent))


def photo_root(places: Iterable[Path], images: Iterable[AnnotatedImage]) -> Path:
    """The first of several folders that has any of the photos.

    Raises:
        DataError: if none has.
    """
    tried = list(places)
    paths = [image.path for image in images]
    for place in tried:
        if any((place / path).is_file() for path in paths):
            return place
    raise DataError(
        "not one of the annotated photos is there"
        + (f", the first would be {tried[0] / paths[0]}" if paths else ""),
        where=" or ".join(map(str, tried)),
        hint="--data FOLDER names the folder their paths are relative to",
    )


def stands_once(seen: dict[tuple[str, ...], str], key: tuple[str, ...], where: str) -> None:
    """Note in ``seen`` where something stands in a file.

    Raises:
        DataError: if it stood there before, with both lines.
    """
    if key in seen:
        raise DataError(
            f"{' of image '.join(key)} is listed twice, first in {seen[key].rpartition(', ')[2]}",
            where=where,
            hint="keep one of the two lines",
        )
    seen[key] = where


def read_lines(file: Path) -> str:
    """The content of a UTF-8 text file.

    Raises:
        DataError: if it is missing, cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{file.name} is missing", where=file, hint=f"ls {file.parent}, or name another file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file.name} cannot be read: {reason(error)}", where=file, hint=f"file {file}"
        ) from None


def number(text: str, where: str) -> float:
    """A finite number.

    Raises:
        DataError: with the place, if the text is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{text!r} is not a number", where=where, hint=_RESTORE)
    return value


def is_visible(text: str, where: str) -> bool:
    """Whether a key point is visible: 1 or 0.

    Raises:
        DataError: with the place, if the text is neither.
    """
    if text.strip() not in ("0", "1"):
        raise DataError(f"visible is 1 or 0, not {text!r}", where=where, hint=_RESTORE)
    return text.strip() == "1"


def _find(source: Path) -> Path:
    if source.is_file():
        text = source.suffix.lower() == ".txt" and source.name != _CUB_POINTS
        if text and not source.with_name("parts.txt").is_file():  # nor a renamed one of CUB
            raise DataError(
                f"no part annotations: those are a {_POINTS} with {_IMAGES} beside it, or "
                f"parts/{_CUB_POINTS} of CUB-200-2011",
                where=source,
                hint=f"--parts FOLDER/{_POINTS}",
            )
        return source
    places = (_POINTS, f"annotations/{_POINTS}", f"parts/{_CUB_POINTS}")
    for name in places if source.is_dir() else ():
        if (source / name).is_file():
            return source / name
    what = f"no {' or '.join(places)} in it" if source.is_dir() else "no such file or folder"
    raise DataError(what, where=source, hint=f"--parts FOLDER/{_POINTS}")


def _rows(file: Path, needed: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line of a CSV by column, and where it stands."""
    reader = csv.DictReader(io.StringIO(read_lines(file), newline=""))
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)} among {', '.join(reader.fieldnames or ()) or 'none'}",
            where=f"{file}, line 1",
            hint=f"the columns needed are {', '.join(needed)}",
        )
    for row in reader:
        where = f"{file}, line {reader.line_num}"
        if None in row or None in row.values():  # what DictReader makes of more, or of fewer
            raise DataError(
                "a line has more or fewer values than the header", where=where, hint=_RESTORE
            )
        yield where, row


def _points(file: Path) -> tuple[Mapping[str, list[KeyPoint]], tuple[str, ...]]:
    """The visible key points by image id, and the names of all parts."""
    found: defaultdict[str, list[KeyPoint]] = defaultdict(list)
    parts: dict[str, None] = {}
    seen: dict[tuple[str, ...], str] = {}
    for where, row in _rows(file, _POINT_COLUMNS):
        parts[row["part"]] = None
        stands_once(seen, (row["part"], row["cub_image_id"]), where)
        if is_visible(row["visible"], where):
            x, y = number(row["x"], where), number(row["y"], where)
            found[row["cub_image_id"]].append(KeyPoint(row["part"], x, y))
    return found, tuple(parts)


def _images(
    file: Path, points: Mapping[str, list[KeyPoint]], source: Path
) -> tuple[AnnotatedImage, ...]:
    images: dict[str, AnnotatedImage] = {}
    seen: dict[tuple[str, ...], str] = {}
    for where, row in _rows(file, _IMAGE_COLUMNS):
        key = row["cub_image_id"]
        stands_once(seen, (f"the id {key!r}",), where)
        path = relative_path(row["path"], where)
        stands_once(seen, (path,), where)
        size = [number(row[name], where) for name in ("width", "height") if row.get(name)]
        box = [number(row[name], where) for name in _BOX_COLUMNS if row.get(name)]
        images[key] = AnnotatedImage(
            path=path,
            split=row["official_split"],
            points=tuple(points.get(key, ())),
            size=(int(size[0]), int(size[1])) if len(size) == 2 else None,
            box=(box[0], box[1], box[2], box[3]) if len(box) == 4 else None,
        )
    unknown = [key for key in points if key not in images]
    if unknown:
        raise DataError(
            f"key points of an image that {file.name} does not list: {unknown[0]}",
            where=source,
            hint="make both files list the same ids",
        )
    return tuple(images.values())


def _masks(folder: Path) -> Masks | None:
    names = folder / "parts.txt"
    if not ((folder / "masks").is_dir() and names.is_file()):
        return None
    found = {}
    for line in filter(None, map(str.strip, read_lines(names).splitlines())):
        value, _, name = line.partition(" ")
        found[int(number(value, str(names)))] = name.strip()
    if sorted(found) != list(range(len(found))):
        raise DataError("the part numbers are not 0, 1, 2, ...", where=names, hint=_RESTORE)
    return Masks(folder / "masks", tuple(found[value] for value in sorted(found)))
