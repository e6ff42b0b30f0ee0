"""Pictures as bytes: drawn birds, what is known of a file, and PNG and TIFF written by hand."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from concepthash.demo import draw_bird, species

Pixels = npt.NDArray[np.uint8]

SIDE = 72
BIRDS = 24
ENDS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif",
}


@dataclass(frozen=True)
class Picture:
    """One file.

    Args:
        kind: what is odd about it.
        end: of its name.
        data: its content.
        like: the RGB pixels it must be read as; None if it may be refused.
        off: mean levels by which these may differ.
        bomb: it must be refused.
        huge: it takes seconds and gigabytes to decode.
    """

    kind: str
    end: str
    data: bytes
    like: Pixels | None = None
    off: float = 0.0
    bomb: bool = False
    huge: bool = False


Maker = Callable[[random.Random], Picture]


@cache
def _birds() -> list[Image.Image]:
    kinds = species(BIRDS)
    return [draw_bird(kind, seed=number, size=SIDE).image for number, kind in enumerate(kinds)]


def bird(rng: random.Random) -> Image.Image:
    """A drawn bird, not square, so that a turn is seen."""
    image = rng.choice(_birds())
    return image.crop((0, 0, rng.randrange(SIDE // 2 + 4, SIDE + 1), SIDE))


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """An encoded image."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def rgb(image: Image.Image) -> Pixels:
    """Its pixels."""
    return np.asarray(image.convert("RGB"))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    rows: bytes,
    *,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG of filtered rows, with further chunks."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            before,
            chunk(b"IDAT", zlib.compress(rows)),
            after,
            chunk(b"IEND", b""),
        ]
    )


def filtered(pixels: npt.NDArray[Any]) -> bytes:
    """The rows of a PNG, none of them filtered."""
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def tiff(
    pixels: npt.NDArray[Any],
    *,
    order: Literal["<", ">"] = "<",
    photometric: int | None = None,
    kind: int = 1,
) -> bytes:
    """An uncompressed TIFF of one strip: ``(h, w)`` or ``(h, w, samples)`` numbers."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = pixels.dtype.itemsize * 8
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    if photometric is None:
        photometric = 2 if samples > 2 else 1
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 3, [1]),
        (262, 3, [photometric]), (273, 4, [8]), (277, 3, [samples]), (278, 4, [height]),
        (279, 4, [len(body)]), (284, 3, [1]), (339, 3, [kind] * samples),
    ]  # fmt: skip
    at = 8 + len(body) + len(body) % 2
    beyond, extra = at + 2 + 12 * len(tags) + 4, b""
    entries = b""
    for tag, form, values in tags:
        packed = struct.pack(f"{order}{len(values)}{'H' if form == 3 else 'I'}", *values)
        if len(packed) > 4:
            offset = struct.pack(f"{order}I", beyond + len(extra))
            extra, packed = extra + packed, offset
        entries += struct.pack(f"{order}HHI", tag, form, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    count = struct.pack(f"{order}H", len(tags))
    return head + body.ljust(at - 8, b"\0") + count + entries + bytes(4) + extra
