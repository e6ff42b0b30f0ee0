"""The scan: every path of the kernel, and numpy, gives the answer of sorting all pairs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout, per_concept
from concepthash.errors import BackendError, UsageError
from concepthash.runtime import HammingIndex, native
from concepthash.runtime.planes import Part, Plan, ids_at, to_words
from concepthash.runtime.scan import scan, within

PATHS = native.paths()
quick = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(native.VARIABLE, request.param)
    return str(request.param)


@dataclass
class Case:
    """Codes in two parts, what is asked of them, and all distances."""

    parts: list[Part]
    queries: np.ndarray
    plan: Plan
    ordered: bool
    distances: np.ndarray  # (q, n)

    def answers(self, radius: int | None) -> list[list[tuple[int, int, int]]]:
        """(distance, id, row) of every live code, sorted, for each query."""
        ids = np.concatenate([ids_at(p.ids, np.arange(len(p.ids))) for p in self.parts])
        dead = [np.zeros(len(p.ids), bool) if p.dead is None else p.dead for p in self.parts]
        live = np.flatnonzero(~np.concatenate(dead))
        return [
            sorted(
                (int(row[i]), int(ids[i]), int(i))
                for i in live
                if radius is None or row[i] <= radius
            )
            for row in self.distances
        ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bits = draw(st.sampled_from([8, 16, 24, 64, 64, 64, 72, 128, 192, 256, 512]))
    concepts = draw(st.sampled_from([m for m in (1, 2, 3, 4, 8, 64) if not bits % m]))
    layout = CodeLayout(bits, concepts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([0, 1, 3, 15, 16, 17, 63, 64, 65, 255, 257, 600, 2047, 2500]))
    q = draw(st.sampled_from([1, 2, 7, 8, 9, 20]))
    density = rng.choice([0.01, 0.1, 0.5])
    codes = np.packbits(rng.random((n, bits)) < density, axis=1)
    queries = np.packbits(rng.random((q, bits)) < density, axis=1)
    kind = draw(st.sampled_from(["plain", "plain", "mask", "weights", "heavy", "none"]))
    weights = {
        "plain": [1] * concepts,
        "mask": rng.integers(0, 2, concepts).tolist(),
        "weights": rng.integers(0, 4, concepts).tolist(),
        "heavy": rng.integers(0, 256, concepts).tolist(),
        "none": [0] * concepts,
    }[kind]
    ordered = draw(st.booleans())
    ids = np.arange(n) * 3 + 5 if ordered else rng.permutation(7 * n + 1)[:n]
    dead = rng.random(n) < 0.3 if draw(st.booleans()) else None
    planes = to_words(codes, layout)
    if draw(st.booleans()):  # as a gallery's segment: code after code
        planes = np.ascontiguousarray(planes.T).T
    cut = n // 3
    parts = [
        Part(planes[:, s], ids[s], None if dead is None else dead[s])
        for s in (slice(0, cut), slice(cut, n))
    ]
    if ordered and draw(st.booleans()):
        parts = [
            Part(p.planes, range(i * n, i * n + len(p.ids)), p.dead) for i, p in enumerate(parts)
        ]
    each = np.array([per_concept(np.repeat(query[None], n, 0), codes, layout) for query in queries])
    distances = (each.reshape(q, n, concepts) * np.array(weights)).sum(axis=2)
    return Case(parts, to_words(queries, layout), Plan.of(layout, weights), ordered, distances)


@quick
@given(cases(), st.sampled_from([1, 2, 10, 100, 5000]), st.none() | st.integers(0, 40))
def test_scan__equals_sorting_all_pairs(path: str, case: Case, k: int, radius: int | None) -> None:
    found = scan(
        case.parts, case.queries, case.plan, k=k, ordered=case.ordered, radius=radius, threads=1
    )
    for q, expected in enumerate(case.answers(radius)):
        n = min(k, len(expected))
        assert [*zip(found.distances[q, :n], found.ids[q, :n], found.rows[q, :n])] == expected[:n]  # noqa: B905
        assert (found.rows[q, n:] == -1).all()


@quick
@given(cases(), st.integers(0, 60))
def test_within__is_all_that_scan_would_find(path: str, case: Case, radius: int) -> None:
    found = within(case.parts, case.queries, case.plan, radius=radius, ordered=case.ordered)
    for q, expected in enumerate(case.answers(radius)):
        here = slice(found.offsets[q], found.offsets[q + 1])
        assert [*zip(found.distances[here], found.ids[here], found.rows[here])] == expected  # noqa: B905
    assert found.offsets[-1] == len(found.ids)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("queries", [1, 40, 600])
def test_scan__does_not_depend_on_threads(ordered: bool, queries: int) -> None:
    rng = np.random.default_rng(0)
    layout = CodeLayout(16, 2)  # short codes: ties everywhere, also across the threads' shares
    n = 1_500_000
    planes = to_words(rng.integers(0, 256, (n, 2), dtype=np.uint8), layout)
    ids = np.arange(n) if ordered else rng.permutation(n)
    parts = [Part(planes[:, : n // 5], ids[: n // 5]), Part(planes[:, n // 5 :], ids[n // 5 :])]
    asked = to_words(rng.integers(0, 256, (queries, 2), dtype=np.uint8), layout)
    plan = Plan.of(layout, [1, 1])
    one, *others = (
        scan(parts, asked, plan, k=50, ordered=ordered, threads=threads) for threads in (1, 2, 3, 7)
    )
    assert (one.distances[:, -1] >= 0).all()
    for other in others:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_kernel__is_built_here() -> None:
    """Where there is a compiler; elsewhere numpy serves and this says so."""
    if native.paths() == ("numpy",):
        pytest.skip("no native kernel: was there no C compiler at install time?")
    assert native.paths()[-2:] == ("portable", "numpy")


def test_path__unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.VARIABLE, "mmx")
    with pytest.raises(BackendError, match="numpy"):
        HammingIndex().search(np.zeros(8, np.uint8))


def test_import__without_the_kernel_numpy_serves() -> None:
    code = (
        "import sys; sys.modules['concepthash.runtime._kernel'] = None\n"
        "import numpy as np\n"
        "from concepthash.runtime import HammingIndex, native\n"
        "index = HammingIndex(); index.add(np.eye(8, dtype=np.uint8))\n"
        "print(native.path(), index.search(np.zeros(8, np.uint8), 3).ids.tolist())"
    )
    environment = {k: v for k, v in os.environ.items() if k != native.VARIABLE}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.stdout.strip() == "numpy [[0, 1, 2]]", result.stderr


@pytest.mark.skipif(PATHS == ("numpy",), reason="the native kernel was not built")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"path": "mmx"}, ValueError),
        ({"planes": np.zeros((2, 5), np.uint64)}, ValueError),
        ({"planes": np.zeros((1, 5), np.uint32)}, ValueError),
        ({"planes": b"12345678"}, ValueError),
        ({"ids": np.zeros(4, np.int64)}, ValueError),
        ({"dead": np.zeros(9, bool)}, ValueError),
        ({"queries": np.zeros((1, 9), np.uint64)}, ValueError),
        ({"queries": np.zeros(1, np.uint64)}, ValueError),
        ({"masks": np.zeros((2, 1), np.uint64)}, ValueError),
        ({"weights": None}, TypeError),
    ],
)
def test_kernel__refuses_arrays_of_another_shape(
    change: dict[str, object], error: type[Exception]
) -> None:
    kernel = native.kernel()
    assert kernel is not None
    good = {
        "path": "portable",
        "planes": np.zeros((1, 5), np.uint64),
        "ids": np.arange(5),
        "dead": np.zeros(5, bool),
        "queries": np.zeros((1, 1), np.uint64),
        "masks": np.full((1, 1), 255, np.uint64),
        "weights": np.ones(1, np.uint32),
    }

    def call(a: dict[str, object]) -> object:
        parts = [(a["planes"], a["ids"], 0, a["dead"])]
        return kernel.scan(a["path"], parts, a["queries"], a["masks"], a["weights"], 3, 8, False)

    counts, _, _ = call(good)
    assert np.frombuffer(counts, np.int64).tolist() == [3]
    with pytest.raises(error):
        call({**good, **change})


@pytest.mark.parametrize("threads", [0, -1, 1.5])
def test_search__threads_must_be_a_number_of_them(threads: object) -> None:
    with pytest.raises(UsageError, match="thread"):
        HammingIndex().search(np.zeros(8, np.uint8), threads=threads)  # type: ignore[arg-type]
