"""Curves and blades: the shapes all drawn things are made of, as polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
"""``(n, 2)`` x, y; x runs right, y runs down."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """A filled polygon; ``edge`` is an outline colour.

    ``part`` is what its pixels belong to: "" the background, None whatever they belonged to.
    """

    points: Points
    colour: RGB
    part: str | None = None
    edge: RGB | None = None


def bezier(control: npt.ArrayLike, n: int) -> Points:
    """``n`` points on the Bezier curve of any degree with the control points ``(k, d)``."""
    points = np.asarray(control, dtype=np.float64)
    return _bernstein(len(points) - 1, n) @ points


@cache
def _bernstein(degree: int, n: int) -> npt.NDArray[np.float64]:
    t = np.linspace(0.0, 1.0, n)
    basis = [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]
    return np.stack(basis, axis=1)


def oval(centre: npt.ArrayLike, radii: tuple[float, float], n: int = 28) -> Points:
    """An ellipse with upright axes as ``n`` points."""
    angle = np.linspace(0.0, 2 * math.pi, n, endpoint=False)
    ring = np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], axis=1)
    return np.asarray(centre, dtype=np.float64) + ring


def turn(points: npt.ArrayLike, degrees: float, to: npt.ArrayLike = (0.0, 0.0)) -> Points:
    """``points`` turned about the origin, clockwise as seen, and the origin moved ``to`` there."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned: Points = np.asarray(points, dtype=np.float64) @ np.array([[c, s], [-s, c]])
    turned += np.asarray(to)
    return turned


def bar(start: npt.ArrayLike, end: npt.ArrayLike, width: float) -> Points:
    """A straight stroke of some width as a quadrilateral."""
    a, b = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    along = (b - a) / max(float(np.hypot(*(b - a))), 1e-9)
    side = np.array([-along[1], along[0]]) * width / 2
    return np.stack([a + side, b + side, b - side, a - side])


@dataclass(frozen=True)
class Blade:
    """A strip between two edges of equally many points.

    A place on it is ``u`` (0 root, 1 tip) and ``v`` (0 on the upper edge, 1 on the lower, for a
    blade that runs right).
    """

    upper: Points
    lower: Points

    @classmethod
    def along(cls, spine: npt.ArrayLike, widths: Sequence[float], n: int = 22) -> Blade:
        """The strip around the Bezier curve ``spine``; ``widths`` control its half width."""
        middle = bezier(spine, n)
        slope = np.empty_like(middle)
        slope[1:-1] = middle[2:] - middle[:-2]
        slope[0], slope[-1] = middle[1] - middle[0], middle[-1] - middle[-2]
        length = np.maximum(np.hypot(slope[:, 0], slope[:, 1]), 1e-9)
        half = bezier(widths, n) / length
        side = slope[:, ::-1] * half[:, None] * [1.0, -1.0]
        return cls(middle + side, middle - side)

    def outline(self) -> Points:
        """The whole strip as one polygon."""
        return np.concatenate([self.upper, self.lower[::-1]])

    def curve(self, u: npt.ArrayLike, v: npt.ArrayLike) -> Points:
        """The points at places ``u``, ``v`` (broadcast together)."""
        at = np.atleast_1d(np.asarray(u, dtype=np.float64)) * (len(self.upper) - 1)
        index = np.minimum(at.astype(np.intp), len(self.upper) - 2)
        step, down = (at - index)[:, None], np.atleast_1d(v)[:, None]
        upper = self.upper[index] * (1 - step) + self.upper[index + 1] * step
        lower = self.lower[index] * (1 - step) + self.lower[index + 1] * step
        places: Points = upper * (1 - down) + lower * down
        return places

    def point(self, u: float, v: float) -> Points:
        """The point ``(2,)`` at one place."""
        place: Points = self.curve(u, v)[0]
        return place

    def patch(self, u: tuple[float, float], v: tuple[float, float], n: int = 8) -> Points:
        """The part of the strip between two ``u`` and two ``v`` as a polygon."""
        steps = np.linspace(*u, n)
        return np.concatenate([self.curve(steps, v[0]), self.curve(steps[::-1], v[1])])
