"""Photos from patterns and URLs: named, marked, read and missed like files."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest
import source_photos
from cli_entry import photo, photos
from photo_server import serving
from source_photos import codes_of, content, write_parquet
from web_server import status, web_server

from concepthash.errors import (
    BackendError,
    DataError,
    GalleryError,
    ImageError,
    Skipped,
    UsageError,
)
from concepthash.images import open_rgb
from concepthash.runtime.entries import Anchor, Url, is_url, place
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images
from concepthash.runtime.sources import Columns, is_gone, open_sources

hasher, memory = source_photos.hasher, source_photos.memory


@pytest.mark.parametrize(
    "text", ["s3://bucket/x.jpg", "s3://bucket//x.jpg", "https://host/a/x.jpg?w=3#top"]
)
def test_url__is_kept_letter_for_letter(text: str, tmp_path: Path) -> None:
    url = place(text)
    assert is_url(text)
    assert isinstance(url, Url)
    assert str(url) == text
    assert pickle.loads(pickle.dumps(url)) == url
    assert url != Path(text)
    anchor = Anchor(tmp_path)
    assert anchor.key(url) == text
    assert anchor.path(text, tmp_path) == url
    assert anchor.names(Path("/elsewhere"))(text) == text


def test_url__is_taken_apart_like_a_path() -> None:
    url = Url("s3://bucket/wren/x.jpg")
    assert (url.name, url.parent.name, url.suffix) == ("x.jpg", "wren", ".jpg")
    assert str(url.parent) == "s3://bucket/wren"
    assert Url("s3://bucket") in url.parents
    assert not url.exists()
    assert not is_gone(url)
    assert not any(map(is_url, ("a/b.jpg", "/a//b.jpg", "C:/a.jpg", "C://a.jpg", "s3:/b/x.jpg")))


def test_index__of_a_bucket(memory, tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "photos")
    memory.put(str(folder), "/bucket", recursive=True)
    memory.pipe("/bucket/a/.hidden.png", b"hidden")
    memory.pipe("/bucket/a/notes.txt", b"text")
    memory.pipe("/bucket/a/broken.png", b"broken")
    path = tmp_path / "g.chg"
    report = index_images("memory://bucket", path, hasher)
    expected = {
        f"memory://bucket/{name}": (name[0], code)
        for name, code in codes_of(folder, hasher).items()
    }
    assert content(path) == expected
    assert [skip.path for skip in report.skipped.items] == ["memory://bucket/a/broken.png"]
    with Gallery.open(path) as gallery:
        index = gallery.index()
        assert {name for name, _ in gallery.names_of(index.ids).values()} == set(expected)

    again = index_images("memory://bucket", path, hasher)
    assert (again.unchanged, again.hashed) == (6, 1)
    memory.mv("/bucket/a/0.png", "/bucket/b/moved.png")
    memory.rm("/bucket/a/1.png")
    memory.pipe("/bucket/a/2.png", photo(tmp_path / "new.png", 77).read_bytes())
    report = index_images("memory://bucket", path, hasher)
    counts = report.moved, report.removed, report.changed, report.unchanged
    assert counts == (1, 1, 1, 3)

    memory.rm("/bucket/a", recursive=True)
    memory.rm("/bucket/b", recursive=True)
    memory.pipe("/bucket/notes.txt", b"text")
    with pytest.raises(GalleryError, match="no photo here any more"):
        index_images("memory://bucket", path, hasher)
    assert index_images("memory://bucket", path, hasher, prune="all").removed == 5


def test_index__of_one_source_leaves_the_images_of_others(
    memory, tmp_path: Path, hasher: Hasher
) -> None:
    folder = photos(tmp_path / "photos")
    memory.put(str(folder / "a"), "/bucket/a", recursive=True)
    photo(tmp_path / "more" / "x.png", 500)
    path = tmp_path / "g.chg"
    index_images(["memory://bucket", folder / "b", tmp_path / "more"], path, hasher)
    for source in ("memory://bucket", str(folder / "b"), str(tmp_path / "*" / "x.png")):
        report = index_images(source, path, hasher)
        assert (report.removed, len(content(path))) == (0, 7)


def test_index__of_a_pattern_of_urls(memory, tmp_path: Path, hasher: Hasher) -> None:
    memory.put(str(photos(tmp_path / "photos")), "/bucket", recursive=True)
    path = tmp_path / "g.chg"
    index_images("memory://bucket/*/0.png", path, hasher)
    assert {name: label for name, (label, _) in content(path).items()} == {
        "memory://bucket/a/0.png": "a",
        "memory://bucket/b/0.png": "b",
    }


def test_index__of_what_is_unmarked_reads_it_again(
    memory, tmp_path: Path, hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concepthash.runtime import urls

    monkeypatch.setattr(urls, "mark", lambda info: urls.UNMARKED)
    first, second = (photo(tmp_path / f"{n}.png", n).read_bytes() for n in (1, 2))
    size = max(len(first), len(second))
    path = tmp_path / "g.chg"
    for data, expected in ((first, "added"), (first, "unchanged"), (second, "changed")):
        memory.pipe("/bucket/x.png", data.ljust(size, b"\0"))
        assert index_images("memory://bucket", path, hasher).to_json()[expected] == 1


def test_index__over_http(tmp_path: Path, hasher: Hasher) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    folder = photos(tmp_path / "photos", each=1)

    with serving(folder) as base:
        path = tmp_path / "g.chg"
        index_images([f"{base}/", f"{base}/a/0.png"], path, hasher)
        expected = codes_of(folder, hasher)
        found = {name: code for name, (_, code) in content(path).items()}
        assert found == {f"{base}/{name}": code for name, code in expected.items()}
        with pytest.raises((UsageError, DataError)):
            open_sources([f"{base}/gone.png"], Columns())
        with pytest.raises(UsageError, match="ends with a slash") as told:
            open_sources([f"{base}/a"], Columns())
        assert told.value.hint == f"chash index {base}/a/"
        with pytest.raises(UsageError, match="nothing is there") as told:
            open_sources([f"{base}/none/"], Columns())
        assert told.value.hint


@pytest.mark.parametrize("code", [403, 503])
@pytest.mark.parametrize("name", ["", "x.png"])
def test_sources__of_a_server_that_refuses_say_so(tmp_path: Path, name: str, code: int) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with web_server(tmp_path) as web:
        web.tricks["*"] = [status(code)]
        with pytest.raises(DataError, match=f"the server answers {code}"):
            open_sources([f"{web.url}/{name}"], Columns())


@pytest.mark.parametrize("name", ["", "photos/", "x.png", "*.png"])
def test_sources__of_a_server_that_is_down_say_so(tmp_path: Path, name: str) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with serving(tmp_path) as base:
        pass
    with pytest.raises(DataError, match=os.strerror(errno.ECONNREFUSED)) as told:
        open_sources([f"{base}/{name}"], Columns())
    assert "the network" in str(told.value.hint)


def test_sources__of_a_file_url_and_a_pattern_are_files(tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "a b")
    path = tmp_path / "g.chg"
    index_images(f"file://{tmp_path}/a%20b", path, hasher)
    assert len(content(path)) == 6
    other = tmp_path / "h.chg"
    index_images(f"{folder}/*/[01].png", other, hasher)
    assert {Path(name).name for name in content(other)} == {"0.png", "1.png"}
    assert {label for label, _ in content(other).values()} == {"a", "b"}
    (folder / "a" / "0.png").unlink()
    assert index_images(f"{folder}/*/[01].png", other, hasher).removed == 0
    assert index_images(folder, other, hasher).removed == 1


def test_sources__keep_passwords_to_themselves(tmp_path: Path, hasher: Hasher) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    photo(tmp_path / "www" / "x.png", 1)
    (tmp_path / "www" / "bad.png").write_bytes(b"no")
    with serving(tmp_path / "www") as base:
        secret = base.replace("://", "://ann:pass%25word@")
        path = tmp_path / "g.chg"
        report = index_images(f"{secret}/", path, hasher)
        assert [str(skip.path) for skip in report.skipped.items] == [f"{base}/bad.png"]
        assert list(content(path)) == [f"{base}/x.png"]
        assert (report.added, index_images(f"{base}/", path, hasher).unchanged) == (1, 1)
        with pytest.raises(UsageError) as told:
            open_sources([f"{secret}/gone.png"], Columns())
    with pytest.raises(DataError) as down:
        open_sources([f"{secret}/"], Columns())
    assert "pass" not in f"{told.value}{down.value}"
    assert not [f for f in path.rglob("*") if f.is_file() and b"pass%25word" in f.read_bytes()]


def test_sources__of_a_server_that_sends_whole_files_only_say_so(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    (tmp_path / "photo").write_bytes(b"x" * 100)
    write_parquet(tmp_path / "x.parquet", {"image": [b"x" * 2**21]}, compression="none")
    with web_server(tmp_path) as web:
        (source,) = open_sources([f"{web.url}/x.parquet"], Columns())
        unread = Skipped()
        assert list(source.photos(unread)) == []
    ((name, reason),) = [(skip.path, skip.reason) for skip in unread.items]
    assert name == f"{web.url}/x.parquet"
    assert "no Range requests" in reason


def test_sources__of_a_pattern_pass_over_pipes(tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "photos")
    os.mkfifo(folder / "a" / "pipe.png")
    report = index_images(f"{folder}/a/*.png", tmp_path / "g.chg", hasher)
    assert report.added == 3
    assert [skip.reason for skip in report.skipped.items] == ["not a regular file"]


def test_sources__say_what_is_missing(memory, tmp_path: Path) -> None:
    for name in (tmp_path / "gone", str(tmp_path / "*.png"), "memory://gone"):
        with pytest.raises(UsageError):
            open_sources([name], Columns())
    with pytest.raises(UsageError, match="no such scheme"):
        open_sources(["nosuch://x"], Columns())


def test_sources__name_the_package_of_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("fsspec.core")

    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", missing)
    with pytest.raises(BackendError) as told:
        open_sources(["s3://bucket/x"], Columns())
    assert told.value.hint == "pip install s3fs"


def test_photo__behind_a_url_is_refused_in_words() -> None:
    with pytest.raises(ImageError, match="behind a URL, which is not read here"):
        open_rgb(Url("s3://bucket/x.jpg"))
