"""Exact retrieval metrics for rankings by Hamming distance, where most neighbours are tied.

Integer distances leave the order inside a *tie group* (the items at one distance from a query)
open, and that order alone can move the mAP of 64-bit codes by several points. So nothing here
sorts items: every metric is the exact expectation over all orders of the ties, taken as equally
likely, and follows from two histograms a query (:class:`TiedRankings`).

Written with these letters: a tie group has ``n`` items, ``r`` of them relevant; ``N`` items, ``R``
of them relevant, are nearer. A query has ``T`` relevant items in all. ``H(i)`` is the harmonic
number ``1 + 1/2 + ... + 1/i``. A query with ``T = 0`` has no defined metric: its entry is NaN, it
is left out of every mean, and it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import DataError, MismatchError, UsageError

Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]
Counts = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

# Pairs handled at once: the distances, widened for counting, stay in the second-level cache.
_BLOCK = 1 << 15


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


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision of each query ``(q,)``: over all tie orders, and for the two extreme ones.

    ``high`` ranks the relevant items first in every tie group, ``low`` last.
    """

    expected: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class RadiusCurve:
    """What a look-up within each Hamming radius 0..D-1 finds; exact, since ties cannot matter.

    Means over queries, each ``(D,)``. A query that retrieves nothing counts as precision 0, as in
    the hashing literature; ``items`` is the mean number retrieved.
    """

    precision: Floats
    recall: Floats
    items: Floats


@dataclass(frozen=True)
class DepthCurve:
    """Expected precision and recall (share of the relevant items found) of the first N ranks.

    ``depth`` ``(d,)`` int64 holds the N; the other two are means over queries, ``(d,)``.
    """

    depth: npt.NDArray[np.int64]
    precision: Floats
    recall: Floats


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


def average_precision(rankings: TiedRankings) -> AveragePrecision:
    """Average precision over the full ranking: its expectation over ties, and both bounds.

    Inside a tie group each position ``t = 1..n`` is relevant with probability ``r / n``, and then
    ``a (t - 1)`` relevant items are expected before it in the group, ``a = (r - 1) / (n - 1)``
    (1 if ``n = 1``, where it has no effect but that the three sums agree to the last digit). The
    expected sum of the precisions at the relevant positions is thus::

        sum_t  r/n * (R + 1 + a (t - 1)) / (N + t)
          =    r/n * (a n + (R + 1 - a (N + 1)) (H(N + n) - H(N)))

    With the relevant items first, then last, it is::

        high  =  sum_{t=1..r} (R + t) / (N + t)          =  r + (R - N) (H(N + r) - H(N))
        low   =  sum_{t=1..r} (R + t) / (N + n - r + t)
              =  r + (R - N - n + r) (H(N + n) - H(N + n - r))

    Each is summed over the groups and divided by ``T``.
    """
    g = rankings.groups
    harmonic = _harmonic(rankings)
    behind = g.items_before + g.items - g.relevant
    high = g.relevant + (g.relevant_before - g.items_before) * _between(
        harmonic, g.items_before, g.relevant
    )
    low = g.relevant + (g.relevant_before - behind) * _between(harmonic, behind, g.relevant)
    expected = rankings._per_query(_precision_sum(g, g.items, harmonic) / g.relevant_total)
    # Rounding must not put a bound on the wrong side of the expectation where the three agree.
    expected = np.clip(expected, 0.0, 1.0)
    return AveragePrecision(
        expected=expected,
        low=np.minimum(rankings._per_query(low / g.relevant_total), expected),
        high=np.clip(rankings._per_query(high / g.relevant_total), expected, 1.0),
    )


def average_precision_at_r(rankings: TiedRankings) -> Floats:
    """Expected mAP@R of each query, ``(q,)``: precision summed over the first T ranks, over T.

    ``1/T sum_{i=1..T} precision(i) relevant(i)``, as in Musgrave, Belongie and Lim, "A Metric
    Learning Reality Check" (ECCV 2020), where T is called R. The sum of
    :func:`average_precision` with each group cut off at rank T.
    """
    g = rankings.groups
    within = np.clip(g.relevant_total - g.items_before, 0, g.items)
    total = _precision_sum(g, within, _harmonic(rankings))
    return np.clip(rankings._per_query(total / g.relevant_total), 0.0, 1.0)


def precision_at(rankings: TiedRankings, k: int) -> Floats:
    """Expected share of relevant items among the first ``k`` ranks of each query, ``(q,)``.

    Divided by ``k`` even where the database is smaller.
    """
    return _expected_hits(rankings, k) / k


def recall_at(rankings: TiedRankings, k: int) -> Floats:
    """Probability that the first ``k`` ranks of each query hold a relevant item, ``(q,)``.

    The Recall@k of metric learning. Only the nearest group with a relevant item can leave it open:
    with ``m`` of its ``n`` items inside the first ``k``, all of them miss with the hypergeometric
    probability ``C(n - r, m) / C(n, m)``, computed as a product of ``min(m, r)`` ratios.
    """
    _check_depth(k)
    g = rankings.groups
    nearest = np.flatnonzero(g.relevant_before == 0)
    items, relevant = g.items[nearest], g.relevant[nearest]
    inside = np.clip(k - g.items_before[nearest], 0, items)
    few, many = np.minimum(inside, relevant), np.maximum(inside, relevant)
    miss = np.ones(len(nearest))
    for step in range(int(few.max(initial=0))):
        live = np.flatnonzero((few > step) & (miss > 0))
        miss[live] *= np.maximum(items[live] - many[live] - step, 0) / (items[live] - step)
    out = np.full(len(rankings), np.nan)
    out[g.query[nearest]] = 1 - miss
    return out


def radius_curve(rankings: TiedRankings) -> RadiusCurve:
    """Mean precision and recall of a look-up within each Hamming radius.

    Raises:
        DataError: if no query has a relevant item.
    """
    items = np.cumsum(rankings.items, axis=1, dtype=np.int32)
    relevant = np.cumsum(rankings.relevant, axis=1, dtype=np.int32)
    total = np.maximum(rankings.relevant_total, 1)
    radii = range(items.shape[1])
    precision = [rankings.mean(relevant[:, d] / np.maximum(items[:, d], 1)) for d in radii]
    recall = [rankings.mean(relevant[:, d] / total) for d in radii]
    found = [rankings.mean(items[:, d].astype(np.float64)) for d in radii]
    return RadiusCurve(np.array(precision), np.array(recall), np.array(found))


def depth_curve(rankings: TiedRankings, depths: Sequence[int] | None = None) -> DepthCurve:
    """Expected precision and recall of the first N ranks, for each N of ``depths``.

    By default N runs 1, 2, 5, 10, 20, 50, ... up to the database size.

    Raises:
        DataError: if no query has a relevant item.
    """
    if depths is None:
        size = int(rankings.items.sum(axis=1, dtype=np.int64).max(initial=1))
        steps = (lead * 10**power for power in range(len(str(size))) for lead in (1, 2, 5))
        depths = [*(n for n in steps if n < size), size]
    total = np.maximum(rankings.relevant_total, 1)
    hits = [_expected_hits(rankings, n) for n in depths]
    return DepthCurve(
        depth=np.array(depths, dtype=np.int64),
        precision=np.array([rankings.mean(h / n) for h, n in zip(hits, depths, strict=True)]),
        recall=np.array([rankings.mean(h / total) for h in hits]),
    )


def bit_entropy(codes: Codes) -> Floats:
    """Entropy of each bit over a set of codes, ``(K,)``, in bits: 1 is balanced, 0 is constant."""
    if not len(codes):
        raise DataError("no codes to take the entropy of")
    ones = np.zeros(codes.shape[1] * 8, dtype=np.int64)
    for start in range(0, len(codes), _BLOCK):
        ones += np.unpackbits(codes[start : start + _BLOCK], axis=1).sum(axis=0, dtype=np.int64)
    share = np.stack([ones, len(codes) - ones]) / len(codes)
    log = np.log2(share, out=np.zeros_like(share), where=share > 0)
    entropy: Floats = np.abs((share * log).sum(axis=0))
    return entropy


def _precision_sum(g: TieGroups, within: Floats, harmonic: npt.NDArray[np.longdouble]) -> Floats:
    """Expected precisions at the relevant ones of a group's first ``within`` places, summed."""
    slope = np.where(g.items > 1, (g.relevant - 1) / np.maximum(g.items - 1, 1), 1.0)
    start = g.relevant_before + 1 - slope * (g.items_before + 1)
    inverse_ranks = _between(harmonic, g.items_before, within)
    return g.relevant / g.items * (slope * within + start * inverse_ranks)


def _expected_hits(rankings: TiedRankings, k: int) -> Floats:
    _check_depth(k)
    g = rankings.groups
    inside = np.clip(k - g.items_before, 0, g.items)
    return rankings._per_query(g.relevant * inside / g.items)


def _check_depth(k: int) -> None:
    if k < 1:
        raise UsageError(f"a ranking has no rank {k}", where="k", hint="count ranks from 1")


def _harmonic(rankings: TiedRankings) -> npt.NDArray[np.longdouble]:
    """``H(0), H(1), ...`` as far as the longest ranking goes.

    Extended where the machine has it: neighbours late in a long ranking differ in the last digits.
    """
    size = int(rankings.items.sum(axis=1, dtype=np.int64).max(initial=0))
    return np.cumsum(np.concatenate([[0], 1 / np.arange(1, size + 1, dtype=np.longdouble)]))


def _between(harmonic: npt.NDArray[np.longdouble], start: Floats, count: Floats) -> Floats:
    """``1/(start + 1) + ... + 1/(start + count)``."""
    low = start.astype(np.intp)
    return (harmonic[low + count.astype(np.intp)] - harmonic[low]).astype(np.float64)


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
    columns = min(n, _BLOCK)
    rows = max(1, _BLOCK // max(columns, bins))
    for top in range(0, q, rows):
        part = queries[:, top : top + rows]
        # Each row counts into its own run of bins, so one bincount serves the whole block.
        offsets = bins * np.arange(part.shape[1], dtype=np.intp)[:, None]
        for left in range(0, n, _BLOCK):
            block = database[:, left : left + columns]
            slots = np.repeat(offsets, block.shape[1], axis=1)
            for word, other in zip(part, block, strict=True):
                slots += np.bitwise_count(word[:, None] ^ other)
            counts = np.bincount(slots.ravel(), minlength=offsets.size * bins)
            out[top : top + rows] += counts.reshape(-1, bins).astype(np.int32)
    return out
