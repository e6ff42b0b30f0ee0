from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import concepthash.runtime
from concepthash.codes import CodeLayout, per_concept
from concepthash.errors import MismatchError, UsageError
from concepthash.runtime import HammingIndex, Hits
from concepthash.runtime.blocked import scan
from concepthash.runtime.planes import Part, Plan, to_codes, to_words
from concepthash.runtime.segment import Segment

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@dataclass
class Oracle:
    """The index as a dict, searched by sorting (distance, id) of everything."""

    layout: CodeLayout
    codes: dict[int, np.ndarray] = field(default_factory=dict)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        concepts: list[int] | None = None,
        weights: list[int] | None = None,
        radius: int | None = None,
        allowed: set[int] | None = None,
    ) -> Hits:
        m = self.layout.concepts
        counted = range(m) if concepts is None else set(concepts)
        weight = np.array([(weights or [1] * m)[i] if i in counted else 0 for i in range(m)])
        ids = np.full((len(queries), k), -1)
        distances, parts = ids.copy(), np.full((len(queries), k, m), -1)
        for row, query in enumerate(queries):
            ranked = []
            for id, code in self.codes.items():
                each = per_concept(query[None], code[None], self.layout)[0]
                distance = int(each @ weight)
                if (radius is None or distance <= radius) and (allowed is None or id in allowed):
                    ranked.append((distance, id, each))
            for place, (distance, id, each) in enumerate(sorted(ranked, key=lambda r: r[:2])[:k]):
                ids[row, place], distances[row, place], parts[row, place] = id, distance, each
        return Hits(ids, distances, parts)


def assert_equal(found: Hits, expected: Hits) -> None:
    assert found.ids.dtype == np.int64
    assert found.distances.dtype == found.per_concept.dtype == np.int32
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.per_concept, expected.per_concept)


@st.composite
def layouts(draw: st.DrawFn) -> CodeLayout:
    bits = draw(st.sampled_from([8, 16, 24, 64, 72, 128, 512]))
    return CodeLayout(bits, draw(st.sampled_from([m for m in (1, 2, 3, 4, 6, 8) if not bits % m])))


def close_codes(rng: np.random.Generator, layout: CodeLayout, count: int) -> np.ndarray:
    """Few bits set, so that ties and duplicates are common."""
    return np.packbits(rng.random((count, layout.bits)) < rng.choice([0.02, 0.1, 0.5]), axis=1)


@st.composite
def filled(draw: st.DrawFn) -> tuple[HammingIndex, Oracle, np.random.Generator]:
    """An index after some adds and removes, and the oracle that saw the same."""
    layout = draw(layouts())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    index, oracle = HammingIndex(layout.bits, layout.concepts), Oracle(layout)
    for step in draw(st.lists(st.sampled_from(["add", "ids", "remove", "compact"]), max_size=7)):
        if step in ("add", "ids"):
            codes = close_codes(rng, layout, int(rng.integers(0, 25)))
            free = np.setdiff1d(np.arange(200), list(oracle.codes))
            ids = index.add(codes, rng.permutation(free)[: len(codes)] if step == "ids" else None)
            oracle.codes.update(zip(ids.tolist(), codes, strict=True))
        elif step == "remove" and oracle.codes:
            gone = rng.permutation(list(oracle.codes))[: rng.integers(0, 12)]
            assert index.remove(gone) == len(gone)
            for id in gone.tolist():
                del oracle.codes[id]
        elif step == "compact":
            index.compact()
    return index, oracle, rng


@quick
@given(filled())
def test_index__holds_what_was_added(state: tuple[HammingIndex, Oracle, Any]) -> None:
    index, oracle, _ = state
    assert len(index) == len(oracle.codes)
    # A dict keeps insertion order too, and a removed key that returns comes last.
    assert index.ids.tolist() == list(index) == list(oracle.codes)
    assert [id for id in range(-1, 260) if id in index] == sorted(oracle.codes)
    for id, code in oracle.codes.items():
        np.testing.assert_array_equal(index[id], code)


@quick
@given(filled(), st.data())
def test_search__equals_oracle(
    state: tuple[HammingIndex, Oracle, np.random.Generator], data: st.DataObject
) -> None:
    index, oracle, rng = state
    m = index.concepts
    queries = close_codes(rng, index.layout, int(rng.integers(0, 12)))
    k = data.draw(st.integers(0, 60))
    subset = st.lists(st.integers(0, m - 1), min_size=1, max_size=2 * m)
    concepts = data.draw(st.none() | subset)
    values = st.lists(st.sampled_from([0, 1, 1, 2, 5, 255]), min_size=m, max_size=m)
    weights = data.draw(st.none() | values)
    radius = data.draw(st.none() | st.integers(0, 2 * index.bits))
    kind = data.draw(st.sampled_from(["none", "mask", "ids"]))
    where, allowed = None, None
    if kind == "mask":
        where = rng.random(len(index)) < rng.choice([0.05, 0.5, 1])
        allowed = set(index.ids[where].tolist())
    elif kind == "ids":
        where = rng.integers(0, 300, int(rng.choice([0, 3, 200])))
        allowed = set(where.tolist())
    found = index.search(queries, k, concepts=concepts, weights=weights, radius=radius, where=where)
    assert_equal(found, oracle.search(queries, k, concepts, weights, radius, allowed))


@quick
@given(
    layouts(),
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.integers(1, 3000),
    st.booleans(),
    st.integers(0, 3),
)
def test_scan__does_not_depend_on_block_or_parts(
    layout: CodeLayout, seed: int, k: int, block: int, ordered: bool, cuts: int
) -> None:
    rng = np.random.default_rng(seed)
    n = 1500
    codes, queries = close_codes(rng, layout, n), close_codes(rng, layout, 11)
    ids = np.sort(rng.permutation(10 * n)[:n]) if ordered else rng.permutation(10 * n)[:n]
    dead = rng.random(n) < rng.choice([0, 0.3])
    planes, plan = to_words(codes, layout), Plan.of(layout, [1] * layout.concepts)
    edges = [0, *sorted(rng.integers(0, n, cuts).tolist()), n]
    parts = [Part(planes[:, a:b], ids[a:b], dead[a:b]) for a, b in pairwise(edges)]
    found = scan(parts, to_words(queries, layout), plan, k=k, ordered=ordered, block=block)
    distance = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64)
    live = np.flatnonzero(~dead)
    for row in range(len(queries)):
        rank = live[np.lexsort((ids[live], distance[row, live]))][:k]
        np.testing.assert_array_equal(found.rows[row], rank)
        np.testing.assert_array_equal(found.ids[row], ids[rank])
        np.testing.assert_array_equal(found.distances[row], distance[row, rank])


@pytest.mark.parametrize("arrange", ["nearest last", "all equal", "all equal, ids descending"])
def test_scan__hard_orders(arrange: str) -> None:
    """Every row a candidate: limits are tightened by samples and ties are cut by id."""
    rng = np.random.default_rng(1)
    codes, ids = rng.integers(0, 256, (20_000, 8), dtype=np.uint8), np.arange(20_000)
    query = rng.integers(0, 256, (3, 8), dtype=np.uint8)
    if arrange == "nearest last":
        near = np.bitwise_count(codes ^ query[0]).sum(axis=1, dtype=np.int64)
        codes = codes[np.argsort(-near, kind="stable")]
    else:
        codes[:] = codes[0]
    if arrange.endswith("descending"):
        ids = ids[::-1].copy()
    index = HammingIndex()
    index.add(codes, ids)
    distance = np.bitwise_count(query[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64)
    for k in (1, 10, 3000):
        found = index.search(query, k)
        for row in range(3):
            expected = ids[np.lexsort((ids, distance[row]))][:k]
            np.testing.assert_array_equal(found.ids[row], expected)


@given(layouts(), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_words__round_trip(layout: CodeLayout, seed: int) -> None:
    codes = close_codes(np.random.default_rng(seed), layout, 9)
    planes = to_words(codes, layout)
    assert planes.shape == (-(-layout.bits // 64), 9)
    np.testing.assert_array_equal(to_codes(planes, layout), codes)


def test_plan__equal_weights_share_popcounts() -> None:
    (term,) = Plan.of(CodeLayout(64, 4), [1, 1, 1, 1]).terms
    assert (term.weight, term.mask.tolist()) == (1, [2**64 - 1])
    plan = Plan.of(CodeLayout(64, 4), [2, 0, 1, 2])
    assert [t.weight for t in plan.terms] == [1, 2]
    assert plan.longest == 5 * 16
    assert plan.dtype == np.uint8
    assert Plan.of(CodeLayout(256, 4), [1, 1, 1, 1]).dtype == np.uint16


def test_segment__one_by_one_keeps_few_runs() -> None:
    segment = Segment(np.empty((1, 0), np.uint64), np.empty(0, np.int64))
    ids = np.random.default_rng(0).permutation(600)
    for id in ids:
        one = np.array([id])
        assert segment.find(one)[0] == -1
        segment.append(one[None].astype(np.uint64), one)
    np.testing.assert_array_equal(segment.find(ids), np.arange(600))
    assert len(segment._table()) < 12


def random_index(n: int = 50, bits: int = 64, concepts: int = 4, seed: int = 0) -> HammingIndex:
    rng = np.random.default_rng(seed)
    index = HammingIndex(bits, concepts)
    index.add(rng.integers(0, 256, (n, bits // 8), dtype=np.uint8), rng.permutation(4 * n)[:n])
    return index


def test_add__running_numbers_follow_the_largest_ever() -> None:
    index = HammingIndex(8, 1)
    code = np.zeros((1, 1), np.uint8)
    assert index.add(np.repeat(code, 3, axis=0)).tolist() == [0, 1, 2]
    index.add(code, [40])
    assert index.remove(40) == 1
    assert index.compact() == 1
    assert index.add(code).tolist() == [41]
    assert index.add(code, [40]).tolist() == [40]
    assert index.add(code[0]).tolist() == [42]


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 1],
        [900, 901, 7],
        [900, 901],
        [900, 901, -1],
        [0.0, 1.0, 2.0],
        [900, 901, float("nan")],
        [True, False, True],
        ["a", "b", "c"],
        [900, 901, 2**63],
        [900, 901, 2**70],
        [[900], [901], [902]],
        [[900], [901, 902]],
    ],
)
def test_add__refused_ids_add_nothing(ids: Any) -> None:
    index = HammingIndex(64, 4)
    index.add(np.zeros((10, 8), np.uint8))
    with pytest.raises(UsageError) as error:
        index.add(np.ones((3, 8), np.uint8), ids)
    assert error.value.hint
    assert index.ids.tolist() == list(range(10))
    assert index.add(np.ones((1, 8), np.uint8)).tolist() == [10]


def test_add__running_numbers_do_not_overflow() -> None:
    index = HammingIndex(8, 1)
    index.add(np.zeros((1, 1), np.uint8), [2**63 - 1])
    with pytest.raises(UsageError, match="overflow"):
        index.add(np.zeros((1, 1), np.uint8))
    assert 2**63 - 1 in index


def test_add__keeps_its_own_copy() -> None:
    codes, ids = np.zeros((2, 8), np.uint8), np.array([3, 5])
    index = HammingIndex()
    index.add(codes, ids)
    codes[:], ids[:] = 255, 0
    assert index.ids.tolist() == [3, 5]
    assert not index[3].any()


@pytest.mark.parametrize(
    "codes", [np.zeros((2, 9), np.uint8), np.zeros((2, 8), np.int64), np.zeros((1, 2, 8), np.uint8)]
)
def test_codes__wrong_width_is_a_mismatch(codes: np.ndarray) -> None:
    index = random_index()
    with pytest.raises(MismatchError):
        index.add(codes)
    with pytest.raises(MismatchError):
        index.search(codes)


def test_remove__unknown_ids_are_listed_and_nothing_goes() -> None:
    index = HammingIndex()
    index.add(np.zeros((5, 8), np.uint8))
    with pytest.raises(UsageError, match="77, 78"):
        index.remove([1, 77, 78])
    with pytest.raises(UsageError, match="and 10 more"):
        index.remove(np.arange(100, 120))
    assert len(index) == 5
    assert index.remove([1, 1, 2]) == 2
    with pytest.raises(UsageError):
        index.remove([1])
    del index[3]
    assert index.ids.tolist() == [0, 4]
    assert index.remove([]) == 0


def test_lookup__unknown_id() -> None:
    index = random_index()
    with pytest.raises(UsageError, match="not in the index"):
        index[10_000]
    for strange in ("a", 1.0, None, -1, 2**80):
        assert strange not in index


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": -1},
        {"k": 2.0},
        {"radius": -1},
        {"radius": float("nan")},
        {"concepts": [4]},
        {"concepts": [-1]},
        {"concepts": []},
        {"concepts": 1},
        {"concepts": "01"},
        {"concepts": [0.0]},
        {"weights": [1, 1, 1]},
        {"weights": 2},
        {"weights": [1.0, 1.0, 1.0, 1.0]},
        {"weights": [1, 1, 1, float("nan")]},
        {"weights": [1, 1, 1, -1]},
        {"weights": [1, 1, 1, 256]},
        {"weights": [True, True, True, False]},
        {"weights": [[1], [1, 2]]},
        {"where": [0.5]},
        {"where": [-1]},
        {"where": "all"},
        {"where": [[1], [1, 2]]},
    ],
)
def test_search__wrong_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        random_index().search(np.zeros((1, 8), np.uint8), **wrong)
    assert error.value.where == next(iter(wrong))
    assert error.value.hint


def test_search__filter_of_another_length() -> None:
    with pytest.raises(MismatchError):
        random_index().search(np.zeros((1, 8), np.uint8), where=np.ones(49, bool))


def test_search__weights_of_left_out_concepts_do_not_count() -> None:
    index, query = random_index(), np.zeros((1, 8), np.uint8)
    plain = index.search(query, 50, concepts=[0, 2])
    assert_equal(index.search(query, 50, concepts=[2, 0], weights=[1, 200, 1, 9]), plain)
    np.testing.assert_array_equal(plain.distances, plain.per_concept[..., [0, 2]].sum(axis=2))


def test_search__several_threads_at_once() -> None:
    index, alone = random_index(3000), random_index(3000)
    query, where = np.zeros((9, 8), np.uint8), index.ids[::2]
    expected = alone.search(query, 7, where=where)
    with ThreadPoolExecutor(4) as pool:
        for hits in pool.map(lambda _: index.search(query, 7, where=where), range(12)):
            assert_equal(hits, expected)


def test_search__empty_index_and_no_queries() -> None:
    hits = HammingIndex().search(np.zeros((2, 8), np.uint8), 3)
    assert (hits.ids == -1).all()
    assert hits.per_concept.shape == (2, 3, 4)
    assert random_index().search(np.zeros((0, 8), np.uint8), 3).ids.shape == (0, 3)


def test_repr__tells_size_bits_and_memory(tmp_path: Path) -> None:
    index = random_index()
    assert repr(index) == "HammingIndex(50 codes, 64 bits, 4 concepts, 0.0 MB in memory)"
    index.save(tmp_path / "codes.chi")
    assert "MB on file" in repr(HammingIndex.open(tmp_path / "codes.chi"))
    assert "MB copied" in repr(HammingIndex.open(tmp_path / "codes.chi", mmap=False))


def test_runtime__bare_name_is_refused() -> None:
    spec = importlib.util.spec_from_file_location("runtime", concepthash.runtime.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match="not the bare name"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_runtime__unknown_name() -> None:
    assert "HammingIndex" in dir(concepthash.runtime)
    with pytest.raises(AttributeError, match="Nothing"):
        concepthash.runtime.Nothing  # noqa: B018
