"""Readers of damaged files: a clear error or the right answer, never a crash, never a wrong one.

CHASH_TEST_FUZZ sets how many files are damaged in all, 300 by default.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_gallery import MODEL, entries
from tiny_bundle import tiny_bundle

from concepthash.bundle import Bundle
from concepthash.codes import CodeLayout
from concepthash.codesets import load_codes, save_codes
from concepthash.errors import ConceptHashError, GalleryDamaged
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.repair import repair

KINDS = 8
EACH = int(os.environ.get("CHASH_TEST_FUZZ", "300")) // KINDS
LAYOUT = CodeLayout(64, 4)
CODES = np.random.default_rng(0).integers(0, 256, (120, 8), np.uint8)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A copy with bits flipped, an end cut off, a piece moved, or a run of zeros."""
    broken = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(max(1, len(broken)))
        length = min(chance.choice([1, 4, 64, 4096]), len(broken) - at)
        how = chance.choice(["flip", "flip", "flip", "cut", "move", "zero", "noise", "grow"])
        if how == "flip" and broken:
            broken[at] ^= 1 << chance.randrange(8)
        elif how == "cut":
            del broken[at:]
        elif how == "move":
            source = chance.randrange(max(1, len(broken) - length))
            broken[at : at + length] = broken[source : source + length]
        elif how == "zero":
            broken[at : at + length] = bytes(length)
        elif how == "noise":
            broken[at : at + length] = chance.randbytes(length)
        else:
            broken += chance.randbytes(length)
    return bytes(broken)


def copies(file: Path, seed: int) -> Iterator[None]:
    """Damage ``file`` in place again and again, and mend it in between."""
    data, chance = file.read_bytes(), random.Random(seed)
    for _ in range(EACH):
        broken = damaged(data, chance)
        if broken == data:
            continue
        file.write_bytes(broken)
        yield
    file.write_bytes(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Images 1 to 120 of which 10, 20, ... are gone: compacted below 100, marked above."""
    model = {**MODEL, "layout": LAYOUT}
    with Gallery.create(tmp_path / "a.chg", **model, segment_bytes=400) as gallery:
        gallery.add(entries(tmp_path, 0, 100), CODES[:100])
        gallery.remove(range(10, 101, 10))
        gallery.compact()
        gallery.add(entries(tmp_path, 100, 20), CODES[100:])
        gallery.remove([110, 120])
    return tmp_path / "a.chg"


LIVE = np.array([id for id in range(1, 121) if id % 10])


def ask(path: Path) -> None:
    """Everything a reader can ask, and a repair; what verify lets pass must be right."""
    with suppress(ConceptHashError), Gallery.open(path) as gallery:
        for use in (use_codes, use_index, use_entries):
            with suppress(ConceptHashError):
                use(gallery)
        if not list(gallery.damage()):
            ids, packed = gallery.codes()
            np.testing.assert_array_equal(ids, LIVE)
            np.testing.assert_array_equal(packed, CODES[LIVE - 1])
            hits = gallery.index().search(CODES[:2], k=3)
            assert hits.ids[:, 0].tolist() == [1, 2]


def use_codes(gallery: Gallery) -> None:
    ids, packed = gallery.codes()
    assert len(ids) == len(packed)


def use_index(gallery: Gallery) -> None:
    index = gallery.index()
    for arguments in ({}, {"weights": [2, 0, 1, 1]}, {"radius": 9}, {"where": [3, 4, 99]}):
        index.search(CODES[:9], k=5, **arguments)


def use_entries(gallery: Gallery) -> None:
    for entry in gallery.entries():
        assert entry.path is not None
        with suppress(ConceptHashError):
            gallery.code(entry.id)
    gallery.stats()


GALLERY_FILES = ["gallery.sqlite", "segments/000003.codes", "segments/000003.ids"]


@pytest.mark.parametrize("name", GALLERY_FILES)
def test_fuzz__gallery(path: Path, name: str) -> None:
    for _ in copies(path / name, seed=1):
        ask(path)
        for side in path.glob("gallery.sqlite-*"):
            side.unlink()


@pytest.mark.parametrize("name", GALLERY_FILES)
def test_fuzz__writers_and_repairs(path: Path, tmp_path: Path, name: str) -> None:
    for _ in copies(path / name, seed=2):
        for number, change in enumerate((write, mend)):
            copy = tmp_path / f"copy{number}.chg"
            shutil.copytree(path, copy)
            with suppress(ConceptHashError):
                change(copy)
            shutil.rmtree(copy)


def write(path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        gallery.add(entries(path.parent, 500, 3), CODES[:3])
        gallery.remove([1, 2, 3])
        gallery.compact()


def mend(path: Path) -> None:
    known = {id: CODES[id - 1].tobytes() for id in LIVE.tolist()}
    try:
        report = repair(path)
    except GalleryDamaged as error:
        raise AssertionError("neither repaired nor said to be beyond it") from error
    with Gallery.open(path, write=True) as gallery:
        gallery.verify()
        ids, packed = gallery.codes()
        assert report.images == len(ids) == len(list(gallery.entries()))
        for id, code in zip(ids.tolist(), packed, strict=True):
            assert known.get(id, code.tobytes()) == code.tobytes()


@pytest.mark.parametrize("mmap", [True, False])
def test_fuzz__index_file(tmp_path: Path, mmap: bool) -> None:
    index = HammingIndex(64, 4)
    index.add(CODES, ids=np.random.default_rng(1).permutation(1000)[:120])
    expected = index.search(CODES[:9], k=7)
    file = tmp_path / "a.chx"
    index.save(file)
    for _ in copies(file, seed=3 + mmap):
        with suppress(ConceptHashError):
            opened = HammingIndex.open(file, mmap=mmap)
            hits = opened.search(CODES[:9], k=7)
            opened.search(CODES[:2], k=3, where=[5, 6], weights=[1, 0, 3, 1])
            opened.verify()
            np.testing.assert_array_equal(hits.ids, expected.ids)
            np.testing.assert_array_equal(hits.distances, expected.distances)


def test_fuzz__code_file(tmp_path: Path) -> None:
    labels = np.arange(120) % 7
    file = save_codes(tmp_path / "a.npz", CODES, labels, LAYOUT)
    for _ in copies(file, seed=5):
        with suppress(ConceptHashError):
            loaded = load_codes(file)
            np.testing.assert_array_equal(loaded.codes, CODES)
            np.testing.assert_array_equal(loaded.labels, labels)
            assert loaded.layout == LAYOUT


def test_fuzz__bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    weights = (bundle.path / "model.onnx").read_bytes()
    for name in ("manifest.json", "model.onnx"):
        for _ in copies(bundle.path / name, seed=6):
            with suppress(ConceptHashError):
                opened = Bundle.open(bundle.path)
                assert opened.manifest.layout.bits % 8 == 0
                opened.verify()
                if "model.onnx" in opened.manifest.files:
                    assert (bundle.path / "model.onnx").read_bytes() == weights


def test_fuzz__the_fuzzer_is_felt(path: Path) -> None:
    """Most damage is found: a reader that ignored it all would fail here."""
    found = 0
    file = path / "segments" / "000003.codes"
    data, chance = file.read_bytes(), random.Random(9)
    for _ in range(20):
        file.write_bytes(damaged(data, chance))
        with Gallery.open(path) as gallery:
            found += bool(list(gallery.damage()))
    assert found > 10
