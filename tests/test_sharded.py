"""The sharded gallery: what an ordinary one answers, over shards that commit one by one."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sharded_gallery import MODEL, codes, content, image, images, ordinary, without_ids

from concepthash.errors import GalleryError, GalleryLocked, MismatchError, UsageError
from concepthash.runtime.galleries import create_gallery, is_gallery, mark_of, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.repair import repair
from concepthash.runtime.sharded import ShardedGallery
from concepthash.runtime.shardfile import Manifest
from concepthash.runtime.sharding import home
from concepthash.runtime.shards import merge, split


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Images 0 to 29 in three shards."""
    with ShardedGallery.create(tmp_path / "a.chg", **MODEL, shards=3, segment_bytes=16) as gallery:
        for numbers in (range(10), range(10, 30)):
            gallery.add(images(tmp_path, numbers), codes(numbers))
    return tmp_path / "a.chg"


def test_sharded__gives_back_what_was_added(path: Path, tmp_path: Path) -> None:
    with open_gallery(path) as gallery:
        assert isinstance(gallery, ShardedGallery)
        found = {values[0]: values for values in content(gallery).values()}
        for number, code in enumerate(codes(range(30))):
            entry = image(tmp_path, number)
            values = (entry.label, entry.size, entry.mtime_ns, entry.sha256, code.tobytes())
            assert found[entry.path][1:] == values
        stats = gallery.stats()
        assert (stats.images, stats.labels, stats.bits, stats.removed_rows) == (30, 3, 16, 0)
        assert stats.segments == sum(shard.stats().segments for shard in gallery.shards)
        assert "30 images in 3 shards" in repr(gallery)
        assert (gallery.layout, gallery.fingerprint) == (MODEL["layout"], MODEL["fingerprint"])
        assert list(gallery.damage()) == []
        gallery.verify()
        with pytest.raises(MismatchError, match="abababab"):
            gallery.check_model("cd" * 32)
        with pytest.raises(GalleryError, match="no image has the id 17"):
            gallery.entry(17)
        with pytest.raises(GalleryError, match="no image has the id 1000000999"):
            gallery.entries_of([1000000001, 1000000999])
        with pytest.raises(UsageError, match="to read"):
            gallery.remove([1000000001])
        for refused in (gallery.compact, gallery.accelerate):
            with pytest.raises(UsageError, match="to read"):
                refused()


def test_sharded__an_image_lies_where_its_content_says(path: Path, tmp_path: Path) -> None:
    with open_gallery(path, write=True) as gallery:
        assert gallery.names == ("shard-0001.chg", "shard-0002.chg", "shard-0003.chg")
        for number, shard in enumerate(gallery.shards):
            first = (number + 1) * 10**9 + 1
            assert [entry.id for entry in shard.entries()] == list(range(first, first + len(shard)))
            assert {home(entry.sha256, 3) for entry in shard.entries()} == {number}
        lengths = [len(shard) for shard in gallery.shards]
        (new,) = gallery.add([image(tmp_path, 77)], codes([77]))
        place = home(image(tmp_path, 77).sha256, 3)
        assert new == (place + 1) * 10**9 + 1 + lengths[place]


def test_sharded__is_searched_as_one(path: Path) -> None:
    with open_gallery(path, write=True) as gallery:
        gallery.remove(list(content(gallery))[::4])
        ids, packed = gallery.codes()
        plain = HammingIndex(16, 2)
        plain.add(packed, ids)
        for tables in (False, True):
            if tables:
                assert gallery.accelerate() == 30
            index = gallery.index()
            assert len(index) == len(ids)
            for k in (1, 7, 40):
                found = index.search(codes(range(0, 60, 7)), k=k)
                expected = plain.search(codes(range(0, 60, 7)), k=k)
                np.testing.assert_array_equal(found.ids, expected.ids)
                np.testing.assert_array_equal(found.distances, expected.distances)
                np.testing.assert_array_equal(found.per_concept, expected.per_concept)


@pytest.mark.parametrize("seed", range(3))
def test_sharded__does_what_an_ordinary_gallery_does(tmp_path: Path, seed: int) -> None:
    """Random commits on both: the same images, the same refusals; sharded by split, then alone."""
    chance = random.Random(seed)
    ordinary(tmp_path / "one.chg", range(40), removed=(3, 4, 21))
    split(tmp_path / "one.chg", 3, tmp_path / "many.chg")
    with (
        open_gallery(tmp_path / "one.chg", write=True) as one,
        open_gallery(tmp_path / "many.chg", write=True) as many,
    ):
        assert content(many) == content(one)
        one.compact()  # as the shards are
        next_number, refusals = 40, 0
        for _ in range(40):
            ids = {entry.path: entry.id for entry in many.entries()}
            there = list(one.entries())
            removed = chance.sample(there, chance.choice([0, 0, 3]))
            updates = []
            for entry in chance.sample(there, chance.choice([0, 0, 1, 5])):
                other = chance.choice(there).path if chance.random() < 0.3 else entry.path
                fresh = tmp_path / f"moved {chance.randrange(100)}.jpg"
                to = chance.choice([entry.path, fresh, other])
                updates.append(replace(entry, path=to, label=chance.choice(["new", None])))
            count = chance.choice([0, 1, 6])
            numbers = range(next_number, next_number + count)
            added = images(tmp_path, numbers)
            if added and chance.random() < 0.2:
                added[0] = replace(added[0], path=chance.choice(there).path)
            next_number += count
            outcomes = []
            for gallery in (one, many):
                # The same images: each gallery has ids of its own.
                real = {e.id: e.id if gallery is one else ids[e.path] for e in there}
                try:
                    new = gallery.commit(
                        add=added,
                        codes=codes(numbers),
                        update=[replace(entry, id=real[entry.id]) for entry in updates],
                        remove=[real[entry.id] for entry in removed],
                    )
                    assert [gallery.entry(id).path for id in new] == [e.path for e in added]
                    outcomes.append("done")
                except GalleryError as error:
                    outcomes.append(error.what.split(":")[0])
            assert outcomes[0] == outcomes[1]
            refusals += outcomes[0] != "done"
            assert without_ids(many) == without_ids(one)
            if chance.random() < 0.1:
                assert many.compact() == one.compact()
        assert list(many.damage()) == []
        assert 0 < refusals < 40
        with pytest.raises(MismatchError):
            many.add(images(tmp_path, [999]), codes([1, 2]))
    merge([tmp_path / "many.chg"], tmp_path / "again.chg")
    with open_gallery(tmp_path / "again.chg") as again, open_gallery(tmp_path / "one.chg") as one:
        assert without_ids(again) == without_ids(one)
    split(tmp_path / "many.chg", 2, tmp_path / "two.chg")
    with open_gallery(tmp_path / "two.chg", write=True) as two:
        with open_gallery(tmp_path / "many.chg") as many:
            assert content(two) == content(many)
            largest = max(content(many))
        assert min(two.add(images(tmp_path, range(900, 904)), codes(range(900, 904)))) > largest
        assert list(two.damage()) == []


def test_sharded__old_images_stay_where_they_are_after_a_split(tmp_path: Path) -> None:
    ordinary(tmp_path / "one.chg", range(20))
    shards = split(tmp_path / "one.chg", 4, tmp_path / "many.chg")
    with open_gallery(tmp_path / "many.chg", write=True) as many:
        new = many.add(images(tmp_path, range(20, 30)), codes(range(20, 30)))
        assert {id // 10**9 for id in new} <= {1, 2, 3, 4}
        moved = replace(many.entry(7), path=tmp_path / "moved.jpg")
        many.update([moved])
        assert many.find(tmp_path / "moved.jpg") == moved
    for number, shard in enumerate(shards):
        with Gallery.open(shard) as alone:  # each is a gallery of its own
            old = [entry.id for entry in alone.entries() if entry.id <= 20]
            assert old == list(range(5 * number + 1, 5 * number + 6))
            assert all(entry.path.parent == tmp_path for entry in alone.entries())


def test_sharded__photos_and_gallery_move_together(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / "b.chg")
    with open_gallery(tmp_path / "elsewhere" / "b.chg") as gallery:
        assert {entry.path.parent for entry in gallery.entries()} == {tmp_path / "elsewhere"}
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Gallery.open("b.chg/shard-0001.chg") as alone:
        assert {entry.path.parent for entry in alone.entries()} == {Path()}


def test_sharded__one_writer_and_readers_with_a_moment_each(path: Path, tmp_path: Path) -> None:
    with open_gallery(path) as reader, open_gallery(path, write=True) as writer:
        with pytest.raises(GalleryLocked):
            open_gallery(path, write=True)
        with pytest.raises(GalleryLocked):
            Gallery.open(path / "shard-0002.chg", write=True)
        assert not reader.changed()
        writer.add(images(tmp_path, range(50, 55)), codes(range(50, 55)))
        assert reader.changed()
        assert len(reader) == 30
        reader.refresh()
        assert not reader.changed()
        assert content(reader) == content(writer)
        other = {**MODEL, "fingerprint": "cd" * 32, "model": "next"}
        writer.reset(**other)
        assert len(writer) == 0
        (id,) = writer.add([image(tmp_path, 1)], codes([1]))
        assert id not in {entry.id for entry in reader.entries()}
        reader.refresh()
        assert (len(reader), reader.model, reader.fingerprint) == (1, "next", "cd" * 32)
    with Gallery.open(path / "shard-0001.chg", write=True), pytest.raises(GalleryLocked):
        open_gallery(path, write=True)
    with open_gallery(path, write=True):
        pass  # what was locked before the failure was let go


def test_sharded__a_full_shard_refuses_and_changes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.read(path)
    last = manifest.shards[1].fresh[0] + 500
    shards = list(manifest.shards)
    shards[1] = replace(shards[1], ids=((shards[1].fresh[0], last),))
    replace(manifest, shards=tuple(shards)).write(path)
    with open_gallery(path, write=True) as gallery:
        before = content(gallery)
        numbers = range(1000, 3000)
        with pytest.raises(GalleryError, match=r"shard-0002.chg has given all its ids") as caught:
            gallery.add(images(tmp_path, numbers), codes(numbers))
        assert "index split" in str(caught.value.hint)
        assert content(gallery) == before


def test_create__kinds_places_and_numbers(tmp_path: Path) -> None:
    with create_gallery(tmp_path / "one.chg", **MODEL) as one:
        assert isinstance(one, Gallery)
    with create_gallery(tmp_path / "many.chg", **MODEL, shards=2) as many:
        assert isinstance(many, ShardedGallery)
        assert content(many) == {}
        assert len(many.index().search(codes([1])).ids[0]) == 10
    assert mark_of(tmp_path / "one.chg") == tmp_path / "one.chg" / "gallery.sqlite"
    assert mark_of(tmp_path / "many.chg") == tmp_path / "many.chg" / "shards.json"
    assert not is_gallery(tmp_path)
    for taken in ("one.chg", "many.chg"):
        with pytest.raises(GalleryError, match="holds a gallery already"):
            create_gallery(tmp_path / taken, **MODEL, shards=2)
    with pytest.raises(GalleryError, match="already"):
        create_gallery(tmp_path / "many.chg", **MODEL)
    for number in (0, -1, 10_000):
        with pytest.raises(UsageError, match="from 1 to 9999"):
            create_gallery(tmp_path / "new.chg", **MODEL, shards=number)
    (tmp_path / "empty").mkdir()
    create_gallery(tmp_path / "empty", **MODEL, shards=1).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError):
        create_gallery(tmp_path / "file", **MODEL, shards=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    with pytest.raises(GalleryError, match=r"something else \(notes.txt\)"):
        create_gallery(tmp_path / "other", **MODEL, shards=1)
    with pytest.raises(GalleryError, match="no such gallery"):
        open_gallery(tmp_path / "absent.chg")


def test_open__of_an_ordinary_gallery_loads_nothing_for_shards(tmp_path: Path) -> None:
    ordinary(tmp_path / "one.chg", range(3))
    code = (
        "import sys; from concepthash.runtime import open_gallery; g = open_gallery(sys.argv[1]); "
        "g.index(); print([m for m in sys.modules if '.shard' in m or m.endswith('.remote')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "one.chg")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


class Crash(BaseException):
    pass


def crash_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """Stop at the call of that number of fsync: before what was written is known to be on disk."""
    real, calls = os.fsync, iter(range(10**6))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            raise Crash
        real(descriptor)

    patch.setattr(os, "fsync", fsync)


def crash_commit(patch: pytest.MonkeyPatch, number: int) -> None:
    """Stop before the commit of that number of a shard."""
    real, calls = Gallery.commit, iter(range(10**6))

    def commit(self: Gallery, **options: object) -> range:
        if next(calls) == number:
            raise Crash
        return real(self, **options)

    patch.setattr(Gallery, "commit", commit)


def test_crash__between_the_commits_of_shards(path: Path, tmp_path: Path) -> None:
    """No path is twice, what stays is whole, and doing the rest again gives what was wanted."""
    with open_gallery(path) as gallery:
        held = list(gallery.entries())
        kept = content(gallery)
    changed = [replace(e, sha256=image(tmp_path, 500 + n).sha256) for n, e in enumerate(held[::3])]
    first, second, third = held[1], held[13], held[25]
    chain = [
        replace(first, path=tmp_path / "free.jpg"),
        replace(second, path=first.path),
        replace(third, path=second.path),
    ]
    numbers = range(100, 100 + len(changed))
    wanted = {
        "add": [replace(entry, id=0) for entry in changed],
        "codes": codes(numbers),
        "update": chain,
        "remove": [entry.id for entry in changed],
    }
    shutil.copytree(path, tmp_path / "done.chg")
    with open_gallery(tmp_path / "done.chg", write=True) as done:
        done.commit(**wanted)
        assert list(done.damage()) == []
        expected = without_ids(done)
    for number in range(30):
        copy = tmp_path / f"{number}.chg"
        shutil.copytree(path, copy)
        with (
            pytest.MonkeyPatch.context() as patch,
            open_gallery(copy, write=True) as gallery,
        ):
            crash_commit(patch, number)
            try:
                gallery.commit(**wanted)
                crashed = False
            except Crash:
                crashed = True
        with open_gallery(copy, write=True) as gallery:
            assert list(gallery.damage()) == []
            now = content(gallery)
            paths = Counter(values[0] for values in now.values())
            assert set(paths.values()) == {1}
            for id, values in now.items():
                if id in kept and id not in {e.id for e in (*changed, *chain)}:
                    assert values == kept[id]
            missing = [n for n, e in enumerate(changed) if gallery.find(e.path) is None]
            still = [e.id for e in changed if e.id in now]
            missing += [n for n, e in enumerate(changed) if e.id in now]
            gallery.commit(
                add=[wanted["add"][n] for n in missing],
                codes=codes(numbers)[missing],
                update=chain,
                remove=still,
            )
            assert without_ids(gallery) == expected
        if not crashed:
            assert number > 5
            break
    else:
        raise AssertionError("the commit never ended")


def hint_of(path: Path) -> str | None:
    """What the error says that opening it gives; None if it opens."""
    try:
        open_gallery(path, write=True).close()
    except GalleryError as error:
        return str(error.hint)
    return None


@pytest.mark.parametrize("verb", ["create", "create in a folder", "split"])
def test_crash__leaves_what_opens_or_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    source = ordinary(tmp_path / "one.chg", range(12))
    with open_gallery(source) as gallery:
        whole = content(gallery)
    out, repaired = tmp_path / "new.chg", 0
    for number in range(0, 90, 3 if verb == "split" else 1):
        if verb == "create in a folder":
            out.mkdir()
        try:
            with monkeypatch.context() as patch:
                crash_at(patch, number)
                if verb == "split":
                    split(source, 2, out)
                else:
                    create_gallery(out, **MODEL, shards=2).close()
            crashed = False
        except Crash:
            crashed = True
        if out.exists() and any(out.iterdir()):
            hint = hint_of(out)
            if hint is not None and is_gallery(out):
                assert f"chash index repair {out}" in hint
                repair(out)
                repaired += 1
            if is_gallery(out):
                with open_gallery(out, write=True) as gallery:
                    assert content(gallery) == (whole if verb == "split" else {})
                    assert len(gallery.names) == 2
                    gallery.add([image(tmp_path, 77)], codes([77]))
                    assert list(gallery.damage()) == []
            shutil.rmtree(out)
        else:
            shutil.rmtree(out, ignore_errors=True)
        assert {file.name for file in tmp_path.iterdir()} == {"one.chg"}
        if not crashed:
            assert number > 3
            break
    else:
        raise AssertionError("it never ended")
    assert bool(repaired) == (verb == "create in a folder")


@pytest.mark.parametrize("shards", [None, 3])
def test_remove__takes_numbers_of_numpy(tmp_path: Path, shards: int | None) -> None:
    with create_gallery(tmp_path / "a.chg", **MODEL, shards=shards) as gallery:
        gallery.add(images(tmp_path, range(8)), codes(range(8)))
        ids, _ = gallery.codes()
        assert gallery.remove(ids[2:5]) == 3
        assert gallery.codes()[0].tolist() == [*ids[:2].tolist(), *ids[5:].tolist()]
