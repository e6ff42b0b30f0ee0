"""The gallery as the server holds it: one moment of it, ready to be searched.

A :class:`Held` is never changed: what was committed since is another one, opened beside it and put
in its place between two batches. So ids, codes, labels and paths of an answer are of one moment.
All of it is used in one thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import GalleryError, NothingFound, UsageError
from concepthash.runtime.answers import Found, Rows, most_hits
from concepthash.runtime.arguments import LARGEST_ID
from concepthash.runtime.entries import Entry, Labels
from concepthash.runtime.galleries import AnyGallery, open_gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.place import DATABASE, SUFFIX
from concepthash.runtime.planes import Ids, ids_at
from concepthash.runtime.segment import Segment
from concepthash.runtime.storage import SHARDS

FILTERS, FILTER_BYTES = 64, 64 << 20
"""Filters by label that are kept for the next request, and their bytes; the last always stays."""

# A filter that leaves at most one row in this many is kept as a copy of those rows.
_SPARSE = 4
# Hits looked up at once, so that a wide search holds up the others for milliseconds only.
_HITS_AT_ONCE = 4096
_State = dict[Path, tuple[int, int, int]]
# Labels that no image has, named in one refusal.
_NAMED = 5
# Code-query pairs from which a search takes milliseconds, and a second thread shortens it.
_PAIRS_ALONE = 1 << 27


@dataclass(frozen=True)
class Asked:
    """What a search asks beside the code; equal ones are searched together.

    Args:
        k: hits at most; None for all there are.
        radius: the largest distance of a hit; None for no bound.
        concepts: those that count, by number; None for all.
        weights: one a concept; None for 1 each.
        labels: only images with one of these, None standing for those without a label; None alone
            for no filter.
    """

    k: int | None = 10
    radius: int | None = None
    concepts: tuple[int, ...] | None = None
    weights: tuple[int, ...] | None = None
    labels: tuple[str | None, ...] | None = None


@dataclass(frozen=True)
class Items:
    """Some images of the gallery in id order.

    Args:
        entries: the images.
        next: give it as ``after`` for those that follow; None if none do.
        total: images with the label that was asked for.
        missing: shards whose images are left out, because they gave no answer.
    """

    entries: tuple[Entry, ...]
    next: int | None
    total: int
    missing: tuple[str, ...] = ()


Answers = Iterator[tuple[Sequence[int], Sequence[Found | Exception]]]
"""Answers as they come: the places of some queries, and what each found."""

Counts = tuple[tuple[str | None, int], ...]
"""Each label and its images, sorted; those without one come last, if there are any."""


class AnyHeld(Protocol):
    """What an engine asks of a gallery, wherever it is: a :class:`Held`, or shards elsewhere."""

    @property
    def where(self) -> str:
        """Where codes are compared, as answers name it."""

    @property
    def images(self) -> int:
        """How many there are."""

    @property
    def counts(self) -> Counts:
        """Of all labels."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Shards that give no answer at present."""

    @property
    def answering(self) -> bool:
        """Whether there are any that do."""

    @property
    def trouble(self) -> str | None:
        """What is wrong otherwise."""

    def search(self, queries: Sequence[tuple[Codes, Asked]]) -> Answers:
        """As :meth:`Held.search`."""

    def items(self, label: str | None, after: int, limit: int) -> Items:
        """As :meth:`Held.items`."""

    def entry(self, id: int) -> Entry:
        """As :meth:`Held.entry`."""

    def item(self, id: int) -> tuple[Entry, Codes]:
        """As :meth:`Held.item`."""

    def outdated(self) -> bool:
        """Whether another one must be opened to see what was committed since."""

    def close(self) -> None:
        """Let go of all it holds."""


class Held:
    """One moment of a gallery, open, with its index and the label of every image.

    Args:
        path: the gallery.
        fingerprint: of the model that serves it.
        threads: at most, of one search.

    Raises:
        GalleryError: if it is missing or damaged.
        MismatchError: if another model made its codes.
    """

    where = "cpu"
    missing: tuple[str, ...] = ()
    answering = True
    trouble: str | None = None

    def __init__(self, path: Path, fingerprint: str, *, threads: int) -> None:
        self._threads = threads
        self._files = _state(path)  # asked before: a gallery put there in between is seen later
        self.gallery: AnyGallery = open_gallery(path)
        try:
            self.gallery.check_model(fingerprint)
            self.index: HammingIndex = self.gallery.index()
            self._labels = self.gallery.labels()
            self.images = len(self.index)
            if len(self._labels.ids) != self.images:
                raise GalleryError(
                    f"{self.images} codes and {len(self._labels.ids)} images",
                    where=path,
                    hint=f"chash index verify {path}",
                )
        except BaseException:
            self.gallery.close()
            raise
        self._numbers = {name: number for number, name in enumerate(self._labels.names)}
        self.counts = _counts(self._labels)
        self._filters: OrderedDict[tuple[int, ...], HammingIndex] = OrderedDict()

    def close(self) -> None:
        """Let go of the files."""
        self._filters.clear()
        del self.index
        self.gallery.close()

    def outdated(self) -> bool:
        """Whether the path holds anything newer than this moment.

        Raises:
            GalleryError: if there is no gallery any more.
        """
        path = self.gallery.path
        there = _state(path)
        if not there:
            raise GalleryError("the gallery is gone", where=path)
        if there.keys() != self._files.keys():
            return True
        for file, state in there.items():
            # Where SQLite may not write this file it does not look for commits.
            blind = file.name == DATABASE and not file.with_name(f"{DATABASE}-shm").is_file()
            known = self._files[file]
            if state != known if blind else state[:2] != known[:2]:
                return True
        return self.gallery.changed()

    def search(self, queries: Sequence[tuple[Codes, Asked]]) -> Answers:
        """The hits of each query, as :meth:`concepthash.runtime.HammingIndex.search` orders them.

        Queries that ask alike are searched together. What is wrong with how some ask is their
        answer, as an error, and leaves the others alone.

        Args:
            queries: codes ``(K / 8,)`` uint8 and what is asked of each.

        Yields:
            The places of some queries, and the hits of each.
        """
        for asked, some in alike(queries, len(self.index)):
            found: Sequence[Found | Exception]
            try:
                rows = self.rows(np.stack([queries[place][0] for place in some]), asked)
                found = [Found(hits) for hits in rows.hits()]
            except Exception as error:  # a damaged file too: the next search may not touch it
                found = [error] * len(some)
            yield some, found

    def rows(self, codes: Codes, asked: Asked) -> Rows:
        """The hits of some queries that ask alike, with their names.

        Args:
            codes: ``(q, K / 8)`` uint8.
            asked: of each.

        Raises:
            UsageError, MismatchError: if what was asked for does not fit the gallery.
            GalleryError: if a file is damaged.
        """
        index = self.index if asked.labels is None else self._filtered(asked.labels)
        # Below that the other cores serve better by decoding, and by talking to clients.
        alone = len(codes) * len(index) < _PAIRS_ALONE
        threads = 1 if alone else self._threads
        by: Any = {"concepts": asked.concepts, "weights": asked.weights, "radius": asked.radius}
        k = most_hits(index, codes, asked.k, threads=threads, **by)
        hits = index.search(codes, k, threads=threads, **by)
        names = self.gallery.names_of(hits.ids[hits.ids >= 0])
        return Rows(hits.ids, hits.distances, hits.per_concept, names)

    def known(self, labels: Sequence[str | None]) -> tuple[str | None, ...]:
        """Those of some labels that an image has; None, for images without one, is always."""
        return tuple(label for label in labels if label is None or label in self._numbers)

    def items(self, label: str | None, after: int, limit: int) -> Items:
        """Images in id order.

        Args:
            label: only those with it; None for all, "" for those without.
            after: only those with a larger id.
            limit: at most so many.

        Raises:
            UsageError: if no image has the label.
        """
        ids = self._labels.ids
        if label is not None:
            ids = ids[self._labels.numbers == self._numbers_of((label or None,))[0]]
        first = int(np.searchsorted(ids, min(after, LARGEST_ID), side="right"))
        some = ids[first : first + limit].tolist()
        entries = self.gallery.entries_of(some)
        following = some[-1] if some and first + len(some) < len(ids) else None
        return Items(tuple(entries[id] for id in some), following, len(ids))

    def entry(self, id: int) -> Entry:
        """The image with an id.

        Raises:
            NothingFound: if there is none.
        """
        ids = self._labels.ids
        row = int(np.searchsorted(ids, id)) if 0 < id <= LARGEST_ID else len(ids)
        if row == len(ids) or ids[row] != id:
            raise no_image(id)
        return self.gallery.entry(id)

    def item(self, id: int) -> tuple[Entry, Codes]:
        """The image with an id, and its code ``(K / 8,)`` uint8.

        Raises:
            NothingFound: if there is none.
        """
        return self.entry(id), self.index[id]

    def _numbers_of(self, labels: Sequence[str | None]) -> list[int]:
        """Of labels, in the record of all."""
        unknown = [label for label in labels if label is not None and label not in self._numbers]
        if unknown:
            raise no_label(unknown)
        return [-1 if label is None else self._numbers[label] for label in labels]

    def _filtered(self, labels: tuple[str | None, ...]) -> HammingIndex:
        """The images with one of some labels, kept for the next request that asks for them."""
        numbers = tuple(sorted(set(self._numbers_of(labels))))
        kept = self._filters
        index = kept.get(numbers)
        if index is None:
            index = kept[numbers] = _only(
                self.index, self._labels.ids, np.isin(self._labels.numbers, numbers)
            )
            while len(kept) > FILTERS or (len(kept) > 1 and _size(kept.values()) > FILTER_BYTES):
                kept.popitem(last=False)
        kept.move_to_end(numbers)
        return index


def no_image(id: int) -> NothingFound:
    """What to raise where an id is that of no image."""
    return NothingFound(f"no image has the id {id}", where="id", hint="GET /v1/items")


def no_label(labels: Sequence[str | None]) -> UsageError:
    """What to raise where no image has some labels."""
    named = " or ".join(map(repr, labels[:_NAMED]))
    more = f" or {len(labels) - _NAMED} others" if len(labels) > _NAMED else ""
    what = f"no image has the label {named}{more}"
    return UsageError(what, where="labels", hint="GET /v1/labels")


def alike(queries: Sequence[tuple[Codes, Asked]], images: int) -> Iterator[tuple[Asked, list[int]]]:
    """The places of queries that ask alike, of a bounded number of hits together.

    Args:
        queries: codes, and what is asked of each.
        images: the hits of one that asks for all.
    """
    groups: dict[Asked, list[int]] = {}
    for place, (_, asked) in enumerate(queries):
        groups.setdefault(asked, []).append(place)
    for asked, places in groups.items():
        step = max(1, _HITS_AT_ONCE // max(1, images if asked.k is None else asked.k))
        for first in range(0, len(places), step):
            yield asked, places[first : first + step]


def _state(path: Path) -> _State:
    """What tells the databases of a gallery, and the list of its shards, from others in their
    place; and when each was written last."""
    state = {}
    for file in (path / DATABASE, path / SHARDS, *path.glob(f"*{SUFFIX}/{DATABASE}")):
        try:
            found = file.stat()
        except OSError:
            continue
        state[file] = found.st_dev, found.st_ino, found.st_mtime_ns
    return state


def _counts(labels: Labels) -> Counts:
    """Each label and its images; those without one come last, if there are any."""
    counts = np.bincount(labels.numbers + 1, minlength=len(labels.names) + 1).tolist()
    named = tuple(zip(labels.names, counts[1:], strict=True))
    return (*named, (None, counts[0])) if counts[0] else named


def _only(index: HammingIndex, ids: Ids, mask: npt.NDArray[np.bool_]) -> HammingIndex:
    """The rows of an index where ``mask`` is set, aligned with its ids in ascending order."""
    sparse = np.count_nonzero(mask) * _SPARSE <= len(mask)
    segments = []
    for part in index.parts():
        live = np.ones(len(part.ids), bool) if part.dead is None else ~part.dead
        live[live] = mask[_places(part.ids, live, ids)]
        if sparse:
            kept = ids_at(part.ids, np.flatnonzero(live))
            planes = np.ascontiguousarray(part.planes[:, live])
            segments.append(Segment(planes, kept, ascending=True, sealed=True))
        else:
            segments.append(Segment(part.planes, part.ids, ascending=True, sealed=True, dead=~live))
    return HammingIndex.of(index.layout, segments, int(ids[-1]) if len(ids) else -1)


def _places(some: Ids | range, live: npt.NDArray[np.bool_], ids: Ids) -> slice | Ids:
    """Where those of some ids that live are among all; both ascend."""
    count = int(np.count_nonzero(live))
    if not count:
        return slice(0, 0)
    first = int(np.searchsorted(ids, some[int(live.argmax())]))
    ends = slice(first, first + count)
    if ids[ends][-1] == some[-1 - int(live[::-1].argmax())]:  # nothing of another shard between
        return ends
    return np.searchsorted(ids, ids_at(some, np.flatnonzero(live)))


def _size(filters: Iterable[HammingIndex]) -> int:
    """Bytes of memory that filters take: of codes they copied, or of rows they mark."""
    return sum(
        part.planes.nbytes + 8 * len(part.ids) if part.dead is None else part.dead.nbytes
        for index in filters
        for part in index.parts()
    )
