"""One drawn bird: the picture, and the truth about its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from concepthash.demo import scene
from concepthash.demo.bird import KEY_POINTS, PARTS, build, envelope
from concepthash.demo.geometry import Points, Shape, turn
from concepthash.demo.pose import Palette, Pose
from concepthash.demo.species import Species
from concepthash.errors import UsageError

MIN_SIZE, MAX_SIZE = 32, 1024

_SCALE = 3  # canvas pixels a picture pixel: odd, so that one of them is its centre
_SIDES = {
    "far wing": "wing",
    "near wing": "wing",
    "far leg": "legs",
    "near leg": "legs",
    "left eye": "eye",
    "right eye": "eye",
}
_PAINTS = ("", *PARTS, *_SIDES)  # what the label canvas holds, by number
_MIRROR = {"left": "right", "right": "left"}
_PART_OF_PAINT = np.array(
    [0, *range(1, len(PARTS) + 1), *(1 + PARTS.index(part) for part in _SIDES.values())],
    dtype=np.uint8,
)


class KeyPoint(NamedTuple):
    """A place in pixels, and whether it is seen: in the picture and covered by nothing."""

    x: float
    y: float
    visible: bool


@dataclass(frozen=True)
class Drawing:
    """A picture and the truth about it."""

    image: Image.Image  # RGB
    labels: npt.NDArray[np.uint8]  # (size, size): 0 background, i the part PARTS[i - 1]
    key_points: dict[str, KeyPoint]  # the 15 names of CUB-200-2011
    box: tuple[int, int, int, int]  # x, y, w, h around all that is seen of the bird

    @property
    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """``(size, size)`` bool for each of :data:`PARTS`; a pixel has the top-most part only."""
        return {part: self.labels == i for i, part in enumerate(PARTS, start=1)}


class _Canvas:
    """Colour and labels, painted together at ``_SCALE`` times the size."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self.label = Image.new("L", picture.size, 0)
        self._ink = ImageDraw.Draw(self.picture)
        self._mark = ImageDraw.Draw(self.label)

    def paint(self, shape: Shape, points: Points) -> None:
        """Paint ``shape`` with its ``points`` given in canvas pixels."""
        flat = points.ravel().tolist()
        self._ink.polygon(flat, fill=shape.colour)
        if shape.edge is not None:
            self._ink.line([*flat, *flat[:2]], fill=shape.edge, width=2)
        if shape.part is not None:
            self._mark.polygon(flat, fill=_PAINTS.index(shape.part))


class _Frame:
    """Where the bird's own coordinates fall in the unit square."""

    def __init__(self, pose: Pose) -> None:
        self.pose = pose
        room = self._turned(envelope(pose))
        low, high = room.min(axis=0), room.max(axis=0)
        self.scale = 0.96 * pose.fill / float((high - low).max())
        free = 1 - (high - low) * self.scale
        self.offset = free * np.array(pose.shift) - low * self.scale

    def _turned(self, points: Points) -> Points:
        turned = turn(points, self.pose.rotation)
        return turned * [-1, 1] if self.pose.flip else turned

    def place(self, points: Points) -> Points:
        """Bird coordinates to the unit square."""
        placed: Points = self._turned(points) * self.scale + self.offset
        return placed


def check_size(size: int) -> None:
    """Refuse a size no drawing has.

    Raises:
        UsageError: if it is not from 32 to 1024.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(
            f"a drawing has {MIN_SIZE} to {MAX_SIZE} pixels a side, not {size}", where="size"
        )


def draw_bird(species: Species, *, seed: int, size: int = 128) -> Drawing:
    """A picture of a bird of ``species``, ``size`` pixels a side, with its parts known.

    Everything but the species comes from ``seed``: two species drawn with one seed share pose,
    plumage, surroundings and light, and differ in the parts that tell them apart.

    Raises:
        UsageError: if size is not from 32 to 1024, or the seed is negative.
    """
    check_size(size)
    if seed < 0:
        raise UsageError(f"a seed is not negative, but this one is {seed}", where="seed")
    posing, colouring, setting, lighting = (np.random.default_rng([seed, i]) for i in range(4))
    pose = Pose.sample(posing)
    bird = build(species, pose, Palette.sample(colouring))
    frame = _Frame(pose)
    side = size * _SCALE
    canvas = _Canvas(scene.backdrop(setting, size, _SCALE))
    for shape in scene.clutter(setting):
        canvas.paint(shape, shape.points * side)
    feet = frame.place(np.stack([bird.key_points[n][0] for n in ("left leg", "right leg")]))
    for shape in scene.perch(setting, feet):
        canvas.paint(shape, shape.points * side)
    for shape in bird.shapes:
        canvas.paint(shape, frame.place(shape.points) * side)
    torso = np.concatenate([frame.place(s.points) for s in bird.shapes if s.part == "body"])
    room = (*torso.min(axis=0).tolist(), *np.ptp(torso, axis=0).tolist())
    for shape in scene.cover(setting, room):
        canvas.paint(shape, shape.points * side)
    paints = np.asarray(canvas.label)[_SCALE // 2 :: _SCALE, _SCALE // 2 :: _SCALE]
    pixels = np.asarray(canvas.picture.reduce(_SCALE), dtype=np.float32)
    lit = scene.light(lighting, pixels, paints > 0)
    labels = _PART_OF_PAINT[paints]
    points = {}
    for name in KEY_POINTS:
        place, parts = bird.key_points[_mirrored(name) if pose.flip else name]
        points[name] = _see(frame.place(place) * size, parts, paints)
    return Drawing(Image.fromarray(lit.astype(np.uint8)), labels, points, _box(labels))


def _mirrored(name: str) -> str:
    """The key point that takes the place of ``name`` in a mirror."""
    return " ".join(_MIRROR.get(word, word) for word in name.split())


def _see(at: Points, parts: frozenset[str], paints: npt.NDArray[np.uint8]) -> KeyPoint:
    """The key point at ``at`` (2,) pixels, seen if one of ``parts`` is on top there."""
    x, y = (float(v) for v in at)
    inside = 0 <= x < paints.shape[1] and 0 <= y < paints.shape[0]
    seen = False
    if inside:
        top = _PAINTS[int(paints[int(y), int(x)])]
        seen = top in parts or _SIDES.get(top) in parts
    return KeyPoint(x, y, seen)


def _box(labels: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(labels.any(axis=1)), np.flatnonzero(labels.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
