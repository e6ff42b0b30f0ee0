"""A gallery of painted photos in folders of two classes, and an engine that serves it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from colour_bundle import SIDE, colour_bundle
from PIL import Image

from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images
from concepthash.serve.engine import Engine, Limits


def shade(number: int) -> np.ndarray:
    """A crop of one colour of its own, dark enough that the thresholds of the bundle tell it."""
    colour = np.random.default_rng(number).integers(0, 17, 3)
    return np.full((SIDE, SIDE, 3), colour, np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def paint(folder: Path, numbers: range, label: str) -> None:
    """Photos ``NUMBER.png`` of some shades, in the folder of a label."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / label / f"{number}.png").write_bytes(encoded(shade(number)))


class Place:
    """A folder with a bundle, photos ``one/0..7`` and ``two/8..19``, and their gallery."""

    def __init__(self, folder: Path) -> None:
        self.bundle = colour_bundle(folder)
        self.hasher = Hasher(self.bundle, threads=1)
        self.photos, self.gallery = folder / "photos", folder / "colour.chg"
        paint(self.photos, range(8), "one")
        paint(self.photos, range(8, 20), "two")
        self.index()

    def index(self, *, rebuild: bool = False, hasher: Hasher | None = None) -> None:
        index_images(self.photos, self.gallery, hasher or self.hasher, rebuild=rebuild)

    def ids(self) -> dict[str, int]:
        """Of the photos in the gallery, by name."""
        with Gallery.open(self.gallery) as gallery:
            return {entry.path.stem: entry.id for entry in gallery.entries()}

    def serve(
        self,
        work: Callable[[Engine], Awaitable[None]],
        *,
        limits: Limits | None = None,
        reload_seconds: float = 3600,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Do some work with a started engine, and stop it."""

        async def run() -> None:
            engine = Engine(
                self.gallery,
                self.bundle,
                threads=2,
                limits=limits,
                reload_seconds=reload_seconds,
                tell=tell,
            )
            await engine.start()
            try:
                await work(engine)
            finally:
                await engine.stop()

        asyncio.run(run())


async def until(true: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait for what is to come; it must not take long."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)
