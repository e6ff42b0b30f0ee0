"""A gallery of drawn codes with many ties, the same in shards, and one index that knows it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from concepthash.codes import CodeLayout, Codes
from concepthash.runtime.answers import Hit
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import AnyGallery, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.shards import split
from concepthash.serve.held import Asked

LAYOUT = CodeLayout(16, 4)
FINGERPRINT = "5a" * 32
COMMON, RARE, LATE = "everywhere", "in one shard", "added later"


def drawn(count: int, seed: int) -> Codes:
    """Codes of few ones: a query has dozens of hits at each distance."""
    bits = np.random.default_rng(seed).random((count, LAYOUT.bits)) < 0.2
    return np.packbits(bits, axis=1)


def entries(folder: Path, numbers: range, labels: Sequence[str | None]) -> list[Entry]:
    """Images that need not exist, with labels in turns."""
    return [
        Entry(folder / f"{number:05d}.jpg", labels[number % len(labels)], 1, 1, f"{number:064x}")
        for number in numbers
    ]


def make_gallery(folder: Path, images: int = 240) -> Path:
    """An ordinary gallery; the label ``RARE`` is that of its last images."""
    path = folder / "drawn.chg"
    identity = {"layout": LAYOUT, "fingerprint": FINGERPRINT, "model": "drawn"}
    with Gallery.create(path, **identity) as gallery:  # type: ignore[arg-type]
        last = images - images // 20
        gallery.add(entries(folder, range(last), (COMMON, None, COMMON)), drawn(last, 1))
        gallery.add(entries(folder, range(last, images), (RARE,)), drawn(images - last, 2))
    return path


def make_sharded(folder: Path, shards: int = 3, images: int = 240) -> Path:
    """The same in shards, with some images removed and others added after the split."""
    out = folder / "shards.chg"
    split(make_gallery(folder, images), shards, out)
    with open_gallery(out, write=True) as gallery:
        gallery.remove(list(range(3, images, 17)))
        commit(gallery, range(images, images + images // 4))
    return out


def commit(gallery: AnyGallery, numbers: range) -> None:
    gallery.add(entries(gallery.path.parent, numbers, (LATE, COMMON)), drawn(len(numbers), 3))


@dataclass
class Oracle:
    """What one plain index over all images answers."""

    index: HammingIndex
    named: dict[int, tuple[str, str | None]]

    @classmethod
    def of(cls, path: Path) -> Oracle:
        with open_gallery(path) as gallery:
            ids, codes = gallery.codes()
            index = HammingIndex(gallery.layout.bits, gallery.layout.concepts)
            index.add(codes, ids)
            names = {entry.id: (str(entry.path), entry.label) for entry in gallery.entries()}
        return cls(index, names)

    def hits(self, code: Codes, asked: Asked) -> tuple[Hit, ...]:
        """Of one query."""
        where = None
        if asked.labels is not None:
            where = np.array([id for id, (_, x) in self.named.items() if x in asked.labels])
        k = len(self.index) if asked.k is None else asked.k
        found = self.index.search(
            code, k, radius=asked.radius, concepts=asked.concepts, weights=asked.weights,
            where=where,
        )  # fmt: skip
        rows = zip(found.ids[0], found.distances[0], found.per_concept[0], strict=True)
        return tuple(
            Hit(rank, int(id), *self.named[int(id)], int(distance), tuple(map(int, parts)))
            for rank, (id, distance, parts) in enumerate(rows, 1)
            if id >= 0
        )


def asked_at_random(count: int, seed: int) -> list[tuple[Codes, Asked]]:
    """Queries that ask for all kinds of things, in an order of no order."""
    random = np.random.default_rng(seed)
    labels = (None, None, None, (COMMON,), (RARE,), (None,), (LATE, RARE), (None, COMMON))
    concepts = (None, None, (0,), (1, 3), (0, 1, 2))
    weights = (None, None, (2, 1, 0, 1), (1, 3, 255, 7))
    found = []
    for code in drawn(count, seed + 1):
        number = random.integers(0, 1 << 30, 5).tolist()
        asked = Asked(
            k=(1, 3, 10, 10, 100, 1000, None)[number[0] % 7],
            radius=(None, None, 0, 2, 5)[number[1] % 5],
            concepts=concepts[number[2] % len(concepts)],
            weights=weights[number[3] % len(weights)],
            labels=labels[number[4] % len(labels)],
        )
        found.append((code, asked))
    return found
