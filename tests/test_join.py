"""Groups, pairs, neighbour graphs, merging and splitting, against plain loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout, Codes, hamming
from concepthash.errors import GalleryError, MismatchError, UsageError
from concepthash.runtime import join, native, selfjoin
from concepthash.runtime.index import HammingIndex, Hits
from concepthash.runtime.planes import to_words
from concepthash.runtime.resharding import merge, pieces, split
from concepthash.runtime.searcher import Searcher

SHAPES = [(8, 1), (16, 2), (24, 3), (64, 4), (72, 3), (128, 4), (512, 8)]
KERNELS = ["numpy"] if native._kernel is None else ["", "numpy"]


@pytest.fixture(params=KERNELS, ids=lambda name: name or "native")
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CHASH_KERNEL", request.param)
    return request.param


def near_codes(bits: int, count: int, seed: int) -> Codes:
    """Codes around a few centres, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2, size=(4, bits), dtype=np.uint8)
    flips = rng.random((count, bits)) < rng.uniform(0, 0.15, size=(count, 1))
    return np.packbits(centres[rng.integers(0, 4, count)] ^ flips, axis=1)


def index_of(codes: Codes, concepts: int = 1, *, seed: int = 0, gone: int = 0) -> HammingIndex:
    """An index with ids in random order, the first ``gone`` of them removed."""
    rng = np.random.default_rng(seed)
    index = HammingIndex(8 * codes.shape[1], concepts)
    half = len(codes) // 2
    ids = rng.permutation(3 * len(codes))[: len(codes)]
    index.add(codes[:half], ids[:half])
    index.add(codes[half:], ids[half:])
    index.remove(ids[:gone])
    return index


def all_codes(index: HammingIndex) -> tuple[Codes, list[int]]:
    codes = [index[id] for id in index.ids.tolist()]
    return np.array(codes, np.uint8).reshape(len(codes), index.bits // 8), index.ids.tolist()


def true_pairs(index: HammingIndex, radius: int) -> list[tuple[int, int, int]]:
    codes, ids = all_codes(index)
    distances = hamming(codes, codes)
    found = []
    for i, a in enumerate(ids):
        for j, b in enumerate(ids):
            if a < b and distances[i, j] <= radius:
                found.append((a, b, int(distances[i, j])))
    return sorted(found)


def true_groups(index: HammingIndex, radius: int) -> list[list[int]]:
    group = {one: {one} for one in index.ids.tolist()}
    for a, b, _ in true_pairs(index, radius):
        if group[a] is not group[b]:
            group[a] |= group[b]
            for member in group[b]:
                group[member] = group[a]
    unique = {min(members): sorted(members) for members in group.values()}
    return sorted(members for members in unique.values() if len(members) > 1)


def found_pairs(index: HammingIndex, radius: int, threads: int = 1) -> list[tuple[int, int, int]]:
    a, b, distances = join.pairs(index, radius, threads=threads)
    assert (a.dtype, b.dtype, distances.dtype) == (np.int64, np.int64, np.int32)
    return list(zip(a.tolist(), b.tolist(), distances.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    count=st.integers(0, 70),
    radius=st.integers(0, 12),
    seed=st.integers(0, 1000),
    gone=st.integers(0, 5),
    threads=st.integers(1, 3),
)
def test_pairs_and_groups__are_those_of_plain_loops(
    shape: tuple[int, int], count: int, radius: int, seed: int, gone: int, threads: int
) -> None:
    bits, concepts = shape
    codes = near_codes(bits, count, seed)
    index = index_of(codes, concepts, seed=seed, gone=min(gone, count))
    assert found_pairs(index, radius, threads) == true_pairs(index, radius)
    found = join.groups(index, radius, threads=threads)
    assert [group.tolist() for group in found] == true_groups(index, radius)
    assert all(group.dtype == np.int64 for group in found)


@pytest.mark.parametrize("radius", [0, 1, 3, 7, 64, 2**32, 10**12])
def test_pairs_and_groups__agree_with_and_without_the_kernel(kernel: str, radius: int) -> None:
    index = index_of(near_codes(64, 60, seed=3), 4, gone=3)
    assert found_pairs(index, radius) == true_pairs(index, radius)
    assert [group.tolist() for group in join.groups(index, radius)] == true_groups(index, radius)


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_masks__bring_every_near_pair_together(
    radius: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sorting and comparing made free in turn, so that few and many masks are both tried.
    layout = CodeLayout(24, 3)
    planes = to_words(near_codes(24, 300, seed=radius), layout)
    codes = planes[0]
    near = np.bitwise_count(codes[:, None] ^ codes[None]) <= radius
    counts = set()
    for sort, pair in [(0.0, 1.0), (1.0, 0.0), (1.0, 0.01)]:
        monkeypatch.setattr(selfjoin, "_SORT_NS", sort)
        monkeypatch.setattr(selfjoin, "_PAIR_NS", pair)
        masks = selfjoin.masks_for(planes, radius, layout.bits)
        together = np.zeros_like(near)
        for (mask,) in masks:
            together |= (codes[:, None] & mask) == (codes[None] & mask)
        assert together[near].all()
        counts.add(len(masks))
    assert len(counts) > 1


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
@pytest.mark.parametrize("bits", [64, 128])
def test_pairs__of_many_masks_come_once(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfjoin, "_SORT_NS", 0.0)
    index = index_of(near_codes(bits, 400, seed=8))
    expected = {(a, b) for a, b, _ in true_pairs(index, 4)}
    found = found_pairs(index, 4, threads=2)
    assert len(found) == len(expected)
    assert {(a, b) for a, b, _ in found} == expected


def test_groups__of_very_many_equal_codes_are_quick_and_right(kernel: str) -> None:
    codes = np.repeat(near_codes(64, 3, seed=1), 40_000, axis=0)
    index = HammingIndex(64)
    index.add(codes)
    found = join.groups(index, 0)
    distinct = len(np.unique(codes, axis=0))
    assert len(found) == distinct
    assert sum(map(len, found)) == len(codes)


def test_groups__of_constant_bits_are_complete(kernel: str) -> None:
    # Only the last byte differs: stretches of the code that never differ would not help.
    codes = np.zeros((256, 8), dtype=np.uint8)
    codes[:, 7] = np.arange(256)
    index = HammingIndex(64)
    index.add(codes)
    assert len(join.groups(index, 1)) == 1
    assert len(join.pairs(index, 1)[0]) == 256 * 8 // 2


def test_pairs__beyond_the_limit_are_refused(kernel: str) -> None:
    index = HammingIndex(16)
    index.add(np.zeros((50, 2), dtype=np.uint8))
    index.add(np.arange(100, dtype=np.uint8).reshape(50, 2))
    count = len(join.pairs(index, 16)[0])
    assert count == 100 * 99 // 2
    assert len(join.pairs(index, 16, limit=count)[0]) == count
    for limit in (count - 1, 100):
        with pytest.raises(UsageError, match="more than"):
            join.pairs(index, 16, limit=limit)


@pytest.mark.parametrize("radius", [-1, 1.5, None])
def test_radius__that_is_no_count_is_refused(radius: object) -> None:
    for verb in (join.groups, join.pairs):
        with pytest.raises(UsageError, match="radius"):
            verb(HammingIndex(8), radius)  # type: ignore[operator]


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
def test_kernel_join__refuses_sizes_that_do_not_fit() -> None:
    assert native._kernel is not None
    codes, masks = np.zeros((4, 1), np.uint64), np.zeros((2, 1), np.uint64)
    forest, stop = np.arange(4, dtype=np.uint32), np.zeros(1, np.uint8)
    for arguments in [
        (codes, masks, 0, 0, 1, forest, 0, stop),
        (codes, masks, 3, 0, 1, forest, 0, stop),
        (codes, masks, 1, 2, 1, forest, 0, stop),
        (codes, masks, 1, -1, 1, forest, 0, stop),
        (codes, masks, 1, 0, 1, forest[:3], 0, stop),
        (codes, masks, 1, 0, 1, forest, 0, stop[:0]),
    ]:
        with pytest.raises(ValueError, match="belong together"):
            native._kernel.join(*arguments)
    forest.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        native._kernel.join(codes, masks, 1, 0, 1, forest, 0, stop)


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
def test_kernel_join__ends_when_it_is_told_to() -> None:
    assert native._kernel is not None
    codes = np.arange(40_000, dtype=np.uint64)[:, None]
    nothing, stop = np.zeros((1, 1), np.uint64), np.ones(1, np.uint8)
    with pytest.raises(InterruptedError):
        native._kernel.join(codes, nothing, 1, 0, 0, None, 0, stop)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 40), k=st.integers(0, 12), seed=st.integers(0, 1000))
def test_knn_graph__is_each_codes_nearest_others(count: int, k: int, seed: int) -> None:
    index = index_of(near_codes(16, count, seed), 2, seed=seed, gone=min(3, count))
    codes, ids = all_codes(index)
    graph = join.knn_graph(index, k)
    assert graph.ids.tolist() == ids
    distances = hamming(codes, codes)
    for row, id in enumerate(ids):
        others = zip(distances[row].tolist(), ids, strict=True)
        expected = sorted((d, other) for d, other in others if other != id)[:k]
        expected += [(-1, -1)] * (k - len(expected))
        found = zip(graph.distances[row].tolist(), graph.neighbours[row].tolist(), strict=True)
        assert list(found) == expected


def test_knn_graph__refuses_ids_that_are_there_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    index = HammingIndex(16, 2)
    index.add(np.arange(16, dtype=np.uint8).reshape(8, 2))
    search = HammingIndex.search

    def damaged(*arguments: Any, **rest: Any) -> Hits:
        hits = search(*arguments, **rest)
        return replace(hits, ids=np.where(hits.ids == 3, 2, hits.ids))  # as of a changed byte

    monkeypatch.setattr(HammingIndex, "search", damaged)
    with pytest.raises(GalleryError, match=r"not each there once(?s:.*)index verify"):
        join.knn_graph(index, 3)


def test_knn_graph__of_more_codes_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(near_codes(16, 40, seed=5), 2)
    whole = join.knn_graph(index, 3)
    monkeypatch.setattr(join, "_BLOCK", 7)
    assert np.array_equal(join.knn_graph(index, 3).neighbours, whole.neighbours)


def test_split__then_merge_is_the_same_index() -> None:
    index = index_of(near_codes(24, 23, seed=2), 3, gone=4)
    for n in (1, 2, 5, 30):
        shards = split(index, n)
        assert len(shards) == n
        sizes = [len(shard) for shard in shards]
        assert max(sizes) - min(sizes) <= 1
        again = merge(shards)
        assert again.layout == index.layout
        assert again.ids.tolist() == index.ids.tolist()
        assert all(np.array_equal(again[id], index[id]) for id in index)


def test_merge__refuses_what_does_not_belong_together() -> None:
    one, other = HammingIndex(16, 2), HammingIndex(16, 1)
    with pytest.raises(MismatchError, match="do not go together"):
        merge([one, other])
    with pytest.raises(UsageError, match="no index"):
        merge([])
    one.add(np.zeros((2, 2), np.uint8), [4, 7])
    twin = HammingIndex(16, 2)
    twin.add(np.ones((2, 2), np.uint8), [7, 9])
    with pytest.raises(UsageError, match=r"already in the index: 7"):
        merge([one, twin])
    for n in (0, -1, 1.5):
        with pytest.raises(UsageError):
            split(one, n)  # type: ignore[arg-type]


def test_pieces__are_the_live_codes_in_order() -> None:
    index = index_of(near_codes(24, 20, seed=6), gone=3)
    parts = list(pieces(index, 4))
    assert all(0 < len(ids) <= 4 for _, ids in parts)
    assert np.concatenate([ids for _, ids in parts]).tolist() == index.ids.tolist()
    assert np.array_equal(np.concatenate([codes for codes, _ in parts]), all_codes(index)[0])


def test_searcher__is_what_an_index_is() -> None:
    assert isinstance(HammingIndex(16, 2), Searcher)
    assert not isinstance([], Searcher)
