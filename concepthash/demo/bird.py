"""A bird as shapes and key points, in its own frame: one unit is about the length of its body.

It faces right; y runs down; the viewer sees its right side. Shapes come in painting order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from concepthash.demo.geometry import RGB, Blade, Points, Shape, bar, oval, turn
from concepthash.demo.pose import Palette, Pose, shade
from concepthash.demo.species import Species

PARTS = ("tail", "legs", "body", "breast", "wing", "head", "crest", "beak", "eye")
"""What a pixel of a bird can belong to."""

KEY_POINTS = (
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
)
"""The 15 key points of CUB-200-2011, in its order."""

HEAD_RADIUS = 0.165
_EYE_ANGLE = 48.0  # between the beak and either eye, around the head


@dataclass
class Bird:
    """Shapes to paint, and key points: where, and on which parts a point counts as seen."""

    shapes: list[Shape] = field(default_factory=list)
    key_points: dict[str, tuple[Points, frozenset[str]]] = field(default_factory=dict)

    def add(
        self, points: Points, colour: RGB, part: str | None = None, *, edge: bool = False
    ) -> None:
        """Paint a part over what is there, or, without one, a marking onto it."""
        self.shapes.append(Shape(points, colour, part, shade(colour, 0.62) if edge else None))

    def mark(self, name: str, point: Points, *parts: str) -> None:
        """Set a key point; without parts it is hidden by the bird itself."""
        self.key_points[name] = (point, frozenset(parts))


def build(species: Species, pose: Pose, palette: Palette) -> Bird:
    """The bird of a species in a pose.

    Its parts on the far side carry names of their own ("far wing", "far leg", "left eye"), which
    the drawing needs to tell which key points are seen.
    """
    bird = Bird()
    torso = _torso(pose)
    if pose.raised:
        _wing(bird, species, palette, _raised_wing(torso, pose, far=True), far=True)
    _tail(bird, species, palette, pose, torso)
    _legs(bird, palette, pose, torso)
    _body(bird, species, palette, torso)
    head = _Head(torso, pose)
    _head(bird, palette, head)
    _crest(bird, species, palette, pose, head)
    _beak(bird, species, palette, head)
    _eyes(bird, head)
    wing = _raised_wing(torso, pose, far=False) if pose.raised else _folded_wing(torso, pose)
    _wing(bird, species, palette, wing, far=False)
    if not pose.raised:
        bird.mark("left wing", wing.point(0.5, 0.5))
    return bird


def envelope(pose: Pose) -> Points:
    """Points around the room any species needs in this pose: it tells nothing of the species."""
    torso = _torso(pose)
    head = _Head(torso, pose)
    points = [
        torso.outline(),
        head.place([[2.75, 0], [0.7, -1.9], [-1.9, -1.4]]),
        _tail_frame([[0.5, 0.14], [0.5, -0.14]], torso, pose),
        _feet(torso, pose) + np.array([0.05, 0.05]),
    ]
    if pose.raised:
        points += [_raised_wing(torso, pose, far=far).outline() for far in (False, True)]
    return np.concatenate(points)


def _torso(pose: Pose) -> Blade:
    """Rump (u 0) to neck (u 1), back (v 0) to belly (v 1)."""
    widths = np.array([0.03, 0.12, 0.36, 0.25, 0.15, 0.12]) * pose.plump
    spine = [[-0.42, 0.10], [-0.16, 0.12], [0.22, 0.20], [0.28, -0.22]]
    return Blade.along(spine, widths.tolist(), n=32)


def _body(bird: Bird, species: Species, palette: Palette, torso: Blade) -> None:
    bird.add(torso.outline(), palette.body, "body", edge=True)
    bird.add(torso.patch((0.08, 0.6), (0.76, 1.0)), shade(palette.body, 1.25))
    _breast(bird, species, palette, torso)
    bird.mark("back", torso.point(0.55, 0.1), "body", "wing")
    bird.mark("belly", torso.point(0.34, 0.86), "body")
    bird.mark("breast", torso.point(0.72, 0.84), "breast")


def _breast(bird: Bird, species: Species, palette: Palette, torso: Blade) -> None:
    look = species.breast.removesuffix("-breasted")
    base = {
        "plain": shade(palette.body, 1.12),
        "spotted": palette.parts["ivory"],
        "striped": palette.parts["ivory"],
    }.get(look) or palette.parts[look]
    rise = np.linspace(0.46, 0.98, 20)
    patch = np.concatenate([torso.curve(rise[::-1], 1.0), torso.curve(rise, _breast_rim(rise))])
    bird.add(patch, base, "breast")
    dark = palette.parts["black"]
    if look == "spotted":
        spots = [(0.58, 0.9), (0.66, 0.74), (0.74, 0.92), (0.8, 0.68), (0.88, 0.86), (0.68, 0.58)]
        for u, v in spots:
            bird.add(oval(torso.point(u, v), (0.024, 0.024), 12), dark)
    elif look == "striped":
        for u in (0.58, 0.68, 0.78, 0.88):
            top = float(_breast_rim(np.array(u))) + 0.05
            bird.add(torso.patch((u, u + 0.045), (top, 1.0), 4), dark)


def _breast_rim(u: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The ``v`` on the torso at which the breast begins."""
    rim: npt.NDArray[np.float64] = 0.42 + 0.5 * np.abs(2.283 - 2.788 * u) ** 2.2
    return rim


def _tail_frame(points: npt.ArrayLike, torso: Blade, pose: Pose) -> Points:
    """Tail coordinates (x away from the rump) to the bird's."""
    return turn(points, 172 + pose.tail, torso.point(0.03, 0.5))


def _tail(bird: Bird, species: Species, palette: Palette, pose: Pose, torso: Blade) -> None:
    look = species.tail.removesuffix("-tailed")
    length = {"short": 0.17, "long": 0.58, "fork": 0.46, "fan": 0.3}.get(look, 0.4)
    width = {"long": 0.055, "fork": 0.075, "fan": 0.24}.get(look, 0.085)
    base, white = shade(palette.body, 0.7), palette.parts["white"]
    if look == "fork":
        blades = [
            Blade.along([[-0.05, 0], [length * 0.5, 0], [length, side]], [0.06, 0.06, 0.012], 10)
            for side in (-0.17, 0.17)
        ]
    else:
        swell = width * (0.7 if look != "fan" else 0.4)
        spine = [[-0.05, 0], [length / 2, 0], [length, 0]]
        blades = [Blade.along(spine, [0.06, swell, width], 10)]
    for blade in blades:
        placed = Blade(*(_tail_frame(e, torso, pose) for e in (blade.upper, blade.lower)))
        bird.add(placed.outline(), white if look == "white" else base, "tail", edge=True)
        if look == "band":
            bird.add(placed.patch((0.5, 0.68), (0, 1), 3), white)
            bird.add(placed.patch((0.68, 0.84), (0, 1), 3), palette.parts["black"])
            bird.add(placed.patch((0.84, 1.0), (0, 1), 3), white)
        feather = shade(white if look == "white" else base, 0.78)
        for v in (0.2, 0.4, 0.6, 0.8) if look == "fan" else (0.5,):
            bird.add(bar(placed.point(0.35, v), placed.point(0.97, v), 0.012), feather)
    bird.mark("tail", placed.point(0.55, 0.5), "tail")


def _feet(torso: Blade, pose: Pose) -> Points:
    """Where the far and the near foot stand."""
    far = torso.point(0.42, 0.94) + np.array([-0.01, pose.legs + 0.02])
    near = torso.point(0.5, 0.96) + np.array([0.05, pose.legs + 0.03])
    return np.stack([far, near])


def _legs(bird: Bird, palette: Palette, pose: Pose, torso: Blade) -> None:
    feet = _feet(torso, pose)
    sides = (("left leg", "far leg", 0.42, 0.78), ("right leg", "near leg", 0.5, 1.0))
    for foot, (name, part, u, tone) in zip(feet, sides, strict=True):
        hip = torso.point(u, 0.9)
        colour = shade(palette.legs, tone)
        bird.add(bar(hip, foot, 0.034), colour, part)
        for toe in ((0.075, 0.018), (-0.055, 0.022), (0.035, 0.045)):
            bird.add(bar(foot - [0, 0.012], foot + toe, 0.026), colour, part)
        bird.mark(name, hip * 0.25 + foot * 0.75, part)


class _Head:
    """Head coordinates (radius 1, beak along x before the head turns) to the bird's."""

    def __init__(self, torso: Blade, pose: Pose) -> None:
        self.yaw = pose.yaw
        self.facing = math.cos(math.radians(pose.yaw))
        self.nod = pose.nod if self.facing > 0 else -pose.nod
        self.centre = torso.point(1.0, 0.5) + np.array([0.015, -0.085])

    def place(self, points: npt.ArrayLike, *, squeeze: bool = True) -> Points:
        """Turn, nod and move ``points``; ``squeeze`` foreshortens what the head turns away."""
        local = np.array(points, dtype=np.float64)
        if squeeze:
            local[..., 0] *= self.facing
        return turn(HEAD_RADIUS * local, self.nod, self.centre)

    def blade(self, blade: Blade) -> Blade:
        """A blade given in head coordinates."""
        return Blade(self.place(blade.upper), self.place(blade.lower))


def _head(bird: Bird, palette: Palette, head: _Head) -> None:
    bird.add(head.place(oval((0, 0), (1.03, 1.0)), squeeze=False), palette.body, "head", edge=True)
    neck = oval((-0.06, 0.62), (0.72, 0.66), 18)
    bird.add(head.place(neck, squeeze=False), palette.body, "head")
    cheek = oval((0.3 * head.facing, 0.3), (0.5, 0.42), 18)
    bird.add(head.place(cheek, squeeze=False), shade(palette.body, 1.16))
    bird.mark("crown", head.place([-0.05, -0.72]), "head", "crest")
    bird.mark("forehead", head.place([0.66, -0.45]), "head", "crest")
    bird.mark("nape", head.place([-0.7, 0.25]), "head", "body", "crest")
    bird.mark("throat", head.place([0.35, 0.84]), "head", "body", "breast")


def _crest(bird: Bird, species: Species, palette: Palette, pose: Pose, head: _Head) -> None:
    look = species.crest.removesuffix("-crested")
    if look == "crestless":
        return
    colour = palette.parts[look]
    for rise, length in ((-152, 1.45), (-130, 1.75), (-106, 1.55)):
        tip = turn([length, 0], rise + pose.crest)
        root = turn([0.55, 0], rise * 0.9 + 18)
        spine = [root, root + tip * 0.5, root + tip * 0.75 + [-0.22, 0.1]]
        plume = head.blade(Blade.along(spine, [0.22, 0.42, 0.02], 10))
        bird.add(plume.outline(), colour, "crest", edge=True)
    bird.add(head.place(_cap()), colour, "crest")


def _cap() -> Points:
    """The patch on top of a head that a crest grows from, in head coordinates."""
    angle = np.radians(np.linspace(-158, -38, 14))
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([rim, rim[::-1] * [0.86, 0.55]])


_BEAKS: dict[str, tuple[str, list[list[float]], list[float]]] = {
    # look: colour, spine, half widths; in head coordinates
    "yellow": ("yellow", [[0.7, 0.08], [1.2, 0.06], [1.95, 0.2]], [0.48, 0.36, 0.03]),
    "red": ("red", [[0.7, 0.08], [1.2, 0.06], [1.95, 0.2]], [0.48, 0.36, 0.03]),
    "long": ("black", [[0.75, 0.05], [1.6, 0.1], [3.0, 0.25]], [0.3, 0.19, 0.03]),
    "curve": ("slate", [[0.7, -0.05], [2.3, -0.3], [2.5, 1.35]], [0.34, 0.34, 0.04]),
    "hook": ("ivory", [[0.6, 0.0], [1.9, -0.5], [1.5, 0.95]], [0.5, 0.72, 0.03]),
    "thick": ("orange", [[0.6, 0.1], [1.5, -0.2], [2.3, 0.4]], [0.62, 0.95, 0.08]),
}


def _beak(bird: Bird, species: Species, palette: Palette, head: _Head) -> None:
    colour_name, spine, widths = _BEAKS[species.beak.removesuffix("-billed")]
    colour = palette.parts[colour_name]
    blade = head.blade(Blade.along(spine, widths, 16))
    bird.add(blade.outline(), colour, "beak", edge=True)
    gape = shade(colour, 0.55 if colour_name != "black" else 1.4)
    mouth = blade.patch((0.05, 0.9), (0.5, 0.58), 10)
    bird.add(mouth, gape)
    bird.mark("beak", blade.point(0.6, 0.4), "beak")


def _eyes(bird: Bird, head: _Head) -> None:
    """Either eye where the turned head shows it; hidden ones keep their place."""
    for name, side in (("left eye", -_EYE_ANGLE), ("right eye", _EYE_ANGLE)):
        angle = math.radians(head.yaw + side)
        centre = head.place([math.cos(angle) * 0.72, -0.2], squeeze=False)
        depth = math.sin(angle)
        if depth < 0.02:
            bird.mark(name, centre)
            continue
        wide = HEAD_RADIUS * 0.23 * max(depth, 0.55)
        tall = HEAD_RADIUS * 0.23
        bird.add(oval(centre, (wide * 1.35, tall * 1.35), 18), (236, 228, 210), name)
        bird.add(oval(centre, (wide, tall), 16), (22, 20, 24))
        glint = centre + np.array([-wide * 0.25, -tall * 0.35])
        bird.add(oval(glint, (wide * 0.32, tall * 0.32), 8), (250, 250, 250))
        bird.mark(name, centre, name)


def _folded_wing(torso: Blade, pose: Pose) -> Blade:
    """Shoulder (u 0) to tip (u 1); the upper edge is v 0 once it is turned to run right."""
    shoulder = torso.point(0.8, 0.4)
    tip = turn([-0.66, 0.13], 7 * pose.wing, shoulder)
    spine = [shoulder, shoulder * 0.6 + tip * 0.4 + [0, 0.09], tip]
    return Blade.along(spine, [0.05, 0.2, 0.17, 0.01], n=18)


def _raised_wing(torso: Blade, pose: Pose, *, far: bool) -> Blade:
    shoulder = torso.point(0.68, 0.2 if far else 0.34)
    lift = 14 * pose.wing + (20 if far else -6)
    spine = [[0.0, 0.0], [-0.02, -0.34], [-0.3, -0.62], [-0.52, -0.6]]
    return Blade.along(turn(spine, lift, shoulder), [0.08, 0.22, 0.24, 0.02], n=18)


def _wing(bird: Bird, species: Species, palette: Palette, wing: Blade, *, far: bool) -> None:
    look = species.wing.removesuffix("-winged")
    part = "far wing" if far else "near wing"
    tone = 0.82 if far else 1.0
    base = shade(palette.parts.get(look) or shade(palette.body, 0.66), tone)
    white = shade(palette.parts["white"], tone)
    bird.add(wing.outline(), base, part, edge=True)
    for v in (0.22, 0.4, 0.58, 0.76):
        line = wing.patch((0.5, 0.96), (v, v + 0.045), 5)
        bird.add(line, shade(base, 0.74))
    if look == "barred":
        for u in (0.26, 0.48, 0.7):
            bird.add(wing.patch((u, u + 0.1), (0.0, 1.0), 4), white)
    elif look == "spotted":
        for u, v in (
            (0.2, 0.5),
            (0.36, 0.26),
            (0.38, 0.72),
            (0.54, 0.48),
            (0.68, 0.74),
            (0.7, 0.3),
        ):
            bird.add(oval(wing.point(u, v), (0.032, 0.032), 12), white)
    bird.mark("left wing" if far else "right wing", wing.point(0.5, 0.5), part)
