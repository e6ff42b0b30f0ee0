"""Merging and splitting galleries: the same images, and the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_gallery import MODEL, codes, entries, held, numbered

from concepthash.errors import GalleryError, MismatchError, UsageError
from concepthash.runtime import shards
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.shards import merge, split


def make(path: Path, first: int, count: int, removed: tuple[int, ...] = ()) -> Path:
    with Gallery.create(path, **MODEL, segment_bytes=10) as gallery:
        gallery.add(entries(path.parent, first, count), codes(first, count))
        gallery.remove(removed)
    return path


def images(path: Path) -> dict[Path, tuple[str | None, int, str, bytes]]:
    with Gallery.open(path) as gallery:
        held(gallery)
        gallery.verify()
        return {
            e.path: (e.label, e.mtime_ns, e.sha256, gallery.code(e.id).tobytes())
            for e in gallery.entries()
        }


def test_merge__holds_the_images_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_COMMIT", 3)
    a = make(tmp_path / "a.chg", 0, 12, removed=(2, 7))
    (tmp_path / "sub").mkdir()
    b = make(tmp_path / "sub" / "b.chg", 20, 5)
    c = make(tmp_path / "c.chg", 10, 4)  # 10.jpg and 11.jpg are in a as well
    report = merge([a, b, str(c)], tmp_path / "all.chg")
    assert (report.gallery, report.images) == (tmp_path / "all.chg", 17)
    twice = [Path(skip.path).name for skip in report.repeated.items]
    assert twice == ["10.jpg", "11.jpg"]
    assert str(c) in report.repeated.items[0].reason
    assert images(tmp_path / "all.chg") == images(c) | images(b) | images(a)
    with Gallery.open(tmp_path / "all.chg") as gallery:
        assert [entry.id for entry in gallery.entries()] == list(range(1, 18))
        assert gallery.fingerprint == MODEL["fingerprint"]
    assert str(report).endswith("17 images, 2 paths came twice")
    assert report.to_json()["repeated"][1]["path"] == str(tmp_path / "11.jpg")


def test_merge__refuses_what_does_not_fit(tmp_path: Path) -> None:
    a = make(tmp_path / "a.chg", 0, 3)
    other = {**MODEL, "fingerprint": "cd" * 32}
    Gallery.create(tmp_path / "b.chg", **other).close()
    with pytest.raises(MismatchError, match="cdcdcdcd") as caught:
        merge([a, tmp_path / "b.chg"], tmp_path / "out.chg")
    assert caught.value.where == str(tmp_path / "b.chg")
    with pytest.raises(GalleryError, match="no such gallery"):
        merge([a, tmp_path / "absent.chg"], tmp_path / "out.chg")
    with pytest.raises(GalleryError, match="there already"):
        merge([a], a)
    with pytest.raises(UsageError):
        merge([], tmp_path / "out.chg")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.chg", "b.chg"]


def test_merge__of_a_damaged_gallery_leaves_nothing(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a.chg", 0, 3), make(tmp_path / "b.chg", 5, 30)
    (b / "segments" / "000004.codes").unlink()
    with pytest.raises(GalleryError, match="missing"):
        merge([a, b], tmp_path / "out.chg")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.chg", "b.chg"]


@pytest.mark.parametrize("number", [1, 2, 3, 7, 17])
def test_split__holds_the_same_images_under_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(shards, "_COMMIT", 4)
    path = make(tmp_path / "a.chg", 0, 20, removed=(1, 8, 13))
    before = images(path)
    paths = split(path, number, tmp_path / "out")
    names = [f"shard-{n + 1:04}.chg" for n in range(number)]
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [*names, "shards.json"]
    with Gallery.open(path) as whole:
        expected = held(whole)
    found: dict[int, tuple[str, bytes]] = {}
    for shard in paths:
        with Gallery.open(shard, write=True) as gallery:
            assert len(gallery) in (17 // number, -(-17 // number))
            assert not found.keys() & held(gallery).keys()
            found |= held(gallery)
            gallery.verify()
            assert gallery.model == "tiny"
            new = gallery.add([Entry(tmp_path / "new.jpg")], codes(50, 1))
            assert new.start > max(held(gallery).keys() - {new.start})
            gallery.remove(new)
    assert found == expected
    assert images(path) == before
    assert {p: v for shard in paths for p, v in images(shard).items()} == before


def test_split__answers_of_the_shards_are_those_of_the_whole(tmp_path: Path) -> None:
    path = make(tmp_path / "a.chg", 0, 40, removed=(3, 4, 21))
    paths = split(path, 3, tmp_path / "out")
    queries = codes(5, 4)
    with Gallery.open(path) as gallery:
        whole = gallery.index().search(queries, k=9)
    hits = []
    for shard in paths:
        with Gallery.open(shard) as gallery:
            hits.append(gallery.index().search(queries, k=9))
    ids = np.concatenate([h.ids for h in hits], axis=1)
    distances = np.concatenate([h.distances for h in hits], axis=1)
    for q in range(4):
        order = np.lexsort((ids[q], distances[q]))[:9]
        np.testing.assert_array_equal(ids[q, order], whole.ids[q])


def test_split__of_an_empty_gallery_and_bad_numbers(tmp_path: Path) -> None:
    path = make(tmp_path / "a.chg", 0, 0)
    (only,) = split(path, 1, tmp_path / "one")
    assert images(only) == {}
    for number in (0, 2, -1):
        with pytest.raises(UsageError, match="cannot be shared"):
            split(path, number, tmp_path / "out")
    with pytest.raises(GalleryError, match="there already"):
        split(path, 1, tmp_path / "one")
    assert not (tmp_path / "out").exists()


def test_split_and_merge__give_back_the_gallery(tmp_path: Path) -> None:
    path = make(tmp_path / "a.chg", 3, 25, removed=(2, 9))
    again = merge(split(path, 4, tmp_path / "out"), tmp_path / "again.chg")
    assert again.images == 23
    assert images(tmp_path / "again.chg") == images(path)
    assert numbered(3)[4] in held_values(tmp_path / "again.chg")


def held_values(path: Path) -> list[tuple[str, bytes]]:
    with Gallery.open(path) as gallery:
        return list(held(gallery).values())
