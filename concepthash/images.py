"""From a file to the pixels the network sees: one path for evaluation, calibration and runtime.

Steps: decode, EXIF orientation, RGB, resize the short side (bicubic, antialiased), centre crop,
uint8 height-width-channel. Nothing here depends on torch, so the edge sees what training saw.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from concepthash.bounds import MAX_PIXELS, MOST_SCANS, Room, too_many_scans
from concepthash.errors import ImageError, Skipped, UsageError
from concepthash.rgb import to_rgb

Pixels = npt.NDArray[np.uint8]
Source: TypeAlias = "str | Path | bytes | Image.Image | Pixels"

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
LARGEST_SIDE = 1 << 14
"""Pixels of the square that a network may see, and of the short side before it is cut."""

# A few kilobytes can hold an image that takes a gigabyte: those above the first size wait for each
# other, so that the memory does not grow with the number of threads. Few photos are that large.
_LARGE = 2**25
_large_ones = Room(MAX_PIXELS)

_PROGRAMS = frozenset({"EPS", "WMF"})  # Pillow has other programs draw them
TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a stored image upright, by its EXIF orientation."""

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
        whole = type(self.crop) is int and type(self.resize) is int
        if not whole or not 1 <= self.crop <= self.resize <= LARGEST_SIDE:
            raise UsageError(
                f"the crop ({self.crop}) must fit in the resized image ({self.resize})",
                where="preprocessing",
                hint=f"--set data.resize=256 --set data.crop=224; at most {LARGEST_SIDE}",
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
        with _opened(source, self.resize) as (image, frame):
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
    with _opened(source, short_side) as (image, _):
        return image


def elsewhere(name: str | Path) -> str | None:
    """Why a photo that was indexed has no file to open, by its name; None if it has one."""
    if "://" in str(name):
        return "behind a URL, which is not read here"
    row = re.search(r"\.parquet#\d+$", str(name))
    return None if row is None else "a row of a Parquet file, which is not read here"


@contextmanager
def _opened(source: Source, short_side: int | None) -> Iterator[tuple[Image.Image, Frame]]:
    """An upright RGB image, and where the photo lies in it; a large one is alone in the block."""
    if isinstance(source, np.ndarray):
        yield _whole(_from_array(source))
        return
    if isinstance(source, Image.Image):
        image = _upright(to_rgb(source), _turn(source))
        yield _whole(image.copy() if image is source else image)
        return
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        there = Path(source).exists()  # a pipe or a folder: opening it may wait for ever
        missing = elsewhere(name) or "no such file"
        raise ImageError("not a regular file" if there else missing, where=name)
    with ExitStack() as stack:
        try:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            opened = stack.enter_context(Image.open(file))
            _check_header(opened, name)
            size, drafted = opened.size, None
            if short_side is not None:
                wanted = round(short_side * DRAFT_MARGIN)
                drafted = opened.draft(None, (wanted, wanted))
            pixels = opened.width * opened.height
            if pixels > _LARGE:
                stack.enter_context(_large_ones.taking(pixels))
            opened.load()
            turn = _turn(opened)
            frame = _frame(opened, size, drafted[1], turn) if drafted else None
            image = _upright(to_rgb(opened), turn)
        except ImageError:
            raise
        except Image.DecompressionBombError:
            raise ImageError(f"more than {MAX_PIXELS:,} pixels", where=name) from None
        except UnidentifiedImageError:
            raise ImageError("not an image Pillow can read", where=name) from None
        except Exception as error:  # a decoder fed a broken file may raise nearly anything
            what = str(error) or type(error).__name__
            raise ImageError(f"cannot decode: {what}", where=name) from None
        yield image, frame or Frame(image.size)


def _check_header(image: Image.Image, name: str) -> None:
    """Refuse, before anything is decoded, what would take too much or start another program."""
    if image.format in _PROGRAMS:
        raise ImageError(
            f"{image.format} is drawn by other programs, so it is not read", where=name
        )
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels", where=name)
    if isinstance(image, JpegImageFile) and image.fp and too_many_scans(image.fp):
        raise ImageError(f"a JPEG of more than {MOST_SCANS} scans", where=name)


def _whole(image: Image.Image) -> tuple[Image.Image, Frame]:
    return image, Frame(image.size)


def _turn(image: Image.Image) -> int:
    """The orientation that EXIF gives; 1, which is upright, where that cannot be read."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
        return turn if turn in TURNS else 1
    except Exception:  # broken metadata, of which Pillow may raise nearly anything
        return 1


def _upright(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def _frame(
    image: Image.Image,
    size: tuple[int, int],
    inside: tuple[float, float, float, float],
    turn: int,
) -> Frame | None:
    """The frame of a photo of ``size`` that fills ``inside`` of an image not yet turned upright.

    None if the image was decoded at full scale.
    """
    if image.size == size:
        return None
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
            raise UsageError("not a regular file", where=source, hint=f"ls -l {source}")
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
