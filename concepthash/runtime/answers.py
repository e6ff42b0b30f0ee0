"""What a search found, by the names a person knows: the hits of a query, from ids to photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from concepthash.codes import Codes
    from concepthash.runtime.galleries import AnyGallery
    from concepthash.runtime.index import HammingIndex

SCHEMA = "chash.query/1"
"""Of answers as JSON, on the command line and over HTTP."""


@dataclass(frozen=True)
class Hit:
    """One image that was found; ``per_concept`` are plain Hamming distances."""

    rank: int
    id: int
    path: str
    label: str | None
    distance: int
    per_concept: tuple[int, ...]


@dataclass(frozen=True)
class Query:
    """One image that was asked for: its code in hexadecimal, and its hits, nearest first.

    ``path`` is None where there was only a code. ``concept_names`` name the distances of
    ``per_concept``, on a line of jsonl too.
    """

    path: str | None
    code: str
    hits: tuple[Hit, ...]
    concept_names: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """What a query found, nearest first; ``missing`` names the shards that gave no answer."""

    hits: tuple[Hit, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Rows:
    """The hits of several queries as arrays, and the names of their images.

    Args:
        ids: ``(q, k)`` int64; -1 is no hit.
        distances: ``(q, k)`` int32.
        per_concept: ``(q, k, M)`` int32.
        names: path and label by id, of every hit.
    """

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]
    per_concept: npt.NDArray[np.int32]
    names: Mapping[int, tuple[str, str | None]]

    def hits(self) -> list[tuple[Hit, ...]]:
        """The hits of each query."""
        found = []
        for row, distance, parts in zip(
            self.ids.tolist(), self.distances.tolist(), self.per_concept.tolist(), strict=True
        ):
            hits = []
            for rank, (id, near, shares) in enumerate(zip(row, distance, parts, strict=True), 1):
                if id >= 0:
                    hits.append(Hit(rank, id, *self.names[id], near, tuple(shares)))
            found.append(tuple(hits))
        return found


def name_hits(
    gallery: AnyGallery,
    ids: npt.NDArray[np.int64],
    distances: npt.NDArray[np.int32],
    per_concept: npt.NDArray[np.int32],
) -> list[tuple[Hit, ...]]:
    """The hits of each query, looked up at once; arguments as :class:`Hits` has them.

    Args:
        gallery: the one that was searched, at the same moment.
        ids: ``(q, k)``; -1 is no hit and left out.
        distances: ``(q, k)``.
        per_concept: ``(q, k, M)``.

    Raises:
        GalleryError: if the gallery does not hold an id, or cannot be read.
    """
    return Rows(ids, distances, per_concept, gallery.names_of(ids[ids >= 0])).hits()


def most_hits(
    index: HammingIndex,
    codes: Codes,
    k: int | None,
    *,
    radius: int | None,
    concepts: Sequence[int] | None,
    weights: Sequence[int] | None,
    threads: int,
) -> int:
    """How many hits one of some queries has at most; arguments as a search has them.

    Args:
        k: what is asked for; None for all there are, which are counted where a radius bounds them.
    """
    if k is not None or radius is None:
        return len(index) if k is None else min(k, len(index))
    near = index.within(codes, radius, concepts=concepts, weights=weights, threads=threads)
    return int(np.diff(near.offsets).max(initial=0))
