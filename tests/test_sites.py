"""Places of published galleries beyond folders and web servers, and how URLs are told."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

import published_gallery
import pytest
from published_gallery import add, facts, make

from concepthash.errors import BackendError, GalleryError, UsageError
from concepthash.runtime import sites
from concepthash.runtime.entries import Url
from concepthash.runtime.remote import fetch, is_url, push, shown

alone = published_gallery.alone


@pytest.mark.parametrize("shards", [None, 2])
def test_fsspec__takes_and_gives_a_gallery(tmp_path: Path, shards: int | None) -> None:
    fsspec = pytest.importorskip("fsspec")
    gallery, url = make(tmp_path, shards=shards), f"memory://bucket-{shards}/a/birds.chg"
    try:
        assert push(gallery, url).uploaded > 1
        assert push(gallery, url).uploaded == 0
        add(gallery, 30, 2)
        add(gallery, 40, 2)
        push(gallery, url)
        push(gallery, url)
        assert facts(fetch(url)) == facts(gallery)
        memory = fsspec.filesystem("memory")
        for content in memory.find(f"/bucket-{shards}/a/birds.chg/content"):
            memory.pipe_file(content, bytes(memory.size(content)))
        assert push(gallery, url).uploaded == 0
        assert push(gallery, url, verify=True).uploaded > 1
        assert facts(fetch(url, cache=tmp_path / "anew")) == facts(gallery)
        memory.rm(f"/bucket-{shards}/a/birds.chg/published.json")
        with pytest.raises(GalleryError, match="no gallery was published"):
            fetch(url)
    finally:
        fsspec.filesystem("memory").rm(f"/bucket-{shards}", recursive=True)


def test_fsspec__errors_hide_what_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")

    class FakeSystem:
        """A fake file system that answers with the URL it was given."""

        def invalidate_cache(self) -> None:
            raise RuntimeError("denied: fake://ann:pass-word@host/x?sig=letmein\nmore")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (FakeSystem(), "x"))
    with pytest.raises(GalleryError, match="cannot be reached") as caught:
        fetch("fake://ann:pass-word@host/x?sig=letmein")
    assert "pass-word" not in str(caught.value)
    assert "letmein" not in str(caught.value)


def test_fsspec__that_is_missing_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(BackendError, match="s3fs") as caught:
            fetch("s3://bucket/birds.chg")
        assert caught.value.hint == "pip install 'concepthash[url]' s3fs"
        with pytest.raises(UsageError, match="no file system is known"):
            fetch("nosuch://bucket/birds.chg")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(BackendError, match=r"fsspec is not installed"):
        push(Path("x.chg"), "gs://bucket/birds.chg")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://host/a.chg", "http://host/a.chg"),
        ("S3://b/x", "s3://b/x"),
        (PurePosixPath("s3://b/x"), "s3://b/x"),
        (PurePosixPath("https://h:1/x"), "https://h:1/x"),
        (PurePosixPath("file:///a/b"), "file:///a/b"),
        ("a.chg", None),
        ("/a/b:/c", None),
        ("c:/x", None),
        ("C:\\x", None),
        ("http:", None),
        ("http:/x", None),
        (PurePosixPath("a/b"), None),
        (Url("s3://b//x"), "s3://b//x"),
        (Url("file:///a"), "file:///a"),
    ],
)
def test_is_url__tells_urls_from_paths(text: Any, url: str | None) -> None:
    assert is_url(text) == (url is not None)
    if url is not None:
        assert sites.as_url(text) == url


def test_shown__leaves_out_what_is_secret() -> None:
    assert shown("https://ann:pw@h:8/a/b.chg/?sig=1#x") == "https://h:8/a/b.chg"
