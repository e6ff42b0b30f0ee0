"""Concept maps as pictures: smoothed, coloured, laid over the photo.

The scale runs from violet to yellow with lightness rising evenly (OKLab), so that it reads the same
to colour-blind eyes and in grey.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from concepthash.images import Pixels

HEAT_STOPS = (
    (27, 2, 80),
    (70, 3, 107),
    (118, 15, 114),
    (163, 39, 105),
    (202, 68, 89),
    (234, 104, 64),
    (253, 147, 32),
    (254, 195, 72),
    (253, 241, 86),
)
"""The scale from 0 to 1, evenly spaced; between two stops it is linear in sRGB."""

CONCEPT_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
    (240, 228, 66),
    (120, 120, 120),
)
"""The palette of Okabe and Ito (2008), told apart by colour-blind eyes; grey is the last."""

_STRONGEST = 0.8
"""Opacity of the heat where a map is highest."""


def concept_colour(concept: int) -> tuple[int, int, int]:
    """The colour of a concept wherever it is shown; the ninth has that of the first."""
    return CONCEPT_COLOURS[concept % len(CONCEPT_COLOURS)]


def smooth(map: npt.NDArray[Any], side: int) -> npt.NDArray[np.float32]:
    """A map ``(h, w)`` over a crop of ``side`` pixels, bilinear: ``(side, side)`` float32.

    The centre of a cell keeps its value; beyond the outermost centres the edge goes on.
    """
    cells = Image.fromarray(np.asarray(map, np.float32))
    return np.array(cells.resize((side, side), Image.Resampling.BILINEAR))


def heat_colours(values: npt.ArrayLike) -> Pixels:
    """The colours of values from 0 to 1, others clipped: ``(...)`` to ``(..., 3)`` uint8."""
    given = np.nan_to_num(np.clip(np.asarray(values, float), 0.0, 1.0))
    stops = np.array(HEAT_STOPS, float)
    places = np.linspace(0.0, 1.0, len(stops))
    channels = [np.interp(given, places, stops[:, channel]) for channel in range(3)]
    colours: Pixels = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


def overlay(pixels: Pixels, map: npt.NDArray[Any]) -> Image.Image:
    """The photo with a map laid over it: the higher the map, the less of the photo is seen.

    The map is divided by its maximum, as in the measures of part agreement; one of zeros shows the
    photo alone.

    Args:
        pixels: ``(side, side, 3)`` uint8.
        map: ``(h, w)``, not negative.
    """
    values = smooth(map, len(pixels))
    highest = float(np.max(map))
    values = np.clip(values / highest, 0.0, 1.0) if highest > 0 else np.zeros_like(values)
    opacity = _STRONGEST * values[..., None]
    mixed = pixels * (1.0 - opacity) + heat_colours(values) * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
