"""Rankings by Hamming distance as tie groups: two histograms a query, nothing sorted.

Written with the letters of :mod:`concepthash.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import DataError, MismatchError

Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]
Counts = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

# Pairs handled at once: the distances, widened for counting, stay in the second-level cache.
BLOCK = 1 << 15


@dataclass(frozen=True)
class TieGroups:
    """The tie groups that hold a relevant item, over all queries, nearest first in each query.

    Six aligned arrays ``(g,)``: the row of the query, ``n``, ``r``, ``N``, ``R``, and ``T``.
    """

    query: npt.NDArray[np.intp]
    items: Floats
    relevant: Floats
    items_before: Floats
    relevant_before: Floats
    relevant_total: Floats


@dataclass(frozen=True)
class TiedRankings:
    """For each query, how many items and how many relevant items lie at each Hamming distance.

    Args:
        items: ``(q, D)`` int32, items at distance 0..D-1.
        relevant: ``(q, D)`` int32, those among them that share the label of the query.
    """

    items: Counts
    relevant: Counts

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def relevant_total(self) -> npt.NDArray[np.int64]:
        """T of each query, ``(q,)``."""
        total: npt.NDArray[np.int64] = self.relevant.sum(axis=1, dtype=np.int64)
        return total

    @cached_property
    def answerable(self) -> npt.NDArray[np.bool_]:
        """Which queries have a relevant item at all, ``(q,)``."""
        return self.relevant_total > 0

    @cached_property
    def groups(self) -> TieGroups:
        """The tie groups with a relevant item: all that most metrics need to look at."""
        rows, columns = np.nonzero(self.relevant)
        items, relevant = self.items[rows, columns], self.relevant[rows, columns]
        items_through = np.cumsum(self.items, axis=1, dtype=np.int32)[rows, columns]
        relevant_through = np.cumsum(self.relevant, axis=1, dtype=np.int32)[rows, columns]
        return TieGroups(
            query=rows,
            items=items.astype(np.float64),
            relevant=relevant.astype(np.float64),
            items_before=(items_through - items).astype(np.float64),
            relevant_before=(relevant_through - relevant).astype(np.float64),
            relevant_total=self.relevant_total[rows].astype(np.float64),
        )

    def all_tied(self) -> TiedRankings:
        """The same queries with every item tied: what codes without information would rank."""
        return TiedRankings(
            items=self.items.sum(axis=1, keepdims=True, dtype=np.int32),
            relevant=self.relevant.sum(axis=1, keepdims=True, dtype=np.int32),
        )

    def mean(self, values: Floats) -> float:
        """Mean of a per-query metric over the queries that have a relevant item.

        Raises:
            DataError: if no query has one.
        """
        if not self.answerable.any():
            raise DataError(
                f"none of the {len(self)} queries has a relevant item in the database",
                hint="check that both sets use the same labels",
            )
        return float(values[self.answerable].mean())

    def _per_query(self, contributions: Floats) -> Floats:
        """Sum what each tie group contributes; NaN where there is nothing to find."""
        total = np.bincount(self.groups.query, weights=contributions, minlength=len(self))
        return np.where(self.answerable, total, np.nan)


def as_labels(labels: npt.ArrayLike, *, what: str = "labels", where: object = None) -> Labels:
    """One label an item: ``(n,)`` int64 or unicode, from any 1-D integers or strings.

    Raises:
        DataError: for another shape or type; ``where`` is named in the message.
    """
    array = np.asarray(labels)
    if array.dtype == object:
        # A table column arrives as objects; its values decide what it is.
        for kind in (str, (int, np.integer)):
            if all(isinstance(value, kind) for value in array.flat):
                array = np.asarray(array.tolist())
    if array.ndim == 1 and array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iuUT":
        raise DataError(
            f"{what} must be one integer or string an item, not {array.dtype} {array.shape}",
            where=where,
            hint="pass a list of class names or class numbers",
        )
    return array.astype(np.str_) if array.dtype.kind in "UT" else array.astype(np.int64)


def rank(
    query_codes: Codes,
    query_labels: npt.ArrayLike,
    database_codes: Codes,
    database_labels: npt.ArrayLike,
    *,
    mask: Codes | None = None,
    exclude_self: bool = False,
) -> TiedRankings:
    """The rankings of all queries over the database, as histograms of Hamming distance.

    Works in blocks: beside the result, ``(q, D)`` twice, it takes a few megabytes at any size.

    Args:
        query_codes: packed codes ``(q, b)``; ``database_codes``: ``(n, b)``.
        query_labels: ``(q,)`` integers or strings; ``database_labels``: ``(n,)``.
        mask: ``(b,)`` packed; only its set bits count.
        exclude_self: the database is the query set itself and no query may find its own item.

    Raises:
        MismatchError: if the two sets do not fit together, or differ under ``exclude_self``.
        DataError: if labels are missing or of another type.
    """
    query_ids, database_ids = _label_ids(query_labels, database_labels)
    _check_sizes(query_codes, query_ids, "query")
    _check_sizes(database_codes, database_ids, "database")
    if query_codes.shape[1] != database_codes.shape[1]:
        raise MismatchError(
            f"queries have {query_codes.shape[1]} bytes a code, the database "
            f"{database_codes.shape[1]}",
            hint="hash both sets with the same model",
        )
    if exclude_self and not (
        np.array_equal(query_codes, database_codes) and np.array_equal(query_ids, database_ids)
    ):
        raise MismatchError(
            "excluding self-matches needs the same items, in the same order, on both sides",
            hint="pass one set as queries and database, or include self-matches",
        )
    queries, bins = _words(query_codes, mask)
    database, _ = _words(database_codes, mask)
    items = _histograms(queries, database, bins)
    relevant = np.zeros_like(items)
    members = _members(database_ids)
    for label, rows in _members(query_ids).items():
        if label in members:
            relevant[rows] = _histograms(queries[:, rows], database[:, members[label]], bins)
    if exclude_self:
        items[:, 0] -= 1
        relevant[:, 0] -= 1
    return TiedRankings(items, relevant)


def _check_sizes(codes: Codes, labels: npt.NDArray[np.intp], name: str) -> None:
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise MismatchError(
            f"{name} codes must be uint8 of shape (n, bytes), got {codes.dtype} {codes.shape}",
            hint="pack with concepthash.codes.pack",
        )
    if len(codes) != len(labels):
        raise MismatchError(f"{len(codes)} {name} codes have {len(labels)} labels")


def _label_ids(
    queries: npt.ArrayLike, database: npt.ArrayLike
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Both label sets as numbers of one common numbering."""
    left, right = as_labels(queries), as_labels(database)
    if left.size and right.size and left.dtype.kind != right.dtype.kind:
        raise MismatchError(
            f"query labels are {left.dtype}, database labels {right.dtype}",
            hint="use class names, or class numbers, on both sides",
        )
    both = np.concatenate([part for part in (left, right) if part.size] or [left])
    ids = np.unique(both, return_inverse=True)[1]
    return ids[: len(left)], ids[len(left) :]


def _members(ids: npt.NDArray[np.intp]) -> dict[int, npt.NDArray[np.intp]]:
    """The rows of each label."""
    order = np.argsort(ids, kind="stable")
    labels, starts = np.unique(ids[order], return_index=True)
    return dict(zip(labels.tolist(), np.split(order, starts[1:]), strict=False))


def _words(codes: Codes, mask: Codes | None) -> tuple[npt.NDArray[np.uint64], int]:
    """Codes as 64-bit words, ``(words, n)``, and how many distances they can have.

    Zero bytes fill the last word up: equal on both sides, they add nothing to a distance.
    """
    bits = codes.shape[1] * 8
    if mask is not None:
        bits = int(np.bitwise_count(mask).sum())
        codes = codes[:, mask != 0] & mask[mask != 0]
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : codes.shape[1]] = codes
    return np.ascontiguousarray(padded.view(np.uint64).T), bits + 1


def _histograms(
    queries: npt.NDArray[np.uint64], database: npt.NDArray[np.uint64], bins: int
) -> Counts:
    """How many database codes lie at each distance of each query: ``(q, bins)`` int32."""
    q, n = queries.shape[1], database.shape[1]
    out = np.zeros((q, bins), dtype=np.int32)
    columns = min(n, BLOCK)
    rows = max(1, BLOCK // max(columns, bins))
    for top in range(0, q, rows):
        part = queries[:, top : top + rows]
        # Each row counts into its own run of bins, so one bincount serves the whole block.
        offsets = bins * np.arange(part.shape[1], dtype=np.intp)[:, None]
        for left in range(0, n, BLOCK):
            block = database[:, left : left + columns]
            slots = np.repeat(offsets, block.shape[1], axis=1)
            for word, other in zip(part, block, strict=True):
                slots += np.bitwise_count(word[:, None] ^ other)
            counts = np.bincount(slots.ravel(), minlength=offsets.size * bins)
            out[top : top + rows] += counts.reshape(-1, bins).astype(np.int32)
    return out
