"""The self-join: all pairs of near codes among distinct ones, by hashing or by scanning.

Two codes at distance r or less differ in at most r of any s disjoint stretches of their bits, so
they agree in full on s - r of them. Each choice of s - r stretches is a mask; codes that agree
under one are brought together by hashing and compared in full, and since every near pair agrees
under one of the masks, the answer is exact. s = r is the plain comparison of all with all. How many
stretches pay is estimated from a sample (:func:`masks_for`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from math import comb
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.decode import usable_cpus
from concepthash.errors import UsageError
from concepthash.runtime.native import kernel
from concepthash.runtime.planes import Part, Plan, Words
from concepthash.runtime.scan import within

_T = TypeVar("_T")

Pairs = npt.NDArray[Any]
"""Records a < b, distance: numbers of codes, and how far apart they are."""

# Nanoseconds, measured: to hash and sort one code, and to compare one pair, a word of the code.
_SORT_NS = 60.0
_PAIR_NS = 0.6
_MOST_MASKS = 1000
_MORE_STRETCHES = 12
_SAMPLE = 4096
_MASKS_TRIED = 6
# Queries of a step where the kernel was not built.
_BLOCK = 1024

_PAIR = np.dtype([("a", "<u4"), ("b", "<u4"), ("distance", "<u4")])


def linked(
    planes: Words, radius: int, layout: CodeLayout, threads: int | None
) -> npt.NDArray[np.int64]:
    """For each code the number of the first one it hangs together with, ``(u,)``.

    Args:
        planes: distinct codes, ``(W, u)``.
        radius: the largest distance of a step.
        layout: of the codes.
        threads: at most; all cores by default.
    """
    native, count = kernel(), planes.shape[1]
    roots = np.arange(count)
    if native is None:
        for found in _scanned(planes, radius, layout):
            _link(roots, found["a"], found["b"])
        return roots
    join = _Join(planes, radius, layout, threads)

    def forest(mine: range) -> npt.NDArray[np.int64]:
        parents = np.arange(count, dtype=np.uint32)
        for which in mine:
            join(native, which, parents)
        return parents.astype(np.int64)

    for parents in join.spread(forest, join.shares()):
        _link(roots, np.arange(count), parents)
    return roots


def near_pairs(
    planes: Words, radius: int, layout: CodeLayout, threads: int | None, limit: int
) -> Pairs:
    """All near pairs, each once, in no order; arguments as :func:`linked`.

    Raises:
        UsageError: if there are more than ``limit``.
    """
    native = kernel()
    found = [np.empty(0, dtype=_PAIR)]
    if native is None:
        for some in _scanned(planes, radius, layout):
            found.append(some)
            if sum(map(len, found)) > limit:
                raise too_many(limit)
        return np.concatenate(found)
    join, held = _Join(planes, radius, layout, threads), 0
    masks = [range(which, which + 1) for which in range(len(join.masks))]

    def under(mine: range) -> Pairs:
        return np.frombuffer(join(native, mine.start, None, limit), dtype=_PAIR)

    try:
        for some in join.spread(under, masks):
            found.append(some)
            held += len(some)
            if held > limit:
                raise OverflowError
    except OverflowError:
        raise too_many(limit) from None
    return np.concatenate(found)


class _Join:
    """The masks of a join, shared among threads that end early together."""

    def __init__(self, planes: Words, radius: int, layout: CodeLayout, threads: int | None) -> None:
        self.masks = masks_for(planes, radius, layout.bits)
        self._codes = np.ascontiguousarray(planes.T)
        self._radius = min(radius, layout.bits)
        self._stop = np.zeros(1, dtype=np.uint8)
        most = usable_cpus() if threads is None else threads
        self._workers = max(1, min(len(self.masks), most))

    def __call__(
        self, native: ModuleType, which: int, parents: npt.NDArray[np.uint32] | None, limit: int = 0
    ) -> Any:
        words = self._codes.shape[1]
        return native.join(
            self._codes, self.masks, words, which, self._radius, parents, limit, self._stop
        )

    def shares(self) -> list[range]:
        """The masks of each thread."""
        return [range(worker, len(self.masks), self._workers) for worker in range(self._workers)]

    def spread(self, work: Callable[[range], _T], shares: Iterable[range]) -> Iterator[_T]:
        """Results in order; an interrupt or error of one ends the others soon."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="join") as pool:
            try:
                yield from pool.map(work, shares)
            except BaseException:
                self._stop[0] = 1
                raise


def _scanned(planes: Words, radius: int, layout: CodeLayout) -> Iterator[Pairs]:
    """The same pairs without the native kernel: each code against all."""
    part = Part(planes, range(planes.shape[1]))
    plan = Plan.of(layout, [1] * layout.concepts)
    for first in range(0, planes.shape[1], _BLOCK):
        asked = planes[:, first : first + _BLOCK]
        hits = within([part], asked, plan, radius=radius, ordered=True, threads=1)
        found = np.empty(len(hits.ids), dtype=_PAIR)
        found["a"] = first + np.repeat(np.arange(asked.shape[1]), np.diff(hits.offsets))
        found["b"] = hits.ids
        found["distance"] = hits.distances
        yield found[found["a"] < found["b"]]


def _link(roots: npt.NDArray[np.int64], a: npt.ArrayLike, b: npt.ArrayLike) -> None:
    """Give all that hang together through the pairs (a, b) their smallest root, in place."""
    one, other = roots[np.asarray(a)], roots[np.asarray(b)]
    while (one != other).any():
        low = np.minimum(one, other)
        np.minimum.at(roots, one, low)
        np.minimum.at(roots, other, low)
        while (roots[roots] != roots).any():
            roots[:] = roots[roots]
        one, other = roots[one], roots[other]


def too_many(limit: int) -> UsageError:
    """What is said where pairs would not fit into memory."""
    return UsageError(
        f"there are more than {limit:,} pairs",
        where="radius",
        hint="a smaller radius, or groups(), which does not hold the pairs",
    )


def masks_for(planes: Words, radius: int, bits: int) -> Words:
    """The masks ``(C, W)`` of a complete join: near pairs agree in full under one of them at least.

    Args:
        planes: the codes, ``(W, n)``; a sample of them says which masks bring few together.
        radius: the largest distance of a near pair.
        bits: K.
    """
    words, count = planes.shape
    everything = np.zeros((1, words), dtype=np.uint64)
    if count < 2:
        return everything
    sample = planes[:, np.random.default_rng(0).integers(0, count, min(count, _SAMPLE))]
    sample = np.unique(sample, axis=1)
    best, cheapest = everything, _PAIR_NS * words * count * count / 2
    order = _by_spread(sample, bits)
    for stretches in range(radius + 1, min(bits, radius + _MORE_STRETCHES) + 1):
        agreeing = stretches - radius
        if comb(stretches, agreeing) > _MOST_MASKS:
            break
        masks = _combined(order, stretches, agreeing, words)
        cost = len(masks) * (
            _SORT_NS * count + _PAIR_NS * words * _pairs_under(masks, sample, count)
        )
        if cost < cheapest:
            best, cheapest = masks, cost
    return best


def _by_spread(sample: Words, bits: int) -> npt.NDArray[np.int64]:
    """Bit places, those first that differ most, so that stretches get alike shares."""
    octets = np.ascontiguousarray(sample.T).view(np.uint8)
    share = np.unpackbits(octets, axis=1, bitorder="little").mean(axis=0)
    # Padding bits never differ, so they come last and are cut off with all else beyond K.
    spread = share * (1 - share)
    return np.argsort(-spread, kind="stable")[:bits]


def _combined(order: npt.NDArray[np.int64], stretches: int, agreeing: int, words: int) -> Words:
    stretch = np.zeros((stretches, 64 * words), dtype=np.uint8)
    for i in range(stretches):
        stretch[i, order[i::stretches]] = 1
    chosen = [stretch[list(some)].any(axis=0) for some in combinations(range(stretches), agreeing)]
    packed = np.packbits(np.array(chosen), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def _pairs_under(masks: Words, sample: Words, count: int) -> float:
    """About how many pairs of ``count`` codes agree under a mask."""
    tried = masks[:: max(1, len(masks) // _MASKS_TRIED)]
    size, agreeing = sample.shape[1], 0
    for mask in tried:
        _, counts = np.unique(sample & mask[:, None], axis=1, return_counts=True)
        agreeing += int((counts * (counts - 1) // 2).sum())
    share = agreeing / len(tried) / max(1, size * (size - 1) // 2)
    return float(share * count * count / 2)
