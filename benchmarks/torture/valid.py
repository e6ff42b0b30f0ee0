"""Pictures that are odd and valid: each with the pixels it has to be read as."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from benchmarks.torture.encoding import (
    ENDS,
    SIDE,
    Maker,
    Picture,
    Pixels,
    bird,
    filtered,
    png,
    rgb,
    saved,
    tiff,
)

LOSSY = 14.0
"""Mean levels by which a lossy copy may be off; one that is turned or negative is off by 40."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""What undoes the turn that an orientation of EXIF asks for."""


def _plain(form: str, mode: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        image = bird(rng).convert(mode)
        options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
        if form == "WEBP":
            options = {"lossless": True, "exact": True}
        off = LOSSY if form == "JPEG" else 0.0
        return Picture(
            f"{form} {mode}", ENDS[form], saved(image, form, **options), _flat(image), off
        )

    return make


def _flat(image: Image.Image) -> Pixels:
    """What the design says of alpha: over white."""
    if image.mode in ("RGBA", "LA"):
        values = np.asarray(image.convert("RGBA")).astype(float)
        alpha = values[..., 3:] / 255
        over = values[..., :3] * alpha + 255 * (1 - alpha)
        return np.rint(over).astype(np.uint8)
    return rgb(image)


def _clear(form: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        image = bird(rng).convert("RGBA")
        ramp = np.linspace(0, 255, image.width).astype(np.uint8)
        image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        return Picture(
            f"{form} with alpha", ENDS[form], saved(image, form, **options), _flat(image), 1.0
        )

    return make


def _turned(form: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        image, turn = bird(rng), rng.randrange(1, 9)
        stored = image.transpose(_TURNS[turn]) if turn in _TURNS else image
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
        if form == "WEBP":
            options = {"lossless": True}
        data = saved(stored, form, exif=exif, **options)
        off = LOSSY if form == "JPEG" else 0.0
        return Picture(f"{form} turned by EXIF {turn}", ENDS[form], data, rgb(image), off)

    return make


def _with_exif(content: Callable[[random.Random], bytes], kind: str) -> Maker:
    """A JPEG whose EXIF segment is ``content``: the photo is as it is without."""

    def make(rng: random.Random) -> Picture:
        image = bird(rng)
        data = saved(image, "JPEG", quality=95, subsampling=0)
        body = b"Exif\0\0" + content(rng)
        segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
        return Picture(kind, ".jpg", data[:2] + segment + data[2:], rgb(image), LOSSY)

    return make


def _noise(rng: random.Random) -> bytes:
    return rng.choice(
        [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\x08\0\0\0"]
    ) + rng.randbytes(rng.randrange(200))


def _odd_orientation(rng: random.Random) -> bytes:
    """An orientation that is none: 0, 9, of another type, of a count that lies, in a loop."""
    value = rng.choice([0, 9, 255, 65535])
    kind, count = rng.choice([(3, 1), (4, 1), (2, 1), (99, 1), (3, 0), (3, 2**31), (5, 1)])
    entry = struct.pack("<HHIHH", 274, kind, count, value, 0)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + struct.pack("<I", 8)


def _huge_exif(rng: random.Random) -> bytes:
    entries = b"".join(struct.pack("<HHII", 40000 + n, 2, 4, 0x41414141) for n in range(5000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4)


def _broken_profile(form: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        image = bird(rng)
        whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        profile = rng.choice(
            [b"", b"x", rng.randbytes(500), whole[: rng.randrange(len(whole))], b"\0" * 60_000]
        )
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
        if form == "WEBP":
            options = {"lossless": True}
        data = saved(image, form, icc_profile=profile, **options)
        off = LOSSY if form == "JPEG" else 0.0
        return Picture(f"{form} with a broken profile", ENDS[form], data, rgb(image), off)

    return make


def _jpeg(kind: str, mode: str = "RGB", **options: Any) -> Maker:
    def make(rng: random.Random) -> Picture:
        image = bird(rng).convert(mode)
        return Picture(kind, ".jpg", saved(image, "JPEG", **options), rgb(image), LOSSY)

    return make


def _ycck(rng: random.Random) -> Picture:
    """CMYK as printers store it: luminance and colour differences of the inks.

    Pillow writes CMYK with every plane inverted, and libjpeg inverts the first three on reading.
    """
    inks = bird(rng).convert("CMYK")
    cyan, magenta, yellow, black = inks.split()
    planes = Image.merge("RGB", (cyan, magenta, yellow)).convert("YCbCr").split()
    turned = [plane.point(lambda value: 255 - value) for plane in planes]
    data = bytearray(
        saved(Image.merge("CMYK", (*turned, black)), "JPEG", quality=95, subsampling=0)
    )
    at = data.find(b"Adobe")
    data[at + 11] = 2  # the transform of the Adobe marker
    return Picture("JPEG YCCK", ".jpg", bytes(data), rgb(inks), LOSSY)


def _animated(form: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        frames = [bird(rng).resize((60, SIDE)) for _ in range(rng.randrange(2, 9))]
        if form == "GIF":
            frames = [frame.quantize(64) for frame in frames]
        options: dict[str, Any] = {"duration": 40} if form in ("GIF", "WEBP", "PNG") else {}
        if form == "WEBP":
            options["lossless"] = True
        data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
        return Picture(f"{form} of several frames", ENDS[form], data, rgb(frames[0]))

    return make


def _mpo(rng: random.Random) -> Picture:
    """What phones write for a photo with another view in it."""
    first, second = bird(rng), bird(rng)
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95, subsampling=0)
    return Picture("JPEG of several photos", ".jpg", data, rgb(first), LOSSY)


def _followed(form: str) -> Maker:
    def make(rng: random.Random) -> Picture:
        made = _plain(form, "RGB" if form != "GIF" else "P")(rng)
        data = made.data + rng.randbytes(rng.randrange(1, 5000))
        return Picture(f"{form} and something after it", made.end, data, made.like, made.off)

    return make


def _misnamed(rng: random.Random) -> Picture:
    form = rng.choice(list(ENDS))
    made = _plain(form, "RGB" if form != "GIF" else "L")(rng)
    end = rng.choice([end for end in ENDS.values() if end != made.end])
    return Picture(f"{form} named otherwise", end.upper(), made.data, made.like, made.off)


def _thin(rng: random.Random) -> Picture:
    size = rng.choice([(1, 1), (1, 7), (300, 1), (1, 30_000), (30_000, 1), (30_000, 9), (2, 2)])
    form = rng.choice(["PNG", "BMP", "TIFF", "GIF"])
    shade = rng.randrange(256)
    data = saved(Image.new("L", size, shade), form)
    like = np.full((1, 1, 3), shade, np.uint8)
    return Picture(f"{form} {size[0]}x{size[1]}", ENDS[form], data, like)


def _wide(rng: random.Random) -> Picture:
    image = bird(rng).resize((30_000, 40))
    return Picture("PNG 30,000 px wide", ".png", saved(image, "PNG"), rgb(image))


def _png16(rng: random.Random) -> Picture:
    colour = rng.choice([0, 2, 4, 6])
    image = bird(rng)
    grey = colour in (0, 4)
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    wide = (pixels.astype(">u2") * 257).reshape(image.height, image.width, -1)
    if colour in (4, 6):
        wide = np.dstack([wide, np.full(wide.shape[:2], 65535, ">u2")])
    data = png(image.size, 16, colour, filtered(wide.astype(">u2")))
    like = np.repeat(pixels[..., None], 3, axis=2) if grey else pixels
    return Picture(f"PNG 16-bit, colour type {colour}", ".png", data, like)


def _png_few(rng: random.Random) -> Picture:
    """Grey of 1, 2 or 4 bits."""
    depth = rng.choice([1, 2, 4])
    image = bird(rng).convert("L").resize((64, SIDE))
    most = 2**depth - 1
    values = np.rint(np.asarray(image) / 255 * most).astype(np.uint8)
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :]
    packed = np.packbits(bits.reshape(image.height, -1), axis=1)
    like = np.repeat((values * (255 // most))[..., None], 3, axis=2)
    return Picture(
        f"PNG of {depth} bits", ".png", png(image.size, depth, 0, filtered(packed)), like
    )


_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
           (0, 1, 1, 2))  # fmt: skip


def _interlaced(rng: random.Random) -> Picture:
    image = bird(rng)
    pixels = rgb(image)
    rows = b"".join(filtered(pixels[y::down, x::right]) for x, y, right, down in _PASSES)
    return Picture("PNG interlaced", ".png", png(image.size, 8, 2, rows, interlaced=True), pixels)


def _tiff_wide(rng: random.Random) -> Picture:
    image, big = bird(rng), rng.random() < 0.5
    grey = np.asarray(image.convert("L"))
    like = np.repeat(grey[..., None], 3, axis=2)
    kind = rng.choice(["16-bit grey", "16-bit RGB", "float", "float of 1", "32-bit"])
    sample = 1
    if kind == "16-bit RGB":
        like = rgb(image)
        values: npt.NDArray[Any] = like.astype(np.uint16) * 257
    elif kind == "16-bit grey":
        values = grey.astype(np.uint16) * 257
    elif kind == "32-bit":
        values, sample = grey.astype(np.int32) * 257, 2
    else:
        values, sample = grey.astype(np.float32) / (255 if kind.endswith("1") else 1), 3
    return Picture(
        f"TIFF {kind}", ".tiff", tiff(values, order=">" if big else "<", kind=sample), like, 0.5
    )


def _tiff_lab(rng: random.Random) -> Picture:
    image = bird(rng)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turned = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert turned is not None
    return Picture("TIFF Lab", ".tif", saved(turned, "TIFF"), rgb(image), LOSSY)


def _tiff_packed(rng: random.Random) -> Picture:
    packing = rng.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "raw"])
    image = bird(rng).convert("1" if packing == "group4" else "RGB")
    options: dict[str, Any] = {"quality": 95} if packing == "jpeg" else {}
    data = saved(image, "TIFF", compression=packing, big_tiff=rng.random() < 0.5, **options)
    off = LOSSY if packing == "jpeg" else 0.0
    return Picture(f"TIFF {packing}", ".tif", data, rgb(image), off)


VALID: tuple[Maker, ...] = (
    *(
        _plain(form, mode)
        for form, modes in {
            "JPEG": ("RGB", "L", "CMYK"),
            "PNG": ("RGB", "L", "1", "P", "LA", "RGBA"),
            "TIFF": ("RGB", "L", "1", "P", "CMYK", "RGBA"),
            "GIF": ("L", "P"),
            "BMP": ("RGB", "L", "1", "P"),
            "WEBP": ("RGB",),
        }.items()
        for mode in modes
    ),
    *map(_clear, ("PNG", "TIFF", "WEBP")),
    *map(_turned, ("JPEG", "JPEG", "PNG", "WEBP", "TIFF")),
    _with_exif(_noise, "JPEG with noise for EXIF"),
    _with_exif(_odd_orientation, "JPEG with no orientation there is"),
    _with_exif(_huge_exif, "JPEG with a huge EXIF"),
    *map(_broken_profile, ("JPEG", "PNG", "WEBP", "TIFF")),
    _jpeg("JPEG progressive", quality=95, progressive=True),
    _jpeg("JPEG with few colours a block", quality=95, subsampling=2, optimize=True),
    _jpeg("JPEG with restarts", quality=95, restart_marker_blocks=1),
    _jpeg("JPEG progressive CMYK", "CMYK", quality=95, progressive=True),
    _ycck,
    *map(_animated, ("GIF", "PNG", "WEBP", "TIFF")),
    _mpo,
    *map(_followed, ("JPEG", "PNG", "GIF", "BMP", "TIFF")),
    _misnamed, _misnamed, _thin, _thin, _wide,
    _png16, _png_few, _interlaced, _tiff_wide, _tiff_wide, _tiff_lab, _tiff_packed,
)  # fmt: skip
