"""Drawn birds that stand in for photos where none are at hand; the same ones on every machine."""

from __future__ import annotations

from PIL import Image

from concepthash.demo.draw import MAX_SIZE, MIN_SIZE, draw_bird
from concepthash.demo.species import species

BIRDS = 64
_OF_A_KIND = 4


def sample_birds(size: int) -> tuple[list[Image.Image], list[str]]:
    """:data:`BIRDS` pictures, four of each species, and the names of their species.

    Args:
        size: side, pixels; brought into the range that can be drawn.
    """
    side = min(max(size, MIN_SIZE), MAX_SIZE)
    kinds = [kind for kind in species(BIRDS // _OF_A_KIND) for _ in range(_OF_A_KIND)]
    pictures = [draw_bird(kind, seed=seed, size=side).image for seed, kind in enumerate(kinds)]
    return pictures, [str(kind) for kind in kinds]
