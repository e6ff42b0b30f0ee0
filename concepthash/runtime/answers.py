"""What a search found, by the names a person knows: the hits of a query, from ids to photos."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.runtime.snapshot import Snapshot

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


def name_hits(
    gallery: Snapshot,
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
    names = gallery.names_of(ids[ids >= 0])
    found = []
    for row, distance, parts in zip(
        ids.tolist(), distances.tolist(), per_concept.tolist(), strict=True
    ):
        hits = []
        for rank, (id, near, shares) in enumerate(zip(row, distance, parts, strict=True), 1):
            if id >= 0:
                hits.append(Hit(rank, id, *names[id], near, tuple(shares)))
        found.append(tuple(hits))
    return found
