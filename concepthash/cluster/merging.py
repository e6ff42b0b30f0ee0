"""Answers of shards made one: exactly what a single gallery of all their images would answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from concepthash.runtime.answers import Rows
from concepthash.serve.held import Counts, Items

_FAR = np.iinfo(np.int64).max


def merge_rows(parts: Sequence[Rows], k: int | None) -> Rows:
    """The hits of all shards in (distance, id) order.

    Exact if each part has the k nearest of its shard: what is among the k nearest of all is among
    those of its own.

    Args:
        parts: one or more, of the same queries; they share no id, and may differ in width.
        k: hits a query at most; None for all there are. Where fewer are found, no part is as wide.
    """
    ids = np.concatenate([part.ids for part in parts], axis=1)
    distances = np.concatenate([part.distances for part in parts], axis=1)
    per_concept = np.concatenate([part.per_concept for part in parts], axis=1)
    far = np.where(ids < 0, _FAR, distances.astype(np.int64))  # what is no hit comes last
    order = np.lexsort((ids, far), axis=1)[:, :k]
    ids = np.take_along_axis(ids, order, axis=1)
    names: dict[int, tuple[str, str | None]] = {}
    for part in parts:
        names.update(part.names)
    return Rows(
        ids,
        np.take_along_axis(distances, order, axis=1),
        np.take_along_axis(per_concept, order[..., None], axis=1),
        names,
    )


def merge_items(parts: Sequence[Items], limit: int, missing: tuple[str, ...]) -> Items:
    """The first images of all shards in id order.

    Args:
        parts: the first of each shard, of one request for as many.
        limit: at most so many.
        missing: shards that are left out.
    """
    entries = sorted((entry for part in parts for entry in part.entries), key=lambda e: e.id)
    some = tuple(entries[:limit])
    more = len(entries) > limit or any(part.next is not None for part in parts)
    following = some[-1].id if some and more else None
    return Items(some, following, sum(part.total for part in parts), missing)


def merge_counts(parts: Sequence[Counts]) -> Counts:
    """The images of each label in all shards."""
    counts: dict[str | None, int] = {}
    for part in parts:
        for label, images in part:
            counts[label] = counts.get(label, 0) + images
    return tuple(sorted(counts.items(), key=lambda pair: (pair[0] is None, pair[0] or "")))
