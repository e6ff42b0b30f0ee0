"""Galleries of one model made into one, and one gallery shared among several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.codes import Codes
from concepthash.errors import MismatchError, Skipped, UsageError
from concepthash.files import new_folder
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import AnyGallery, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import refuse_target
from concepthash.runtime.shardfile import Ids, Manifest, new_shards
from concepthash.runtime.sharding import lay_out
from concepthash.runtime.storage import damaged, storage_errors

_COMMIT = 16384
"""Images a commit."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge gave: the new gallery, its images, and the paths that came a second time."""

    gallery: Path
    images: int
    repeated: Skipped = field(default_factory=Skipped)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {
            "gallery": str(self.gallery),
            "images": self.images,
            "repeated": [asdict(skip) for skip in self.repeated.items],
        }

    def __str__(self) -> str:
        text = f"{self.gallery}: {self.images} images"
        return text + (f", {len(self.repeated)} paths came twice" if self.repeated else "")


def merge(sources: Sequence[str | Path], out: str | Path) -> MergeReport:
    """A new gallery with the images of several, whole or not at all.

    Images get new ids, in the order of the sources and of their ids there. Of a path that is in
    several, the first stays and the others are reported.

    Raises:
        UsageError: if there is no source.
        MismatchError: if they were not all made with one model.
        GalleryError: if ``out`` exists, or a gallery cannot be read or written.
    """
    paths, out = [Path(source) for source in sources], Path(out)
    if not paths:
        raise UsageError("no gallery to merge", hint="chash index merge A.chg B.chg --out C.chg")
    refuse_target(out)
    with open_gallery(paths[0]) as first:
        model = {"layout": first.layout, "fingerprint": first.fingerprint, "model": first.model}
    for path in paths[1:]:
        with open_gallery(path) as other:
            if other.fingerprint != model["fingerprint"]:
                raise MismatchError(
                    f"{path} was made with model {other.fingerprint[:8]} ({other.model}), "
                    f"{paths[0]} with {first.fingerprint[:8]} ({first.model})",
                    where=path,
                    hint="merge galleries of one model, or index the photos again",
                )
    repeated = Skipped()
    with (
        storage_errors(out),
        new_folder(out) as folder,
        Gallery.create(
            folder, layout=first.layout, fingerprint=first.fingerprint, model=first.model
        ) as merged,
    ):
        for path in paths:
            with open_gallery(path) as source:
                _add(merged, source, repeated)
        images = len(merged)
    return MergeReport(out, images, repeated)


def _add(merged: Gallery, source: AnyGallery, repeated: Skipped) -> None:
    for entries, codes in _blocks(source):
        fresh = []
        for row, entry in enumerate(entries):
            if merged.find(entry.path) is None:
                fresh.append(row)
            else:
                repeated.add(entry.path, f"came before; the one of {source.path} was left out")
        merged.add([entries[row] for row in fresh], codes[fresh])


def _blocks(gallery: AnyGallery) -> Iterator[tuple[list[Entry], Codes]]:
    """All images in id order with their codes, some at a time."""
    for ids, codes in gallery.blocks():
        for low in range(0, len(ids), _COMMIT):
            some = slice(low, low + _COMMIT)
            first, last = ids[some][[0, -1]].tolist()
            found = list(gallery.entries(first, last))
            if [entry.id for entry in found] != ids[some].tolist():
                raise damaged("images and codes do not add up", gallery.path)
            yield found, codes[some]


def split(gallery: str | Path, shards: int, out: str | Path) -> list[Path]:
    """Share a gallery among shards: the same images under the same ids, and the same answers.

    Shard s holds a stretch of the ids; their sizes differ by one image at most. What is added
    later goes to the shard of its content.

    Args:
        gallery: the gallery; it stays as it is.
        shards: how many, from 1 to the number of its images.
        out: the new sharded gallery, written whole or not at all.

    Returns:
        The shards, each of them a gallery that can be used alone.

    Raises:
        UsageError: if there cannot be so many shards.
        GalleryError: if ``out`` exists, or a gallery cannot be read or written.
    """
    path, out = Path(gallery), Path(out)
    refuse_target(out)
    with open_gallery(path) as source:
        images = len(source)
        if not 1 <= shards <= max(images, 1):
            raise UsageError(
                f"{images} images cannot be shared among {shards} shards",
                where=path,
                hint="give a number from 1 to the number of images",
            )
        sizes = [images * (n + 1) // shards - images * n // shards for n in range(shards)]
        made = new_shards(shards, _stretches(source, sizes), source.last_id())
        manifest = Manifest(source.layout, source.fingerprint, source.model, made)
        with storage_errors(out), new_folder(out) as folder:
            lay_out(folder, manifest)
            blocks = _blocks(source)
            held: list[tuple[list[Entry], Codes]] = []
            for listed, size in zip(made, sizes, strict=True):
                with Gallery.open(folder / listed.name, write=True) as shard:
                    shard.restore(_take(blocks, held, size))
    return [out / listed.name for listed in made]


def _stretches(source: AnyGallery, sizes: Sequence[int]) -> list[list[Ids]]:
    """The first and last id of each shard, for images in id order."""
    ends = np.cumsum(sizes)
    places = np.unique([*(ends - np.array(sizes)), *(ends - 1)])
    found: dict[int, int] = {}
    start = 0
    for ids, _ in source.blocks():
        here = places[(places >= start) & (places < start + len(ids))]
        found.update(zip(here.tolist(), ids[here - start].tolist(), strict=True))
        start += len(ids)
    cuts = zip((ends - np.array(sizes)).tolist(), (ends - 1).tolist(), strict=True)
    return [[(found[first], found[last])] if first <= last else [] for first, last in cuts]


def _take(
    blocks: Iterator[tuple[list[Entry], Codes]], held: list[tuple[list[Entry], Codes]], size: int
) -> Iterator[tuple[list[Entry], Codes]]:
    """The next ``size`` images; what is left of their last block goes into ``held``."""
    while size:
        entries, codes = held.pop() if held else next(blocks)
        yield entries[:size], codes[:size]
        if len(entries) > size:
            held.append((entries[size:], codes[size:]))
        size -= min(size, len(entries))
