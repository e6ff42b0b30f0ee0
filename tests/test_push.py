"""Galleries pushed to folders, past writers, other pushes and what lies there already."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import published_gallery
import pytest
from published_gallery import LAYOUT, add, facts, listed, make, of_file
from web_server import Web

from concepthash.errors import GalleryDamaged, GalleryError, UsageError
from concepthash.runtime import sites
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.remote import fetch, push

alone, site, web = published_gallery.alone, published_gallery.site, published_gallery.web


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


def test_push__into_a_folder_of_other_things_is_refused_by_force_too(
    tmp_path: Path, site: Path
) -> None:
    other = site / "photos"
    other.mkdir()
    (other / "published.json").write_text("{}")
    (other / "photo.jpg").write_text("kept")
    with pytest.raises(UsageError, match="does not say of which gallery"):
        push(make(tmp_path), other)
    with pytest.raises(UsageError, match=r"something else is there \(photo.jpg\)"):
        push(make(tmp_path / "again"), other, force=True)
    assert sorted(path.name for path in other.iterdir()) == ["photo.jpg", "published.json"]


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


def test_push__of_a_gallery_without_its_list_says_so(tmp_path: Path, site: Path) -> None:
    gallery = make(tmp_path, shards=2)
    (gallery / "shards.json").unlink()
    with pytest.raises(GalleryDamaged, match=r"list of shards is missing(?s:.*)index repair"):
        push(gallery, site / "birds.chg")


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
    with pytest.raises(UsageError, match=r"does not say of which gallery it is(?s:.*)--force"):
        push(gallery, place)
    assert push(gallery, place, force=True).uploaded == 2
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
