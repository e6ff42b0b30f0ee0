"""Sharded galleries under fire: moments that differ, and what lies about when they begin anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sharded_gallery import MODEL, codes, image, images

from concepthash.runtime.galleries import create_gallery, discard_gallery, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.shardfile import Manifest
from concepthash.runtime.sharding import between, home


def test_between__a_path_that_a_writer_takes_to_another_shard_is_no_damage(tmp_path: Path) -> None:
    path, shards = tmp_path / "a.chg", 2
    old = next(n for n in range(99) if home(image(tmp_path, n).sha256, shards) == 0)
    new = next(n for n in range(99) if home(image(tmp_path, n).sha256, shards) == 1)
    changed = replace(image(tmp_path, new), path=image(tmp_path, old).path)
    with create_gallery(path, **MODEL, shards=shards) as writer:
        (id,) = writer.add(images(tmp_path, [old]), codes([old]))
    with Gallery.open(path / "shard-0001.chg") as first:
        with open_gallery(path, write=True) as writer:
            writer.commit(add=[changed], codes=codes([new]), remove=[id])
        with Gallery.open(path / "shard-0002.chg") as second:
            assert list(between([first, second], Manifest.read(path))) == []
            assert len(first) == len(second) == 1
    with Gallery.open(path / "shard-0001.chg", write=True) as first:
        first.add([changed], codes([new]))
    with (
        Gallery.open(path / "shard-0001.chg") as first,
        Gallery.open(path / "shard-0002.chg") as second,
    ):
        (found,) = between([first, second], Manifest.read(path))
        assert "another shard has too" in found.what


def test_discard__a_gallery_that_was_read_and_repaired_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "a.chg"
    with create_gallery(path, **MODEL, shards=2) as gallery:
        gallery.add(images(tmp_path, range(20)), codes(range(20)))
    (path / "shard-0001.chg/damaged-1").mkdir()
    (path / "shard-0001.chg/damaged-1/000001.codes").write_bytes(b"as it was")
    with open_gallery(path) as reader:
        assert len(reader) == 20
    assert (path / "shard-0002.chg/gallery.sqlite-shm").exists()  # as readers leave it
    assert discard_gallery(path) == 2
    assert {file.name for file in path.iterdir()} == {"lock", "damaged-1"}
    assert (path / "damaged-1/shard-0001.chg/000001.codes").read_bytes() == b"as it was"
    with create_gallery(path, **MODEL, shards=2) as gallery:
        assert len(gallery) == 0
