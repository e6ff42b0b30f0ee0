"""What surrounds a bird: blurred backdrop, clutter behind it, a leaf before it, and the light."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from concepthash.demo.geometry import RGB, Blade, Points, Shape, bar, oval, turn
from concepthash.demo.pose import PART_COLOURS, jitter, shade

Pixels = npt.NDArray[np.float32]
"""``(height, width, 3)`` float32, 0..255."""

_BACKDROPS: tuple[tuple[RGB, RGB], ...] = (
    # top, bottom
    ((150, 192, 226), (206, 220, 222)),  # open sky
    ((156, 188, 214), (112, 138, 78)),  # sky over a meadow
    ((74, 112, 66), (126, 152, 84)),  # foliage
    ((178, 190, 186), (158, 132, 98)),  # mist over bare ground
    ((216, 178, 150), (128, 116, 124)),  # dusk
    ((62, 84, 82), (92, 96, 72)),  # deep shade
)
_LEAVES: tuple[RGB, ...] = ((84, 132, 60), (122, 150, 66), (58, 104, 62), (168, 140, 70))
_BARKS: tuple[RGB, ...] = ((104, 80, 62), (128, 112, 98), (84, 74, 70))


def _pick(colours: tuple[RGB, ...], rng: np.random.Generator) -> RGB:
    return jitter(colours[int(rng.integers(len(colours)))], rng, 0.02, 0.12)


def backdrop(rng: np.random.Generator, size: int, scale: int) -> Image.Image:
    """A gradient with out-of-focus blotches, RGB of ``size * scale`` pixels a side.

    It has the detail of ``size`` pixels only: it will be reduced to that.
    """
    top, bottom = _BACKDROPS[int(rng.integers(len(_BACKDROPS)))]
    height = np.linspace(0, 1, 9)[:, None, None] + rng.uniform(-0.2, 0.2)
    ramp = np.clip((height - 0.5) * rng.uniform(1, 3) + 0.5, 0, 1)
    grid = np.asarray(jitter(top, rng)) * (1 - ramp) + np.asarray(jitter(bottom, rng)) * ramp
    grid = grid + rng.normal(0, 14, (9, 9, 1)) + rng.normal(0, 7, (9, 9, 3))
    small = Image.fromarray(np.clip(grid, 0, 255).astype(np.uint8))
    smooth = small.resize((size, size), Image.Resampling.BICUBIC)
    return smooth.resize((size * scale, size * scale), Image.Resampling.NEAREST)


def leaf(base: Points, length: float, angle: float, colour: RGB) -> Iterator[Shape]:
    """A leaf with its midrib, from ``base`` along ``angle`` degrees."""
    spine = turn([[0.0, 0.0], [length * 0.5, length * 0.12], [length, 0]], angle, base)
    blade = Blade.along(spine, [0.0, length * 0.42, length * 0.3, 0.0], n=12)
    yield Shape(blade.outline(), colour, "", shade(colour, 0.75))
    rib = bar(blade.point(0.05, 0.5), blade.point(0.9, 0.5), length * 0.025)
    yield Shape(rib, shade(colour, 1.3))


def _twig(rng: np.random.Generator) -> Iterator[Shape]:
    start, angle = rng.random(2), float(rng.uniform(0, 360))
    colour, width = _pick(_BARKS, rng), float(rng.uniform(0.012, 0.035))
    end = turn([float(rng.uniform(0.3, 0.8)), 0], angle, start)
    bend = (start + end) / 2 + rng.uniform(-0.08, 0.08, 2)
    yield Shape(Blade.along([start, bend, end], [width, width / 3], 8).outline(), colour)
    for _ in range(int(rng.integers(0, 3))):
        base = start + (end - start) * rng.uniform(0.2, 0.9)
        turned = angle + float(rng.choice([-50, 50])) + float(rng.uniform(-20, 20))
        yield from leaf(base, float(rng.uniform(0.08, 0.2)), turned, _pick(_LEAVES, rng))


def _distractor(rng: np.random.Generator) -> Iterator[Shape]:
    """A berry, petal or striped scrap, as large and as bright as a bird's parts."""
    names = list(PART_COLOURS)
    colour = jitter(PART_COLOURS[names[int(rng.integers(len(names)))]], rng)
    centre, size = rng.random(2), float(rng.uniform(0.02, 0.06))
    kind = int(rng.integers(4))
    if kind == 0:
        yield Shape(oval(centre, (size, size), 18), colour, edge=shade(colour, 0.7))
    elif kind == 1:
        for angle in np.arange(3) * 32 + float(rng.uniform(0, 360)):
            spine = turn([[0.0, 0.0], [size, 0], [size * 2.2, 0]], float(angle), centre)
            petal = Blade.along(spine, [0.01, size * 0.6, 0.002], 8)
            yield Shape(petal.outline(), colour, edge=shade(colour, 0.7))
    else:
        spine = turn([[0.0, 0.0], [size * 2, 0], [size * 4, 0]], float(rng.uniform(0, 360)), centre)
        scrap = Blade.along(spine, [size * 0.3, size * 1.3, size * 0.2], 10)
        yield Shape(scrap.outline(), colour, edge=shade(colour, 0.7))
        if kind == 3:
            white = jitter(PART_COLOURS["white"], rng)
            for u in (0.25, 0.5, 0.75):
                yield Shape(scrap.patch((u, u + 0.12), (0, 1), 3), white)


def clutter(rng: np.random.Generator) -> list[Shape]:
    """Twigs, leaves and distractors in part colours; the picture is the unit square."""
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(1, 4))):
        shapes += _twig(rng)
    for _ in range(int(rng.integers(2, 7))):
        length, angle = float(rng.uniform(0.08, 0.24)), float(rng.uniform(0, 360))
        shapes += leaf(rng.random(2), length, angle, _pick(_LEAVES, rng))
    for _ in range(int(rng.integers(3, 8))):
        shapes += _distractor(rng)
    return shapes


def perch(rng: np.random.Generator, feet: Points) -> list[Shape]:
    """The branch, or the ground, that carries ``feet`` (2, 2), in the unit square."""
    middle, slope = feet.mean(axis=0), feet[1] - feet[0]
    slope = slope / max(float(np.hypot(*slope)), 1e-9)
    slope = slope if slope[0] > 0 else -slope
    colour = _pick(_BARKS, rng)
    thick = float(rng.uniform(0.022, 0.04))
    reach = rng.uniform(0.35, 1.2, 2)
    drop = np.array([0, thick * 0.75])
    if rng.random() < 0.3:
        corners = np.array([-slope * 2, slope * 2, (2.0, 3.0), (-2.0, 3.0)])
        corners += middle + np.array([0.0, 0.02])
        return [Shape(corners, shade(colour, 1.15))]
    ends = [middle + drop - slope * reach[0], middle + drop, middle + drop + slope * reach[1]]
    branch = Blade.along(ends, [thick * 1.3, thick, thick * 0.6], 10)
    shapes = [Shape(branch.outline(), colour, edge=shade(colour, 0.7))]
    shapes.append(Shape(branch.patch((0.05, 0.95), (0.2, 0.35)), shade(colour, 1.2)))
    return shapes


def cover(rng: np.random.Generator, box: tuple[float, float, float, float]) -> list[Shape]:
    """A leaf in front of a corner of ``box`` (x, y, w, h) in about one picture of three."""
    corner = rng.random(2)
    length, angle = float(rng.uniform(0.14, 0.26)), float(rng.uniform(0, 360))
    colour, present = _pick(_LEAVES, rng), rng.random() < 0.35
    base = np.array(box[:2]) + corner * box[2:] - turn([length / 2, 0], angle)
    return list(leaf(base, length, angle, colour)) if present else []


def light(rng: np.random.Generator, pixels: Pixels, bird: npt.NDArray[np.bool_]) -> Pixels:
    """The scene lit: relief on the bird, a slope of brightness, a tint, and sensor noise.

    ``bird`` marks the bird's pixels; the result is clipped to 0..255.
    """
    side = pixels.shape[0]
    blurred = Image.fromarray(bird.astype(np.uint8) * 255).filter(
        ImageFilter.BoxBlur(max(1.0, side * 0.045))
    )
    height = np.asarray(blurred, dtype=np.float32) / 255
    reach = max(1, round(side * 0.035))
    lean = float(rng.uniform(-1, 1))
    padded = np.pad(height, reach)
    below = padded[2 * reach :, reach:-reach]
    sideways = padded[reach:-reach, 2 * reach :] - padded[reach:-reach, : -2 * reach]
    relief = (below - padded[: -2 * reach, reach:-reach] + lean * sideways) * bird
    slope = rng.uniform(-0.22, 0.22, 2)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    gain = rng.uniform(0.78, 1.16) + slope[0] * ramp[:, None] + slope[1] * ramp[None, :]
    tint = 1 + rng.uniform(-0.07, 0.07, 3) * np.array([1.0, 0.4, 1.0])
    grain = np.float32(rng.uniform(1.5, 4.5))
    lit: Pixels = pixels * ((1 + 0.34 * relief) * gain).astype(np.float32)[..., None]
    lit *= tint.astype(np.float32)
    lit += rng.standard_normal(pixels.shape, dtype=np.float32) * grain
    np.clip(lit, 0, 255, out=lit)
    return lit
