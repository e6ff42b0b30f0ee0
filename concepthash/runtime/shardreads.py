"""What a sharded gallery answers, from the shards that own the ids it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.runtime import records
from concepthash.runtime.entries import Damage, Entry, Labels, Stats
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.shardfile import Manifest
from concepthash.runtime.sharding import between
from concepthash.runtime.snapshot import check_model, joined, no_image
from concepthash.runtime.storage import bytes_below, damaged, storage_errors

if TYPE_CHECKING:
    from concepthash.runtime.index import HammingIndex

Found = TypeVar("Found")


class ShardedSnapshot:
    """The reading half of :class:`concepthash.runtime.sharded.ShardedGallery`."""

    def __init__(self, path: Path, manifest: Manifest, shards: Sequence[Gallery]) -> None:
        self.path = path
        self.shards = tuple(shards)
        self.names = tuple(shard.name for shard in manifest.shards)
        self._manifest = manifest
        self._ranges = sorted(
            (first, last, number)
            for number, shard in enumerate(manifest.shards)
            for first, last in shard.ids
        )

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __repr__(self) -> str:
        shape = f"{self.layout.bits} bits, {self.layout.concepts} concepts"
        return (
            f"ShardedGallery({self.path}, {len(self):,} images in {len(self.shards)} shards, "
            f"{shape}, model {self.model})"
        )

    @property
    def layout(self) -> CodeLayout:
        """How the bits of its codes are shared."""
        return self._manifest.layout

    @property
    def fingerprint(self) -> str:
        """Of the model that made the codes."""
        return self._manifest.fingerprint

    @property
    def model(self) -> str:
        """The name of the bundle that made the codes."""
        return self._manifest.model

    def check_model(self, fingerprint: str) -> None:
        """Refuse to mix code spaces.

        Raises:
            MismatchError: if ``fingerprint`` is not the one the codes were made with.
        """
        check_model(self, fingerprint)

    def entries(self, first: int = 0, last: int = records.LARGEST) -> Iterator[Entry]:
        """The images in id order: all, or those with ids from ``first`` to ``last``."""
        for low, high, number in self._ranges:
            if low <= last and first <= high:
                yield from self.shards[number].entries(max(low, first), min(high, last))

    def entry(self, id: int) -> Entry:
        """The image with an id.

        Raises:
            GalleryError: if there is none.
        """
        return self._shard_of(id).entry(id)

    def entries_of(self, ids: npt.ArrayLike) -> dict[int, Entry]:
        """The images with these ids, each once.

        Raises:
            GalleryError: if one of them is not there.
        """
        return self._together(ids, lambda shard, some: shard.entries_of(some))

    def names_of(self, ids: npt.ArrayLike) -> dict[int, tuple[str, str | None]]:
        """The path and the label of the images with these ids.

        Raises:
            GalleryError: as :meth:`entries_of`.
        """
        return self._together(ids, lambda shard, some: shard.names_of(some))

    def labels(self) -> Labels:
        """The label of every image, ids ascending.

        Raises:
            GalleryError: if one is damaged.
        """
        each = [shard.labels() for shard in self.shards]
        names = sorted({name for labels in each for name in labels.names})
        places = {name: place for place, name in enumerate(names)}
        numbers = [
            # The last place is that of -1, no label.
            np.array([*(places[name] for name in labels.names), -1], np.int32)[labels.numbers]
            for labels in each
        ]
        ids = np.concatenate([labels.ids for labels in each])
        order = np.argsort(ids, kind="stable")
        return Labels(ids[order], np.concatenate(numbers)[order], tuple(names))

    def find(self, path: str | Path) -> Entry | None:
        """The image indexed from a path; None if there is none. Every shard is asked."""
        found = (shard.find(path) for shard in self.shards)
        return next((entry for entry in found if entry is not None), None)

    def same_content(self, sha256: str) -> list[Entry]:
        """The images whose file had this content, in id order."""
        found = [entry for shard in self.shards for entry in shard.same_content(sha256)]
        return sorted(found, key=lambda entry: entry.id)

    def contents(self) -> npt.NDArray[np.uint8]:
        """The digests of all images ``(n, 32)`` uint8, in no order to rely on."""
        return np.concatenate([shard.contents() for shard in self.shards])

    def code(self, id: int) -> Codes:
        """The code of an image ``(K / 8,)`` uint8.

        Raises:
            GalleryError: if no image has the id, or its segment is damaged.
        """
        return self._shard_of(id).code(id)

    def codes(self) -> tuple[npt.NDArray[np.int64], Codes]:
        """Ids ``(n,)`` int64, ascending, and their codes ``(n, K / 8)`` uint8.

        Raises:
            GalleryError: if a segment is missing or truncated.
        """
        return joined(self.blocks(), self.layout)

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], Codes]]:
        """Ids and codes of the images there are, at most a segment at a time, ids ascending."""
        for low, high, number in self._ranges:
            for ids, codes in self.shards[number].blocks():
                here = slice(*np.searchsorted(ids, (low, high + 1)).tolist())
                if len(ids[here]):
                    yield ids[here], codes[here]

    def index(self) -> HammingIndex:
        """A search index over the images of all shards, none copied; it uses each one's tables.

        Raises:
            GalleryError: as :meth:`codes`.
        """
        from concepthash.runtime.index import HammingIndex

        return HammingIndex.joined([shard.index() for shard in self.shards])

    def last_id(self) -> int:
        """The largest id ever given."""
        return max(shard.last_id() for shard in self.shards)

    def stats(self) -> Stats:
        """The gallery in numbers."""
        each = [shard.stats() for shard in self.shards]
        with storage_errors(self.path, reading=True):
            total = bytes_below(self.path)
        return Stats(
            images=sum(stats.images for stats in each),
            labels=len(set().union(*(shard.label_names() for shard in self.shards))),
            bits=self.layout.bits,
            concepts=self.layout.concepts,
            model=self.model,
            fingerprint=self.fingerprint,
            segments=sum(stats.segments for stats in each),
            removed_rows=sum(stats.removed_rows for stats in each),
            code_bytes=sum(stats.code_bytes for stats in each),
            total_bytes=total,
        )

    def damage(self) -> Iterator[Damage]:
        """Everything wrong with the files of all shards, and between them; reads all of them."""
        for shard in self.shards:
            yield from shard.damage()
        yield from between(self.shards, self._manifest)

    def verify(self) -> None:
        """Compare every byte with its checksum.

        Raises:
            GalleryError: naming the first damaged file; :meth:`damage` lists all.
        """
        for found in self.damage():
            raise damaged(found.what, found.file)

    def _number(self, id: int) -> int | None:
        """The place of the shard that owns an id; None if none does."""
        at = bisect_right(self._ranges, id, key=lambda entry: entry[0]) - 1
        return self._ranges[at][2] if at >= 0 and id <= self._ranges[at][1] else None

    def _shard_of(self, id: int) -> Gallery:
        number = self._number(id)
        if number is None:
            raise no_image(id, self.path)
        return self.shards[number]

    def _shared(
        self, items: Iterable[Found], id_of: Callable[[Found], int]
    ) -> Iterator[tuple[Gallery, list[Found]]]:
        """Items by the shard that owns their id, in their order; those of no shard are left out."""
        shared: dict[int | None, list[Found]] = {}
        for item in items:
            shared.setdefault(self._number(id_of(item)), []).append(item)
        for number, some in shared.items():
            if number is not None:
                yield self.shards[number], some

    def _together(
        self, ids: npt.ArrayLike, read: Callable[[Gallery, list[int]], Mapping[int, Found]]
    ) -> dict[int, Found]:
        """What ``read`` finds of each id in its shard."""
        wanted = np.unique(np.asarray(ids, np.int64)).tolist()
        for id in wanted:
            self._shard_of(id)
        found: dict[int, Found] = {}
        for shard, some in self._shared(wanted, int):
            found.update(read(shard, some))
        return {id: found[id] for id in wanted}
