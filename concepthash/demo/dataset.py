"""A folder of drawn birds, with annotations in the columns CUB-200-2011's are kept in.

::

    FOLDER/train/<class>/NNN.jpg  test/<class>/NNN.jpg  queries/NNN_<class>.jpg
    FOLDER/annotations/images.csv part_locs.csv parts.txt masks/train/<class>/NNN.png ...
    FOLDER/annotations/demo.json  what was asked for and every file written; it marks the folder
                                  as one that may be written again
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from concepthash.demo.bird import KEY_POINTS, PARTS
from concepthash.demo.draw import Drawing, check_size, draw_bird
from concepthash.demo.species import Species
from concepthash.demo.species import species as list_species
from concepthash.errors import UsageError

SCHEMA = "chash.demo-set/1"

_MARKER = "annotations/demo.json"
_IMAGE_COLUMNS = (
    *("cub_image_id", "path", "class", "official_split"),
    *("width", "height", "orig_width", "orig_height"),
    *("bbox_x", "bbox_y", "bbox_w", "bbox_h"),
)
_PART_COLUMNS = ("cub_image_id", "part_id", "part", "x", "y", "visible")
_MASK_COLOURS = (
    (0, 0, 0),
    (214, 126, 44),
    (240, 220, 90),
    (128, 128, 128),
    (214, 84, 180),
    (60, 140, 220),
    (150, 96, 72),
    (210, 50, 50),
    (70, 180, 90),
    (250, 250, 250),
)


@dataclass(frozen=True)
class DemoSummary:
    """What was written where."""

    folder: Path
    classes: tuple[str, ...]  # species names; their folders have underscores for spaces
    train: int  # images
    test: int
    queries: tuple[Path, ...]  # pictures of neither split, for a first query
    annotations: Path

    def __str__(self) -> str:
        return (
            f"{len(self.classes)} species, {self.train} train + {self.test} test images"
            f" + {len(self.queries)} queries in {self.folder}"
        )


@dataclass(frozen=True)
class _Picture:
    """One picture to draw."""

    path: str  # relative, with forward slashes
    species: Species
    split: str
    seed: int

    @property
    def mask(self) -> str:
        """Where its part mask goes, relative too."""
        return f"annotations/masks/{PurePosixPath(self.path).with_suffix('.png')}"


def write_dataset(
    folder: str | Path,
    *,
    species: int = 12,
    images: int = 40,
    test_share: float = 0.4,
    size: int = 128,
    seed: int = 0,
    queries: int = 0,
) -> DemoSummary:
    """A data set of drawn birds in ``folder``: ``images`` of each species, in train and test.

    ``test_share`` of each species' images go to test (rounded; one at least stays in train);
    ``queries`` more pictures, spread over the species, to ``queries/``. Masks are palette PNGs
    whose values are the part numbers of ``annotations/parts.txt``. The same arguments give the
    same bytes. Writing again replaces what an earlier call wrote and touches nothing else.

    Raises:
        UsageError: if an argument is out of range, or the folder holds something else.
    """
    if images < 1:
        raise UsageError(f"a species needs at least one image, not {images}", where="images")
    if not 0 <= test_share < 1:
        raise UsageError(f"a share is from 0 to below 1, not {test_share}", where="test_share")
    if queries < 0:
        raise UsageError(f"{queries} queries cannot be drawn", where="queries")
    check_size(size)
    kinds = list_species(species, seed)
    test = min(round(images * test_share), images - 1)
    plan = list(_plan(kinds, images - test, images, queries, seed))
    annotated = [picture for picture in plan if picture.split != "query"]
    files = [picture.path for picture in plan] + [picture.mask for picture in annotated]
    arguments = {
        "species": species,
        "images": images,
        "test_share": test_share,
        "size": size,
        "seed": seed,
        "queries": queries,
    }
    root = Path(folder)
    _claim(root, files, arguments)
    _write_all(root, plan, size)
    return DemoSummary(
        folder=root,
        classes=tuple(kind.name for kind in kinds),
        train=species * (images - test),
        test=species * test,
        queries=tuple(root / picture.path for picture in plan if picture.split == "query"),
        annotations=root / "annotations",
    )


def _plan(
    kinds: Sequence[Species], train: int, images: int, queries: int, seed: int
) -> Iterator[_Picture]:
    digits = max(3, len(str(images)), len(str(queries)))
    for split, numbers in (("train", range(train)), ("test", range(train, images))):
        for row, kind in enumerate(kinds):
            for n in numbers:
                path = f"{split}/{kind.slug}/{n + 1:0{digits}}.jpg"
                yield _Picture(path, kind, split, _seed(seed, 0, row, n))
    for n in range(queries):
        kind = kinds[n * len(kinds) // queries]
        path = f"queries/{n + 1:0{digits}}_{kind.slug}.jpg"
        yield _Picture(path, kind, "query", _seed(seed, 1, n))


def _seed(*path: int) -> int:
    """A seed of its own for each picture, spread over 64 bits."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0])


def _claim(root: Path, files: list[str], arguments: dict[str, int | float]) -> None:
    """Make the folder ours: refuse a stranger's, drop the earlier files that will not return."""
    marker = root / _MARKER
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        keep = set(files)
        for name in _earlier(root):
            if name not in keep:
                _forget(root, root / name)
        # written last: while it is missing, the set is not complete
        (root / "annotations/images.csv").unlink(missing_ok=True)
    record = {"schema": SCHEMA, "arguments": arguments, "files": files}
    marker.parent.mkdir(parents=True, exist_ok=True)
    _replace(marker, json.dumps(record, indent=1) + "\n")


def _earlier(root: Path) -> list[str]:
    """The files an earlier call wrote into ``root``.

    Raises:
        UsageError: if nothing there says that one did.
    """
    try:
        record = json.loads((root / _MARKER).read_text(encoding="utf-8"))
        files = record["files"] if record["schema"] == SCHEMA else None
    except (OSError, ValueError, KeyError, TypeError):
        files = None
    if not isinstance(files, list) or not all(_is_ours(name) for name in files):
        raise UsageError(
            "this is neither an empty folder nor a drawn data set",
            where=root,
            hint="name a new folder, or empty this one first",
        )
    return files


def _is_ours(name: object) -> bool:
    """Whether a recorded file name is one that stays inside the folder."""
    if not isinstance(name, str):
        return False
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and path.parts[:1] in (("train",), ("test",), ("queries",), ("annotations",))


def _forget(root: Path, path: Path) -> None:
    """Remove a file, and the folders up to ``root`` that it leaves empty."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == root or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _write_all(root: Path, plan: list[_Picture], size: int) -> None:
    images, parts = [list(_IMAGE_COLUMNS)], [list(_PART_COLUMNS)]
    for number, picture in enumerate(plan, start=1):
        drawing = draw_bird(picture.species, seed=picture.seed, size=size)
        target = root / picture.path
        target.parent.mkdir(parents=True, exist_ok=True)
        drawing.image.save(target, quality=92)
        if picture.split == "query":
            continue
        _write_mask(root / picture.mask, drawing)
        shape = [str(size)] * 4
        row = [str(number), picture.path, picture.species.slug, picture.split, *shape]
        images.append(row + [str(float(side)) for side in drawing.box])
        parts += _part_rows(number, drawing)
    names = "".join(f"{i} {part}\n" for i, part in enumerate(("background", *PARTS)))
    _replace(root / "annotations/parts.txt", names)
    _replace(root / "annotations/part_locs.csv", _as_csv(parts))
    _replace(root / "annotations/images.csv", _as_csv(images))


def _part_rows(number: int, drawing: Drawing) -> Iterator[list[str]]:
    for part_id, name in enumerate(KEY_POINTS, start=1):
        x, y, visible = drawing.key_points[name]
        place = [str(round(x, 2)), str(round(y, 2))] if visible else ["", ""]
        yield [str(number), str(part_id), name, *place, str(int(visible))]


def _write_mask(path: Path, drawing: Drawing) -> None:
    mask = Image.fromarray(drawing.labels).convert("P")
    mask.putpalette([value for colour in _MASK_COLOURS for value in colour])
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.save(path)


def _as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)
