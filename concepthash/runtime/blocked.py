"""Exact Hamming scan in blocked numpy: what serves where the native kernel was not built.

Only what can still enter the answer leaves a block: each query keeps a running limit, the distance
of its k-th best so far. Where ids ascend with the rows a later row cannot win a tie, so the limit
is strict; otherwise ties at the limit are kept if their id is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.runtime.planes import Distances, Found, Ids, Part, Plan, Words, ids_at

_Counts = npt.NDArray[Any]

BLOCK = 65536
"""Code-query pairs a step: what one step writes (512 KB) stays near the level-2 cache."""

# Steps whose distances are looked through at once, and queries that share a pass.
_SPAN = 4
_GROUP = 8
# Hits held by a group at most: very deep answers are given query by query.
_PENDING = 1 << 20
# Words whose differing bits are sure to fit a uint8 sum.
_NARROW = 3
_ALL = np.uint64(2**64 - 1)
# Distances a first limit is taken from.
_SAMPLE = 4096


def scan(
    parts: Sequence[Part],
    queries: Words,
    plan: Plan,
    *,
    k: int,
    ordered: bool,
    radius: int | None = None,
    block: int = BLOCK,
) -> Found:
    """The same as :func:`concepthash.runtime.scan.scan`; ``block`` is code-query pairs a step."""
    count = queries.shape[1]
    found = Found(
        np.full((count, k), -1, dtype=np.int64),
        np.full((count, k), -1, dtype=np.int64),
        np.full((count, k), -1, dtype=np.int32),
    )
    depth = min(k, sum(len(part.ids) for part in parts))
    if not depth or not count:
        return found
    bound = plan.longest if radius is None else min(radius, plan.longest)
    group = max(1, min(count, _GROUP, _PENDING // depth))
    for first in range(0, count, group):
        here = slice(first, first + group)
        some = queries[:, here]
        best = _Selection(some.shape[1], depth, bound, ordered, plan.dtype)
        _scan_group(parts, some, plan, best, max(1, block // group))
        best.write(Found(found.rows[here], found.ids[here], found.distances[here]))
    return found


def _scan_group(
    parts: Sequence[Part], queries: Words, plan: Plan, best: _Selection, step: int
) -> None:
    """Offer every live code of ``parts`` to ``best``."""
    count = queries.shape[1]
    span = step * _SPAN
    sums = _sums(plan)
    totals = np.empty((count, span), dtype=plan.dtype)
    buffers = _Buffers(
        np.empty((count, step), dtype=np.uint64),
        np.empty((count, step), dtype=np.uint8),
        np.empty((count, step), dtype=np.uint8),
        np.empty((count, step), dtype=plan.dtype),
    )
    start = 0
    for planes, ids, dead in parts:
        for low in range(0, len(ids), span):
            high = min(low + span, len(ids))
            total = totals[:, : high - low]
            for first in range(low, high, step):
                here = slice(first, min(first + step, high))
                into = total[:, here.start - low : here.stop - low]
                _distances(planes[:, here], queries, sums, buffers.cut(into.shape[1]), into)
            if dead is not None and dead[low:high].any():
                # All ones is above every limit, so the dead never become candidates.
                total |= np.negative(dead[low:high].astype(plan.dtype))
            best.offer(total, ids[low:high], start + low)
        start += len(ids)
    best.settle()


class _Buffers(NamedTuple):
    """Room for one step, reused: differing bits, two narrow counts, one full distance."""

    different: Words
    narrow: npt.NDArray[np.uint8]
    other: npt.NDArray[np.uint8]
    wide: _Counts

    def cut(self, rows: int) -> _Buffers:
        return _Buffers(
            self.different[:, :rows],
            self.narrow[:, :rows],
            self.other[:, :rows],
            self.wide[:, :rows],
        )


class _Sum(NamedTuple):
    """``weight`` times the differing bits of ``words``: (word, mask; None where all count)."""

    weight: int
    words: tuple[tuple[int, np.uint64 | None], ...]


def _sums(plan: Plan) -> list[_Sum]:
    """The plan in sums so small that a uint8 holds each before it is weighted."""
    sums = []
    for weight, mask in plan.terms:
        words = [(int(w), None if mask[w] == _ALL else mask[w]) for w in np.flatnonzero(mask)]
        for first in range(0, len(words), _NARROW):
            sums.append(_Sum(weight, tuple(words[first : first + _NARROW])))
    return sums


def _distances(
    planes: Words, queries: Words, sums: Sequence[_Sum], buffers: _Buffers, total: _Counts
) -> None:
    """Write the distances ``(q, b)`` of one step into ``total``."""
    different, narrow, other, wide = buffers
    if not sums:
        total.fill(0)
    for i, (weight, words) in enumerate(sums):
        direct = not i and weight == 1 and total.dtype == np.uint8
        bits = total if direct else narrow
        for j, (word, mask) in enumerate(words):
            np.bitwise_xor(planes[word], queries[word][:, None], out=different)
            if mask is not None:
                np.bitwise_and(different, mask, out=different)
            np.bitwise_count(different, out=other if j else bits)
            if j:
                np.add(bits, other, out=bits)
        if direct:
            continue
        target = wide if i else total
        np.multiply(bits, total.dtype.type(weight), out=target)
        if i:
            np.add(total, wide, out=total)


class _Selection:
    """The best of a group of queries so far, and the limits that keep the rest away."""

    def __init__(
        self, queries: int, depth: int, bound: int, ordered: bool, dtype: np.dtype[Any]
    ) -> None:
        self.depth = depth
        self.ordered = ordered
        self.limit = np.full(queries, bound + 1, dtype=dtype)
        # The k-th hit itself: ties at its distance are admitted only with a smaller id.
        self.last_distance = np.full(queries, np.iinfo(np.int32).max, dtype=np.int32)
        self.last_id = np.zeros(queries, dtype=np.int64)
        # Columns: query, distance, id, row. The first chunk is the sorted best.
        nothing = np.empty(0, dtype=np.int64)
        self.chunks: list[tuple[Ids, Distances, Ids, Ids]] = [
            (nothing, nothing.astype(np.int32), nothing, nothing)
        ]
        self.pending = 0
        self._below = np.empty((queries, 0), dtype=bool)

    def offer(self, distances: _Counts, ids: Ids | range, start: int) -> None:
        """Take what is below the limits from ``distances`` (q, b) of the rows from ``start``."""
        near = (distances.min(axis=1) < self.limit).nonzero()[0]
        if not near.size:
            return
        closest = distances if near.size == len(distances) else distances[near]
        # One buffer for all spans: a fresh array this large costs more in page faults than its use.
        if self._below.shape[1] < distances.shape[1]:
            self._below = np.empty(distances.shape, dtype=bool)
        below = self._below[: near.size, : distances.shape[1]]
        np.less(closest, self.limit[near, None], out=below)
        crowded = np.count_nonzero(below) > 4 * self.depth + 256
        if crowded:
            self._tighten(near, closest, below)
            np.less(closest, self.limit[near, None], out=below)
        which, column = np.divmod(below.ravel().nonzero()[0], below.shape[1])
        query, distance = near[which], closest[which, column].astype(np.int32)
        found = ids_at(ids, column)
        if not self.ordered:
            last = self.last_distance[query]
            keep = (distance < last) | ((distance == last) & (found < self.last_id[query]))
            query, distance, found, column = (
                values[keep] for values in (query, distance, found, column)
            )
        self.chunks.append((query, distance, found, column + start))
        self.pending += len(query)
        if crowded or self.pending >= max(64, self.depth * len(self.limit)):
            self.settle()

    def _tighten(
        self, near: npt.NDArray[np.int64], closest: _Counts, below: npt.NDArray[np.bool_]
    ) -> None:
        """Lower the limits of queries that would get many more candidates than they keep.

        The k-th of any rows bounds the k-th of all: a sample, spread in case the rows are sorted,
        spares the work of sorting them all.
        """
        # Row by row: numpy counts a whole row far faster than along an axis.
        many = np.array([np.count_nonzero(row) > 4 * self.depth + 256 for row in below])
        if not many.any():
            return
        stride = max(1, below.shape[1] // max(_SAMPLE, 16 * self.depth))
        at = self.depth - 1
        kth = np.partition(closest[many, ::stride], at, axis=1)[:, at]
        self.limit[near[many]] = np.minimum(self.limit[near[many]] - 1, kth) + 1

    def settle(self) -> None:
        """Sort what was taken, keep the best of each query, tighten the limits."""
        columns = [np.concatenate(arrays) for arrays in zip(*self.chunks, strict=True)]
        order = np.lexsort((columns[2], columns[1], columns[0]))
        query = columns[0][order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        order = order[rank < self.depth]
        query, distance, ids, row = (column[order] for column in columns)
        self.chunks = [(query, distance, ids, row)]
        self.pending = 0
        last = np.flatnonzero(rank[rank < self.depth] == self.depth - 1)
        self.last_distance[query[last]] = distance[last]
        self.last_id[query[last]] = ids[last]
        self.limit[query[last]] = distance[last] + (not self.ordered)

    def write(self, found: Found) -> None:
        """Copy the best into the rows of ``found``."""
        query, distance, ids, row = self.chunks[0]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        found.rows[query, rank] = row
        found.ids[query, rank] = ids
        found.distances[query, rank] = distance
