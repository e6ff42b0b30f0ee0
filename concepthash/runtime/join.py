"""All near pairs of an index: its groups of look-alikes, its pairs, its nearest-neighbour graph.

Exact, whatever the index holds: see :mod:`concepthash.runtime.selfjoin` for how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.errors import GalleryError
from concepthash.runtime.arguments import check_count
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.planes import Distances, Ids, Words
from concepthash.runtime.resharding import live, pieces
from concepthash.runtime.selfjoin import linked, near_pairs, too_many

MOST_PAIRS = 50_000_000
"""What :func:`pairs` returns at most; it would be gigabytes."""

# Queries of a step of the graph.
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Graph:
    """The nearest others of every code, nearest first, ties in id order; missing = -1.

    Args:
        ids: ``(n,)`` int64, in the order of the index.
        neighbours: ``(n, k)`` int64, ids; a code is never its own neighbour.
        distances: ``(n, k)`` int32.
    """

    ids: Ids
    neighbours: npt.NDArray[np.int64]
    distances: Distances

    def by_id(self) -> Graph:
        """The same graph in id order."""
        order = np.argsort(self.ids, kind="stable")
        return Graph(self.ids[order], self.neighbours[order], self.distances[order])


def groups(index: HammingIndex, radius: int, *, threads: int | None = None) -> list[Ids]:
    """The codes that hang together by steps of ``radius`` or less: two or more a group.

    Each group's ids ascend; groups come in the order of their smallest id. A code without a near
    one is in no group. Two of a group may be further apart than ``radius``, with others between.

    Args:
        index: what to look through.
        radius: the largest plain Hamming distance of a step.
        threads: at most; all cores by default. The answer does not depend on it.

    Raises:
        UsageError: if the radius is no integer from 0 on.
    """
    radius = check_count(radius, "radius")
    unique = _Unique.of(index)
    roots = linked(unique.planes, radius, index.layout, threads)[unique.which]
    order = np.lexsort((unique.ids, roots))
    ids, roots = unique.ids[order], roots[order]
    found = np.split(ids, np.flatnonzero(np.diff(roots)) + 1)
    return sorted((group for group in found if len(group) > 1), key=lambda group: int(group[0]))


def pairs(
    index: HammingIndex, radius: int, *, threads: int | None = None, limit: int = MOST_PAIRS
) -> tuple[Ids, Ids, Distances]:
    """All pairs of codes at ``radius`` or nearer: ids a < b, and distances, sorted by (a, b).

    Args:
        index: what to look through.
        radius: the largest plain Hamming distance.
        threads: at most; all cores by default.
        limit: the most pairs to return.

    Raises:
        UsageError: if the radius is no integer from 0 on, or there are more pairs than ``limit``.
    """
    radius = check_count(radius, "radius")
    unique = _Unique.of(index)
    found = near_pairs(unique.planes, radius, index.layout, threads, limit)
    # Of a pair of distinct codes every row of one pairs with every row of the other.
    a, b, distances = (found[name].astype(np.int64) for name in ("a", "b", "distance"))
    twins = np.flatnonzero(unique.counts > 1)
    sizes = np.concatenate([unique.counts[a] * unique.counts[b], unique.counts[twins] ** 2])
    # Twins make count ** 2 ordered pairs here; those with first < second are kept below.
    if (
        sizes[: len(a)].sum() + (unique.counts[twins] * (unique.counts[twins] - 1) // 2).sum()
        > limit
    ):
        raise too_many(limit)
    one, other = np.concatenate([a, twins]), np.concatenate([b, twins])
    distances = np.concatenate([distances, np.zeros(len(twins), dtype=np.int64)])
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    one, other, distances = (np.repeat(column, sizes) for column in (one, other, distances))
    first = unique.rows[unique.starts[one] + place // unique.counts[other]]
    second = unique.rows[unique.starts[other] + place % unique.counts[other]]
    keep = (one != other) | (first < second)
    first, second = unique.ids[first[keep]], unique.ids[second[keep]]
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((high, low))
    return low[order], high[order], distances[keep][order].astype(np.int32)


def knn_graph(
    index: HammingIndex,
    k: int,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Graph:
    """The k nearest others of every code of an index.

    Args:
        index: what to look through.
        k: neighbours a code.
        threads: at most; all cores by default.
        progress: called with how many codes have theirs.

    Raises:
        UsageError: if k is no integer from 0 on.
        GalleryError: if the index is of a damaged file that gives ids twice.
    """
    k = check_count(k, "k")
    ids = index.ids
    neighbours = np.full((len(ids), k), -1, dtype=np.int64)
    distances = np.full((len(ids), k), -1, dtype=np.int32)
    for first, codes in _blocks(index):
        here = slice(first, first + len(codes))
        hits = index.search(codes, k + 1, threads=threads)
        other = hits.ids != ids[here, None]
        other[:, k] &= ~other[:, :k].all(axis=1)  # a code behind k twins is not among its hits
        if (other.sum(axis=1) != k).any():
            raise GalleryError(
                "ids are not each there once: the file or gallery they are from is damaged",
                where="ids",
                hint="chash index verify FILE_OR_GALLERY",
            )
        neighbours[here] = hits.ids[other].reshape(len(codes), k)
        distances[here] = hits.distances[other].reshape(len(codes), k)
        if progress is not None:
            progress(first + len(codes))
    return Graph(ids, neighbours, distances)


@dataclass(frozen=True, eq=False)
class _Unique:
    """The codes of an index, equal ones once, so that many twins cost no more than one.

    Args:
        planes: the distinct codes, ``(W, u)``.
        ids: of every code, ``(n,)``.
        which: the distinct code of every code, ``(n,)``.
        rows: every code's row, those of one distinct code together, ``(n,)``.
        starts, counts: where those of each distinct code are in ``rows``, ``(u,)``.
    """

    planes: Words
    ids: Ids
    which: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, index: HammingIndex) -> _Unique:
        planes, ids = live(index)
        rows = np.lexsort(planes)
        planes = planes[:, rows]
        new = np.ones(len(ids), dtype=bool)
        new[1:] = (planes[:, 1:] != planes[:, :-1]).any(axis=0)
        starts = np.flatnonzero(new)
        which = np.empty(len(ids), dtype=np.int64)
        which[rows] = np.cumsum(new) - 1
        counts = np.diff(np.append(starts, len(ids)))
        return cls(planes[:, starts], ids, which, rows, starts, counts)


def _blocks(index: HammingIndex) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The codes of an index in steps, each with the number of its first."""
    first = 0
    for codes, ids in pieces(index, _BLOCK):
        yield first, codes
        first += len(ids)
