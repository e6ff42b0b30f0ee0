"""Answers of shards made one: equal to those of a single index, whatever is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from concepthash.cluster.merging import merge_counts, merge_items, merge_rows
from concepthash.runtime.answers import Rows
from concepthash.runtime.entries import Entry
from concepthash.runtime.index import HammingIndex
from concepthash.serve.held import Items

codes = st.binary(min_size=1, max_size=1)  # 256 of them: ties are the rule
shards = st.lists(st.lists(codes, max_size=12), min_size=1, max_size=5)


def index_of(some: list[bytes], ids: list[int]) -> HammingIndex:
    index = HammingIndex(8, 2)
    index.add(np.frombuffer(b"".join(some), np.uint8).reshape(-1, 1), ids)
    return index


def rows_of(index: HammingIndex, queries: np.ndarray, k: int, **by: object) -> Rows:
    hits = index.search(queries, k, **by)  # type: ignore[arg-type]
    names = {int(id): (f"{id}.jpg", None) for id in hits.ids.ravel() if id >= 0}
    return Rows(hits.ids, hits.distances, hits.per_concept, names)


@settings(max_examples=300, deadline=None)
@given(
    shards=shards,
    queries=st.lists(codes, max_size=4),
    k=st.one_of(st.none(), st.integers(0, 15)),
    radius=st.one_of(st.none(), st.integers(0, 9)),
    concepts=st.sampled_from([None, (0,), (1,)]),
    weights=st.sampled_from([None, (1, 2), (3, 1)]),
    shuffled=st.randoms(use_true_random=False),
)
def test_merge_rows__equals_one_index_over_all_shards(
    shards: list[list[bytes]], queries: list[bytes], k: int | None, radius: int | None,
    concepts: tuple[int, ...] | None, weights: tuple[int, ...] | None, shuffled: object,
) -> None:  # fmt: skip
    count = sum(map(len, shards))
    ids = list(range(1, count + 1))
    shuffled.shuffle(ids)  # type: ignore[attr-defined]  # ids of shards lie among each other
    asked = np.frombuffer(b"".join(queries), np.uint8).reshape(-1, 1)
    by = {"radius": radius, "concepts": concepts, "weights": weights}
    parts, start = [], 0
    for some in shards:
        own = sorted(ids[start : start + len(some)])
        start += len(some)
        # Each shard answers with no more places than it has images, as a replica does.
        width = len(some) if k is None else min(k, len(some))
        parts.append(rows_of(index_of(some, own), asked, width, **by))
    everything: list[bytes] = []
    numbers: list[int] = []
    start = 0
    for some in shards:
        numbers += sorted(ids[start : start + len(some)])
        everything += some
        start += len(some)
    merged = merge_rows(parts, k)
    wanted = rows_of(index_of(everything, numbers), asked, count if k is None else k, **by)
    width = merged.ids.shape[1]
    assert (wanted.ids[:, width:] == -1).all()
    np.testing.assert_array_equal(merged.ids, wanted.ids[:, :width])
    found = merged.ids >= 0
    np.testing.assert_array_equal(merged.distances[found], wanted.distances[:, :width][found])
    np.testing.assert_array_equal(merged.per_concept[found], wanted.per_concept[:, :width][found])
    assert merged.hits() == wanted.hits()


@given(
    owners=st.lists(st.integers(0, 3), max_size=30),
    after=st.integers(-1, 30),
    limit=st.integers(1, 12),
)
def test_merge_items__pages_through_all_shards_in_id_order(
    owners: list[int], after: int, limit: int
) -> None:
    def page(ids: list[int]) -> Items:
        rest = [id for id in ids if id > after]
        some = tuple(Entry(Path(f"{id}.jpg"), id=id) for id in rest[:limit])
        return Items(some, some[-1].id if len(rest) > limit else None, len(ids))

    everything = list(range(1, len(owners) + 1))
    parts = [page([id for id, own in enumerate(owners, 1) if own == shard]) for shard in range(4)]
    assert merge_items(parts, limit, ()) == page(everything)
    assert merge_items(parts, limit, ("shard-0009.chg",)).missing == ("shard-0009.chg",)


def test_merge_counts__adds_up_and_keeps_the_order_of_one_gallery() -> None:
    parts = [(("b", 2), (None, 1)), (), (("a", 1), ("b", 3)), ((None, 4),)]
    assert merge_counts(parts) == (("a", 1), ("b", 5), (None, 5))
