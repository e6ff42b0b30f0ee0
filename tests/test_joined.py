"""One index over several: every answer is that of one plain index with all their codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, MismatchError, UsageError
from concepthash.runtime import HammingIndex, Hits, RangeHits, native, planner
from concepthash.runtime.stack import in_common
from concepthash.runtime.tables import gaps

KERNEL = any(path != "numpy" for path in native.paths())
needs_kernel = pytest.mark.skipif(not KERNEL, reason="the native kernel was not built")
quick = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=native.paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tables cost nothing, and runs of them were long: searched, and by several threads."""
    monkeypatch.setattr(planner, "_APART", 0)
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    monkeypatch.setattr(planner, "_TRIAL", 1e30)
    monkeypatch.setattr(planner, "_BUDGET", 1e30)


@dataclass
class Case:
    """Indexes, one plain index of their live codes, and what to ask."""

    indexes: list[HammingIndex]
    plain: HammingIndex
    queries: np.ndarray
    rng: np.random.Generator
    arguments: dict[str, Any]

    def joined(self) -> HammingIndex:
        return HammingIndex.joined(self.indexes)


def assert_same(found: Hits | RangeHits, expected: Hits | RangeHits) -> None:
    for name in vars(expected):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def close_codes(rng: np.random.Generator, layout: CodeLayout, count: int) -> np.ndarray:
    """Few bits set, so that ties and duplicates are common."""
    return np.packbits(rng.random((count, layout.bits)) < rng.choice([0.02, 0.1, 0.5]), axis=1)


@st.composite
def cases(draw: st.DrawFn, *, tables: bool = KERNEL) -> Case:
    layout = CodeLayout(*draw(st.sampled_from([(8, 1), (24, 3), (64, 4), (64, 4), (72, 3)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 5))
    n = draw(st.sampled_from([0, 1, 30, 300, 1500]))
    codes, ids = close_codes(rng, layout, n), np.arange(n) * draw(st.sampled_from([1, 1, 3]))
    owner = {
        "stretches": np.sort(rng.integers(0, count, n)),
        "in turns": np.arange(n) % count,
        "anywhere": rng.integers(0, count, n),
    }[draw(st.sampled_from(["stretches", "in turns", "anywhere"]))]
    if draw(st.booleans()):
        ids = rng.permutation(ids)
    plain = HammingIndex(layout.bits, layout.concepts)
    indexes = []
    for number in range(count):
        index = HammingIndex(layout.bits, layout.concepts)
        codes_here, ids_here = codes[owner == number], ids[owner == number]
        first = draw(st.integers(0, len(ids_here)))
        index.add(codes_here[:first], ids_here[:first])
        accelerated = tables and native.kernel() is not None and draw(st.booleans())
        if accelerated:
            index.accelerate(copy_codes=draw(st.booleans()))
        index.add(codes_here[first:], ids_here[first:])
        if accelerated and draw(st.booleans()):
            index.accelerate(copy_codes=index.tables is not None and index.tables.copy_codes)
        if draw(st.booleans()):
            index.remove(ids_here[rng.random(len(ids_here)) < 0.3])
        indexes.append(index)
        live = np.isin(ids_here, index.ids)
        plain.add(codes_here[live], ids_here[live])
    weights = draw(st.none() | st.just(rng.integers(0, 4, layout.concepts).tolist()))
    arguments = {"weights": weights, "threads": draw(st.sampled_from([None, 1, 2, 3]))}
    queries = close_codes(rng, layout, draw(st.sampled_from([1, 2, 9, 30])))
    return Case(indexes, plain, queries, rng, arguments)


@quick
@given(case=cases(), k=st.sampled_from([0, 1, 10, 2000]), radius=st.none() | st.integers(0, 30))
def test_joined__equals_one_plain_index(
    path: str, free: None, case: Case, k: int, radius: int | None
) -> None:
    joined = case.joined()
    assert len(joined) == len(case.plain)
    assert joined.ids.tolist() == case.plain.ids.tolist()
    found = joined.search(case.queries, k, radius=radius, **case.arguments)
    assert_same(found, case.plain.search(case.queries, k, radius=radius, **case.arguments))


@quick
@given(case=cases(), k=st.sampled_from([1, 10]), trial=st.floats(1, 1e5), more=st.floats(0.1, 20))
def test_joined__equals_one_plain_index_wherever_tables_give_up(
    monkeypatch: pytest.MonkeyPatch, free: None, case: Case, k: int, trial: float, more: float
) -> None:
    monkeypatch.setattr(planner, "_TRIAL", trial)
    monkeypatch.setattr(planner, "_BUDGET", trial * more)
    found = case.joined().search(case.queries, k, **case.arguments)
    assert_same(found, case.plain.search(case.queries, k, **case.arguments))


@quick
@given(case=cases(), radius=st.integers(0, 40))
def test_joined__within_is_all_there_is(path: str, free: None, case: Case, radius: int) -> None:
    found = case.joined().within(case.queries, radius, **case.arguments)
    assert_same(found, case.plain.within(case.queries, radius, **case.arguments))


@quick
@given(case=cases(), share=st.sampled_from([0, 0.05, 0.6, 1]), mask=st.booleans())
def test_joined__filter(free: None, case: Case, share: float, mask: bool) -> None:
    joined = case.joined()
    where = case.rng.random(len(joined)) < share
    chosen = where if mask else case.rng.permutation(np.append(joined.ids[where], 10**7))
    found = joined.search(case.queries, 7, where=chosen, **case.arguments)
    assert_same(found, case.plain.search(case.queries, 7, where=chosen, **case.arguments))


@quick
@given(case=cases(), kept=st.booleans())
def test_joined__changes_as_a_plain_index(
    tmp_path: Path, free: None, case: Case, kept: bool
) -> None:
    joined, plain = case.joined(), case.plain
    before = [index.ids.tolist() for index in case.indexes]

    def same(index: HammingIndex) -> None:
        assert index.ids.tolist() == plain.ids.tolist()
        assert_same(index.search(case.queries, 9), plain.search(case.queries, 9))

    gone = plain.ids[case.rng.random(len(plain)) < 0.3]
    assert joined.remove(gone) == plain.remove(gone) == len(gone)
    same(joined)
    more = close_codes(case.rng, joined.layout, 20)
    free_ids = 10**6 + np.arange(20)
    joined.add(more, free_ids)
    plain.add(more, free_ids)
    same(joined)
    joined.save(tmp_path / "all.chx")
    same(HammingIndex.open(tmp_path / "all.chx"))
    if kept:
        joined.compact()
        same(joined)
    if KERNEL:
        joined.accelerate(copy_codes=kept)
        assert joined.tables is not None
        assert gaps(joined.tables.runs, sum(len(part.ids) for part in joined.parts())) == []
        same(joined)
    assert [index.ids.tolist() for index in case.indexes] == before


@quick
@given(case=cases())
def test_joined__of_joined_ones(free: None, case: Case) -> None:
    half = len(case.indexes) // 2
    sides = [side for side in (case.indexes[:half], case.indexes[half:]) if side]
    joined = HammingIndex.joined([HammingIndex.joined(side) for side in sides])
    assert_same(joined.search(case.queries, 9), case.plain.search(case.queries, 9))


@quick
@given(case=cases())
def test_joined__does_not_see_later_changes_of_its_parts(free: None, case: Case) -> None:
    joined = case.joined()
    for index in case.indexes:
        index.add(close_codes(case.rng, index.layout, 3), 2 * 10**6 + np.arange(3))
        index.remove(index.ids[::2])
        index.compact()
    assert_same(joined.search(case.queries, 9), case.plain.search(case.queries, 9))


@needs_kernel
@pytest.mark.parametrize("copied", [(False, False), (True, True), (False, True)])
def test_joined__tables_of_each_serve_its_part(
    monkeypatch: pytest.MonkeyPatch, copied: tuple[bool, bool]
) -> None:
    """Copying nothing: the same codes, and the same blocks of tables at other rows."""
    indexes = []
    for number, copy_codes in enumerate(copied):
        index = HammingIndex()
        index.add(np.random.default_rng(number).integers(0, 256, (500, 8), dtype=np.uint8))
        index = HammingIndex.joined([_numbered(index, 1000 * number)])
        index.accelerate(copy_codes=copy_codes)
        index.add(np.full((5, 8), number, np.uint8))
        indexes.append(index)
    joined = HammingIndex.joined(indexes)
    for part, own in zip(joined.parts(), [p for i in indexes for p in i.parts()], strict=True):
        assert np.shares_memory(part.planes, own.planes)
    runs = [run for tables in joined._tables for run in tables.runs]
    assert [(run.first, run.rows) for run in runs] == [(0, 500), (505, 500)]
    for run, index in zip(runs, indexes, strict=True):
        assert index.tables is not None
        assert run.block is index.tables.runs[0].block
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    looked_up: list[int] = []
    look_up = planner._Question.look_up

    def counted(self: Any, tables: Any) -> Any:
        looked_up.append(tables.rows)
        return look_up(self, tables)

    monkeypatch.setattr(planner._Question, "look_up", counted)
    joined.search(np.zeros((1, 8), np.uint8))
    assert sum(looked_up) == 1000


def _numbered(index: HammingIndex, first: int) -> HammingIndex:
    fresh = HammingIndex(index.bits, index.concepts)
    fresh.add(np.stack([index[id] for id in index]), first + index.ids)
    return fresh


def test_joined__equal_codes_go_by_id(path: str) -> None:
    indexes = [HammingIndex() for _ in range(3)]
    for number in (2, 0, 1):
        indexes[number].add(np.zeros((50, 8), np.uint8), np.arange(50) * 3 + number)
    joined = HammingIndex.joined(indexes[::-1])
    assert joined.search(np.zeros((1, 8), np.uint8), 70).ids[0].tolist() == list(range(70))


def test_joined__refuses_what_does_not_go_together() -> None:
    with pytest.raises(UsageError, match="no index"):
        HammingIndex.joined([])
    with pytest.raises(MismatchError, match="64 bits of 8 concepts"):
        HammingIndex.joined([HammingIndex(64, 4), HammingIndex(64, 8)])


@quick
@given(case=cases(tables=False), data=st.data())
def test_joined__refuses_an_id_in_two(case: Case, data: st.DataObject) -> None:
    filled = [index for index in case.indexes if len(index)]
    if len(case.indexes) < 2 or not filled:
        return
    index = data.draw(st.sampled_from(filled))
    twin = data.draw(st.sampled_from([other for other in case.indexes if other is not index]))
    id = data.draw(st.sampled_from(index.ids.tolist()))
    twin.add(np.zeros((1, case.plain.layout.nbytes), np.uint8), [id])
    with pytest.raises(UsageError, match=rf"two of the indexes: .*\b{id}\b"):
        case.joined()
    index.remove(id)  # it may be given again elsewhere
    assert id in case.joined()


def test_in_common__compares_only_ids_that_lie_among_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shards of a split gallery: stretches, and behind them ids of ranges of their own."""
    groups = []
    for shard in range(4):
        index = HammingIndex(8, 1)
        old, new = 1000 * shard, 10**9 * (shard + 1)
        ids = np.concatenate([np.arange(old, old + 1000), np.arange(new, new + 5)])
        index.add(np.zeros((1005, 1), np.uint8), ids)
        groups.append(index._segments)
    asked: list[int] = []
    for (segment,) in groups:
        find = segment.find
        monkeypatch.setattr(
            segment, "find", lambda ids, find=find: (asked.append(len(ids)), find(ids))[1]
        )
    assert len(in_common(groups)) == 0
    assert sum(asked) < 40


def test_joined__files_are_verified(tmp_path: Path) -> None:
    files = [tmp_path / "a.chx", tmp_path / "b.chx"]
    for number, file in enumerate(files):
        index = HammingIndex()
        index.add(np.zeros((30, 8), np.uint8), 100 * number + np.arange(30))
        index.save(file)
    joined = HammingIndex.joined([HammingIndex.open(file) for file in files])
    joined.verify()
    assert "MB on file" in repr(joined)
    with files[1].open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    with pytest.raises(GalleryError, match="damaged") as error:
        joined.verify()
    assert error.value.where == str(files[1])
