"""Photos into pixels, also hostile ones: nothing is decoded before its header was judged.

Only the formats that galleries are made of are opened, of all that Pillow knows. What an image
takes in memory is known from its header, and its thread waits until there is room for it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from concepthash.bounds import MAX_PIXELS, Room
from concepthash.errors import ImageError
from concepthash.images import Pixels, Preprocess
from concepthash.rgb import has_alpha

Photo = TypeVar("Photo", Path, bytes)
Made = TypeVar("Made")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""As Pillow names them. Others start programs (EPS) or hold images larger than they say (ICO)."""

# How much more memory than RGB a pixel takes on its way to RGB: laid over white, or as a float.
_ALPHA, _WIDE = 2, 4


class TooLarge(ImageError):
    """An image is refused for its size, before it is decoded."""


class Decoder:
    """Threads that decode photos.

    Args:
        spec: how a photo becomes pixels.
        threads: how many at once.
        pixels: of the largest photo a client may send, and of all that are decoded at once. Those
            with alpha count twice, those of more than 8 bits four times.
    """

    def __init__(self, spec: Preprocess, *, threads: int, pixels: int) -> None:
        self._spec = spec
        self._most = pixels
        self._room = Room(pixels)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def upload(self, image: bytes) -> Pixels:
        """What a client sent, ``(crop, crop, 3)`` uint8, as the hasher prepares a file of it.

        Raises:
            TooLarge: if it has more pixels than a client may send.
            ImageError: if it is not a whole image of a known format.
        """
        return await self._in_thread(image, lambda sent: self.make(sent, self._spec, self._most))

    async def file(self, path: Path, make: Callable[[Path], Made]) -> Made:
        """What ``make`` makes of a photo of the gallery, called in one of the threads.

        Raises:
            ImageError: if ``make`` does.
        """
        return await self._in_thread(path, make)

    def make(
        self, photo: Photo, make: Callable[[Photo], Made], most: int = _WIDE * MAX_PIXELS
    ) -> Made:
        """What ``make`` makes of a photo, once there is room for it; called in a thread.

        Raises:
            TooLarge: if it has more pixels than ``most``.
            ImageError: if it is not a whole image of a known format.
        """
        try:
            pixels = _judged(photo, most)
            with self._room.taking(pixels):
                return make(photo)
        except ImageError as error:
            if isinstance(photo, bytes):
                error.where = "image"  # the name of bytes tells a client nothing
            raise
        except Exception as error:  # too large for the memory, or nearly anything
            raise ImageError(f"cannot prepare: {str(error) or type(error).__name__}") from None

    def close(self) -> None:
        """End the threads; what has not begun is given up."""
        self._pool.shutdown(cancel_futures=True)

    async def _in_thread(self, photo: Photo, work: Callable[[Photo], Made]) -> Made:
        # What is cancelled stays in the pool's queue for a while, but not the photo with it.
        slot = [photo]
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, lambda: work(slot.pop()))
        finally:
            slot.clear()


def _judged(photo: Path | bytes, most: int) -> int:
    """The pixels that a photo counts as, by its header.

    Raises:
        TooLarge, ImageError: as :meth:`Decoder.make`.
    """
    file: io.BytesIO | Path
    if isinstance(photo, bytes):
        name, file = "image", io.BytesIO(photo)
    else:
        name, file = str(photo), photo
        if not photo.is_file():  # opening a pipe would wait for ever
            raise ImageError("no such file, or not a regular one", where=name)
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height, mode = image.width, image.height, image.mode
            clear = has_alpha(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge("far too many pixels", where=name, hint="send a smaller photo") from None
    except UnidentifiedImageError:
        raise ImageError(f"not one of {', '.join(FORMATS)}", where=name) from None
    except Exception as error:  # the reader of a broken header may raise nearly anything
        raise ImageError(
            f"cannot decode: {str(error) or type(error).__name__}", where=name
        ) from None
    weight = _WIDE if mode[0] in "IF" else _ALPHA if clear else 1
    if width * height * weight > most:
        raise TooLarge(
            f"{width}x{height} pixels of mode {mode} are too many",
            where=name,
            hint="send a smaller photo",
        )
    return width * height * weight
