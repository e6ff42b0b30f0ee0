"""Small JPEGs of the photos of a gallery, the last ones kept in bounded memory."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from PIL import Image

from concepthash.images import Preprocess, open_rgb

View = Literal["crop", "whole"]

_QUALITY = 85
_Key = tuple[str, int, int, int, str]


class Thumbnails:
    """Draws thumbnails and keeps them as long as their files are as they were.

    Args:
        spec: how the model sees a photo.
        most: bytes of the thumbnails kept.
    """

    def __init__(self, spec: Preprocess, *, most: int) -> None:
        self._spec = spec
        self._most = most
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        self.drawn = 0

    def get(
        self,
        path: Path,
        size: int,
        view: View,
        decode: Callable[[Path, Callable[[Path], bytes]], bytes],
    ) -> bytes:
        """A photo as a JPEG; called in threads.

        Args:
            path: the photo.
            size: side of the square, or the longer side of the whole photo, pixels.
            view: ``crop``, the square that the model sees and its maps fit; or ``whole``.
            decode: calls what it is given with the path, when there is room.

        Raises:
            ImageError: if the file is gone or cannot be decoded.
        """
        try:
            state = path.stat()
            key = (str(path), state.st_mtime_ns, state.st_size, size, view)
        except OSError:
            key = (str(path), 0, 0, size, view)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        drawn = decode(path, lambda file: _jpeg(self._draw(file, size, view)))
        with self._lock:
            self.drawn += 1
            if key not in self._kept:
                self._kept[key] = drawn
                self.bytes += len(drawn)
            while self.bytes > self._most:
                self.bytes -= len(self._kept.popitem(last=False)[1])
        return drawn

    def _draw(self, path: Path, size: int, view: View) -> Image.Image:
        if view == "crop":
            scale = size / self._spec.crop
            return Image.fromarray(
                Preprocess(max(size, round(self._spec.resize * scale)), size)(path)
            )
        image = open_rgb(path, short_side=size)
        image.thumbnail((size, size), Image.Resampling.BICUBIC)
        return image


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
