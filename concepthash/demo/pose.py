"""What varies inside a species: how a bird stands, and in what colours it is seen."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from concepthash.demo.geometry import RGB

BODY_COLOURS: tuple[RGB, ...] = (
    (140, 108, 80),
    (132, 132, 134),
    (128, 124, 88),
    (172, 146, 112),
    (104, 114, 126),
    (106, 92, 88),
)
"""Plumage any species may have: muted, so that it tells nothing."""

PART_COLOURS: dict[str, RGB] = {
    "red": (208, 44, 40),
    "yellow": (246, 206, 48),
    "blue": (44, 98, 212),
    "green": (40, 150, 72),
    "white": (240, 240, 234),
    "black": (34, 33, 40),
    "orange": (242, 134, 32),
    "slate": (86, 112, 150),
    "ivory": (232, 214, 176),
}
"""The colours parts are told apart by; the background uses them too."""


def shade(colour: RGB, factor: float) -> RGB:
    """``colour`` darker (below 1) or mixed with white (above 1, up to 2)."""
    if factor <= 1:
        r, g, b = (round(c * factor) for c in colour)
    else:
        r, g, b = (round(c + (255 - c) * min(factor - 1, 1)) for c in colour)
    return r, g, b


def jitter(colour: RGB, rng: np.random.Generator, hue: float = 0.012, tone: float = 0.07) -> RGB:
    """``colour`` with hue moved by up to ``hue`` turns, saturation and value by up to ``tone``."""
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    moves = rng.uniform(-1, 1, 3)
    s *= 1 + tone * float(moves[1])
    v *= 1 + tone * float(moves[2])
    r, g, b = colorsys.hsv_to_rgb((h + hue * float(moves[0])) % 1, min(s, 1), min(v, 1))
    return round(r * 255), round(g * 255), round(b * 255)


@dataclass(frozen=True)
class Pose:
    """How one bird stands; angles in degrees, clockwise for a bird that faces right."""

    flip: bool  # faces left
    rotation: float
    fill: float  # size as a share of the largest that fits the picture
    shift: tuple[float, float]  # where in the room that is left, 0..1 across and down
    yaw: float  # head: 0 in profile, 90 towards the viewer, 180 over its shoulder
    nod: float
    crest: float  # how far the crest is raised
    tail: float
    raised: bool  # wings up, not folded
    wing: float
    plump: float
    legs: float  # length

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pose:
        """A random pose."""
        low, high = [(-12, 24), (38, 56), (142, 172)][int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        return cls(
            flip=bool(rng.random() < 0.5),
            rotation=float(rng.uniform(-22, 18)),
            fill=float(rng.uniform(0.78, 1.0)),
            shift=(float(rng.random()), float(rng.random())),
            yaw=float(rng.uniform(low, high)),
            nod=float(rng.uniform(-16, 18)),
            crest=float(rng.uniform(-16, 22)),
            tail=float(rng.uniform(-22, 20)),
            raised=bool(rng.random() < 0.4) and high < 90,
            wing=float(rng.uniform(-1, 1)),
            plump=float(rng.uniform(0.9, 1.12)),
            legs=float(rng.uniform(0.12, 0.22)),
        )


@dataclass(frozen=True)
class Palette:
    """The colours of one bird in one picture."""

    body: RGB
    legs: RGB
    parts: dict[str, RGB]

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Palette:
        """Random plumage, and the part colours a little off."""
        body = jitter(BODY_COLOURS[int(rng.integers(len(BODY_COLOURS)))], rng, 0.02, 0.12)
        legs = [(196, 128, 70), (92, 84, 84), (176, 120, 116)][int(rng.integers(3))]
        return cls(body, jitter(legs, rng), {n: jitter(c, rng) for n, c in PART_COLOURS.items()})
