"""The file of an index: what was saved comes back, and damage is never a wrong answer."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_index import Oracle, assert_equal, close_codes, filled, quick, random_index

from concepthash.errors import ConceptHashError, GalleryError
from concepthash.runtime import HammingIndex

HEADER = 128


def consecutive_index(n: int = 50, bits: int = 64, concepts: int = 4) -> HammingIndex:
    """Its file stores no ids."""
    index = HammingIndex(bits, concepts)
    index.add(random_codes(n, bits), np.arange(7, 7 + n))
    return index


def random_codes(n: int, bits: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, bits // 8), dtype=np.uint8)


INDEXES = {"ids": random_index, "no ids": consecutive_index}


@quick
@given(state=filled(), data=st.data(), mmap=st.booleans())
def test_save__round_trip_then_changes(
    state: tuple[HammingIndex, Oracle, np.random.Generator],
    data: st.DataObject,
    mmap: bool,
    tmp_path: Path,
) -> None:
    index, oracle, rng = state
    path = tmp_path / "codes.chi"
    index.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.chi"]
    opened = HammingIndex.open(path, mmap=mmap)
    opened.verify()
    assert (opened.bits, opened.concepts) == (index.bits, index.concepts)
    np.testing.assert_array_equal(opened.ids, index.ids)
    queries = close_codes(rng, index.layout, 4)
    assert_equal(opened.search(queries, 8), oracle.search(queries, 8))

    before = path.read_bytes()
    if oracle.codes:
        gone = data.draw(st.sampled_from(sorted(oracle.codes)))
        opened.remove(gone)
        del oracle.codes[gone]
    more = close_codes(rng, index.layout, 5)
    ids = opened.add(more)
    np.testing.assert_array_equal(ids, index.add(more))
    oracle.codes.update(zip(ids.tolist(), more, strict=True))
    assert path.read_bytes() == before
    assert_equal(opened.search(queries, 8), oracle.search(queries, 8))
    opened.compact()
    assert_equal(opened.search(queries, 8), oracle.search(queries, 8))
    opened.save(path)
    again = HammingIndex.open(str(path))
    again.verify()
    np.testing.assert_array_equal(again.ids, list(oracle.codes))
    assert_equal(again.search(queries, 8), oracle.search(queries, 8))


@pytest.mark.parametrize("later", [0, 2000])
def test_open__ties_go_by_id_across_segments(tmp_path: Path, later: int) -> None:
    codes = np.zeros((400, 8), np.uint8)
    index = HammingIndex()
    index.add(codes, np.arange(1000, 1400))
    index.save(tmp_path / "codes.chi")
    opened = HammingIndex.open(tmp_path / "codes.chi")
    opened.add(codes, np.arange(later, later + 400))
    for k in (1, 5, 500):
        found = opened.search(codes[:1], k)
        assert found.ids[0].tolist() == sorted(opened.ids.tolist())[:k]


def test_save__planes_and_ids_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "codes.chi"
    random_index(n=13, bits=128).save(path)
    opened = HammingIndex.open(path)
    for array in (*opened._segments[0].planes, opened._segments[0].ids):
        assert array.ctypes.data % 64 == 0
    assert len(path.read_bytes()) == HEADER + 3 * 128


def version_1(codes: np.ndarray, ids: np.ndarray) -> bytes:
    """The file that every version writes for 64-bit codes of 4 concepts."""
    padding = bytes(-8 * len(ids) % 64)
    payload = codes.tobytes() + padding + ids.astype("<i8").tobytes() + padding
    ascending = bool((np.diff(ids) > 0).all())
    fields = 1, 64, 4, 64, ascending, len(ids), ids.max(), hashlib.sha256(payload).digest()
    header = struct.pack("<8sIIIIIqq32s", b"\x89CHIDX\r\n", *fields).ljust(HEADER - 4, b"\0")
    return header + struct.pack("<I", zlib.crc32(header)) + payload


@quick
@given(n=st.integers(2, 40), seed=st.integers(0, 2**32))
def test_save__ids_that_are_not_consecutive_are_stored_as_ever(
    tmp_path: Path, n: int, seed: int
) -> None:
    ids = np.random.default_rng(seed).permutation(3 * n)[:n]
    ids = np.sort(ids) if seed % 2 else ids
    if (np.diff(ids) == 1).all():
        return
    index = HammingIndex()
    index.add(random_codes(n), ids)
    index.save(tmp_path / "codes.chx")
    assert (tmp_path / "codes.chx").read_bytes() == version_1(random_codes(n), ids)


@pytest.mark.parametrize("mmap", [True, False])
def test_open__consecutive_ids_of_an_earlier_version(tmp_path: Path, mmap: bool) -> None:
    path, ids = tmp_path / "codes.chx", np.arange(7, 57)
    path.write_bytes(version_1(random_codes(50), ids))
    opened = HammingIndex.open(path, mmap=mmap)
    opened.verify()
    assert opened.ids.tolist() == ids.tolist()
    assert_equal(opened.search(random_codes(3), 9), consecutive_index().search(random_codes(3), 9))


@quick
@given(
    first=st.sampled_from([0, 1, 10**12, 2**63 - 1 - 70]),
    n=st.integers(0, 60),
    bits=st.sampled_from([8, 64, 72]),
    mmap=st.booleans(),
)
def test_save__consecutive_ids_take_no_room(
    tmp_path: Path, first: int, n: int, bits: int, mmap: bool
) -> None:
    path = tmp_path / "codes.chx"
    index, codes = HammingIndex(bits, 1), random_codes(n + 10, bits)
    ids = np.arange(first, first + n + 10)
    index.add(codes, ids)
    index.remove(np.delete(ids, np.s_[5 : 5 + n]))
    index.save(path)
    plane = -(-8 * n // 64) * 64
    assert path.stat().st_size == HEADER + -(-bits // 64) * plane
    opened = HammingIndex.open(path, mmap=mmap)
    opened.verify()
    assert not n or opened._segments[0].ids == range(first + 5, first + 5 + n)
    assert opened.ids.tolist() == index.ids.tolist()
    assert first + 4 not in opened
    assert_equal(opened.search(codes[:3], n + 1), index.search(codes[:3], n + 1))
    if n:
        assert_equal(
            opened.search(codes[:3], 5, where=ids[3:9]), index.search(codes[:3], 5, where=ids[3:9])
        )
        opened.remove(ids[5])
        index.remove(ids[5])
    assert opened.add(codes[:1], [3]).tolist() == index.add(codes[:1], [3]).tolist()
    opened.save(path)
    assert_equal(HammingIndex.open(path).search(codes[:3], 9), index.search(codes[:3], 9))


def test_save__failure_keeps_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "codes.chi"
    random_index().save(path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(GalleryError, match="No space left") as error:
        random_index(seed=1).save(path)
    assert error.value.where == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(GalleryError):
        random_index().save(tmp_path / "no such folder" / "codes.chi")


@pytest.mark.parametrize("name", [".", "absent.chi"])
def test_open__missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(GalleryError) as error:
        HammingIndex.open(tmp_path / name)
    assert error.value.hint


@pytest.mark.parametrize("kind", INDEXES)
@pytest.mark.parametrize("mmap", [True, False])
def test_open__truncated_at_every_kind_of_offset(tmp_path: Path, mmap: bool, kind: str) -> None:
    path = tmp_path / "codes.chi"
    INDEXES[kind]().save(path)
    whole = path.read_bytes()
    for size in [*range(140), *range(140, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(GalleryError, match="truncated") as error:
            HammingIndex.open(path, mmap=mmap)
        assert str(path) in str(error.value)
        assert error.value.hint
    path.write_bytes(whole + b"\0")
    with pytest.raises(GalleryError, match="overwritten"):
        HammingIndex.open(path, mmap=mmap)


@pytest.mark.parametrize("kind", INDEXES)
def test_open__flipped_header_bits_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "codes.chi"
    INDEXES[kind]().save(path)
    whole = path.read_bytes()
    for position in range(0, 8 * HEADER, 3):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(GalleryError):
            HammingIndex.open(path)


@pytest.mark.parametrize(
    ("kind", "offset", "form", "value", "message"),
    [
        ("ids", 8, "I", 0, "version 0"),
        ("ids", 8, "I", 3, "version 3, this program reads 1 to 2"),
        ("ids", 8, "I", 2, "impossible header"),
        ("ids", 12, "I", 65, "impossible layout"),
        ("ids", 16, "I", 7, "impossible layout"),
        ("ids", 20, "I", 32, "impossible header"),
        ("ids", 24, "I", 2, "impossible header"),  # flags
        ("ids", 28, "q", -1, "impossible header"),  # count
        ("ids", 28, "q", 2**62, "truncated or overwritten"),
        ("ids", 36, "q", -2, "impossible header"),  # largest
        ("ids", 76, "q", 1, "impossible header"),  # first
        ("no ids", 8, "I", 1, "impossible header"),
        ("no ids", 24, "I", 1, "impossible header"),
        ("no ids", 24, "I", 2, "impossible header"),
        ("no ids", 24, "I", 7, "impossible header"),
        ("no ids", 28, "q", 0, "impossible header"),
        ("no ids", 28, "q", 51, "impossible header"),
        ("no ids", 28, "q", 9, "truncated or overwritten"),
        ("no ids", 36, "q", 55, "impossible header"),
        ("no ids", 76, "q", -1, "impossible header"),
        ("no ids", 76, "q", 8, "impossible header"),
        ("no ids", 76, "q", 2**63 - 50, "impossible header"),
    ],
)
def test_open__header_that_lies_with_a_valid_checksum(
    tmp_path: Path, kind: str, offset: int, form: str, value: int, message: str
) -> None:
    path = tmp_path / "codes.chi"
    INDEXES[kind]().save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", data, offset, value)
    struct.pack_into("<I", data, HEADER - 4, zlib.crc32(data[: HEADER - 4]))
    path.write_bytes(data)
    with pytest.raises(GalleryError, match=message):
        HammingIndex.open(path)


def test_open__foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    np.save(path, np.zeros((100, 8), np.uint8))
    with pytest.raises(GalleryError, match="not a Hamming index"):
        HammingIndex.open(path)


@settings(quick, max_examples=100)
@given(st.data())
def test_open__damaged_payload_is_never_wrong_after_verify(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "codes.chi"
    index = data.draw(st.sampled_from([*INDEXES.values()]))(n=20, bits=72, concepts=3)
    index.save(path)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    harmless = bytes(damaged) == path.read_bytes()
    path.write_bytes(damaged)
    query = np.zeros((2, 9), np.uint8)
    try:
        opened = HammingIndex.open(path, mmap=data.draw(st.booleans()))
        # Before verify the answer may be wrong, but it is an answer or one of our errors.
        opened.search(query, 25, where=[1, 2, 3])
        opened.search(query, 25)
        opened.verify()
    except ConceptHashError:
        assert not harmless
    else:
        assert harmless
        assert_equal(opened.search(query, 25), index.search(query, 25))
