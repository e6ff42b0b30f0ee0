"""The metrics against an oracle that walks through every order of the ties."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from concepthash import metrics
from concepthash.codes import Codes, hamming
from concepthash.errors import DataError, MismatchError, UsageError
from concepthash.rankings import TiedRankings, as_labels, rank

Item = tuple[int, bool]  # distance from the query, and whether it is relevant

items_of_one_query = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6)
answerable_items = items_of_one_query.filter(lambda items: any(found for _, found in items))


def rankings_of(items: list[Item]) -> TiedRankings:
    """One query, the zero code, over items that have as many bits set as they are distant."""
    bits = np.array([[j < distance for j in range(8)] for distance, _ in items])
    return rank(np.zeros((1, 1), np.uint8), ["bird"], np.packbits(bits, axis=1), labels_of(items))


def labels_of(items: list[Item]) -> list[str]:
    return ["bird" if relevant else "fish" for _, relevant in items]


def tie_orders(items: list[Item]) -> Iterator[list[bool]]:
    """Relevance down the ranking, for each permutation of each tie group."""
    groups = [
        list(permutations([found for d, found in items if d == distance]))
        for distance in sorted({d for d, _ in items})
    ]
    for order in product(*groups):
        yield [found for group in order for found in group]


def naive_ap(order: list[bool], depth: int | None = None) -> Fraction:
    ranks = [rank for rank, found in enumerate(order, start=1) if found]
    within = [Fraction(i, rank) for i, rank in enumerate(ranks, start=1) if rank <= (depth or rank)]
    return sum(within, Fraction(0)) / len(ranks)


def mean(values: list[Fraction]) -> float:
    return float(sum(values, Fraction(0)) / len(values))


def close(value: object) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-12)


@given(answerable_items)
def test_average_precision__is_the_mean_minimum_and_maximum_over_tie_orders(
    items: list[Item],
) -> None:
    naive = [naive_ap(order) for order in tie_orders(items)]
    ap = metrics.average_precision(rankings_of(items))
    assert ap.expected[0] == close(mean(naive))
    assert ap.low[0] == close(float(min(naive)))
    assert ap.high[0] == close(float(max(naive)))
    assert ap.low[0] <= ap.expected[0] <= ap.high[0] <= 1


@given(answerable_items)
def test_average_precision_at_r__is_the_mean_over_tie_orders(items: list[Item]) -> None:
    r = sum(found for _, found in items)
    naive = [naive_ap(order, depth=r) for order in tie_orders(items)]
    assert metrics.average_precision_at_r(rankings_of(items))[0] == close(mean(naive))


@given(answerable_items, st.integers(1, 8))
def test_precision_and_recall_at__are_the_means_over_tie_orders(items: list[Item], k: int) -> None:
    heads = [order[:k] for order in tie_orders(items)]
    rankings = rankings_of(items)
    precision = mean([Fraction(sum(head), k) for head in heads])
    recall = mean([Fraction(any(head)) for head in heads])
    assert metrics.precision_at(rankings, k)[0] == close(precision)
    assert metrics.recall_at(rankings, k)[0] == close(recall)


def test_average_precision__stays_exact_in_large_tie_groups() -> None:
    items = np.array([[0, 700, 1, 20_000, 3000]], dtype=np.int32)
    relevant = np.array([[0, 3, 1, 900, 3000]], dtype=np.int32)
    terms, seen, found = [], 0, 0
    for n, r in zip(items[0].tolist(), relevant[0].tolist(), strict=True):
        slope = (r - 1) / (n - 1) if n > 1 else 0
        terms += [r / n * (found + 1 + slope * t) / (seen + 1 + t) for t in range(n)]
        seen, found = seen + n, found + r
    ap = metrics.average_precision(TiedRankings(items, relevant))
    assert ap.expected[0] == pytest.approx(math.fsum(terms) / found, rel=1e-12)


@pytest.mark.parametrize("k", [1, 10, 2500, 19_100, 19_101])
def test_recall_at__is_hypergeometric_in_a_large_tie_group(k: int) -> None:
    n, r = 20_000, 900
    rankings = TiedRankings(np.array([[n]], np.int32), np.array([[r]], np.int32))
    miss = Fraction(math.comb(n - r, k), math.comb(n, k))
    assert metrics.recall_at(rankings, k)[0] == close(float(1 - miss))


def test_metrics__of_a_perfect_ranking_are_exactly_one() -> None:
    items = np.array([[1, 1, 1, 4, 9]], dtype=np.int32)
    relevant = np.array([[1, 1, 1, 4, 0]], dtype=np.int32)
    rankings = TiedRankings(items, relevant)
    ap = metrics.average_precision(rankings)
    assert ap.low[0] == ap.expected[0] == ap.high[0] == 1
    assert metrics.average_precision_at_r(rankings)[0] == 1


def test_average_precision__without_ties_has_bounds_equal_to_the_last_digit() -> None:
    relevant = np.random.default_rng(0).random((50, 500)) < 0.1
    rankings = TiedRankings(np.ones((50, 500), np.int32), relevant.astype(np.int32))
    ap = metrics.average_precision(rankings)
    assert ap.low.tolist() == ap.expected.tolist() == ap.high.tolist()


def test_metrics__without_a_relevant_item_are_nan_and_left_out_of_the_mean() -> None:
    rankings = rank(np.zeros((2, 1), np.uint8), [7, 8], np.array([[0], [1]], np.uint8), [7, 9])
    assert rankings.answerable.tolist() == [True, False]
    ap = metrics.average_precision(rankings)
    per_query = [
        ap.expected,
        ap.low,
        ap.high,
        metrics.average_precision_at_r(rankings),
        metrics.precision_at(rankings, 1),
        metrics.recall_at(rankings, 1),
    ]
    for values in per_query:
        assert values[0] == 1
        assert np.isnan(values[1])
    assert rankings.mean(ap.expected) == 1


def test_mean__refuses_when_nothing_can_be_found() -> None:
    rankings = rank(np.zeros((1, 1), np.uint8), [1], np.zeros((1, 1), np.uint8), [2])
    with pytest.raises(DataError, match="none of the 1 queries"):
        rankings.mean(metrics.average_precision(rankings).expected)


def test_rank__of_an_empty_database_or_no_queries_is_empty() -> None:
    none, one = np.zeros((0, 1), np.uint8), np.zeros((1, 1), np.uint8)
    assert rank(one, ["a"], none, []).items.sum() == 0
    assert len(rank(none, [], one, ["a"])) == 0


@given(answerable_items)
def test_all_tied__equals_a_ranking_where_every_distance_is_the_same(items: list[Item]) -> None:
    tied = metrics.average_precision(rankings_of([(1, found) for _, found in items]))
    chance = metrics.average_precision(rankings_of(items).all_tied())
    assert chance.expected[0] == close(tied.expected[0])


@settings(max_examples=40)
@given(
    data=st.data(),
    nbytes=st.sampled_from([1, 2, 3, 7, 8, 9, 64]),
    block=st.integers(1, 40),
    masked=st.booleans(),
)
def test_rank__counts_what_all_pairwise_distances_count(
    data: st.DataObject, nbytes: int, block: int, masked: bool
) -> None:
    q, n = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    queries = data.draw(arrays(np.uint8, (q, nbytes)))
    database = data.draw(arrays(np.uint8, (n, nbytes)))
    mask = data.draw(arrays(np.uint8, nbytes)) if masked else None
    query_labels = data.draw(arrays(np.int64, q, elements=st.integers(0, 2)))
    labels = data.draw(arrays(np.int64, n, elements=st.integers(0, 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("concepthash.rankings.BLOCK", block)
        rankings = rank(queries, query_labels, database, labels, mask=mask)
    distances = hamming(queries, database, mask)
    same = query_labels[:, None] == labels[None]
    for row in range(q):
        for distance in range(rankings.items.shape[1]):
            at = distances[row] == distance
            assert rankings.items[row, distance] == at.sum()
            assert rankings.relevant[row, distance] == (at & same[row]).sum()
    assert (rankings.items.sum(axis=1) == n).all()


@given(
    codes=arrays(np.uint8, (5, 1), elements=st.integers(0, 3)),
    labels=st.lists(st.sampled_from(["a", "b"]), min_size=5, max_size=5),
)
def test_rank__exclude_self_equals_taking_each_query_out_of_the_database(
    codes: Codes, labels: list[str]
) -> None:
    whole = rank(codes, labels, codes, labels, exclude_self=True)
    for i in range(5):
        others = [j for j in range(5) if j != i]
        one = rank(codes[i : i + 1], labels[i : i + 1], codes[others], np.take(labels, others))
        assert whole.items[i].tolist() == one.items[0].tolist()
        assert whole.relevant[i].tolist() == one.relevant[0].tolist()


def test_rank__exclude_self_refuses_two_different_sets() -> None:
    codes = np.array([[1], [2]], np.uint8)
    with pytest.raises(MismatchError, match="same items"):
        rank(codes, [0, 1], codes[::-1], [0, 1], exclude_self=True)
    with pytest.raises(MismatchError, match="same items"):
        rank(codes, [0, 1], codes, [1, 0], exclude_self=True)


def test_rank__refuses_sets_that_do_not_belong_together() -> None:
    codes, wide = np.zeros((1, 1), np.uint8), np.zeros((1, 2), np.uint8)
    with pytest.raises(MismatchError, match="same model"):
        rank(codes, [0], wide, [0])
    with pytest.raises(MismatchError, match="1 database codes have 2 labels"):
        rank(codes, [0], codes, [0, 1])
    with pytest.raises(MismatchError, match="class names, or class numbers"):
        rank(codes, [0], codes, ["0"])
    with pytest.raises(MismatchError, match="query codes must be uint8"):
        rank(codes.astype(np.int64), [0], codes, [0])


def test_as_labels__accepts_integers_and_strings_of_any_kind() -> None:
    assert as_labels(np.array([1, 2], np.uint8)).dtype == np.int64
    assert as_labels(["wren", "tit"]).tolist() == ["wren", "tit"]
    assert as_labels(np.array(["wren", "tit"], object)).dtype.kind == "U"
    assert as_labels(np.array([3, np.int32(4)], object)).tolist() == [3, 4]


@pytest.mark.parametrize(
    "labels", [[0.5], [True], [[1]], np.array(["a", 1], object), np.array([None])]
)
def test_as_labels__refuses_anything_else(labels: object) -> None:
    with pytest.raises(DataError, match="one integer or string an item"):
        as_labels(labels)  # type: ignore[arg-type]


def test_radius_curve__counts_an_empty_answer_as_precision_zero() -> None:
    curve = metrics.radius_curve(rankings_of([(1, True), (2, False), (2, True), (3, False)]))
    assert curve.items[:5].tolist() == [0, 1, 3, 4, 4]
    assert curve.precision[:4] == close([0, 1, 2 / 3, 1 / 2])
    assert curve.recall[:4].tolist() == [0, 0.5, 1, 1]
    assert len(curve.precision) == len(curve.recall) == 9


def test_depth_curve__follows_precision_at_up_to_the_whole_database() -> None:
    rankings = rankings_of([(d % 3, d % 4 == 0) for d in range(23)])
    curve = metrics.depth_curve(rankings)
    assert curve.depth.tolist() == [1, 2, 5, 10, 20, 23]
    expected = [metrics.precision_at(rankings, n)[0] for n in curve.depth.tolist()]
    assert curve.precision.tolist() == close(expected)
    assert curve.recall.tolist() == close((np.array(expected) * curve.depth / 6).tolist())
    assert curve.recall[-1] == close(1.0)


def test_bit_entropy__is_one_for_balanced_and_zero_for_constant_bits() -> None:
    bits = np.zeros((4, 8), bool)
    bits[:2, 0] = bits[:1, 1] = bits[:, 2] = True
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    entropy = metrics.bit_entropy(np.packbits(bits, axis=1))
    assert entropy.tolist() == close([1, quarter, 0, 0, 0, 0, 0, 0])
    with pytest.raises(DataError):
        metrics.bit_entropy(np.zeros((0, 1), np.uint8))


def test_ranks_count_from_one() -> None:
    rankings = rankings_of([(0, True)])
    for metric in (metrics.precision_at, metrics.recall_at):
        with pytest.raises(UsageError, match="no rank 0"):
            metric(rankings, 0)
