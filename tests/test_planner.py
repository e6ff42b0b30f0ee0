"""Searches with tables: the answer of sorting all pairs, whatever was chosen and by whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout, per_concept
from concepthash.runtime import native, planner
from concepthash.runtime.planes import Part, Plan, to_words
from concepthash.runtime.planner import find, find_within
from concepthash.runtime.scan import scan, within
from concepthash.runtime.tables import Tables

PATHS = [path for path in native.paths() if path != "numpy"]
pytestmark = pytest.mark.skipif(not PATHS, reason="the native kernel was not built")
quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# One table a concept, several a concept, concepts joined; words straddled; 1 to 32 tables.
LAYOUTS = [
    (8, 1), (16, 2), (24, 2), (24, 3), (40, 5), (48, 4), (64, 4), (64, 4), (64, 4), (64, 1),
    (64, 2), (64, 8), (64, 64), (72, 8), (96, 8), (128, 8), (136, 8), (200, 5), (512, 32),
]  # fmt: skip


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.VARIABLE, request.param)
    return str(request.param)


@dataclass
class Case:
    """Codes in parts, tables of the first of them, what is asked, and the answers."""

    parts: list[Part]
    tables: Tables
    queries: np.ndarray
    plan: Plan
    ordered: bool
    radius: int | None
    answers: list[list[tuple[int, int, int]]]  # (distance, id, row) of a query, sorted


def clustered(rng: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """Codes near the centres, 0 to 10 % of their bits flipped."""
    rates = rng.uniform(0, 0.1, (count, 1))
    flips = rng.random((count, centres.shape[1] * 8)) < rates
    return centres[rng.integers(0, len(centres), count)] ^ np.packbits(flips, axis=1)


def parts_of(
    draw: st.DrawFn, rng: np.random.Generator, planes: np.ndarray, ids: np.ndarray
) -> list[Part]:
    n = len(ids)
    if draw(st.booleans()):  # as a gallery's segments: code after code
        planes = np.ascontiguousarray(planes.T).T
    dead = rng.random(n) < 0.3 if draw(st.booleans()) else None
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    slices = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]
    return [Part(planes[:, s], ids[s], None if dead is None else dead[s]) for s in slices]


def first_parts(parts: list[Part], rows: int) -> list[Part]:
    taken = []
    for planes, ids, dead in parts:
        taken.append(Part(planes[:, :rows], ids[:rows], None if dead is None else dead[:rows]))
        rows -= len(taken[-1].ids)
    return taken


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bits, concepts = draw(st.sampled_from(LAYOUTS))
    layout = CodeLayout(bits, concepts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([1, 2, 15, 16, 17, 100, 600, 600, 2500]))
    if bits <= 40:  # narrow tables with large buckets, which are ordered further
        n = draw(st.sampled_from([n, 20_000]))
    centres = np.packbits(rng.random((draw(st.integers(1, 6)), bits)) < 0.5, axis=1)
    q = draw(st.sampled_from([1, 2, 9]))
    codes, queries = clustered(rng, centres, n), clustered(rng, centres, q)
    if draw(st.booleans()):
        codes = rng.integers(0, 256, codes.shape, dtype=np.uint8)
    weights = {
        "plain": np.ones(concepts, dtype=int),
        "mask": rng.integers(0, 2, concepts),
        "weights": rng.integers(0, 4, concepts),
        "heavy": rng.integers(1, 256, concepts),
    }[draw(st.sampled_from(["plain", "plain", "mask", "weights", "heavy"]))]
    ordered = draw(st.booleans())
    ids = np.arange(n) * 3 + 5 if ordered else rng.permutation(7 * n)[:n]
    parts = parts_of(draw, rng, to_words(codes, layout), ids)
    steps = sorted(draw(st.lists(st.integers(1, n), min_size=1, max_size=3)))
    tables = Tables(layout, copy_codes=draw(st.booleans()))
    for rows in steps:
        tables = tables.extend(first_parts(parts, rows))
    assert tables.rows == steps[-1]
    radius = draw(st.none() | st.integers(0, 30))
    plan = Plan.of(layout, weights.tolist())
    dead = [np.zeros(len(p.ids), bool) if p.dead is None else p.dead for p in parts]
    live = np.flatnonzero(~np.concatenate(dead))
    answers = []
    for query in queries:
        each = per_concept(np.repeat(query[None], n, 0), codes, layout)
        far = (each * weights).sum(axis=1)
        kept = live[far[live] <= (far.max() if radius is None else radius)]
        order = kept[np.lexsort((ids[kept], far[kept]))]
        answers.append(
            [*zip(far[order].tolist(), ids[order].tolist(), order.tolist(), strict=True)]
        )
    return Case(parts, tables, to_words(queries, layout), plan, ordered, radius, answers)


def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tables cost nothing: they are searched to the end."""
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    monkeypatch.setattr(planner, "_TRIAL", 1e30)
    monkeypatch.setattr(planner, "_BUDGET", 1e30)


def check(case: Case, k: int, threads: int | None = 1) -> None:
    found = find(
        case.parts, [case.tables], case.queries, case.plan,
        k=k, ordered=case.ordered, radius=case.radius, threads=threads,
    )  # fmt: skip
    for q, expected in enumerate(case.answers):
        n = min(k, len(expected))
        hits = zip(found.distances[q], found.ids[q], found.rows[q], strict=True)
        assert [*hits] == expected[:n] + [(-1, -1, -1)] * (k - n)


@quick
@given(cases(), st.sampled_from([1, 2, 10, 100]))
def test_find__tables_alone_equal_sorting_all_pairs(
    path: str, monkeypatch: pytest.MonkeyPatch, case: Case, k: int
) -> None:
    free(monkeypatch)
    check(case, k)


@quick
@given(cases(), st.sampled_from([1, 10, 3000]), st.floats(1, 1e5), st.floats(0.1, 20))
def test_find__equals_sorting_all_pairs_wherever_it_falls_back(
    path: str, monkeypatch: pytest.MonkeyPatch, case: Case, k: int, trial: float, more: float
) -> None:
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    monkeypatch.setattr(planner, "_TRIAL", trial)
    monkeypatch.setattr(planner, "_BUDGET", trial * more)
    check(case, k)


@quick
@given(cases(), st.integers(0, 40))
def test_find_within__is_all_there_is(
    monkeypatch: pytest.MonkeyPatch, case: Case, radius: int
) -> None:
    expected = within(case.parts, case.queries, case.plan, radius=radius, ordered=case.ordered)
    free(monkeypatch)
    found = find_within(
        case.parts, [case.tables], case.queries, case.plan, radius=radius, ordered=case.ordered
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def big(n: int, seed: int = 0) -> tuple[list[Part], np.ndarray, Plan, CodeLayout]:
    rng = np.random.default_rng(seed)
    layout = CodeLayout(64, 4)
    centres = rng.integers(0, 256, (20, 8), dtype=np.uint8)
    codes, queries = clustered(rng, centres, n), clustered(rng, centres, 40)
    parts = [Part(to_words(codes, layout), range(n))]
    return parts, to_words(queries, layout), Plan.of(layout, [1] * 4), layout


@pytest.mark.parametrize("copy_codes", [False, True])
def test_find__does_not_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch, copy_codes: bool
) -> None:
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    parts, queries, plan, layout = big(200_000)
    tables = Tables.build(parts, layout, copy_codes=copy_codes)
    expected = scan(parts, queries, plan, k=10, ordered=True)
    for threads in (1, 2, 3, 7):
        found = find(parts, [tables], queries, plan, k=10, ordered=True, threads=threads)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


class Spy:
    """The kernel, but queries that give up are left to the planner, and counted."""

    def __init__(self) -> None:
        kernel = native.kernel()
        assert kernel is not None
        self.scan = kernel.scan
        self._search = kernel.tables_search
        self.seen: list[tuple[int, int]] = []  # (queries, of which gave up) of each call

    def tables_search(self, *arguments: object) -> object:
        answer = self._search(*arguments[:10], False, *arguments[11:])
        self.seen.append((len(arguments[2]), answer[1].count(1)))  # type: ignore[arg-type]
        return answer


def searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that gets (queries, of which gave up) of each search of tables.

    Every path is taken to cost what AVX2 does, so that the choice is the same on any processor.
    """
    monkeypatch.setattr(planner, "_PATHS", {})
    spy = Spy()
    monkeypatch.setattr(planner, "kernel", lambda: spy)
    return spy.seen


def test_find__near_codes_come_from_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, queries, plan, layout = big(500_000)
    seen = searches(monkeypatch)
    tables = Tables.build(parts, layout, copy_codes=True)
    find(parts, [tables], queries, plan, k=10, ordered=True, threads=1)
    assert sum(count for count, _ in seen) == 40
    assert sum(gave_up for _, gave_up in seen) < 4


def test_find__far_queries_are_scanned_after_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, queries, plan, layout = big(500_000)
    seen = searches(monkeypatch)
    tables = Tables.build(parts, layout)
    found = find(parts, [tables], ~queries, plan, k=10, ordered=True, threads=1)
    assert seen == [(40, 40)]
    expected = scan(parts, ~queries, plan, k=10, ordered=True)
    np.testing.assert_array_equal(found.ids, expected.ids)


def test_find__after_misses_small_searches_are_scanned_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, queries, plan, layout = big(1_000_000)
    seen = searches(monkeypatch)
    tables = Tables.build(parts, layout, copy_codes=True)

    def ask(query: np.ndarray, times: int) -> int:
        before = len(seen)
        for _ in range(times):
            find(parts, [tables], query, plan, k=10, ordered=True, threads=1)
        return len(seen) - before

    assert ask(queries[:, :1], 9) == 9
    assert ask(~queries[:, :1], 100) < 12
    assert ask(queries[:, :1], 100) > 60  # and comes back


def test_find__equal_codes_cost_no_more_than_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bucket holds all: known before it is read, so nothing is read."""
    layout, n = CodeLayout(64, 4), 500_000
    parts = [Part(np.zeros((1, n), dtype=np.uint64), range(n))]
    seen = searches(monkeypatch)
    tables = Tables.build(parts, layout)
    plan = Plan.of(layout, [1] * 4)
    found = find(parts, [tables], np.zeros((1, 2), np.uint64), plan, k=3, ordered=True, threads=1)
    assert found.ids.tolist() == [[0, 1, 2]] * 2
    assert seen == [(2, 2)]


@pytest.mark.parametrize("k", [0, 5])
def test_find__without_tables_or_kernel_is_the_scan(
    monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    parts, queries, plan, layout = big(1000)
    tables = Tables.build(parts, layout)
    expected = scan(parts, queries, plan, k=k, ordered=True)
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    without = find(parts, [], queries, plan, k=k, ordered=True)
    monkeypatch.setenv(native.VARIABLE, "numpy")
    numpy = find(parts, [tables], queries, plan, k=k, ordered=True)
    for found in (without, numpy):
        np.testing.assert_array_equal(found.rows, expected.rows)
