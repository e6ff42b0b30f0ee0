"""Published galleries fetched from web servers, past all that goes wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import published_gallery
import pytest
from published_gallery import add, facts, listed, make, of_file
from web_server import (
    Web,
    begun,
    flipped,
    longer,
    no_http,
    shorter,
    status,
    truncated,
    web_server,
    whole,
)

from concepthash.errors import GalleryDamaged, GalleryError, UsageError
from concepthash.runtime import copies, published, remote, sites
from concepthash.runtime.entries import Entry, Url
from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.remote import fetch, push

alone, site = published_gallery.alone, published_gallery.site
web, told = published_gallery.web, published_gallery.told


@pytest.mark.parametrize("shards", [None, 3])
def test_fetch__gives_the_gallery_that_was_pushed(
    tmp_path: Path, web: Web, shards: int | None, told: list[str]
) -> None:
    gallery = make(tmp_path, shards=shards)
    done = push(gallery, (web.folder / "birds.chg").as_uri())
    assert (done.uploaded, done.removed) == (done.files, 0)
    copy = fetch(f"{web.url}/birds.chg", tell=told.append)
    assert copy.name == "birds.chg"
    assert facts(copy) == facts(gallery)
    assert told == [
        f"fetching {done.files} files, {done.bytes / 1000:.3g} kB, from {web.url}/birds.chg"
    ]
    assert fetch(f"{web.url}/birds.chg", tell=told.append) == copy
    assert len(told) == 1
    assert web.asked[-1] == "/birds.chg/published.json"


def test_fetch__names_photos_as_they_were_stored(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shards in (None, 2):
        gallery = make(tmp_path / str(shards), shards=shards, count=1)
        push(gallery, site / f"{shards}.chg")
        monkeypatch.chdir(site)
        with open_gallery(fetch((site / f"{shards}.chg").as_uri())) as opened:
            assert [str(entry.path) for entry in opened.entries()] == [
                str(Path("photos") / "0.jpg")
            ]


def test_open_gallery__of_a_url_is_its_copy(tmp_path: Path, web: Web) -> None:
    push(make(tmp_path), web.folder / "birds.chg")
    for url in (f"{web.url}/birds.chg", Path(f"{web.url}/birds.chg"), Url(f"{web.url}/birds.chg/")):
        with open_gallery(url) as opened:
            assert len(opened) == 20
    with pytest.raises(UsageError, match="only read"):
        open_gallery(f"{web.url}/birds.chg", write=True)


def test_fetch__takes_what_did_not_change_from_the_copy_before(tmp_path: Path, web: Web) -> None:
    gallery, url = make(tmp_path), f"{web.url}/birds.chg"
    push(gallery, web.folder / "birds.chg")
    old = fetch(url)
    with open_gallery(old) as reader:
        for label in ("x", "y", "z"):
            with open_gallery(gallery, write=True) as opened:
                opened.update([Entry(opened.entry(1).path, label, 1, 1, "00" * 32, 1)])
            push(gallery, web.folder / "birds.chg")
            web.asked.clear()
            new = fetch(url)
            assert web.contents() == [of_file("gallery.sqlite")(listed(web.folder / "birds.chg"))]
            with open_gallery(new) as opened:
                assert opened.entry(1).label == label
        assert reader.entry(1).label == "label 0"  # though its files may be gone
    versions = [path for path in new.parents[1].iterdir() if path.is_dir()]
    assert len(versions) == 2


def test_fetch__of_a_damaged_copy_does_not_take_from_it(tmp_path: Path, web: Web) -> None:
    gallery, url = make(tmp_path), f"{web.url}/birds.chg"
    push(gallery, web.folder / "birds.chg")
    old = fetch(url)
    segment = old / "segments/000001.codes"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with open_gallery(gallery, write=True) as opened:
        opened.update([Entry(opened.entry(1).path, "new", 1, 1, "00" * 32, 1)])
    push(gallery, web.folder / "birds.chg")
    assert facts(fetch(url)) == facts(gallery)


def test_fetch__of_a_copy_that_has_grown_reads_none_of_it(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, url = make(tmp_path), f"{web.url}/birds.chg"
    push(gallery, web.folder / "birds.chg")
    segment = fetch(url) / "segments/000001.codes"
    os.truncate(segment, 1 << 30)
    read = copies.sha256

    def watched(path: Path) -> str:
        assert path != segment
        return read(path)

    monkeypatch.setattr(copies, "sha256", watched)
    assert facts(fetch(url)) == facts(gallery)


BAD_REPLIES = {
    "truncated": (truncated, "broke off"),
    "flipped": (flipped, "SHA-256 differs"),
    "longer": (longer, "SHA-256 differs"),
    "shorter": (shorter, "SHA-256 differs"),
    "no http": (no_http, "broke off or is no HTTP"),
    "busy": (status(503), "the server says 503"),
    "forbidden": (status(403), "refused: the server says 403"),
    "gone": (status(404), "missing there"),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_fetch__of_contents_that_stay_bad_fails_and_keeps_none(
    tmp_path: Path, web: Web, name: str
) -> None:
    trick, message = BAD_REPLIES[name]
    push(make(tmp_path), web.folder / "birds.chg")
    web.tricks["content"] = [trick]
    with pytest.raises(GalleryError, match=message) as caught:
        fetch(f"{web.url}/birds.chg")
    assert len(str(caught.value).splitlines()) == 3
    assert f"{web.url}/birds.chg" in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".tmp"]
    web.tricks.clear()
    assert len(facts(fetch(f"{web.url}/birds.chg"))) == 20


@pytest.mark.parametrize("name", ["truncated", "flipped", "no http", "busy"])
def test_fetch__of_contents_that_were_bad_once_goes_on(tmp_path: Path, web: Web, name: str) -> None:
    push(make(tmp_path), web.folder / "birds.chg")
    web.tricks["content"] = [BAD_REPLIES[name][0], whole]
    assert len(facts(fetch(f"{web.url}/birds.chg"))) == 20


def test_fetch__from_a_server_that_falls_silent_ends(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sites, "READ_SECONDS", 0.1)
    released = threading.Event()

    def silent(request: BaseHTTPRequestHandler, data: bytes) -> None:
        begun(request, data, 10)
        released.wait(30)

    push(make(tmp_path), web.folder / "birds.chg")
    web.tricks["*"] = [silent]
    try:
        with pytest.raises(GalleryError, match="no answer in time"):
            fetch(f"{web.url}/birds.chg")
    finally:
        released.set()


def test_fetch__follows_to_web_servers_only(tmp_path: Path, web: Web, site: Path) -> None:
    push(make(tmp_path), site / "birds.chg")
    for target, message in (
        ("file:///etc/passwd", "refused"),
        ("ftp://127.0.0.1/x", "refused"),
        (f"{web.url}/old/published.json", "refused|reached"),
    ):
        web.tricks["/old/published.json"] = [status(302, Location=target)]
        with pytest.raises(GalleryError, match=message):
            fetch(f"{web.url}/old")
    web.tricks["/old/published.json"] = [status(302, Location="/birds.chg/published.json")]
    for file in listed(site / "birds.chg")["files"]:
        name = f"content/{file['sha256']}"
        web.tricks[f"/old/{name}"] = [status(307, Location=f"{web.url}/birds.chg/{name}")]
    assert len(facts(fetch(f"{web.url}/old"))) == 20


def test_fetch__sends_a_password_to_its_server_and_shows_it_nowhere(
    tmp_path: Path, site: Path, web: Web, told: list[str]
) -> None:
    push(make(tmp_path), site / "birds.chg")
    host = web.url.removeprefix("http://")
    url = f"http://ann:s%C3%A9cret@{host}/birds.chg?token=s3cret"
    copy = fetch(url, tell=told.append)
    assert set(web.authorized) == {"Basic YW5uOnPDqWNyZXQ="}
    with web_server(site) as other:
        web.tricks["published.json"] = [
            status(302, Location=f"{other.url}/birds.chg/published.json")
        ]
        fetch(url, tell=told.append)
        assert other.asked
        assert set(other.authorized) == {None}
    web.tricks["published.json"] = [status(401)]
    with pytest.raises(GalleryError, match="401") as caught:
        fetch(url, tell=told.append)
    web.tricks["published.json"] = [status(500)]
    assert fetch(url, tell=told.append) == copy
    text = " ".join([*told, str(caught.value), *map(str, (tmp_path / "cache").rglob("*"))])
    assert "cret" not in text
    assert "ann" not in text


def test_fetch__offline_uses_the_whole_copy_and_says_so(
    tmp_path: Path, web: Web, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{web.url}/birds.chg"
    push(make(tmp_path), web.folder / "birds.chg")
    monkeypatch.setenv("CHASH_OFFLINE", "1")
    with pytest.raises(GalleryError, match="no whole copy"):
        fetch(url, tell=told.append)
    assert not web.asked
    monkeypatch.setenv("CHASH_OFFLINE", "0")
    copy = fetch(url, tell=told.append)
    told.clear()
    monkeypatch.setenv("CHASH_OFFLINE", "1")
    asked = len(web.asked)
    assert fetch(url, tell=told.append) == copy
    assert len(web.asked) == asked
    assert re.fullmatch(
        re.escape(url) + r" is not asked: CHASH_OFFLINE is set; this is the copy of \d{4}-.*", *told
    )
    (copy / "segments/000001.codes").write_bytes(b"")
    with pytest.raises(GalleryError, match="no whole copy"):
        fetch(url, tell=told.append)


@pytest.mark.parametrize("trick", [status(503), truncated, no_http])
def test_fetch__from_a_server_in_trouble_uses_the_copy(
    tmp_path: Path, web: Web, told: list[str], trick: Any
) -> None:
    url = f"{web.url}/birds.chg"
    push(make(tmp_path), web.folder / "birds.chg")
    copy = fetch(url, tell=told.append)
    web.tricks["published.json"] = [trick]
    assert fetch(url, tell=told.append) == copy
    assert "is not asked" in told[-1]
    web.tricks["published.json"] = [status(404)]  # it answers: nothing is there any more
    with pytest.raises(GalleryError, match="no gallery was published"):
        fetch(url)


def test_fetch__without_a_server_fails_in_three_lines(web: Web) -> None:
    port = int(web.url.rpartition(":")[2])
    for url in (f"http://127.0.0.1:{port}1/x.chg", "http://127.0.0.1:1/x.chg", "http:///x.chg",
                "http://127.0.0.1:port/x.chg"):  # fmt: skip
        with pytest.raises((GalleryError, UsageError)) as caught:
            fetch(url)
        assert len(str(caught.value).splitlines()) == 3


def hostile(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    def change(values: dict[str, Any]) -> Any:
        values["files"][0].update(changes)
        return values

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"path {path!r}": hostile(path=path)
        for path in (
            *("../x", "a/../x", "/etc/x", "a//x", "a/", "", ".", "..", "./x", "a\\x", "c:x"),
            *("C:/x", "a\0x", "a\nx", ".hidden", "x.", "con", "aux.txt", "a/b/c/d/e", "é", "a x"),
            *("x" * 300, 7, None, ["a"]),
        )
    },
    **{f"bytes {size!r}": hostile(bytes=size) for size in (-1, 1 << 60, 1.5, "9", None, True)},
    **{f"sum {s!r:.12}": hostile(sha256=s) for s in ("", "../x", "g" * 64, "A" * 64, 5, None)},
    "twice": lambda values: {**values, "files": [*values["files"], values["files"][0]]},
    "twice in case": lambda values: {
        **values,
        "files": [*values["files"], {**values["files"][0], "path": "GALLERY.sqlite"}],
    },
    "a file and a folder": lambda values: {
        **values,
        "files": [*values["files"], {**values["files"][0], "path": "gallery.sqlite/x"}],
    },
    "no gallery": lambda values: {**values, "files": values["files"][1:]},
    "no files": lambda values: {"schema": values["schema"]},
    "files that are none": lambda values: {**values, "files": {"path": "x"}},
    "another schema": lambda values: {**values, "schema": "chash.shards/1"},
    "a list": lambda values: [values],
    "previous": lambda values: {**values, "previous": ["../../x"]},
    "fingerprint": lambda values: {**values, "fingerprint": "\x1b[2J"},
    "deep": lambda values: {**values, "files": json.loads("[" * 400 + "]" * 400)},
}


def test_fetch__of_a_hostile_manifest_writes_nothing(tmp_path: Path, web: Web) -> None:
    place = web.folder / "birds.chg"
    push(make(tmp_path), place)
    sound = (place / "published.json").read_text()
    before = sorted(tmp_path.rglob("*"))
    for name, change in HOSTILE.items():
        (place / "published.json").write_text(json.dumps(change(json.loads(sound))))
        where = re.escape(f"where: {web.url}/birds.chg/published.json")
        with pytest.raises(GalleryDamaged, match=f"not what a push writes(?s:.*){where}"):
            pytest.fail(f"{name}: {fetch(f'{web.url}/birds.chg')}")
        assert sorted(tmp_path.rglob("*")) == before, name


def test_fetch__of_an_endless_or_newer_manifest_is_refused(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = web.folder / "birds.chg"
    push(make(tmp_path), place)
    values = {**listed(place), "schema": "chash.published/2"}
    (place / "published.json").write_text(json.dumps(values))
    with pytest.raises(GalleryError, match="newer"):
        fetch(f"{web.url}/birds.chg")
    with pytest.raises(GalleryError, match="newer"):
        push(tmp_path / "birds.chg", place)
    monkeypatch.setattr(published, "MANIFEST_BYTES", 100)
    monkeypatch.setattr(remote, "MANIFEST_BYTES", 100)
    (place / "published.json").write_bytes(b"[" * 10_000_000)
    with pytest.raises(GalleryDamaged, match="larger"):
        fetch(f"{web.url}/birds.chg")


def test_fetch__of_a_stray_link_stays_in_the_cache(tmp_path: Path, web: Web) -> None:
    place = web.folder / "birds.chg"
    push(make(tmp_path), place)
    copy = fetch(f"{web.url}/birds.chg")
    for path in copy.rglob("*"):
        assert not path.is_symlink()
        assert tmp_path / "cache" in path.resolve().parents


def test_fetch__by_two_at_once_asks_for_each_content_once(
    tmp_path: Path, web: Web, told: list[str]
) -> None:
    push(make(tmp_path, shards=3), web.folder / "birds.chg")

    def slow(request: BaseHTTPRequestHandler, data: bytes) -> None:
        time.sleep(0.02)
        whole(request, data)

    web.tricks["content"] = [slow]
    found: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(fetch(f"{web.url}/birds.chg", tell=told.append))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(web.contents()) == len(set(web.contents()))
    assert "another process is fetching it: waiting" in told
    assert len(facts(found[0])) == 20


def test_fetch__that_was_killed_goes_on_where_it_was(tmp_path: Path, web: Web) -> None:
    push(make(tmp_path, shards=2), web.folder / "birds.chg")
    reached, released = threading.Event(), threading.Event()

    def stuck(request: BaseHTTPRequestHandler, data: bytes) -> None:
        begun(request, data, 20)
        reached.set()
        released.wait(30)

    web.tricks["content"] = [whole, whole, stuck, whole]
    script = f"from concepthash.runtime.remote import fetch; fetch('{web.url}/birds.chg')"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        assert reached.wait(30)
        process.kill()
    released.set()
    had = web.contents()
    assert len(had) == 3
    web.asked.clear()
    assert len(facts(fetch(f"{web.url}/birds.chg"))) == 20
    assert not set(web.contents()) & set(had[:2])
    assert had[2] in web.contents()
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_fetch__without_room_says_so_before_and_after(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(make(tmp_path), web.folder / "birds.chg")
    url = f"{web.url}/birds.chg"
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(copies.shutil, "disk_usage", lambda path: usage(100, 90, 10))
        with pytest.raises(
            GalleryError, match=r"no room for a copy: it takes .* 10 bytes are free"
        ):
            fetch(url)
    assert not web.contents()

    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(copies, "replacing", full)
        with pytest.raises(GalleryError, match="no space left") as caught:
            fetch(url)
        assert "CHASH_CACHE" in str(caught.value)
    assert len(facts(fetch(url))) == 20


def test_fetch__without_links_copies(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(copies.os, "link", refuse)
    gallery = make(tmp_path)
    push(gallery, web.folder / "birds.chg")
    fetch(f"{web.url}/birds.chg")
    add(gallery, 70, 2)
    push(gallery, web.folder / "birds.chg")
    assert len(facts(fetch(f"{web.url}/birds.chg"))) == 22


def test_fetch__starts_anew_when_a_push_comes_between(tmp_path: Path, web: Web) -> None:
    gallery, place = make(tmp_path), web.folder / "birds.chg"
    push(gallery, place)

    def replaced(request: BaseHTTPRequestHandler, data: bytes) -> None:
        for path in (place / "content").iterdir():
            path.unlink()
        (place / "published.json").unlink()
        add(gallery, 80, 1)
        push(gallery, place)
        status(404)(request, b"")

    web.tricks["content"] = [replaced, whole]
    assert len(facts(fetch(f"{web.url}/birds.chg"))) == 21
