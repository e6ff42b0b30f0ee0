"""Photos, and annotated ones, with what a bundle says of them, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.decode import decode_batches
from concepthash.encoder import Encoded
from concepthash.errors import DataError, ImageError, Skipped
from concepthash.explain.keypoints import AnnotatedImage, Annotations
from concepthash.explain.placing import Placed, place
from concepthash.images import Pixels, Source
from concepthash.runtime.hasher import Hasher

Logits = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with how many photos are done, and of how many."""


@dataclass(frozen=True, eq=False)
class Looked:
    """One photo of a batch that was encoded.

    Args:
        batch: the crops of all of them, ``(B, crop, crop, 3)`` uint8.
        encoded: what the graph says of them.
        row: of the photo.
    """

    batch: Pixels
    encoded: Encoded
    row: int

    @property
    def pixels(self) -> Pixels:
        """Its crop, ``(crop, crop, 3)`` uint8."""
        crop: Pixels = self.batch[self.row]
        return crop

    @property
    def maps(self) -> Maps:
        """``(M, h, w)`` float32, one a concept."""
        maps: Maps = self.encoded.attention[self.row]
        return maps


def look(
    hasher: Hasher, photos: Iterable[Source]
) -> Generator[tuple[int, Looked | ImageError], None, None]:
    """Stream what a model says of photos, each by its place; of those it cannot read, why.

    Those of a batch that cannot be read come first, then the others in order.

    Raises:
        BackendError: if the graph cannot be computed.
    """
    batches = decode_batches(
        photos, hasher.preprocess, batch_size=hasher.batch_size, threads=hasher.threads
    )
    with closing(batches):
        for batch in batches:
            yield from batch.failed
            if not batch.positions:
                continue
            encoded = hasher.encode(batch.pixels)
            for row, position in enumerate(batch.positions):
                yield position, Looked(batch.pixels, encoded, row)


@dataclass(frozen=True, eq=False)
class SeenPhoto:
    """A photo as the network sees it.

    Args:
        placed: its annotations in the crop.
        pixels: the crop, ``(crop, crop, 3)`` uint8.
        logits: ``(K,)`` float32.
        maps: ``(M, h, w)`` float32, one a concept.
    """

    placed: Placed
    pixels: Pixels
    logits: Logits
    maps: Maps


def see(
    hasher: Hasher,
    annotations: Annotations,
    images: Sequence[AnnotatedImage],
    *,
    masks: bool = False,
    skipped: Skipped,
    progress: Progress | None = None,
) -> Generator[SeenPhoto, None, None]:
    """Stream photos in order; what cannot be read is recorded and left out.

    Args:
        hasher: of the bundle.
        annotations: whose root the photos are in.
        images: those of ``annotations`` to see.
        masks: read their part masks too.
        skipped: photos that could not be used are added here.
        progress: called after every photo.

    Raises:
        DataError: at the end, if not one photo could be used.
        BackendError: if the graph cannot be computed.
    """
    seen = 0
    paths = [annotations.root / image.path for image in images]
    with closing(look(hasher, paths)) as photos:
        for done, (position, found) in enumerate(photos, 1):
            try:
                if isinstance(found, ImageError):
                    raise found
                placed = place(images[position], annotations, hasher.preprocess, masks=masks)
            except ImageError as error:
                skipped.add(paths[position], error.what)
            else:
                seen += 1
                yield SeenPhoto(placed, found.pixels, found.encoded.logits[found.row], found.maps)
            if progress is not None:
                progress(done, len(images))
    if not seen:
        first = skipped.items[0]
        raise DataError(
            f"not one photo could be used; the first: {first.reason}",
            where=first.path,
            hint="--data FOLDER names the folder of the annotated photos",
        )


def encode_all(hasher: Hasher, pixels: Pixels) -> Logits:
    """The logits ``(n, K)`` of any number of crops ``(n, crop, crop, 3)``, a batch at a time."""
    starts = range(0, len(pixels), hasher.batch_size)
    parts = [hasher.encode(pixels[i : i + hasher.batch_size]).logits for i in starts]
    return np.concatenate(parts)


def spread(images: Sequence[AnnotatedImage], count: int) -> list[AnnotatedImage]:
    """``count`` of some photos, evenly spread over them; all of them if there are no more."""
    places = np.linspace(0, len(images), min(count, len(images)), endpoint=False).astype(int)
    return [images[place] for place in places]
