"""Annotations of a photo in the coordinates of the crop the network sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from concepthash.errors import DataError, ImageError
from concepthash.explain.keypoints import AnnotatedImage, Annotations, Masks
from concepthash.images import TURNS, Preprocess

Points: TypeAlias = npt.NDArray[np.float64]
"""``(n, 2)`` x and y in pixels of the crop, from its top left corner."""
Labels: TypeAlias = npt.NDArray[np.uint8]
"""``(crop, crop)`` the mask part of each pixel, 0 the background."""

_SWAPPED, _MIRRORED_X, _MIRRORED_Y = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)


@dataclass(frozen=True, eq=False)
class Placed:
    """What is annotated within the crop of one photo.

    Args:
        points: its visible key points.
        parts: ``(n,)`` the number of each point's part among those of the annotations.
        box: left, top, right and bottom of the object, not cut at the crop; None if unknown.
        labels: the mask; None if none was asked for.
        outside: visible key points that lie outside the photo itself, and are left out.
    """

    points: Points
    parts: npt.NDArray[np.intp]
    box: tuple[float, float, float, float] | None = None
    labels: Labels | None = None
    outside: int = 0


def place(
    image: AnnotatedImage, annotations: Annotations, spec: Preprocess, *, masks: bool = False
) -> Placed:
    """The annotations of a photo in its crop; key points outside the crop are left out.

    Args:
        image: of ``annotations``.
        annotations: whose root the photo is in.
        spec: how the photo becomes a crop.
        masks: read the part mask too.

    Raises:
        ImageError: if the photo or its mask cannot be read, or is not of the annotated size.
        DataError: if a mask has a value without a name.
    """
    size, orientation = _stored(annotations.root / image.path)
    if image.size not in (None, size):
        width, height = image.size or size
        raise ImageError(
            f"the photo is {size[0]}x{size[1]} pixels, its annotation is of {width}x{height}",
            where=annotations.root / image.path,
        )

    def moved(points: list[tuple[float, float]]) -> Points:
        return spec.to_crop(*upright(np.array(points, float).reshape(-1, 2), size, orientation))

    outside = sum(not (0 <= p.x <= size[0] and 0 <= p.y <= size[1]) for p in image.points)
    points = moved([(point.x, point.y) for point in image.points])
    parts = np.array([annotations.parts.index(point.part) for point in image.points], np.intp)
    seen = inside(points, spec.crop)
    box = None
    if image.box is not None:
        x, y, across, down = image.box
        corners = moved([(x, y), (x + across, y + down)])
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        box = (float(left), float(top), float(right), float(bottom))
    labels = None
    if masks and annotations.masks is not None:
        labels = _mask(annotations.masks, image, spec, size, orientation)
    return Placed(points[seen], parts[seen], box, labels, outside)


def inside(points: Points, side: int) -> npt.NDArray[np.bool_]:
    """Which points lie in a square of ``side`` pixels: ``(n,)`` bool."""
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x < side) & (y >= 0) & (y < side)


def upright(
    points: Points, size: tuple[int, int], orientation: int
) -> tuple[Points, tuple[int, int]]:
    """Points of a stored file after its EXIF orientation is applied, and the size it then has.

    Args:
        points: ``(n, 2)`` in pixels of the stored file.
        size: its width and height.
        orientation: 1 to 8, as in EXIF; others count as 1.
    """
    width, height = size
    if orientation in _SWAPPED:
        points, width, height = points[:, ::-1], height, width
    x, y = points[:, 0], points[:, 1]
    if orientation in _MIRRORED_X:
        x = width - x
    if orientation in _MIRRORED_Y:
        y = height - y
    return np.stack([x, y], axis=1), (width, height)


def _stored(path: Path) -> tuple[tuple[int, int], int]:
    """Size and EXIF orientation of a file, from its header where the format allows it."""
    try:
        with Image.open(path) as image:
            return image.size, int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # a decoder fed a broken file may raise nearly anything
        raise ImageError(f"cannot read: {error or type(error).__name__}", where=path) from None


def _mask(
    masks: Masks, image: AnnotatedImage, spec: Preprocess, size: tuple[int, int], orientation: int
) -> Labels:
    path = masks.path(image)
    try:
        with Image.open(path) as opened:
            mask = opened.copy()
    except Exception as error:  # a decoder fed a broken file may raise nearly anything
        raise ImageError(f"cannot read the mask: {error}", where=path) from None
    if mask.size != size or mask.mode not in ("P", "L"):
        raise ImageError("the mask is not a palette or grey PNG of the photo's size", where=path)
    if orientation in TURNS:
        mask = mask.transpose(TURNS[orientation])
    sides = (spec.crop, spec.crop)
    labels = np.asarray(mask.resize(sides, Image.Resampling.NEAREST, spec.crop_box(mask.size)))
    if labels.max() >= len(masks.parts):
        raise DataError(
            f"the mask has the value {labels.max()}, and parts.txt names {len(masks.parts)}",
            where=path,
            hint=f"add the part to {masks.folder.with_name('parts.txt')}",
        )
    return labels
