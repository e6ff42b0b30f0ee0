"""Compaction, and how codes lie in segments: readers, ids and answers never notice."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gallery import MODEL, codes, entries, held, numbered

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, UsageError
from concepthash.runtime import codefiles
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex

SMALL = 8  # bytes a segment: four codes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gallery of 20 images in five segments, of which 1, 5 to 8, 10 and 20 are removed."""
    with Gallery.create(tmp_path / "a.chg", **MODEL, segment_bytes=SMALL) as gallery:
        gallery.add(entries(tmp_path, 0, 20), codes(0, 20))
        gallery.remove([1, 5, 6, 7, 8, 10, 20])
    return tmp_path / "a.chg"


LEFT = numbered(1, 2, 3, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18)


def files(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "segments").iterdir())


def test_compact__drops_the_codes_of_removed_images(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True, segment_bytes=SMALL) as gallery:
        assert gallery.compact() == 7
        assert held(gallery) == LEFT
        assert gallery.stats().removed_rows == 0
        assert gallery.stats().code_bytes == 4 * 64 + 13 * 2
        gallery.verify()
        assert gallery.compact() == 0
        assert list(gallery.add(entries(tmp_path, 20, 2), codes(20, 2))) == [21, 22]
        assert held(gallery) == LEFT | numbered(20, 21)
    # Only ids 2 3 4 9, of the first new segment, have a gap.
    assert files(path) == ["000006.codes", "000006.ids", *(f"{n:06d}.codes" for n in range(7, 11))]
    with Gallery.open(path) as gallery:
        assert held(gallery) == LEFT | numbered(20, 21)
        gallery.verify()


def test_compact__of_everything_removed(path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        gallery.remove(range(21))
        assert gallery.compact() == 20
        assert held(gallery) == {}
        gallery.verify()
    assert files(path) == []


def test_compact__readers_keep_what_they_see(path: Path) -> None:
    with Gallery.open(path) as reader, Gallery.open(path, write=True) as writer:
        index = reader.index()
        writer.compact()
        assert held(reader) == LEFT
        assert index.search(codes(3, 1), k=1).ids.tolist() == [[4]]
        assert files(path) == ["000006.codes", "000006.ids"]
        reader.refresh()
        assert held(reader) == LEFT
        reader.verify()


def test_reader__opening_while_a_writer_compacts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments go between a reader's first look at the records and its look at the files."""
    pin, raced = Gallery._pin, []

    def late(gallery: Gallery) -> bool:
        if not raced:
            raced.append(True)
            with Gallery.open(path, write=True) as writer:
                writer.compact()
        return pin(gallery)

    monkeypatch.setattr(Gallery, "_pin", late)
    with Gallery.open(path) as gallery:
        assert held(gallery) == LEFT
        assert gallery.stats().removed_rows == 0


def test_compact__needs_a_writer(path: Path) -> None:
    with Gallery.open(path) as gallery, pytest.raises(UsageError, match="opened to read"):
        gallery.compact()


def test_compact__on_a_full_disk_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(path)
    written = 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Gallery.open(path, write=True, segment_bytes=SMALL) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(codefiles.os, "fsync", full)
            with pytest.raises(GalleryError, match="disk is full"):
                gallery.compact()
        assert files(path) == before
        assert held(gallery) == LEFT
        assert gallery.compact() == 7
        gallery.verify()


def test_compact__raises_the_format_only_where_needed(path: Path, tmp_path: Path) -> None:
    def version() -> int:
        database = sqlite3.connect(path / "gallery.sqlite")
        (number,) = database.execute("PRAGMA user_version").fetchone()
        database.close()
        return number

    assert version() == 1
    with Gallery.open(path, write=True) as gallery:
        gallery.compact()
    assert version() == 2
    with Gallery.open(path, write=True) as gallery:
        gallery.reset(**MODEL)
        gallery.add(entries(tmp_path, 0, 3), codes(0, 3))
    with Gallery.open(path, write=True) as gallery:
        assert held(gallery) == {21 + n: (f"{n}.jpg", codes(n, 1).tobytes()) for n in range(3)}
        gallery.verify()
    assert files(path) == ["000007.codes"]


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "compact", "reopen"]), st.integers(0, 6)),
    max_size=14,
)


@given(STEPS, st.integers(1, 24))
@settings(max_examples=30, deadline=None)
def test_compact__agrees_with_a_dict(steps: list[tuple[str, int]], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gallery = Gallery.create(folder / "a.chg", **MODEL, segment_bytes=segment_bytes)
        reader = Gallery.open(folder / "a.chg")
        expected: dict[int, tuple[str, bytes]] = {}
        added, seen = 0, {}
        for step, number in steps:
            if step == "add":
                gallery.add(entries(folder, added, number), codes(added, number))
                expected |= numbered(*range(added, added + number))
                added += number
            elif step == "remove":
                gone = [id for id in expected if id % 5 == number]
                assert gallery.remove(gone) == len(gone)
                expected = {id: value for id, value in expected.items() if id not in gone}
            elif step == "compact":
                dead = gallery.stats().removed_rows
                assert gallery.compact() == dead
            else:
                gallery.close()
                gallery = Gallery.open(folder / "a.chg", write=True, segment_bytes=segment_bytes)
                assert held(reader) == seen
                reader.refresh()
                seen = dict(expected)
            assert held(gallery) == expected
            assert held(reader) == seen
            assert answers(gallery.index()) == answers(copied(gallery))
        gallery.verify()
        gallery.close()
        reader.close()


def copied(gallery: Gallery) -> HammingIndex:
    """The naive index: everything is added to it."""
    index = HammingIndex(gallery.layout.bits, gallery.layout.concepts)
    ids, packed = gallery.codes()
    index.add(packed, ids=ids)
    return index


def answers(index: HammingIndex) -> list[list[list[int]]]:
    hits = index.search(codes(3, 4), k=25)
    assert sorted(index.ids.tolist()) == sorted(i for i in hits.ids[0].tolist() if i >= 0)
    return [hits.ids.tolist(), hits.distances.tolist()]


@pytest.mark.parametrize("bits", [64, 72, 128])
def test_index__of_wide_codes_is_not_copied(tmp_path: Path, bits: int) -> None:
    packed = np.random.default_rng(0).integers(0, 256, (300, bits // 8), np.uint8)
    new = [Entry(tmp_path / f"{n}.jpg", sha256=f"{n:064x}") for n in range(300)]
    model = {**MODEL, "layout": CodeLayout(bits, 4)}
    with Gallery.create(tmp_path / "a.chg", **model, segment_bytes=bits * 16) as gallery:
        gallery.add(new[:150], packed[:150])
        gallery.add(new[150:], packed[150:])
        gallery.remove(range(5, 300, 7))
    for _ in range(2):
        with Gallery.open(tmp_path / "a.chg") as gallery:
            index = gallery.index()
            assert len(index) == 300 - len(range(5, 300, 7))
            (first, *_), (naive) = index.parts(), copied(gallery)
            assert isinstance(root(first.planes), np.memmap) == (bits % 64 == 0)
            for k in (1, 10, 400):
                hits, expected = index.search(packed[:9], k=k), naive.search(packed[:9], k=k)
                np.testing.assert_array_equal(hits.ids, expected.ids)
                np.testing.assert_array_equal(hits.per_concept, expected.per_concept)
        with Gallery.open(tmp_path / "a.chg", write=True, segment_bytes=bits * 16) as gallery:
            gallery.compact()


def root(array: np.ndarray) -> object:
    while isinstance(array.base, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array


def test_batches__join_up_to_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codefiles, "BATCH_ROWS", 5)
    with Gallery.create(tmp_path / "a.chg", **MODEL, segment_bytes=24) as gallery:
        for n in range(9):
            gallery.add(entries(tmp_path, 2 * n, 2), codes(2 * n, 2))
        gallery.add(entries(tmp_path, 18, 12), codes(18, 12))
        rows = list(gallery._rows("SELECT first_id, segment, first_row, rows FROM batches"))
        assert rows == [
            (1, 1, 0, 5), (6, 1, 5, 5), (11, 1, 10, 2),
            (13, 2, 0, 5), (18, 2, 5, 5), (23, 2, 10, 2),
            (25, 3, 0, 5), (30, 3, 5, 1),
        ]  # fmt: skip
        assert held(gallery) == numbered(*range(30))
        gallery.verify()
