"""Tables beside a gallery: used when they are of its codes, left out when not, never stale."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_compact import copied
from test_fuzz import damaged
from test_gallery import MODEL

from concepthash.codes import CodeLayout
from concepthash.errors import ConceptHashError, UsageError
from concepthash.runtime import native, planner
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.repair import repair

pytestmark = pytest.mark.skipif(native.paths() == ("numpy",), reason="no native kernel")

CODES = np.random.default_rng(0).integers(0, 256, (3000, 8), np.uint8)
SMALL = {"segment_bytes": 8 * 700}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables serve however few codes there are, at any cost."""
    monkeypatch.delenv("CHASH_KERNEL", raising=False)
    monkeypatch.setattr(planner, "_WORTH_IT", 0)
    monkeypatch.setattr(planner, "_TRIAL", 1e6)
    monkeypatch.setattr(planner, "_BUDGET", 1e6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """2,000 codes in three segments, with tables."""
    model = {**MODEL, "layout": CodeLayout(64, 4)}
    with Gallery.create(tmp_path / "a.chg", **model, **SMALL) as gallery:
        add(gallery, 0, 2000)
        assert gallery.accelerate() == 2000
    return tmp_path / "a.chg"


def add(gallery: Gallery, first: int, last: int) -> None:
    new = [Entry(gallery.path.parent / f"{n}.jpg", sha256=f"{n:064x}") for n in range(first, last)]
    gallery.add(new, CODES[first:last])


def covered(gallery: Gallery) -> int:
    """Codes the tables of a gallery's index cover; its answers are those of a plain index."""
    index, naive = gallery.index(), copied(gallery)
    for options in ({}, {"weights": [2, 0, 1, 1]}, {"radius": 20}, {"where": [7, 8, 2500]}):
        hits = index.search(CODES[:6], k=9, **options)
        expected = naive.search(CODES[:6], k=9, **options)
        np.testing.assert_array_equal(hits.ids, expected.ids)
        np.testing.assert_array_equal(hits.distances, expected.distances)
    return 0 if index.tables is None else index.tables.rows


def stored(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("tables/*"))


def test_accelerate__serves_readers_and_is_extended(path: Path) -> None:
    with Gallery.open(path) as before, Gallery.open(path, write=True, **SMALL) as writer:
        assert covered(before) == 2000
        writer.remove(range(1, 2000, 3))
        add(writer, 2000, 2100)
        with Gallery.open(path) as reader:
            assert covered(reader) == 2000
        (path / "tables" / ".half.tmp").write_bytes(b"left by a writer that was killed")
        assert writer.accelerate() == 2100
        assert stored(path) == ["000000002100.mih"]
        assert covered(writer) == 2100
        assert covered(before) == 0  # it has fewer codes than these tables
        before.refresh()
        assert covered(before) == 2100
        assert writer.accelerate(copy_codes=True) == 2100
        assert writer.index().tables.copy_codes
        writer.verify()


def test_accelerate__ends_with_the_codes_it_is_of(path: Path) -> None:
    with Gallery.open(path, write=True, **SMALL) as gallery:
        gallery.remove([5])
        kept = (path / "tables" / "000000002000.mih").read_bytes()
        gallery.compact()
        assert stored(path) == []
        assert covered(gallery) == 0
        # Had the writer been killed before it deleted them, or had someone put them back:
        add(gallery, 2000, 2001)
        (path / "tables").mkdir(exist_ok=True)
        (path / "tables" / "000000002000.mih").write_bytes(kept)
        assert len(gallery.index()) == 2000
        assert covered(gallery) == 0
        gallery.accelerate()
        assert covered(gallery) == 2000
        gallery.reset(**{**MODEL, "layout": CodeLayout(64, 2)})
        assert stored(path) == []


def test_accelerate__of_nothing_and_by_a_reader(path: Path, tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "empty.chg", **MODEL) as gallery:
        assert gallery.accelerate() == 0
        assert stored(gallery.path) == []
    with Gallery.open(path) as gallery, pytest.raises(UsageError, match="opened to read"):
        gallery.accelerate()


def test_accelerate__damaged_tables_are_left_out(path: Path) -> None:
    """A damaged header is noticed at once and only slows searches down."""
    file = path / "tables" / "000000002000.mih"
    data, chance = file.read_bytes(), random.Random(0)
    for number in range(60):
        broken = data[:number] + bytes([data[number] ^ 1]) + data[number + 1 :]
        file.write_bytes(broken if number % 2 else damaged(data[:192], chance) + data[192:])
        with Gallery.open(path) as gallery:
            covered(gallery)
        file.write_bytes(data[: chance.randrange(len(data))])
        with Gallery.open(path) as gallery:
            assert covered(gallery) == 0


def test_accelerate__a_damaged_block_never_crashes(path: Path) -> None:
    """Blocks are checked by verify only: until then answers may lack hits, and errors are ours."""
    file = path / "tables" / "000000002000.mih"
    data, chance = file.read_bytes(), random.Random(1)
    for _ in range(60):
        body = damaged(data[192:], chance)[: len(data) - 192].ljust(len(data) - 192, b"\xff")
        file.write_bytes(data[:192] + body)
        with Gallery.open(path) as gallery:
            found = [damage.file for damage in gallery.damage()]
            assert found == ([file] if body != data[192:] else [])
            with suppress(ConceptHashError):
                gallery.index().search(CODES[:6], k=9, radius=30)
    report = repair(path)
    assert (report.images, report.removed) == (2000, 0)
    with Gallery.open(path) as gallery:
        assert covered(gallery) == 0
        gallery.verify()
