"""Full and read-only disks, real ones where the system lets a test mount one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_gallery
from crash_writer import FakeHasher
from test_gallery import MODEL, codes, entries, held, numbered

from concepthash.errors import GalleryError
from concepthash.runtime import codefiles, storage
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.indexing import index_images
from concepthash.runtime.repair import repair
from concepthash.runtime.shards import merge, split

path = test_gallery.path


def mount(*arguments: str) -> bool:
    try:
        return not subprocess.run(["mount", *arguments], capture_output=True).returncode
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or not mount("-t", "tmpfs", "-o", "size=400k", "none", str(folder)):
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def test_full_disk__every_commit_is_whole_or_absent(disk: Path) -> None:
    with Gallery.create(disk / "a.chg", **MODEL, segment_bytes=4096) as gallery:
        added = 0

        def fill() -> None:
            nonlocal added
            while True:
                gallery.add(entries(disk, added, 100), codes(added, 100))
                added += 100

        with pytest.raises(GalleryError, match="disk is full") as caught:
            fill()
        assert "it continues" in str(caught.value.hint)
        assert added > 100
        assert held(gallery) == numbered(*range(added))
    with Gallery.open(disk / "a.chg") as gallery:
        assert held(gallery) == numbered(*range(added))
        gallery.verify()


def test_full_disk__says_so_whatever_is_left(disk: Path) -> None:
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    for left in range(0, 100_000, 4096):  # SQLite needs room for its -shm file, and calls it I/O
        filler, path = disk / "filler", disk / "a.chg"
        filler.write_bytes(bytes(room - left))
        failed = None
        try:
            with Gallery.create(path, **MODEL) as gallery:
                gallery.add(entries(disk, 0, 10), codes(0, 10))
        except GalleryError as error:
            failed = error.what
        assert "disk is full" in failed if failed else left > 50_000
        filler.unlink()
        shutil.rmtree(path, ignore_errors=True)


def test_full_disk__indexing_goes_on_once_there_is_room(disk: Path, tmp_path: Path) -> None:
    photos, path, hasher = tmp_path / "photos", disk / "a.chg", FakeHasher("model")
    photos.mkdir()
    for n in range(100):
        (photos / f"{n}.jpg").write_text(f"photo {n}")
    filler = disk / "filler"
    filler.write_bytes(bytes(260_000))
    with pytest.raises(GalleryError, match="disk is full"):
        index_images(photos, path, hasher, commit_every=10)
    with Gallery.open(path) as gallery:
        first = len(gallery)
        gallery.verify()
    filler.unlink()
    report = index_images(photos, path, hasher, commit_every=10)
    assert 0 < first == report.unchanged == 100 - report.added < 100
    with Gallery.open(path) as gallery:
        assert len(gallery) == 100
        gallery.verify()


def test_full_disk__a_merge_and_a_split_leave_nothing(disk: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.chg"
    with Gallery.create(path, **MODEL) as gallery:
        gallery.add(entries(tmp_path, 0, 4000), codes(0, 4000))
    for change in (lambda: merge([path], disk / "b.chg"), lambda: split(path, 2, disk / "c")):
        with pytest.raises(GalleryError, match="disk is full"):
            change()
        assert list(disk.iterdir()) == []


def test_read_only_disk__is_read_and_not_written(disk: Path, tmp_path: Path) -> None:
    path = disk / "a.chg"
    with Gallery.create(path, **MODEL) as gallery:
        gallery.add(entries(disk, 0, 10), codes(0, 10))
        gallery.remove([3])
    assert mount("-o", "remount,ro", str(disk))
    expected = {id: value for id, value in numbered(*range(10)).items() if id != 3}
    with Gallery.open(path) as gallery:
        assert held(gallery) == expected
        gallery.verify()
    assert repair(path).damage == []
    (tmp_path / "photos").mkdir()
    for change in (
        lambda: Gallery.open(path, write=True),
        lambda: Gallery.create(disk / "new.chg", **MODEL),
        lambda: index_images(tmp_path / "photos", path, FakeHasher("x")),
        lambda: merge([path], disk / "b.chg"),
    ):
        with pytest.raises(GalleryError, match="read-only") as caught:
            change()
        assert caught.value.where is not None
        assert "--out" in str(caught.value.hint)


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.chg"
    with Gallery.create(path, **MODEL) as gallery:
        gallery.add(entries(tmp_path, 0, 3), codes(0, 3))
    for name, error in {
        "segments/000001.codes": "not a file",
        "lock": "a folder is where the lock should be",
        "gallery.sqlite": "a folder is where the database should be",
    }.items():
        aside = tmp_path / "aside"
        (path / name).rename(aside)
        (path / name).mkdir()
        with pytest.raises(GalleryError, match=error) as caught:
            Gallery.open(path, write=True)
        assert caught.value.where == str(path / name)
        assert caught.value.hint is not None
        (path / name).rmdir()
        aside.rename(path / name)
    with Gallery.open(path, write=True) as gallery:
        assert held(gallery) == numbered(0, 1, 2)


def test_an_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "a.chg"
    Gallery.create(path, **MODEL).close()
    (path / "gallery.sqlite").write_bytes(b"")
    for write in (False, True):
        with pytest.raises(GalleryError, match="the database is empty") as caught:
            Gallery.open(path, write=write)
        assert caught.value.where == str(path / "gallery.sqlite")
        assert "--rebuild" in str(caught.value.hint)


def fake_failure(number: int):
    def fails(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def test_disk__full_while_codes_are_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gallery.open(path, write=True) as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(codefiles.os, "fsync", fake_failure(errno.ENOSPC))
            with pytest.raises(GalleryError, match="disk is full; everything committed") as caught:
                gallery.add(entries(tmp_path, 10, 3), codes(10, 3))
        assert "run the same command again" in str(caught.value)
        assert held(gallery) == numbered(*range(10))
        gallery.add(entries(tmp_path, 10, 3), codes(10, 3))
        assert held(gallery) == numbered(*range(13))
        gallery.verify()


def test_disk__full_while_the_database_is_written(path: Path, tmp_path: Path) -> None:
    with Gallery.open(path, write=True) as gallery:
        pages = gallery._number("PRAGMA page_count")
        gallery._number(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(GalleryError, match="disk is full"):
            gallery.add(entries(tmp_path, 10, 500), codes(10, 500))
        assert held(gallery) == numbered(*range(10))
    with Gallery.open(path, write=True) as gallery:
        assert held(gallery) == numbered(*range(10))
        gallery.add(entries(tmp_path, 10, 1), codes(10, 1))
        gallery.verify()


def test_disk__a_fake_read_only_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.os, "open", fake_failure(errno.EROFS))
    with pytest.raises(GalleryError, match="read-only") as caught:
        Gallery.open(path, write=True)
    assert caught.value.where == str(path / "lock")
    with pytest.raises(GalleryError, match="read-only"):
        Gallery.create(path.parent / "new.chg", **MODEL)


def test_disk__a_read_only_folder_can_be_read(path: Path) -> None:
    files = [path, path / "segments", *(f for f in path.rglob("*") if f.is_file())]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    try:
        if os.access(path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with Gallery.open(path) as gallery:
            assert held(gallery) == numbered(*range(10))
        with pytest.raises(GalleryError, match="cannot be written"):
            Gallery.open(path, write=True)
    finally:
        for file in files:
            file.chmod(0o755)
