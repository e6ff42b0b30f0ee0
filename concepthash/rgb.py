"""From any mode of Pillow's to RGB, in little more memory than the two images take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

_BAND = 2**22  # pixels that are converted at once


def has_alpha(image: Image.Image) -> bool:
    """Whether some of an image may be transparent, as its header says."""
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: alpha over white, 16-bit and float scaled to 8 bits."""
    if image.mode == "RGB" and not has_alpha(image):
        return image
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return _by_bands(image, _to_8_bits(image))
    if has_alpha(image):
        return _by_bands(image, _over_white)
    return image.convert("RGB")


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB image, some rows at a time: what comes in between takes several times the memory."""
    rows = max(1, _BAND // image.width)
    if image.height <= rows:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for box in _bands(image, rows):
        whole.paste(convert(image.crop(box)), box)
    return whole


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _to_8_bits(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What scales such an image, or a part of it, by the largest value of the whole."""

    def numbers(part: Image.Image) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            return np.nan_to_num(np.asarray(part).astype(np.float64))

    def largest(part: Image.Image) -> float:
        return float((numbers(part) if image.mode == "F" else np.asarray(part)).max(initial=0))

    rows = max(1, _BAND // image.width)
    most = max(largest(image.crop(box)) for box in _bands(image, rows))
    up = 255.0 if image.mode == "F" and most <= 1.0 else 1.0
    down = 257.0 if most > 255 else 1.0  # 16-bit: 65535 -> 255

    def convert(part: Image.Image) -> Image.Image:
        values = np.clip(np.rint(numbers(part) * up / down), 0, 255)
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")

    return convert


def _bands(image: Image.Image, rows: int) -> list[tuple[int, int, int, int]]:
    width, height = image.size
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
