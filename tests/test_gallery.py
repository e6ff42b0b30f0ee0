"""The store: what was committed is there, whatever happens; everything else is a clear error."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, GalleryLocked, MismatchError, UsageError
from concepthash.runtime import schema
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import discard

LAYOUT = CodeLayout(16, 2)
MODEL = {"layout": LAYOUT, "fingerprint": "ab" * 32, "model": "tiny"}


def entries(folder: Path, first: int, count: int) -> list[Entry]:
    return [
        Entry(folder / f"{n}.jpg", f"class {n % 3}", size=n, mtime_ns=10 * n, sha256=f"{n:064x}")
        for n in range(first, first + count)
    ]


def codes(first: int, count: int) -> np.ndarray:
    """A code for each number, all different."""
    return np.arange(first, first + count, dtype=">u2").view(np.uint8).reshape(count, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gallery of 10 images in 3 batches and, by their size, 3 segments."""
    path = tmp_path / "birds.chg"
    with Gallery.create(path, **MODEL, segment_bytes=8) as gallery:
        for first, count in ((0, 3), (3, 1), (4, 6)):
            gallery.add(entries(tmp_path, first, count), codes(first, count))
    return path


def held(gallery: Gallery) -> dict[int, tuple[str, bytes]]:
    """Everything a gallery says it holds, each way of asking checked against the others."""
    ids, packed = gallery.codes()
    found = {entry.id: entry for entry in gallery.entries()}
    assert ids.tolist() == sorted(found)
    assert len(gallery) == len(found) == len(packed)
    for id, code in zip(ids.tolist(), packed, strict=True):
        assert gallery.code(id).tobytes() == code.tobytes()
        assert gallery.entry(id) == found[id]
        assert gallery.find(found[id].path) == found[id]
        assert found[id] in gallery.same_content(found[id].sha256)
    return {
        id: (found[id].path.name, code.tobytes())
        for id, code in zip(ids.tolist(), packed, strict=True)
    }


def numbered(*numbers: int) -> dict[int, tuple[str, bytes]]:
    return {n + 1: (f"{n}.jpg", codes(n, 1).tobytes()) for n in numbers}


def test_gallery__gives_back_what_was_added(path: Path) -> None:
    with Gallery.open(path) as gallery:
        assert held(gallery) == numbered(*range(10))
        assert gallery.layout == LAYOUT
        assert gallery.fingerprint == MODEL["fingerprint"]
        entry = gallery.entry(5)
        assert (entry.label, entry.size, entry.mtime_ns) == ("class 1", 4, 40)
        assert "10 images, 16 bits" in repr(gallery)
        stats = gallery.stats()
        assert (stats.images, stats.labels, stats.segments, stats.removed_rows) == (10, 3, 3, 0)
        assert stats.code_bytes == 3 * 64 + 10 * 2
        assert stats.total_bytes > stats.code_bytes
        gallery.verify()


def test_gallery__an_empty_one(tmp_path: Path) -> None:
    Gallery.create(tmp_path / "new.chg", **MODEL).close()
    with Gallery.open(tmp_path / "new.chg") as gallery:
        assert held(gallery) == {}
        assert len(gallery.index()) == 0
        gallery.verify()


def test_gallery__index_finds_by_id(path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        gallery.remove([4])
        hits = gallery.index().search(codes(6, 1), k=20)
        assert hits.ids[0, 0] == 7
        assert hits.distances[0, 0] == 0
        assert sorted(hits.ids[0].tolist()) == [-1] * 11 + [1, 2, 3, 5, 6, 7, 8, 9, 10]


def test_gallery__one_whole_segment_is_mapped_not_copied(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "one.chg", **MODEL) as gallery:
        gallery.add(entries(tmp_path, 0, 2), codes(0, 2))
        gallery.add(entries(tmp_path, 2, 3), codes(2, 3))
        _, packed = gallery.codes()
        assert isinstance(packed.base, np.memmap)
        assert not packed.flags.writeable
        np.testing.assert_array_equal(packed, codes(0, 5))


def test_gallery__ids_are_never_given_again(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        assert gallery.remove([9, 10, 77]) == 2
    with Gallery.open(path, write=True) as gallery:
        assert list(gallery.add(entries(tmp_path, 9, 1), codes(9, 1))) == [11]
        assert held(gallery) == {**numbered(*range(8)), 11: ("9.jpg", codes(9, 1).tobytes())}
        gallery.reset(layout=CodeLayout(8), fingerprint="cd" * 32, model="other")
        assert held(gallery) == {}
        ids = gallery.add(entries(tmp_path, 0, 2), np.array([[1], [2]], np.uint8))
        assert list(ids) == [12, 13]
    with Gallery.open(path) as gallery:
        assert gallery.layout == CodeLayout(8)
        assert [entry.id for entry in gallery.entries()] == [12, 13]
        gallery.verify()


def test_gallery__update_changes_the_record_not_the_code(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        moved = Entry(tmp_path / "x.jpg", None, size=7, mtime_ns=8, sha256="f" * 64, id=3)
        gallery.update([moved])
        assert held(gallery) == numbered(*range(10)) | {3: ("x.jpg", codes(2, 1).tobytes())}
        assert gallery.find(tmp_path / "2.jpg") is None
        assert gallery.entry(3).label is None


def test_gallery__a_refused_commit_changes_nothing(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        with pytest.raises(GalleryError, match="path can be in a gallery once"):
            gallery.commit(
                add=entries(tmp_path, 12, 1) + entries(tmp_path, 3, 1),
                codes=codes(0, 2),
                remove=[1],
            )
        with pytest.raises(MismatchError, match="3 images need as many codes"):
            gallery.add(entries(tmp_path, 20, 3), codes(0, 2))
        with pytest.raises(MismatchError, match="16 bits"):
            gallery.add(entries(tmp_path, 20, 3), np.zeros((3, 8), np.uint8))
        assert held(gallery) == numbered(*range(10))
        gallery.add(entries(tmp_path, 10, 2), codes(10, 2))
        assert held(gallery) == numbered(*range(12))
        gallery.verify()


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "reopen", "update"]), st.integers(0, 9)),
    max_size=12,
)


@given(STEPS, st.integers(1, 12))
@settings(max_examples=20, deadline=None)
def test_gallery__agrees_with_a_dict(steps: list[Step], segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gallery = Gallery.create(folder / "a.chg", **MODEL, segment_bytes=segment_bytes)
        expected: dict[int, tuple[str, bytes]] = {}
        added = 0
        for step, number in steps:
            if step == "add":
                gallery.add(entries(folder, added, number), codes(added, number))
                expected |= numbered(*range(added, added + number))
                added += number
            elif step == "remove":
                gone = [id for id in expected if id % 10 == number]
                assert gallery.remove([*gone, added + 5]) == len(gone)
                expected = {id: value for id, value in expected.items() if id not in gone}
            elif step == "update":
                changed = [e for e in gallery.entries() if e.id % 10 == number]
                for entry in changed:
                    name = f"moved-{entry.id}-{len(entry.path.name)}.jpg"
                    gallery.update([Entry(folder / name, sha256=entry.sha256, id=entry.id)])
                    expected[entry.id] = (name, expected[entry.id][1])
            else:
                gallery.close()
                gallery = Gallery.open(folder / "a.chg", write=True, segment_bytes=segment_bytes)
            assert held(gallery) == expected
        gallery.verify()
        gallery.close()


# Paths


def test_paths__a_moved_tree_still_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "photos").mkdir(parents=True)
    (tree / "photos" / "a.jpg").write_bytes(b"a")
    elsewhere = tmp_path / "b.jpg"
    elsewhere.write_bytes(b"b")
    monkeypatch.chdir(tree)
    with Gallery.create(Path("g.chg"), **MODEL) as gallery:
        gallery.add([Entry(Path("photos/a.jpg")), Entry(Path("../b.jpg"))], codes(0, 2))
        assert gallery.entry(1).path == Path("photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    tree.rename(tmp_path / "moved")
    for folder in (tmp_path, tmp_path / "moved", tmp_path / "moved" / "photos", Path("/")):
        monkeypatch.chdir(folder)
        with Gallery.open(tmp_path / "moved" / "g.chg") as gallery:
            assert [e.path.read_bytes() for e in gallery.entries()] == [b"a", b"b"]
            assert gallery.find(tmp_path / "moved" / "photos" / "a.jpg") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="names of raw bytes are a Unix matter")
def test_paths__names_that_are_not_unicode(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    with Gallery.create(tmp_path / "g.chg", **MODEL) as gallery:
        gallery.add([Entry(file, label=os.fsdecode(b"caf\xe9"))], codes(0, 1))
        found = gallery.find(file)
        assert found is not None
        assert os.fsencode(found.path.name) == b"caf\xe9.jpg"
        assert found.label == "caf?"


# Readers and writers


def test_reader__sees_one_moment(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path) as before, Gallery.open(path, write=True, segment_bytes=8) as writer:
        expected = numbered(*range(10))
        writer.remove([2, 5])
        writer.add(entries(tmp_path, 10, 5), codes(10, 5))
        assert held(before) == expected
        with Gallery.open(path) as after:
            now = {id: v for id, v in numbered(*range(15)).items() if id not in (2, 5)}
            assert held(after) == now
        writer.reset(layout=CodeLayout(8), fingerprint="cd" * 32, model="other")
        writer.add(entries(tmp_path, 0, 1), np.array([[9]], np.uint8))
        assert held(before) == expected
        before.refresh()
        assert held(before) == {16: ("0.jpg", b"\x09")}
        assert before.fingerprint == "cd" * 32


def test_reader__never_writes(path: Path) -> None:
    with (path / "segments" / "000003.codes").open("ab") as file:
        file.write(b"uncommitted")
    content = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with Gallery.open(path) as gallery:
        held(gallery)
        with pytest.raises(UsageError, match="opened to read"):
            gallery.remove([1])
    side_files = {path / "gallery.sqlite-wal", path / "gallery.sqlite-shm"}
    after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert {file: data for file, data in after.items() if file not in side_files} == content


def test_writer__a_second_one_is_refused(path: Path) -> None:
    with (
        Gallery.open(path, write=True),
        pytest.raises(GalleryLocked, match=f"process {os.getpid()} is writing") as caught,
    ):
        Gallery.open(path, write=True)
    assert caught.value.where == str(path / "lock")
    Gallery.open(path, write=True).close()


def test_writer__cuts_off_what_was_never_committed(path: Path) -> None:
    segments = path / "segments"
    with (segments / "000003.codes").open("ab") as file:
        file.write(b"\x01\x02\x03")
    (segments / "000004.codes").write_bytes(b"CHASHSEG half a header")
    (segments / "notes.txt").write_text("not ours")
    with Gallery.open(path, write=True) as gallery:
        assert held(gallery) == numbered(*range(10))
    assert sorted(file.name for file in segments.iterdir()) == [
        "000001.codes",
        "000002.codes",
        "000003.codes",
        "notes.txt",
    ]
    assert (segments / "000003.codes").stat().st_size == 64 + 2 * 2


# Damage


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def test_damage__a_flipped_bit_is_found_and_its_file_named(path: Path) -> None:
    file = path / "segments" / "000002.codes"
    flip(file, -1)
    with Gallery.open(path) as gallery:
        found = list(gallery.damage())
        assert [damage.file for damage in found] == [file]
        assert found[0].what == "the checksum of rows 0 to 3 differs"
        with pytest.raises(GalleryError, match="checksum") as caught:
            gallery.verify()
    assert caught.value.where == str(file)
    assert "chash index" in str(caught.value)


@pytest.mark.parametrize("how", ["truncated", "missing", "header", "foreign"])
def test_damage__a_broken_segment_is_refused(path: Path, how: str) -> None:
    file = path / "segments" / "000001.codes"
    if how == "truncated":
        os.truncate(file, 70)
    elif how == "missing":
        file.unlink()
    elif how == "header":
        flip(file, 3)
    else:
        with Gallery.create(path.parent / "other.chg", **MODEL) as other:
            other.add(entries(path, 0, 4), codes(0, 4))
        file.write_bytes((path.parent / "other.chg" / "segments" / "000001.codes").read_bytes())
    word = {"foreign": "another gallery"}.get(how, how)
    before = {f: f.read_bytes() for f in (path / "segments").iterdir()}
    for attempt in (
        lambda gallery: gallery.codes(),
        lambda gallery: gallery.code(1),
        lambda gallery: gallery.verify(),
        lambda gallery: Gallery.open(path, write=True),
    ):
        with Gallery.open(path) as gallery, pytest.raises(GalleryError, match=word) as caught:
            attempt(gallery)
        assert caught.value.where == str(file)
        assert caught.value.hint is not None
    assert {f: f.read_bytes() for f in (path / "segments").iterdir()} == before


def test_damage__a_segment_from_the_future(path: Path) -> None:
    file = path / "segments" / "000001.codes"
    flip(file, 8 + 1)
    with Gallery.open(path) as gallery, pytest.raises(GalleryError, match="newer than") as caught:
        gallery.codes()
    assert "pip install --upgrade" in str(caught.value)


def test_damage__records_that_do_not_add_up(path: Path) -> None:
    with sqlite3.connect(path / "gallery.sqlite") as database:
        database.execute("DELETE FROM images WHERE id = 4")
    database.close()
    with Gallery.open(path) as gallery, pytest.raises(GalleryError, match="3 images have 4 codes"):
        gallery.verify()


def sqlite_file(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_open__a_gallery_from_the_future(path: Path) -> None:
    sqlite_file(path / "gallery.sqlite", "PRAGMA user_version = 99")
    for write in (False, True):
        with pytest.raises(GalleryError, match="format 99 is not one") as caught:
            Gallery.open(path, write=write)
        assert caught.value.where == str(path / "gallery.sqlite")
        assert "pip install --upgrade" in str(caught.value)


def test_open__a_foreign_database(tmp_path: Path) -> None:
    sqlite_file(tmp_path / "gallery.sqlite", "CREATE TABLE notes (text)")
    with pytest.raises(GalleryError, match="not a gallery's") as caught:
        Gallery.open(tmp_path)
    assert caught.value.where == str(tmp_path / "gallery.sqlite")
    with pytest.raises(GalleryError, match="not a gallery's"):
        discard(tmp_path)
    assert (tmp_path / "gallery.sqlite").exists()


def test_open__a_file_of_noise(path: Path) -> None:
    (path / "gallery.sqlite").write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(GalleryError, match="damaged"):
        Gallery.open(path)


def test_open__no_gallery(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="no such gallery"):
        Gallery.open(tmp_path / "absent.chg")
    with pytest.raises(GalleryError, match="not a gallery"):
        Gallery.open(tmp_path, write=True)
    assert list(tmp_path.iterdir()) == []


def test_create__leaves_other_folders_alone(path: Path, tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="holds a gallery already"):
        Gallery.create(path, **MODEL)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(GalleryError, match=r"something else \(a.jpg\)"):
        Gallery.create(tmp_path / "photos", **MODEL)
    with pytest.raises(GalleryError, match="something else"):
        discard(tmp_path / "photos")
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_create__continues_after_a_crash_while_creating(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        gallery.remove([1])
        left = (path / "gallery.sqlite-wal").read_bytes()
    folder = tmp_path / "a.chg"
    (folder / "segments").mkdir(parents=True)
    (folder / "gallery.sqlite.new").write_bytes(b"half")
    (folder / "gallery.sqlite-wal").write_bytes(left)
    (folder / "lock").write_text("1\n")
    with Gallery.create(folder, **MODEL) as gallery:
        gallery.add(entries(tmp_path, 0, 1), codes(0, 1))
        assert held(gallery) == numbered(0)


def test_create__a_reader_that_is_there_first_keeps_no_writer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[Gallery] = []
    create = schema.create

    def watched(file: Path, identity: schema.Identity) -> None:
        create(file, identity)
        readers.append(Gallery.open(file.parent))

    monkeypatch.setattr(schema, "create", watched)
    with Gallery.create(tmp_path / "new.chg", **MODEL) as gallery:
        gallery.add(entries(tmp_path, 0, 3), codes(0, 3))
    (reader,) = readers
    with reader:
        assert len(reader) == 0
        reader.refresh()
        assert len(reader) == 3


def test_check_model__refuses_another_code_space(path: Path) -> None:
    with Gallery.open(path) as gallery:
        gallery.check_model(MODEL["fingerprint"])
        with pytest.raises(MismatchError, match=r"model abababab .*this one is cdcdcdcd") as caught:
            gallery.check_model("cd" * 32)
    assert caught.value.exit_code == 5
    assert "--rebuild" in str(caught.value)
