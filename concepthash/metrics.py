"""Exact retrieval metrics for rankings by Hamming distance, where most neighbours are tied.

Integer distances leave the order inside a *tie group* (the items at one distance from a query)
open, and that order alone can move the mAP of 64-bit codes by several points. So nothing here
sorts items: every metric is the exact expectation over all orders of the ties, taken as equally
likely, and follows from two histograms a query (:mod:`concepthash.rankings`).

Written with these letters: a tie group has ``n`` items, ``r`` of them relevant; ``N`` items, ``R``
of them relevant, are nearer. A query has ``T`` relevant items in all. ``H(i)`` is the harmonic
number ``1 + 1/2 + ... + 1/i``. A query with ``T = 0`` has no defined metric: its entry is NaN, it
is left out of every mean, and it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import DataError, UsageError
from concepthash.rankings import BLOCK, Floats, TiedRankings, TieGroups


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
    for start in range(0, len(codes), BLOCK):
        ones += np.unpackbits(codes[start : start + BLOCK], axis=1).sum(axis=0, dtype=np.int64)
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
