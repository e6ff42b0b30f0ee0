"""Codes as word planes, where they lie, and what a distance is: what every search shares.

Codes are held as words, ``(W, n)`` uint64 with ``W = ceil(K / 64)``: ``planes[w, i]`` is word ``w``
of code ``i``. In memory and in index files a plane is contiguous; in a gallery's segments a code
is, and its planes are a strided view of the mapped file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes

Words = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int32]
WORD = np.dtype("<u8")
"""One word of a code: little-endian, so that files and memory agree everywhere."""


class Part(NamedTuple):
    """A stretch of the index: ``planes`` (W, n), ``ids`` (n,), ``dead`` (n,) bool or None.

    Ids that follow one another are a ``range``, which takes no memory: see :func:`ids_at`.
    """

    planes: Words
    ids: Ids | range
    dead: npt.NDArray[np.bool_] | None = None


class Found(NamedTuple):
    """Nearest first, each ``(q, k)``, missing = -1; ``rows`` count through all parts."""

    rows: Ids
    ids: Ids
    distances: Distances


class Term(NamedTuple):
    """``weight`` times the number of differing bits under ``mask`` (W,)."""

    weight: int
    mask: Words


@dataclass(frozen=True)
class Plan:
    """A distance as a weighted sum of popcounts: one term a weight.

    Args:
        weights: one a concept.
        terms: those with a weight above 0; concepts of equal weight share one.
        longest: the largest distance there can be.
        masks, factors: the terms again, as ``(T, W)`` words and ``(T,)`` uint32.
    """

    weights: tuple[int, ...]
    terms: tuple[Term, ...]
    longest: int
    masks: Words
    factors: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, layout: CodeLayout, weights: Sequence[int]) -> Plan:
        """The plan for ``sum_m weights[m] * d_m``."""
        return _plan(layout, tuple(weights))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds every distance and, above them, "never"."""
        return np.dtype(np.min_scalar_type(self.longest + 1))


@lru_cache(maxsize=64)
def _plan(layout: CodeLayout, weights: tuple[int, ...]) -> Plan:
    masks = concept_masks(layout)
    terms = [
        Term(weight, np.bitwise_or.reduce(masks[:, np.equal(weights, weight)], axis=1))
        for weight in sorted(set(weights) - {0})
    ]
    return Plan(
        weights,
        tuple(terms),
        sum(weights) * layout.sub_bits,
        np.array([term.mask for term in terms], dtype=np.uint64).reshape(len(terms), len(masks)),
        np.array([term.weight for term in terms], dtype=np.uint32),
    )


@lru_cache(maxsize=64)
def concept_masks(layout: CodeLayout) -> Words:
    """Word planes ``(W, M)`` of the masks of all concepts."""
    return to_words(layout.masks(), layout)


def to_words(codes: Codes, layout: CodeLayout) -> Words:
    """Packed codes ``(n, K / 8)`` as word planes ``(W, n)``, the last word padded with zeros.

    Codes of one word are not copied.
    """
    if layout.nbytes % 8:
        padded = np.zeros((len(codes), -(-layout.nbytes // 8) * 8), dtype=np.uint8)
        padded[:, : layout.nbytes] = codes
        codes = padded
    return np.ascontiguousarray(np.ascontiguousarray(codes).view(WORD).T)


def to_codes(planes: Words, layout: CodeLayout) -> Codes:
    """Word planes ``(W, n)`` back as packed codes ``(n, K / 8)``."""
    words = np.ascontiguousarray(planes.T).astype(WORD, copy=False)
    return np.ascontiguousarray(words.view(np.uint8)[:, : layout.nbytes])


def concept_distances(a: Words, b: Words, layout: CodeLayout) -> Distances:
    """Distance of each concept between aligned columns: two ``(W, n)`` to ``(n, M)`` int32."""
    different = np.bitwise_xor(a, b)[:, :, None] & concept_masks(layout)[:, None, :]
    counts: Distances = np.bitwise_count(different).sum(axis=0, dtype=np.int32)
    return counts


def ids_at(ids: Ids | range, rows: npt.NDArray[np.int64]) -> Ids:
    """The ids of some rows, as an array."""
    if isinstance(ids, range):
        return ids.start + ids.step * rows
    return ids[rows]


def gather(parts: Sequence[Part], rows: npt.NDArray[np.int64], words: int) -> Words:
    """Word planes ``(W, r)`` of ``rows``, numbered through ``parts``; W is ``words``."""
    if len(parts) == 1:
        return parts[0].planes[:, rows]
    out = np.empty((words, len(rows)), dtype=np.uint64)
    start = 0
    for part in parts:
        here = (rows >= start) & (rows < start + len(part.ids))
        out[:, here] = part.planes[:, rows[here] - start]
        start += len(part.ids)
    return out


def cut(parts: Sequence[Part], low: int, high: int) -> list[Part]:
    """The parts of the rows ``low .. high``; none of them empty, none copied."""
    taken, start = [], 0
    for planes, ids, dead in parts:
        a, b = max(low - start, 0), min(high - start, len(ids))
        if a < b:
            taken.append(Part(planes[:, a:b], ids[a:b], None if dead is None else dead[a:b]))
        start += len(ids)
    return taken
