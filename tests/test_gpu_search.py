"""The search on a device beside ``HammingIndex``.

``CHASH_TEST_DEVICE=cuda python -m pytest tests/test_gpu_search.py`` runs it on a GPU;
``CHASH_TEST_KERNEL`` is ``torch`` or ``triton`` to force one.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from concepthash.codes import CodeLayout  # noqa: E402
from concepthash.errors import BackendError, ConceptHashError, MismatchError, UsageError  # noqa: E402
from concepthash.gpu import TorchSearcher, searcher  # noqa: E402
from concepthash.gpu.device import memory_told  # noqa: E402
from concepthash.gpu.selection import popcount  # noqa: E402
from concepthash.runtime import HammingIndex, Hits, Searcher  # noqa: E402
from concepthash.runtime.planes import to_words  # noqa: E402
from concepthash.runtime.segment import Segment  # noqa: E402

DEVICE = os.environ.get("CHASH_TEST_DEVICE", "cpu")
KERNEL: Any = os.environ.get("CHASH_TEST_KERNEL", "auto")
interpreted = os.environ.get("TRITON_INTERPRET") == "1"

quick = settings(
    max_examples=15 if interpreted else 80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and blocks so small that small sets have many, and groups of a few queries."""
    monkeypatch.setattr(searcher, "_FIRST", 40)
    monkeypatch.setattr(searcher, "_STATE", 4000)
    kind, name = searcher._tile(KERNEL, torch.device(DEVICE))
    monkeypatch.setattr(kind, "pairs", staticmethod(lambda device: 900))
    if name == "triton":
        monkeypatch.setattr("concepthash.gpu.kernel._BLOCK", 64)


def on_device(index: HammingIndex, memory: int | None = None) -> TorchSearcher:
    return TorchSearcher.of(index, device=DEVICE, memory=memory, kernel=KERNEL)


def room_for(index: HammingIndex, codes: int) -> int:
    return codes * 8 * -(-index.bits // 64)


def assert_equal(found: Hits, expected: Hits) -> None:
    for name in ("ids", "distances", "per_concept"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def close_codes(rng: np.random.Generator, layout: CodeLayout, count: int) -> np.ndarray:
    """Few bits set, so that ties and duplicates are common."""
    return np.packbits(rng.random((count, layout.bits)) < rng.choice([0.02, 0.1, 0.5]), axis=1)


@st.composite
def indexes(draw: st.DrawFn) -> tuple[HammingIndex, np.random.Generator]:
    """An index of several segments, some rows removed, ids in order or not."""
    bits = draw(st.sampled_from([8, 16, 24, 64, 72, 128, 512]))
    concepts = draw(st.sampled_from([m for m in (1, 2, 3, 4, 6, 8) if not bits % m]))
    layout, rng = CodeLayout(bits, concepts), np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([0, 1, 30, 150]))
    ids = rng.permutation(4 * count)[:count]
    if draw(st.booleans()):
        ids.sort()
    planes = to_words(close_codes(rng, layout, count), layout)
    edges = [0, *sorted(rng.integers(0, count + 1, draw(st.integers(0, 2))).tolist()), count]
    segments = [Segment(planes[:, a:b].copy(), ids[a:b].copy()) for a, b in pairwise(edges)]
    if draw(st.booleans()):
        new = close_codes(rng, layout, 9)
        numbers = range(1000, 1009)
        segments.append(Segment(to_words(new, layout).copy(), numbers, sealed=True))
    index = HammingIndex.of(layout, segments, 2000)
    if draw(st.booleans()):
        index.remove(index.ids[rng.random(len(index)) < 0.3])
    return index, rng


@quick
@given(indexes(), st.data())
def test_search__equals_the_cpu(
    state: tuple[HammingIndex, np.random.Generator], data: st.DataObject
) -> None:
    index, rng = state
    m, n = index.concepts, len(index)
    queries = close_codes(rng, index.layout, int(rng.integers(0, 9)))
    subset = st.lists(st.integers(0, m - 1), min_size=1, max_size=2 * m)
    values = st.lists(st.sampled_from([0, 1, 1, 2, 5, 255]), min_size=m, max_size=m)
    kind = data.draw(st.sampled_from(["none", "mask", "ids"]))
    where = None
    if kind == "mask":
        where = rng.random(n) < rng.choice([0.02, 0.5, 1])
    elif kind == "ids":
        where = rng.integers(0, 700, int(rng.choice([0, 3, 200])))
    asked: dict[str, Any] = {
        "k": data.draw(st.sampled_from([0, 1, 3, 10, 60, 400])),
        "concepts": data.draw(st.none() | subset),
        "weights": data.draw(st.none() | values),
        "radius": data.draw(st.none() | st.integers(0, 2 * index.bits)),
        "where": where,
    }
    held = data.draw(st.sampled_from([None, 2, 15, 100]))
    ours = on_device(index, None if held is None else room_for(index, held))
    assert len(ours) == n
    assert_equal(ours.search(queries, **asked), index.search(queries, **asked))


@pytest.mark.parametrize("held", [None, 700])
@pytest.mark.parametrize(
    "arrange", ["nearest last", "all equal", "all equal, ids descending", "two distances"]
)
def test_search__hard_orders(arrange: str, held: int | None) -> None:
    """Every row a candidate, or all of them ties that are cut by id."""
    rng = np.random.default_rng(1)
    n = 2500
    codes, ids = rng.integers(0, 256, (n, 8), dtype=np.uint8), np.arange(n)
    query = rng.integers(0, 256, (2, 8), dtype=np.uint8)
    if arrange == "nearest last":
        near = np.bitwise_count(codes ^ query[0]).sum(axis=1, dtype=np.int64)
        codes = codes[np.argsort(-near, kind="stable")]
    elif arrange == "two distances":
        codes[:] = np.where(rng.random((n, 1)) < 0.01, query[0], codes[0])
    else:
        codes[:] = codes[0]
    if arrange.endswith("descending"):
        ids = ids[::-1].copy()
    index = HammingIndex()
    index.add(codes, ids)
    ours = on_device(index, None if held is None else room_for(index, held))
    for k in (1, 10, 1200):
        assert_equal(ours.search(query, k), index.search(query, k))


def random_index(n: int = 300, bits: int = 64, concepts: int = 4) -> HammingIndex:
    rng = np.random.default_rng(0)
    index = HammingIndex(bits, concepts)
    index.add(rng.integers(0, 256, (n, bits // 8), dtype=np.uint8), rng.permutation(4 * n)[:n])
    return index


def test_search__large_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    index = random_index(5000)
    queries = np.zeros((3, 8), np.uint8)
    where = index.ids[::2]
    assert_equal(
        on_device(index).search(queries, 20, where=where), index.search(queries, 20, where=where)
    )


@pytest.mark.parametrize("bits", [24, 64, 128])
def test_search__takes_tensors_on_the_device(bits: int) -> None:
    index = random_index(bits=bits, concepts=1)
    ours = on_device(index)
    queries = np.random.default_rng(3).integers(0, 256, (5, bits // 8), dtype=np.uint8)
    expected = index.search(queries, 7)
    # One byte off, so that no word of it is aligned.
    flat = torch.cat((torch.zeros(1, dtype=torch.uint8), torch.tensor(queries).ravel()))
    tensor = flat.to(DEVICE)[1:].view(queries.shape)
    assert_equal(ours.search(tensor, 7), expected)
    assert_equal(ours.search(tensor.T.contiguous().T, 7), expected)
    assert_equal(ours.search(tensor[0], 7), index.search(queries[0], 7))
    np.testing.assert_array_equal(tensor.cpu().numpy(), queries)


def test_search__tensor_of_another_kind_is_a_mismatch() -> None:
    ours = on_device(random_index())
    for wrong in (
        torch.zeros((2, 8)),
        torch.zeros((2, 9), dtype=torch.uint8),
        torch.zeros((1, 2, 8), dtype=torch.uint8),
    ):
        with pytest.raises(MismatchError, match="queries must be uint8"):
            ours.search(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"queries": np.zeros((1, 9), np.uint8)},
        {"k": -1},
        {"radius": 1.5},
        {"concepts": [4]},
        {"concepts": []},
        {"weights": [1, 1, 1]},
        {"weights": [1, 1, 1, 256]},
        {"where": [0.5]},
        {"where": np.ones(299, bool)},
    ],
)
def test_search__wrong_arguments_are_told_as_on_the_cpu(wrong: dict[str, Any]) -> None:
    index = random_index()
    asked = {"queries": np.zeros((1, 8), np.uint8), **wrong}
    with pytest.raises(ConceptHashError) as theirs:
        index.search(**asked)
    with pytest.raises(type(theirs.value)) as ours:
        on_device(index).search(**asked)
    assert str(ours.value) == str(theirs.value)


def test_searcher__is_one_of_the_codes_that_were_there(tmp_path: Path) -> None:
    index = random_index()
    query = np.zeros((1, 8), np.uint8)
    expected = index.search(query, 400)
    index.save(tmp_path / "codes.chx")
    for memory in (None, room_for(index, 50)):
        ours = on_device(HammingIndex.open(tmp_path / "codes.chx"), memory)
        assert isinstance(ours, Searcher)
        assert (ours.bits, ours.concepts, len(ours)) == (64, 4, 300)
        assert_equal(ours.search(query, 400), expected)
    for memory in (None, room_for(index, 50)):
        ours = on_device(index, memory)
        gone = index.ids[:5]
        code = index[int(gone[0])]
        index.remove(gone)
        index.compact()
        assert_equal(ours.search(query, 400), expected)
        index.add(np.repeat(code[None], 5, axis=0), gone)
        expected = index.search(query, 400)


def test_searcher__of_codes() -> None:
    index = random_index()
    codes = np.stack([index[id] for id in index])
    ours = TorchSearcher.of_codes(codes, index.ids, device=DEVICE, kernel=KERNEL)
    where = np.arange(300) % 3 == 0
    assert_equal(ours.search(codes[:4], where=where), index.search(codes[:4], where=where))
    with pytest.raises(UsageError, match="given twice"):
        TorchSearcher.of_codes(codes[:2], [1, 1], device=DEVICE)


def test_searcher__holds_what_the_memory_allows() -> None:
    index = random_index(bits=72, concepts=1)  # two words
    ours = on_device(index, room_for(index, 300))
    assert ours.streamed == 0
    assert repr(ours) == (
        f"TorchSearcher(300 codes, 72 bits, 1 concepts, 0.0 MB on {ours.device}, "
        f"{'triton' if 'triton' in ours.backend else 'torch'})"
    )
    ours = on_device(index, room_for(index, 299))
    assert ours.streamed == 299
    assert "codes streamed" in repr(ours)
    with pytest.raises(UsageError, match="too few") as error:
        on_device(index, room_for(index, 2) - 1)
    assert error.value.where == "memory"


def test_searcher__a_buffer_leaves_room_for_codes_that_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("concepthash.gpu.store._CHUNK_BYTES", 80)  # ten codes
    index = random_index()
    ours = on_device(index, room_for(index, 100))
    assert ours.streamed == 220
    query = np.zeros((1, 8), np.uint8)
    assert_equal(ours.search(query, 30), index.search(query, 30))


def test_device__unknown_names() -> None:
    for name in ("banana", "auto", "meta", "cuda:x"):
        with pytest.raises(UsageError, match=f"'{name}'"):
            TorchSearcher.of(random_index(), device=name)
    with pytest.raises(UsageError, match="no kernel"):
        TorchSearcher.of(random_index(), device="cpu", kernel="c")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device__explicit_cuda_does_not_degrade() -> None:
    with pytest.raises(BackendError, match="CUDA was asked for") as error:
        TorchSearcher.of(random_index())
    assert error.value.exit_code == 6
    assert error.value.hint == "chash doctor, or --device cpu"


@pytest.mark.skipif(interpreted, reason="the interpreter computes on the CPU")
def test_kernel__triton_wants_cuda() -> None:
    with pytest.raises(BackendError, match="CUDA only"):
        TorchSearcher.of(random_index(), device="cpu", kernel="triton")


def test_memory__exhausted_is_told() -> None:
    with pytest.raises(BackendError, match="out of memory: no room") as error:  # noqa: SIM117
        with memory_told(torch.device("cpu")):
            raise torch.OutOfMemoryError("no room\nand more")
    assert "memory=" in (error.value.hint or "")


def test_popcount__every_bit_and_random_words() -> None:
    rng = np.random.default_rng(0)
    words = np.concatenate(
        [
            np.uint64(1) << np.arange(64, dtype=np.uint64),
            rng.integers(0, 2**64, 1000, dtype=np.uint64),
            np.array([0, 2**64 - 1], dtype=np.uint64),
        ]
    )
    counts = popcount(torch.from_numpy(words.view(np.int64).copy()))
    np.testing.assert_array_equal(counts.numpy(), np.bitwise_count(words))
