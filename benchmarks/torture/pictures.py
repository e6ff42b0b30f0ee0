"""Pictures to index and to upload: valid ones of every odd kind, damaged ones, and bombs.

All are encoded from drawn birds. Of a valid one the pixels are known that it has to be read as, so
that its code can be compared with the code of a plain picture.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.torture.encoding import (
    ENDS,
    Maker,
    Picture,
    bird,
    chunk,
    filtered,
    png,
    rgb,
    saved,
    tiff,
)
from benchmarks.torture.valid import VALID

GIGA = 1 << 30


def _small(rng: random.Random) -> tuple[tuple[int, int], bytes]:
    image = bird(rng)
    return image.size, filtered(rgb(image))


def _claims(rng: random.Random) -> Picture:
    """A few bytes that claim to be huge."""
    side = rng.choice([20_000, 40_000, 65_500])
    form = rng.choice(["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP"])
    if form == "PNG":
        data = png((side, side), rng.choice([1, 8, 16]), 0, bytes(1000))
    elif form == "GIF":
        data = b"GIF89a" + struct.pack("<HH", side, side) + bytes([0x80, 0, 0]) + bytes(6)
        data += b"," + struct.pack("<HHHH", 0, 0, side, side) + b"\0\x02\x02\x4c\x01\0;"
    elif form == "BMP":
        head = struct.pack("<IiiHHIIiiII", 40, side, rng.choice([side, -side]), 1, 24, *[0] * 6)
        data = b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + head + bytes(1000)
    elif form == "TIFF":
        whole = bytearray(tiff(np.zeros((4, 4), np.uint8)))
        at = struct.unpack("<I", whole[4:8])[0] + 2
        for entry in (at, at + 12):
            whole[entry + 8 : entry + 12] = struct.pack("<I", side)
        data = bytes(whole)
    elif form == "JPEG":
        whole = bytearray(saved(bird(rng), "JPEG"))
        at = whole.find(b"\xff\xc0") + 5
        whole[at : at + 4] = struct.pack(">HH", side, side)
        data = bytes(whole)
    else:  # a canvas of 2**24 a side, and nothing on it
        body = b"VP8X" + struct.pack("<I", 10) + bytes([0x10, 0, 0, 0]) + b"\xff" * 6
        data = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return Picture(f"{form} that claims to be huge", ENDS[form], data, bomb=True)


def _chunk_bomb(rng: random.Random) -> Picture:
    """A small PNG with a chunk that is small only while it is compressed."""
    size, rows = _small(rng)
    packed = zlib.compress(bytes(GIGA // 16), 9)
    if rng.random() < 0.5:
        packed = zlib.compress(bytes(1000), 9)
    kind = rng.choice([b"iCCP", b"zTXt", b"iTXt"])
    body = b"name\0" + (b"\x01\0\0\0" if kind == b"iTXt" else b"\0") + packed
    bomb, first = chunk(kind, body) * rng.choice([1, 3]), rng.random() < 0.5
    data = png(size, 8, 2, rows, before=bomb * first, after=bomb * (not first))
    return Picture(f"PNG with a bomb in {kind.decode()}", ".png", data)


def _rows_bomb(rng: random.Random) -> Picture:
    """A small PNG whose rows go on for far longer than it has any."""
    size, rows = _small(rng)
    return Picture("PNG of too many rows", ".png", png(size, 8, 2, rows + bytes(GIGA // 32)))


def _scans_bomb(rng: random.Random) -> Picture:
    """A small progressive JPEG whose last scan comes again thousands of times."""
    side = rng.choice([800, 4000])
    data = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    again = data[last:-2]
    return Picture("JPEG of too many scans", ".jpg", data[:-2] + again * 20_000 + data[-2:])


def _frames_bomb(rng: random.Random) -> Picture:
    frame = Image.new("P", (400, 400), 3)
    tail = saved(frame, "GIF")
    start = tail.find(b",", 13 + 3 * 2)
    data = tail[:-1] + tail[start:-1] * 5000 + b";"
    return Picture("GIF of 5,000 frames", ".gif", data)


def _tiff_loop(rng: random.Random) -> Picture:
    """Pages that lead back to the first one."""
    data = bytearray(tiff(np.full((8, 8), 77, np.uint8)))
    at = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[at : at + 2])[0]
    end = at + 2 + 12 * count
    data[end : end + 4] = struct.pack("<I", at)
    return Picture("TIFF in a loop", ".tif", bytes(data), np.full((8, 8, 3), 77, np.uint8))


def _other_form(rng: random.Random) -> Picture:
    """What Pillow opens and nobody has in a gallery, some of it by starting programs."""
    image = bird(rng)
    forms = {
        "EPS": "RGB", "ICNS": "RGBA", "ICO": "RGBA", "PPM": "RGB", "TGA": "RGB", "PCX": "RGB",
        "SGI": "RGB", "JPEG2000": "RGB", "AVIF": "RGB", "DDS": "RGBA", "IM": "RGB", "XBM": "1",
        "MSP": "1", "SPIDER": "F", "QOI": "RGB", "DIB": "RGB",
    }  # fmt: skip
    form = rng.choice(list(forms))
    data = saved(image.convert(forms[form]), form)
    return Picture(f"{form} named otherwise", rng.choice(list(ENDS.values())), data)


def _no_picture(rng: random.Random) -> Picture:
    data = rng.choice(
        [
            b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBP",
            b"II*\0", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(4096), b"%PDF-1.7\n",
            b"PK\x03\x04" + bytes(100), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            rng.randbytes(3000),
        ]
    )  # fmt: skip
    return Picture("no picture", rng.choice(list(ENDS.values())), data, bomb=True)


def _damaged(rng: random.Random) -> Picture:
    made = rng.choice(VALID)(rng)
    return Picture(f"{made.kind}, damaged", made.end, damaged(made.data, rng))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with bits flipped, an end cut off, a piece moved, or noise in it."""
    broken = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(max(1, len(broken)))
        if rng.random() < 0.3:
            at = rng.randrange(max(1, min(64, len(broken))))  # headers are short
        length = min(rng.choice([1, 4, 64, 4096]), len(broken) - at)
        how = rng.choice(["flip", "flip", "flip", "cut", "move", "zero", "ones", "noise", "grow"])
        if how == "flip" and broken:
            broken[at] ^= 1 << rng.randrange(8)
        elif how == "cut":
            del broken[at:]
        elif how == "move":
            source = rng.randrange(max(1, len(broken) - length))
            broken[at : at + length] = broken[source : source + length]
        elif how in ("zero", "ones"):
            broken[at : at + length] = (b"\0" if how == "zero" else b"\xff") * length
        elif how == "noise":
            broken[at : at + length] = rng.randbytes(length)
        else:
            broken += rng.randbytes(length)
    return bytes(broken)


def huge() -> Iterator[Picture]:
    """Pictures below the limit of pixels, of a few kilobytes, that take gigabytes to decode."""
    side = 13_000
    for depth, colour, width in ((1, 0, side // 8), (8, 2, 3 * side), (16, 0, 2 * side)):
        packer = zlib.compressobj(9)
        row = b"\0" + bytes([200]) * width
        body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
        header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)
        kind = f"PNG {side}x{side} of {depth} bits, colour type {colour}"
        yield Picture(kind, ".png", data + chunk(b"IEND", b""), huge=True)
    clear = Image.new("RGBA", (12_000, 12_000), (10, 200, 30, 128))
    yield Picture("PNG 12000x12000 with alpha", ".png", saved(clear, "PNG"), huge=True)


ODD: tuple[Maker, ...] = (
    _claims, _claims, _chunk_bomb, _tiff_loop, _other_form, _no_picture, _frames_bomb,
)  # fmt: skip
RARE: tuple[Maker, ...] = (_rows_bomb, _scans_bomb)
"""Each takes up to a second, so there are few."""
KINDS = len(VALID) + len(ODD) + len(RARE)


def pictures(count: int, rng: random.Random) -> Iterator[Picture]:
    """``count`` pictures, at least one of each maker if there are that many: half are damaged."""
    always = (*VALID, *ODD, *RARE)
    for number in range(count):
        if number < KINDS:
            yield always[number](rng)
        elif number % 500 < len(RARE):
            yield RARE[number % 500](rng)
        else:
            share = rng.random()
            yield (_damaged if share < 0.5 else rng.choice(VALID if share < 0.9 else ODD))(rng)
