"""Repair: whatever is broken, the rest is saved, and the broken is kept aside."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from test_gallery import MODEL, codes, entries, flip, held, numbered

from concepthash.errors import GalleryError, GalleryLocked, GalleryUnreadable
from concepthash.runtime import codefiles, mend
from concepthash.runtime.entries import Damage
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.repair import check, repair

SMALL = 16  # bytes a segment: eight codes, in two batches of four


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images 1 to 22; 3, 12 and 20 were removed and compacted away, 14 was removed later.

    Segment 4 has ids 1 2 4 5 | 6 7 8 9, segment 5 has 10 11 13 14 | 15 16 17 18, segment 6 has
    19, segment 7 has 21 22.
    """
    monkeypatch.setattr(codefiles, "BATCH_ROWS", 4)
    with Gallery.create(tmp_path / "a.chg", **MODEL, segment_bytes=SMALL) as gallery:
        gallery.add(entries(tmp_path, 0, 20), codes(0, 20))
        gallery.remove([3, 12, 20])
        gallery.compact()
        gallery.remove([14])
        gallery.add(entries(tmp_path, 20, 2), codes(20, 2))
    return tmp_path / "a.chg"


ALL = numbered(*(id - 1 for id in range(1, 23) if id not in (3, 12, 14, 20)))


def without(*ids: int) -> dict[int, tuple[str, bytes]]:
    return {id: value for id, value in ALL.items() if id not in ids}


def segment(path: Path, name: str) -> Path:
    return path / "segments" / name


def cut(file: Path, size: int) -> None:
    os.truncate(file, size)


def replaced_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], dict[int, tuple[str, bytes]]]] = {
    "a flipped bit": (lambda p: flip(segment(p, "000004.codes"), -1), without(6, 7, 8, 9)),
    "a truncated segment": (lambda p: cut(segment(p, "000005.codes"), 73), without(15, 16, 17, 18)),
    "cut to the header": (lambda p: cut(segment(p, "000006.codes"), 64), without(19)),
    "half a header": (lambda p: cut(segment(p, "000006.codes"), 30), without(19)),
    "a missing segment": (lambda p: segment(p, "000007.codes").unlink(), without(21, 22)),
    "a damaged header": (lambda p: flip(segment(p, "000004.codes"), 3), ALL),
    "a folder": (lambda p: replaced_by_a_folder(segment(p, "000006.codes")), without(19)),
    "no ids": (lambda p: segment(p, "000004.ids").unlink(), ALL),
    "flipped ids": (lambda p: flip(segment(p, "000005.ids"), -3), ALL),
    "ids and codes": (
        lambda p: (flip(segment(p, "000005.ids"), 70), flip(segment(p, "000005.codes"), 64)),
        without(10, 11, 13),
    ),
    "no segments": (lambda p: shutil.rmtree(p / "segments"), {}),
    "a file for the folder": (
        lambda p: (shutil.rmtree(p / "segments"), (p / "segments").write_text("!")),
        {},
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_repair__segments(path: Path, how: str) -> None:
    damage, expected = BROKEN[how]
    damage(path)
    found = check(path)
    assert found
    before = {file.name: file.read_bytes() for file in path.glob("segments/*") if file.is_file()}
    report = repair(path)
    assert [found.what for found in report.damage] == [found.what for found in found]
    assert (report.images, report.removed) == (len(expected), len(ALL) - len(expected))
    assert check(path) == []
    with Gallery.open(path, write=True, segment_bytes=SMALL) as gallery:
        assert held(gallery) == expected
        new = gallery.add(entries(path.parent, 30, 2), codes(30, 2))
        assert list(new) == [23, 24]
    kept = path / "damaged-1"
    assert report.aside == kept
    after = {file.name: file.read_bytes() for file in path.glob("segments/*")}
    for name, data in before.items():  # each is as it was, here (and appended to) or aside
        assert after.get(name, b"").startswith(data) or (kept / name).read_bytes() == data
    lines = (kept / "removed.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == set(ALL) - set(expected)
    assert repair(path).damage == []


def sql(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path / "gallery.sqlite")
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


RECORDS = {
    "an image is missing": ("DELETE FROM images WHERE id = 7", without(7)),
    "a batch is missing": ("DELETE FROM batches WHERE first_id = 1", without(1, 2, 4, 5)),
    "the last batch is missing": ("DELETE FROM batches WHERE first_id = 21", without(21, 22)),
    "a tombstone is missing": ("DELETE FROM tombstones", ALL),
    "a stray tombstone": ("INSERT INTO tombstones VALUES (99)", ALL),
    "there and removed": ("INSERT INTO tombstones VALUES (7)", ALL),
    "an image without code": ("INSERT INTO images VALUES (50, 'x', 'l', 1, 1, x'00')", ALL),
    "a wrong checksum": ("UPDATE batches SET crc32 = 1 WHERE first_id = 19", without(19)),
    "a text for a number": (
        "UPDATE batches SET rows = 'four' WHERE first_id = 6",
        without(6, 7, 8, 9),
    ),
    "rows that overlap": ("UPDATE batches SET rows = 5 WHERE first_id = 1", without(1, 2, 4, 5)),
    "a size that is none": ("UPDATE images SET size = 'big' WHERE id = 7", without(7)),
    "a path with a zero byte": ("UPDATE images SET path = char(97, 0) WHERE id = 8", without(8)),
    "a label that is no text": (
        "UPDATE images SET label = CAST(x'636c61ff' AS TEXT) WHERE id = 9",
        without(9),
    ),
    "no such segment": ("UPDATE batches SET segment = 9 WHERE first_id = 21", without(21, 22)),
}


@pytest.mark.parametrize("how", RECORDS)
def test_repair__records(path: Path, how: str) -> None:
    statement, expected = RECORDS[how]
    sql(path, statement)
    assert check(path)
    report = repair(path)
    assert check(path) == []
    with Gallery.open(path, write=True) as gallery:
        assert held(gallery) == expected
        assert gallery.add(entries(path.parent, 30, 1), codes(30, 1)).start > 22
        assert held(gallery) == expected | {gallery.last_id(): ("30.jpg", codes(30, 1).tobytes())}
    assert report.images == len(expected)


def test_repair__a_whole_gallery_is_left_alone(path: Path) -> None:
    (path / "notes.txt").write_text("mine")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    report = repair(path)
    assert (report.damage, report.images, report.aside) == ([], len(ALL), None)
    assert report.strays == [path / "notes.txt"]
    assert "nothing to repair, 18 in the gallery" in str(report)
    assert report.to_json()["strays"] == [str(path / "notes.txt")]
    after = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before


@pytest.mark.parametrize("how", ["noise", "cut"])
def test_repair__damaged_pages_cost_their_images_only(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.chg"
    with Gallery.create(path, **MODEL, segment_bytes=400) as gallery:
        gallery.add(entries(tmp_path, 0, 600), codes(0, 600))
    content = (path / "gallery.sqlite").read_bytes()
    page = content.index(b"300.jpg") // 4096
    assert page > 1
    with (path / "gallery.sqlite").open("r+b") as file:
        if how == "cut":
            file.truncate(4096 * page)
        else:
            file.seek(4096 * page)
            file.write(random.Random(0).randbytes(4096))
    damaged = (path / "gallery.sqlite").read_bytes()
    assert check(path)
    with pytest.raises(GalleryError, match="chash index repair"), Gallery.open(path) as gallery:
        list(gallery.entries())
    report = repair(path)
    assert check(path) == []
    assert 0 < report.removed == 600 - report.images < (300 if how == "noise" else 600)
    with Gallery.open(path, write=True) as gallery:
        everything = numbered(*range(600))
        assert held(gallery).items() <= everything.items()
        assert gallery.add(entries(tmp_path, 600, 1), codes(600, 1)).start == 601
    kept = report.aside
    assert kept is not None
    assert (kept / "gallery.sqlite").read_bytes() == damaged


def test_repair__what_cannot_be_saved_is_left_as_it_is(path: Path) -> None:
    for data in (random.Random(1).randbytes(9000), b""):
        (path / "gallery.sqlite").write_bytes(data)
        with pytest.raises(GalleryError, match="--rebuild") as caught:
            repair(path)
        assert caught.value.where == str(path / "gallery.sqlite")
        assert (path / "gallery.sqlite").read_bytes() == data
        assert segment(path, "000004.codes").exists()
        assert list(path.glob("damaged-*")) == []


def test_repair__refuses_what_is_not_damaged_but_other(path: Path, tmp_path: Path) -> None:
    flip(segment(path, "000004.codes"), -1)
    with Gallery.open(path, write=True), pytest.raises(GalleryLocked):
        repair(path)
    with pytest.raises(GalleryError, match="no such gallery"):
        repair(tmp_path / "absent.chg")
    sql(path, "PRAGMA user_version = 99")
    with pytest.raises(GalleryError, match="format 99"):
        repair(path)
    sql(path, "PRAGMA application_id = 7")
    with pytest.raises(GalleryError, match="not a gallery's"):
        repair(path)
    assert list(path.glob("damaged-*")) == []


# Files that cannot be read: whether they are damaged is not known, so nothing may be done to them.


def bytes_of(path: Path) -> dict[Path, bytes]:
    """Every file, without what SQLite keeps beside its database while it is read."""
    sides = ("-wal", "-shm", "lock")
    return {
        f: f.read_bytes() for f in path.rglob("*") if f.is_file() and not f.name.endswith(sides)
    }


def fake_unreadable(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let opening the files of this name fail, also for root, whom the system refuses nothing."""
    real = Path.open

    def opens(file: Path, *arguments: object, **options: object) -> object:
        if file.name == name:
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *arguments, **options)  # type: ignore[call-overload]

    patch.setattr(Path, "open", opens)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EMFILE])
@pytest.mark.parametrize("name", ["000006.codes", "000004.ids"])
def test_check__a_file_that_cannot_be_read_is_not_damage(
    path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(path)
    with monkeypatch.context() as patch:
        fake_unreadable(patch, name, number)
        for work in (check, repair):
            with pytest.raises(GalleryUnreadable, match="no damage") as caught:
                work(path)
            assert caught.value.where == str(segment(path, name))
            assert caught.value.hint == f"ls -l {segment(path, name)}"
    assert bytes_of(path) == before
    assert check(path) == []


@pytest.mark.parametrize("how", ["records", "database"])
def test_repair__of_other_damage_touches_nothing_while_a_file_cannot_be_read(
    path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "records":
        sql(path, "DELETE FROM images WHERE id = 7", "UPDATE batches SET rows = 'x' WHERE rows = 1")
    else:
        cut(path / "gallery.sqlite", 5 * 4096)
    assert check(path)
    before = bytes_of(path)
    with monkeypatch.context() as patch:
        fake_unreadable(patch, "000005.codes", errno.EACCES)
        with pytest.raises(GalleryUnreadable):
            repair(path)
    assert bytes_of(path) == before
    assert list(path.glob("damaged-*")) == []


def test_repair__a_segment_that_cannot_be_read_meanwhile_does_not_count_as_empty(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(path, "UPDATE batches SET rows = 'x' WHERE first_id = 21")

    def fails(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    before = bytes_of(path / "segments")
    with monkeypatch.context() as patch:
        patch.setattr(mend.np, "memmap", fails)
        with pytest.raises(GalleryUnreadable):
            repair(path)
    assert bytes_of(path / "segments") == before
    repair(path)
    with Gallery.open(path) as gallery:
        assert held(gallery) == without(21, 22)


@pytest.mark.parametrize("name", ["segments/000004.codes", "segments", "gallery.sqlite"])
def test_repair__is_refused_what_this_user_may_not_read(path: Path, name: str) -> None:
    before, mode = bytes_of(path), (path / name).stat().st_mode
    (path / name).chmod(0)
    try:
        if os.access(path / name, os.R_OK):
            pytest.skip("this user may read anything")
        for work in (check, repair):
            with pytest.raises(GalleryUnreadable):
                work(path)
        if name != "gallery.sqlite":
            with Gallery.open(path) as gallery, pytest.raises(GalleryUnreadable):
                gallery.codes()
            with pytest.raises(GalleryUnreadable):
                Gallery.open(path, write=True)
    finally:
        (path / name).chmod(mode)
    assert bytes_of(path) == before


def test_repair__what_a_writer_replaced_is_no_damage_once_it_is_locked_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("concepthash.runtime.repair")
    first = iter([[Damage(path / "gallery.sqlite", "a segment of the gallery is missing")]])
    monkeypatch.setattr(module, "check", lambda folder: next(first, None) or check(folder))
    report = repair(path)
    assert (report.damage, report.aside) == ([], None)
    assert not list(path.glob("damaged-*"))


def test_repair__uses_the_empty_folder_of_one_that_was_killed(path: Path) -> None:
    (path / "damaged-1").mkdir()
    (path / "damaged-1/.records.json.12.tmp").write_text("half")
    flip(segment(path, "000004.codes"), 70)
    assert repair(path).aside == path / "damaged-1"
    assert not list(path.glob("damaged-*/.*"))
    flip(segment(path, "000005.codes"), 70)
    assert repair(path).aside == path / "damaged-2"
