"""Published galleries: pushed to folders and memory, fetched past all that goes wrong."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from cli_entry import Chash, photo, photos
from tiny_bundle import tiny_bundle
from web_server import (
    Web,
    flipped,
    longer,
    no_http,
    shorter,
    status,
    truncated,
    web_server,
    whole,
)

from concepthash.codes import CodeLayout
from concepthash.errors import BackendError, GalleryDamaged, GalleryError, UsageError
from concepthash.runtime import copies, published, remote, sites
from concepthash.runtime.entries import Entry, Url
from concepthash.runtime.galleries import create_gallery, open_gallery
from concepthash.runtime.remote import fetch, is_url, push, shown

LAYOUT = CodeLayout(64, 4)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "CHASH_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHASH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def web(site: Path) -> Iterator[Web]:
    with web_server(site) as served:
        yield served


@pytest.fixture
def told() -> list[str]:
    return []


def add(gallery: Path, first: int, count: int) -> None:
    rng = np.random.default_rng(first)
    entries = [
        Entry(gallery.parent / f"photos/{n}.jpg", f"label {n % 3}", n, n, rng.bytes(32).hex())
        for n in range(first, first + count)
    ]
    codes = rng.integers(0, 256, (count, LAYOUT.nbytes), dtype=np.uint8)
    with open_gallery(gallery, write=True) as opened:
        opened.add(entries, codes)


def make(folder: Path, *, shards: int | None = None, count: int = 20) -> Path:
    path = folder / "birds.chg"
    with create_gallery(path, layout=LAYOUT, fingerprint="ab" * 32, model="m", shards=shards):
        pass
    add(path, 0, count)
    return path


def facts(gallery: Path) -> dict[int, tuple[str, str | None, bytes]]:
    """Images by their content: the names, which a copy has as they were stored, and the codes."""
    with open_gallery(gallery) as opened:
        opened.verify()
        ids, codes = opened.codes()
        names = opened.names_of(ids)
        return {
            id: (Path(names[id][0]).name, names[id][1], code.tobytes())
            for id, code in zip(ids.tolist(), codes, strict=True)
        }


def listed(place: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((place / "published.json").read_text())
    return values


def of_file(path: str) -> Callable[[dict[str, Any]], str]:
    return lambda values: next(f["sha256"] for f in values["files"] if f["path"] == path)


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


def test_push__sends_only_what_changed_and_keeps_one_state_back(tmp_path: Path, web: Web) -> None:
    gallery, place = make(tmp_path), web.folder / "birds.chg"
    push(gallery, place.as_uri())
    first = {path.name for path in (place / "content").iterdir()}
    again = push(gallery, place.as_uri())
    assert (again.uploaded, again.uploaded_bytes, again.removed) == (0, 0, 0)
    with open_gallery(gallery, write=True) as opened:
        opened.update([Entry(opened.entry(1).path, "other", 1, 1, "00" * 32, 1)])
    second = push(gallery, place.as_uri())
    assert (second.files, second.uploaded) == (2, 1)  # the segment is as it was
    assert first <= {path.name for path in (place / "content").iterdir()}
    url = f"{web.url}/birds.chg"
    fetch(url)
    add(gallery, 100, 5)
    third = push(gallery, place.as_uri())
    assert third.uploaded == 2
    assert third.removed == 1  # the database of the first state
    web.asked.clear()
    assert facts(fetch(url)) == facts(gallery)
    assert len(web.contents()) == 2


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


def test_push__while_a_writer_commits_is_of_one_moment(tmp_path: Path, site: Path) -> None:
    gallery = make(tmp_path)
    ended = threading.Event()

    def write() -> None:
        for n in itertools.count(200, 10):
            if ended.is_set():
                return
            add(gallery, n, 3)

    writer = threading.Thread(target=write)
    writer.start()
    sizes: set[int] = set()
    try:
        for _ in range(200):
            push(gallery, site / "birds.chg")
            sizes.add(len(facts(fetch((site / "birds.chg").as_uri()))))
            if len(sizes) > 3:
                break
    finally:
        ended.set()
        writer.join()
    assert len(sizes) > 3
    assert all(size % 3 == 20 % 3 for size in sizes)


def test_push__leaves_out_what_was_never_committed(tmp_path: Path, site: Path) -> None:
    gallery = make(tmp_path)
    segment = gallery / "segments/000001.codes"
    size = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(b"half a commit")
    push(gallery, site / "birds.chg")
    files = {file["path"]: file["bytes"] for file in listed(site / "birds.chg")["files"]}
    assert files["segments/000001.codes"] == size
    assert facts(fetch((site / "birds.chg").as_uri())) == facts(gallery)


def test_push__of_a_compacted_gallery_with_tables_is_whole(tmp_path: Path, site: Path) -> None:
    gallery = make(tmp_path)
    with open_gallery(gallery, write=True) as opened:
        opened.remove([3, 4])
        opened.compact()
        made = opened.accelerate()
    push(gallery, site / "birds.chg")
    paths = [file["path"] for file in listed(site / "birds.chg")["files"]]
    assert "segments/000002.ids" in paths
    assert any(path.startswith("tables/") for path in paths) == bool(made)
    assert facts(fetch((site / "birds.chg").as_uri())) == facts(gallery)


def test_push__that_breaks_off_leaves_the_old_state(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, place = make(tmp_path), site / "birds.chg"
    push(gallery, place)
    before = facts(fetch(place.as_uri()))
    add(gallery, 50, 4)
    write = sites.FolderSite.write
    for broken in ("content/", "published.json"):
        with monkeypatch.context() as patch:

            def fail(self: Any, name: str, content: Any, broken: str = broken) -> None:
                if name.startswith(broken):
                    raise sites.Refused("no space left on device")
                write(self, name, content)

            patch.setattr(sites.FolderSite, "write", fail)
            with pytest.raises(GalleryError, match="no space left"):
                push(gallery, place)
        assert facts(fetch(place.as_uri())) == before
    assert push(gallery, place).uploaded == 2
    assert len(facts(fetch(place.as_uri()))) == 24


@pytest.mark.parametrize("name", ["photo.jpg", "content/photo.jpg"])
def test_push__into_a_folder_of_other_things_is_refused(
    tmp_path: Path, site: Path, name: str
) -> None:
    other = site / "photos" / name
    other.parent.mkdir(parents=True)
    other.write_text("kept")
    with pytest.raises(UsageError, match=r"something else is there \(photo.jpg\)"):
        push(make(tmp_path), site / "photos")
    assert [path for path in (site / "photos").rglob("*") if path.is_file()] == [other]


def test_push__goes_on_where_one_broke_off_before_its_first_state(
    tmp_path: Path, site: Path
) -> None:
    gallery, place = make(tmp_path), site / "birds.chg"
    push(gallery, place)
    (place / "published.json").unlink()
    (place / "content" / f".{'0' * 64}.1.tmp").write_text("half")
    push(gallery, place)
    assert facts(fetch(place.as_uri())) == facts(gallery)


def test_push__replaces_another_gallery_by_force_only(tmp_path: Path, site: Path) -> None:
    one, two, place = make(tmp_path / "one"), make(tmp_path / "two", count=3), site / "birds.chg"
    push(one, place)
    before = sorted(place.rglob("*"))
    with pytest.raises(UsageError, match=r"another gallery was published(?s:.*)--force"):
        push(two, place)
    assert sorted(place.rglob("*")) == before
    push(two, place, force=True)
    assert facts(fetch(place.as_uri())) == facts(two)
    with open_gallery(two, write=True) as opened:
        opened.reset(fingerprint="cd" * 32, model="n", layout=LAYOUT)
    with pytest.raises(UsageError, match="of another model was published"):
        push(two, place)


def test_push__of_a_gallery_without_a_shard_says_which(tmp_path: Path, site: Path) -> None:
    gallery = make(tmp_path, shards=3)
    (gallery / "shard-0002.chg").rename(tmp_path / "away")
    with pytest.raises(GalleryDamaged, match=r"shard-0002.chg is missing(?s:.*)index repair"):
        push(gallery, site / "birds.chg")
    assert not (site / "birds.chg").exists()


def test_push__that_another_one_overtook_is_refused(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two", count=3)
    write = sites.FolderSite.write

    def overtaken(self: Any, name: str, content: Any) -> None:
        write(self, name, content)
        with monkeypatch.context() as patch:
            patch.setattr(sites.FolderSite, "write", write)
            push(two, site / "birds.chg")

    monkeypatch.setattr(sites.FolderSite, "write", overtaken)
    with pytest.raises(GalleryError, match="another push"):
        push(one, site / "birds.chg")
    assert len(facts(fetch((site / "birds.chg").as_uri()))) == 3


def test_push__sends_again_what_went_missing_there(tmp_path: Path, site: Path) -> None:
    gallery, place = make(tmp_path), site / "birds.chg"
    push(gallery, place)
    (place / "content" / of_file("segments/000001.codes")(listed(place))).unlink()
    with pytest.raises(GalleryError, match="missing"):
        fetch(place.as_uri())
    (place / "published.json").write_text('{"schema": "chash.pub')
    with pytest.raises(GalleryDamaged):
        fetch(place.as_uri())
    assert push(gallery, place).uploaded == 2
    assert facts(fetch(place.as_uri())) == facts(gallery)


def test_push__to_a_folder_sends_again_what_was_damaged_there(tmp_path: Path, site: Path) -> None:
    gallery, place = make(tmp_path), site / "birds.chg"
    push(gallery, place)
    segment = place / "content" / of_file("segments/000001.codes")(listed(place))
    data = bytearray(segment.read_bytes())
    data[-4:] = bytes(byte ^ 255 for byte in data[-4:])
    segment.write_bytes(data)
    with pytest.raises(GalleryError, match=r"SHA-256 differs(?s:.*)push GALLERY .* --verify sends"):
        fetch(place.as_uri())
    assert push(gallery, place).uploaded == 1
    assert facts(fetch(place.as_uri())) == facts(gallery)


def test_push__refuses_places_it_cannot_use(tmp_path: Path, web: Web) -> None:
    gallery = make(tmp_path)
    with pytest.raises(UsageError, match="only read"):
        push(gallery, f"{web.url}/birds.chg")
    sharded = make(tmp_path / "sharded", shards=2)
    for taken in (gallery, gallery / "www", sharded, sharded / "shard-0001.chg"):
        with pytest.raises(UsageError, match="a gallery is there"):
            push(gallery, taken)
    with pytest.raises(GalleryError, match="no such gallery"):
        push(tmp_path / "nothing.chg", web.folder / "x.chg")
    with pytest.raises(GalleryError, match="not a gallery"):
        push(tmp_path, web.folder / "x.chg")
    with pytest.raises(UsageError, match="no host"):
        push(gallery, "file://server/share/birds.chg")
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError, match=r"not there|refused"):
        push(gallery, tmp_path / "file" / "birds.chg")


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
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:10])
        request.wfile.flush()
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
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:20])
        request.wfile.flush()
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


@pytest.fixture
def shop(chash: Chash, tmp_path: Path, web: Web) -> str:
    """The URL of a gallery that was pushed; its folder is gone."""
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    photo(tmp_path / "query.png", 3)
    assert chash("index", "shop").code == 0
    done = chash("index", "push", "shop.chg", (web.folder / "shop.chg").as_uri())
    assert done.code == 0
    assert re.fullmatch(r"file://\S+/www/shop\.chg: 2 files, 2 sent, \d+ of \d+ bytes\n", done.out)
    assert "next: chash query IMAGE --gallery file://" in done.err
    (tmp_path / "shop.chg").rename(tmp_path / "elsewhere")
    return f"{web.url}/shop.chg"


def test_cli__query_takes_a_url(chash: Chash, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = chash("query", "query.png", "--gallery", shop, "--top", "2", "--json")
    hits = done.json("chash.query/1")["queries"][0]["hits"]
    assert hits[0] == {**hits[0], "path": str(Path("shop/b/0.png")), "distance": 0}
    assert f"from {shop}" in done.err
    monkeypatch.setenv("CHASH_GALLERY", shop)
    assert chash("query", "query.png", "--format", "paths", "--top", "1").out == "shop/b/0.png\n"
    monkeypatch.setenv("CHASH_OFFLINE", "1")
    done = chash("query", "query.png", "--top", "1")
    assert done.code == 0
    assert "CHASH_OFFLINE is set" in done.err


def test_cli__verbs_that_read_take_a_url(chash: Chash, shop: str, web: Web) -> None:
    secret = shop.replace("://", "://ann:pass-word@")
    for words in (
        ("inspect", secret),
        ("dedupe", secret, "--radius", "0"),
        ("knn-graph", secret, "--top", "2", "--out", "graph.npz"),
        ("index", "verify", secret),
        ("index", "export", secret, "codes.npy"),
        ("index", "export", secret, "pg", "--to", "pgvector"),
    ):
        done = chash(*words)
        assert done.code == 0, done.err
        assert "pass-word" not in done.out + done.err
        assert "galleries" not in done.out  # nor where its copy lies
    for words, key in (
        (("inspect", secret), "path"),
        (("index", "verify", secret), "gallery"),
        (("dedupe", secret, "--radius", "0"), "gallery"),
        (("index", "export", secret, "codes.npy", "--force"), "gallery"),
        (("index", "push", secret, "again"), "gallery"),
    ):
        values = json.loads(chash(*words, "--json").out)
        assert values[key] == shop, words
    assert set(web.authorized) == {"Basic YW5uOnBhc3Mtd29yZA=="}
    web.tricks["*"] = [status(403)]
    done = chash("query", "query.png", "--gallery", secret, "--json")
    assert done.code == 1
    assert "403" in done.err
    assert "pass-word" not in done.out + done.err


def test_cli__query_names_the_url_whose_model_is_not_here(chash: Chash, shop: str) -> None:
    (next(Path().glob("*.chb"))).rename("model")
    Path("other").mkdir()
    Path("model").rename("other/model")
    done = chash("query", "query.png", "--gallery", shop)
    assert done.code == 5
    assert f"where: {shop}\n" in done.err


def test_cli__query_refuses_a_photo_behind_a_url(chash: Chash, shop: str) -> None:
    photo = f"{shop}/a.jpg"
    done = chash("query", photo.replace("://", "://ann:pass-word@"), "--gallery", shop)
    assert done.code == 2
    assert f"where: {photo}\ntry: curl -o photo.jpg {photo} &&" in done.err
    assert "pass-word" not in done.err
    assert chash("query", "1://a.jpg", "--gallery", shop).code == 1  # a file that is not there


def test_cli__push_says_what_to_do_about_another_gallery(chash: Chash, shop: str, web: Web) -> None:
    assert chash("index", "shop", "--out", "two.chg").code == 0
    place = web.folder / "shop.chg"
    done = chash("index", "push", "two.chg", place)
    assert done.code == 2
    assert "try: another URL, or --force to replace it" in done.err
    assert chash("index", "push", "two.chg", place, "--force").code == 0
    (place / "content" / of_file("gallery.sqlite")(listed(place))).write_bytes(b"damaged")
    assert (
        chash("index", "push", "two.chg", place, "--verify", "--json").json("chash.push/1")[
            "uploaded"
        ]
        == 1
    )


def test_cli__verbs_that_write_refuse_a_url(chash: Chash, shop: str) -> None:
    for words in (
        ("index", "shop", "--out", shop),
        ("index", "compact", shop),
        ("index", "accelerate", shop),
        ("index", "remove", shop, "--id", "1"),
        ("index", "repair", shop),
    ):
        done = chash(*words)
        assert done.code == 2, words
        assert "only read" in done.err
        assert f"chash index push FOLDER {shop}" in done.err
    assert not Path("http:").exists()


def test_cli__push_reports_json(chash: Chash, shop: str, web: Web) -> None:
    done = chash("index", "push", "elsewhere", web.folder / "shop.chg", "--json")
    values = done.json("chash.push/1")
    assert (values["files"], values["uploaded"], values["url"]) == (
        2, 0, (web.folder / "shop.chg").as_uri(),
    )  # fmt: skip
    assert chash("index", "push", "elsewhere", f"{web.url}/x").code == 2
    assert chash("index", "push", "nothing.chg", web.folder / "x").code == 1
