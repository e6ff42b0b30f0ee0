"""Exact Hamming scan in blocked numpy: the loop a native kernel can replace.

Codes are held word-planar, ``(W, n)`` uint64 with ``W = ceil(K / 64)``: word ``w`` of all codes
lies together, so every step below is one pass over contiguous memory. :func:`scan` is the whole
boundary: nothing outside this file knows how distances are computed or hits are selected.

Only what can still enter the answer leaves a block: each query keeps a running limit, the distance
of its k-th best so far. Where ids ascend with the rows a later row cannot win a tie, so the limit
is strict; otherwise ties at the limit are kept if their id is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes

Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int32]
_Counts = npt.NDArray[Any]

WORD = np.dtype("<u8")
"""One word of a code: little-endian, so that files and memory agree everywhere."""

BLOCK = 65536
"""Code-query pairs a step: what one step writes (512 KB) stays near the level-2 cache."""

# Steps whose distances are looked through at once, and queries that share a pass.
_SPAN = 4
_GROUP = 8
# Hits held by a group at most: very deep answers are given query by query.
_PENDING = 1 << 20
# Words whose differing bits are sure to fit a uint8 sum.
_NARROW = 3
# Distances a first limit is taken from.
_SAMPLE = 4096


class Part(NamedTuple):
    """A stretch of the index: ``planes`` (W, n), ``ids`` (n,), ``dead`` (n,) bool or None."""

    planes: Words
    ids: Ids
    dead: npt.NDArray[np.bool_] | None = None


class Found(NamedTuple):
    """Nearest first, each ``(q, k)``, missing = -1; ``rows`` count through all parts."""

    rows: Ids
    ids: Ids
    distances: Distances


class Term(NamedTuple):
    """``weight`` times the number of differing bits in ``words``: (word, mask or None for all)."""

    weight: int
    words: tuple[tuple[int, np.uint64 | None], ...]


@dataclass(frozen=True)
class Plan:
    """A distance as a weighted sum of popcounts, and the largest value it can take."""

    terms: tuple[Term, ...]
    longest: int

    @classmethod
    def of(cls, layout: CodeLayout, weights: Sequence[int]) -> Plan:
        """The plan for ``sum_m weights[m] * d_m``: concepts of equal weight share popcounts."""
        masks = layout.masks()
        whole = to_words(np.bitwise_or.reduce(masks, axis=0)[None], layout)[:, 0]
        terms = []
        for weight in sorted(set(weights) - {0}):
            chosen = [m for m, value in enumerate(weights) if value == weight]
            mask = to_words(np.bitwise_or.reduce(masks[chosen], axis=0)[None], layout)[:, 0]
            words = [
                (int(word), None if mask[word] == whole[word] else mask[word])
                for word in np.flatnonzero(mask)
            ]
            for first in range(0, len(words), _NARROW):
                terms.append(Term(weight, tuple(words[first : first + _NARROW])))
        return cls(tuple(terms), sum(weights) * layout.sub_bits)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every distance and, above them, "never"."""
        return np.dtype(np.min_scalar_type(self.longest + 1))


def to_words(codes: Codes, layout: CodeLayout) -> Words:
    """Packed codes ``(n, K / 8)`` as word planes ``(W, n)``, the last word padded with zeros."""
    padded = np.zeros((len(codes), -(-layout.nbytes // 8) * 8), dtype=np.uint8)
    padded[:, : layout.nbytes] = codes
    return np.ascontiguousarray(padded.view(WORD).T)


def to_codes(planes: Words, layout: CodeLayout) -> Codes:
    """Word planes ``(W, n)`` back as packed codes ``(n, K / 8)``."""
    words = np.ascontiguousarray(planes.T).astype(WORD, copy=False)
    return np.ascontiguousarray(words.view(np.uint8)[:, : layout.nbytes])


def concept_distances(a: Words, b: Words, layout: CodeLayout) -> Distances:
    """Distance of each concept between aligned columns: two ``(W, n)`` to ``(n, M)`` int32."""
    masks = to_words(layout.masks(), layout)
    out = np.zeros((a.shape[1], layout.concepts), dtype=np.int32)
    for word, concept in zip(*np.nonzero(masks), strict=True):
        out[:, concept] += np.bitwise_count((a[word] ^ b[word]) & masks[word, concept])
    return out


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
    """The k live codes nearest to each query, in (distance, id) order.

    Args:
        parts: where the codes are; rows are numbered through them.
        queries: word planes ``(W, q)``.
        plan: how a distance is computed.
        k: hits a query, 0 or more.
        ordered: whether ids ascend with the rows, over all parts.
        radius: the largest distance of a hit; None for no bound.
        block: code-query pairs a step; the answer does not depend on it.
    """
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
                _distances(planes[:, here], queries, plan, buffers.cut(into.shape[1]), into)
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


def _distances(
    planes: Words, queries: Words, plan: Plan, buffers: _Buffers, total: _Counts
) -> None:
    """Write the distances ``(q, b)`` of one step into ``total``."""
    different, narrow, other, wide = buffers
    if not plan.terms:
        total.fill(0)
    for i, (weight, words) in enumerate(plan.terms):
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

    def offer(self, distances: _Counts, ids: Ids, start: int) -> None:
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
        found = ids[column]
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
