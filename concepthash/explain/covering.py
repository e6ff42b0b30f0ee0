"""Covering parts of a crop, so that the network cannot see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from concepthash.explain.groups import part_group
from concepthash.explain.photos import SeenPhoto
from concepthash.explain.placing import Placed, Points
from concepthash.images import Pixels

Region = npt.NDArray[np.bool_]
"""``(crop, crop)`` bool, True where something is covered."""

_BORDER = 1 / 16
"""Width of the border whose colour covers, as a share of the crop's side."""


def border_colour(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """The mean colour of the border of a crop, ``(3,)``: most of it is background.

    It is closer to what the network knows than black or grey, and tells nothing of the object.
    """
    side = len(pixels)
    width = max(1, round(side * _BORDER))
    border = np.ones((side, side), bool)
    border[width : side - width, width : side - width] = False
    colour: npt.NDArray[np.uint8] = np.rint(pixels[border].mean(axis=0)).astype(np.uint8)
    return colour


def covered(pixels: Pixels, regions: Sequence[Region] | Region) -> Pixels:
    """A crop with each region covered in turn: ``(n, crop, crop, 3)``."""
    hidden = np.asarray(regions)[..., None]
    return np.where(hidden, border_colour(pixels), pixels[None])


def discs(centres: Points, radius: float, side: int) -> Region:
    """The pixels whose centre lies within ``radius`` of any of ``(n, 2)`` centres."""
    steps = np.arange(side) + 0.5
    across = (steps[None] - centres[:, :1]) ** 2
    down = (steps[None] - centres[:, 1:]) ** 2
    found: Region = np.logical_or.reduce(across[:, None] + down[:, :, None] <= radius**2, axis=0)
    return found


def part_regions(
    photo: SeenPhoto, part_names: Sequence[str], radius: float
) -> dict[str, tuple[Region, int, float]]:
    """What covers each part group of a photo that is seen, and how many discs have that area.

    With a mask, a group is covered by its pixels, and its size is that of one disc of equal area;
    without, by discs round its key points.

    Args:
        photo: with its annotations.
        part_names: of the key points; with a mask, of its values.
        radius: of the discs, as a share of the longer side of the object's box within the crop, or
            of the crop if there is no box.

    Returns:
        group -> (region, number of discs, their radius in pixels).
    """
    placed, side = photo.placed, len(photo.pixels)
    groups = np.array([part_group(name) for name in part_names])
    if placed.labels is not None:
        of_pixels = np.where(placed.labels > 0, groups[placed.labels], "")
        regions = {
            str(group): of_pixels == group for group in np.unique(of_pixels[of_pixels != ""])
        }
        return {g: (r, 1, float(np.sqrt(r.sum() / np.pi))) for g, r in regions.items()}
    pixels = radius * object_side(placed, side)
    found = {}
    for group in dict.fromkeys(groups[placed.parts].tolist()):
        centres = placed.points[groups[placed.parts] == group]
        region = discs(centres, pixels, side)  # near points share pixels: fewer discs are as large
        found[group] = region, max(1, round(region.sum() / (np.pi * pixels**2))), pixels
    return found


def object_side(placed: Placed, side: int) -> float:
    """The longer side of the object's box within the crop, pixels; of the crop without a box."""
    if placed.box is None:
        return float(side)
    left, top, right, bottom = (min(max(edge, 0.0), float(side)) for edge in placed.box)
    return max(right - left, bottom - top)


def background_discs(
    placed: Placed, count: int, radius: float, side: int, generator: np.random.Generator
) -> Region | None:
    """Discs at random places that touch neither the object's box nor the edge of the crop.

    None if the box is unknown or leaves no room.
    """
    if placed.box is None:
        return None
    left, top, right, bottom = placed.box
    steps = np.arange(side) + 0.5
    across = np.maximum(np.maximum(left - steps, steps - right), 0.0)
    down = np.maximum(np.maximum(top - steps, steps - bottom), 0.0)
    within = (steps >= radius) & (steps <= side - radius)
    free = (across[None] ** 2 + down[:, None] ** 2 > radius**2) & within[None] & within[:, None]
    rows, columns = np.nonzero(free)
    if not len(rows):
        return None
    chosen = generator.integers(len(rows), size=count)
    centres = np.stack([columns[chosen], rows[chosen]], axis=1).astype(float) + 0.5
    return discs(centres, radius, side)
