"""From a file to the pixels the network sees: one path for evaluation, calibration and runtime.

Steps: decode, EXIF orientation, RGB, resize the short side (bicubic, antialiased), centre crop,
uint8 height-width-channel. Nothing here depends on torch, so the edge sees what training saw.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from concepthash.errors import ImageError, Skipped, UsageError

Pixels = npt.NDArray[np.uint8]
Source: TypeAlias = "str | Path | bytes | Image.Image | Pixels"

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 200_000_000
"""Larger images are refused before decoding (decompression bombs)."""

# Pillow warns of odd metadata and of sizes below our own limit; the pixels decide. Set once here,
# because filters are not safe to change around each of many decoding threads.
warnings.filterwarnings("ignore", module=r"PIL\.")

DRAFT_MARGIN = 4.0
"""A JPEG is decoded at 1/2, 1/4 or 1/8 scale only while its short side stays this many times the
resize target. In ``benchmarks/decode.py`` that moves pixels and bits no more than noise of one
level in 15 % of the values does; half the margin moves some pixels by 8 levels. Other decoders
than Pillow's, which is libjpeg-turbo too, gained 2 % at most there."""


@dataclass(frozen=True)
class Frame:
    """Where a photo lies in the upright image that was decoded of it.

    At a reduced scale a side that is no multiple of it is rounded up, so that the last column or
    row reaches beyond the photo.

    Args:
        size: width and height of the whole photo, upright, pixels.
        scale: pixels of the photo to one of the image, along a side.
        left, top: of the photo in the image, pixels of the image.
    """

    size: tuple[int, int]
    scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    def place(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A box of the photo (left, top, right, bottom) in pixels of the image."""
        left, top, right, bottom = (edge / self.scale for edge in box)
        return self.left + left, self.top + top, self.left + right, self.top + bottom


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the square the network sees; travels in the bundle.

    Args:
        resize: short side after resizing, pixels.
        crop: side of the centre crop, pixels; at most ``resize``.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise UsageError(
                f"the crop ({self.crop}) must fit in the resized image ({self.resize})",
                where="preprocessing",
                hint="--set data.resize=256 --set data.crop=224",
            )
        if self.interpolation != "bicubic":
            raise UsageError(
                f"interpolation '{self.interpolation}' is not supported; it is always bicubic",
                where="preprocessing.interpolation",
            )

    def to_json(self) -> dict[str, Any]:
        """The parameters as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocess:
        """Rebuild from :meth:`to_json`; unknown or missing keys raise UsageError."""
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"not preprocessing parameters: {error}", where=values) from None

    def __call__(self, source: Source) -> Pixels:
        """The ``(crop, crop, 3)`` uint8 pixels of one image.

        Raises:
            ImageError: if it cannot be decoded.
        """
        image, frame = _open(source, self.resize)
        return square(image, self, frame)

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The crop in an upright image of ``size`` (width, height): left, top, right, bottom."""
        width, height = resized_size(size, self.resize)
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        x, y = size[0] / width, size[1] / height
        return left * x, top * y, (left + self.crop) * x, (top + self.crop) * y

    def to_crop(self, points: npt.ArrayLike, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Where points of an upright image come to lie in the crop; outside it, below 0 or above.

        Args:
            points: ``(n, 2)`` x and y, pixels from the top left corner of the image.
            size: its width and height, pixels.

        Returns:
            ``(n, 2)`` x and y, pixels from the top left corner of the crop.
        """
        left, top, right, bottom = self.crop_box(size)
        scale = self.crop / np.array([right - left, bottom - top])
        moved: npt.NDArray[np.float64] = (
            np.asarray(points, float).reshape(-1, 2) - (left, top)
        ) * scale
        return moved


def square(image: Image.Image, spec: Preprocess, frame: Frame | None = None) -> Pixels:
    """Resize the short side and crop the centre of an RGB image: ``(crop, crop, 3)`` uint8.

    Args:
        frame: where the photo lies in ``image``; by default it fills it.
    """
    frame = frame or Frame(image.size)
    # Only the crop is computed: an extreme aspect ratio must not need an extreme amount of memory.
    box = frame.place(spec.crop_box(frame.size))
    return np.asarray(image.resize((spec.crop, spec.crop), Image.Resampling.BICUBIC, box=box))


def resized_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height with the short side at ``short`` pixels, aspect kept."""
    scale = short / min(size)
    return max(short, round(size[0] * scale)), max(short, round(size[1] * scale))


def open_rgb(source: Source, *, short_side: int | None = None) -> Image.Image:
    """An upright RGB image, fully decoded, from a path, bytes, array or Pillow image.

    Alpha is laid over white; palette, CMYK, grey and 16-bit images are converted. With
    ``short_side``, a large JPEG may be decoded at a reduced scale (see :data:`DRAFT_MARGIN`).

    Raises:
        ImageError: for anything that is not a whole, decodable image.
    """
    return _open(source, short_side)[0]


def _open(source: Source, short_side: int | None) -> tuple[Image.Image, Frame]:
    if isinstance(source, np.ndarray):
        return _whole(_from_array(source))
    if isinstance(source, Image.Image):
        return _whole(to_rgb(ImageOps.exif_transpose(source)))
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        there = Path(source).exists()  # a pipe or a folder: opening it may wait for ever
        raise ImageError("not a regular file" if there else "no such file", where=name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{image.width}x{image.height} pixels is too large", where=name)
            size, drafted = image.size, None
            if short_side is not None:
                wanted = round(short_side * DRAFT_MARGIN)
                drafted = image.draft(None, (wanted, wanted))
            image.load()
            upright = to_rgb(ImageOps.exif_transpose(image))
            if drafted is None or image.size == size:
                return _whole(upright)
            return upright, _frame(image, size, drafted[1])
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image Pillow can read", where=name) from None
    except Exception as error:  # a decoder fed a broken file may raise nearly anything
        what = str(error) or type(error).__name__
        raise ImageError(f"cannot decode: {what}", where=name) from None


def _whole(image: Image.Image) -> tuple[Image.Image, Frame]:
    return image, Frame(image.size)


def _frame(
    image: Image.Image, size: tuple[int, int], inside: tuple[float, float, float, float]
) -> Frame:
    """The frame of a photo of ``size`` that fills ``inside`` of an image not yet turned upright."""
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    beyond = image.width - inside[2], image.height - inside[3]  # on the right, at the bottom
    scale = size[0] / inside[2]
    if turn in (5, 6, 7, 8):  # the sides change places
        size, beyond = size[::-1], beyond[::-1]
    return Frame(
        size,
        scale,
        left=beyond[0] if turn in (2, 3, 6, 7) else 0.0,
        top=beyond[1] if turn in (3, 4, 7, 8) else 0.0,
    )


def has_alpha(image: Image.Image) -> bool:
    """Whether some of an image may be transparent, as its header says."""
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: alpha over white, 16-bit and float scaled to 8 bits."""
    if image.mode == "RGB" and not has_alpha(image):
        return image
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if has_alpha(image):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[Any]) -> Pixels:
    numbers = np.nan_to_num(values.astype(np.float64))
    if values.dtype.kind == "f" and numbers.max(initial=0) <= 1.0:
        numbers = numbers * 255.0
    elif numbers.max(initial=0) > 255:  # 16-bit: 65535 -> 255
        numbers = numbers / 257.0
    return np.clip(np.rint(numbers), 0, 255).astype(np.uint8)


def _from_array(array: Pixels) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ImageError(f"an image array is uint8 (H, W, 3), got {array.dtype} {array.shape}")
    return Image.fromarray(array)


def is_image(path: Path) -> bool:
    """Whether the name is that of a visible image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(sources: Iterable[str | Path], skipped: Skipped | None = None) -> Iterator[Path]:
    """The image files among ``sources``, folders walked recursively in name order.

    A file named explicitly is yielded whatever its suffix. Hidden files and folders below a
    source are left out; folder links are followed once, so loops end. A folder that cannot be
    read is recorded in ``skipped`` and left out.

    Raises:
        UsageError: if a source does not exist.
    """
    record = Skipped() if skipped is None else skipped
    for source in map(Path, sources):
        if source.is_dir():
            yield from _walk(source, set(), record)
        elif source.is_file():
            yield source
        elif source.exists():
            raise UsageError("not a regular file", where=source)
        else:
            raise UsageError("no such file or folder", where=source, hint=f"ls {source.parent}")


def _walk(folder: Path, seen: set[Path], skipped: Skipped) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        skipped.add(folder, error.strerror or error)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen, skipped)
        elif is_image(entry):
            if entry.is_file() or not entry.exists():
                yield entry
            else:
                skipped.add(entry, "not a regular file")  # a pipe would be waited for
