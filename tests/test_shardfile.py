"""Hostile, damaged and foreign sharded galleries: errors of three lines, and their repair."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sharded_gallery import MODEL, codes, content, images, ordinary

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryDamaged, GalleryError, GalleryLost
from concepthash.runtime.galleries import is_sharded, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.repair import check, repair
from concepthash.runtime.sharded import ShardedGallery
from concepthash.runtime.shardfile import MOST, Manifest, fresh_ids
from concepthash.runtime.shards import split

Values = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 1 to 9 in three shards by a split, and two more that were added."""
    folder = tmp_path_factory.mktemp("made")
    ordinary(folder / "one.chg", range(9))
    split(folder / "one.chg", 3, folder / "a.chg")
    with open_gallery(folder / "a.chg", write=True) as gallery:
        gallery.add(images(folder, (20, 21)), codes((20, 21)))
    return folder / "a.chg"


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of the gallery that was made."""
    shutil.copytree(made, tmp_path / "a.chg")
    return tmp_path / "a.chg"


def held(path: Path) -> dict[int, tuple[object, ...]]:
    with open_gallery(path) as gallery:
        return content(gallery)


def refusal(path: Path) -> GalleryError:
    """What opening it raises: three lines, to read and to write alike."""
    errors = []
    for write in (False, True):
        with pytest.raises(GalleryError) as caught:
            open_gallery(path, write=write)
        errors.append(caught.value)
        lines = str(caught.value).splitlines()
        assert [line.split(":")[0] for line in lines[1:]] == ["where", "try"]
        assert len(lines[0]) < 300
    assert str(errors[0]) == str(errors[1])
    return errors[0]


def named(name: object) -> Callable[[Values], object]:
    return lambda values: values["shards"][1].update(name=name)


def owning(*ids: object) -> Callable[[Values], object]:
    return lambda values: values["shards"][1].update(ids=list(ids))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *((named(name), "plain name") for name in (
            "", ".", "..", "../a.chg", "/etc/a.chg", "sub/a.chg", "sub\\a.chg", "C:a.chg",
            "a.chg\n", ".a.chg", "a.chb", "a\x00.chg", "\u202ea.chg", "x" * 999 + ".chg", "a.chg/",
        ) if name.isprintable()),
        (named("a\x00.chg"), "not a line of text"),
        (named("\ud800.chg"), "not a line of text"),
        (named(7), "not a line of text"),
        (named(None), "not a line of text"),
        (named("shard-0001.chg"), "two shards have the name shard-0001.chg"),
        (named("SHARD-0001.chg"), "two shards have the name SHARD-0001.chg|not the plain name"),
        (named("shard-0009.chg"), "shard-0009.chg is missing"),
        (owning(), "owns no range"),
        (owning([1]), "not pairs"),
        (owning([1, 2, 3]), "not pairs"),
        (owning(["1", "2"]), "not pairs"),
        (owning([1.0, 2.0]), "not pairs"),
        (owning([True, 2]), "not pairs"),
        (owning([6, 4]), "cannot be"),
        (owning([0, 4]), "cannot be"),
        (owning([-5, 4]), "cannot be"),
        (owning([4, 2**63]), "cannot be"),
        (owning([4, 10**4000]), "cannot be"),
        (owning([3, 6], [2000000001, 3000000000]), "both own the id 3"),
        (owning([4, 6], [2000000001, 3000000001]), "both own the id 3000000001"),
        (owning([4, 6], [5, 9]), "both own the id 5"),
        (owning([7000000001, 8000000000]), "has the id 4, which is not one of its own"),
        (lambda values: values.update(schema="chash.shards/0"), "its schema is 'chash.shards/0'"),
        (lambda values: values.update(schema="chash.published/1"), "its schema"),
        (lambda values: values.update(schema=["x" * 5000]), "its schema"),
        (lambda values: values.pop("schema"), "its schema is None"),
        (lambda values: values.update(bit_order="lsb"), "unknown bit order 'lsb'"),
        (lambda values: values.update(bits=12), "multiple of 8"),
        (lambda values: values.update(bits=10**30), "multiple of 8"),
        (lambda values: values.update(bits="16"), "bits is not a whole number"),
        (lambda values: values.update(concepts=0), "0 concepts"),
        (lambda values: values.update(bits=32), "is of model"),
        (lambda values: values.update(fingerprint="ab"), "64 hexadecimal"),
        (lambda values: values.update(fingerprint="cd" * 32), "shard-0001.chg is of model abab"),
        (lambda values: values.update(model=None), "model is not a line"),
        (lambda values: values.update(shards=[]), "from 1 to 9999 shards"),
        (lambda values: values.update(shards={}), "from 1 to 9999 shards"),
        (lambda values: values.update(shards=[3]), "not a JSON object"),
        (lambda values: values.update(shards=[{"name": "a.chg"}]), "no range of ids"),
    ],
)  # fmt: skip
def test_manifest__that_is_hostile_or_damaged_is_refused(
    path: Path, change: Callable[[Values], object], what: str
) -> None:
    file = path / "shards.json"
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))
    error = refusal(path)
    assert isinstance(error, GalleryDamaged)
    error.add_note(what)
    assert any(part in error.what for part in what.split("|")), error
    assert f"chash index repair {path}" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "Expecting value"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"schema": "chash.shards/1"', "Expecting"),
        (b'{"schema": "chash.shards/1", "bits": NaN}', "NaN is no number"),
        (b'{"schema": "chash.shards/1", "bits": -Infinity}', "-Infinity is no number"),
        (b'{"bits": 64, "bits": 8}', "'bits' stands there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' stands there twice"),
        (b'{"bits": ' + b"9" * 5000 + b"}", "digits"),
        (b"[" * 100_000, "recursion"),
        (b"\xff\xfe\x00", "decode|Expecting"),
        (b" " * (2**24 + 1), "larger than 16 MiB"),
    ],
)
def test_manifest__that_is_no_json_of_ours_is_refused(path: Path, text: bytes, what: str) -> None:
    (path / "shards.json").write_bytes(text)
    error = refusal(path)
    assert any(part in error.what for part in what.split("|")), error
    assert f"chash index repair {path}" in str(error.hint)
    before = [found.what for found in check(path)]
    assert before == [error.what]
    report = repair(path)
    assert [found.what for found in report.damage] == before
    assert report.aside is not None
    assert (report.aside / "shards.json").read_bytes() == text
    assert (report.images, report.removed, report.replaced) == (11, 0, [])
    assert check(path) == []


def test_manifest__of_a_newer_version_is_left_alone(path: Path) -> None:
    file = path / "shards.json"
    file.write_text(file.read_text().replace("chash.shards/1", "chash.shards/2"))
    text = file.read_bytes()
    error = refusal(path)
    assert not isinstance(error, GalleryDamaged)
    assert error.hint == "pip install --upgrade concepthash"
    with pytest.raises(GalleryError, match="newer"):
        repair(path)
    assert file.read_bytes() == text


def test_manifest__keys_of_later_versions_are_passed_over(path: Path) -> None:
    file = path / "shards.json"
    before = held(path)
    file.write_text(json.dumps({**json.loads(file.read_text()), "later": {"x": [1]}}))
    assert held(path) == before


def test_manifest__of_the_most_shards_is_read_again(tmp_path: Path) -> None:
    from concepthash.runtime.shardfile import new_shards

    shards = new_shards(MOST, [[(number, number)] for number in range(1, 9)], 10**9 + 5)
    manifest = Manifest(MODEL["layout"], MODEL["fingerprint"], "tiny", shards)
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert shards[0].ids == ((1, 1), (2 * 10**9 + 1, 3 * 10**9))
    assert shards[-1].name == "shard-9999.chg"
    assert fresh_ids(3) == (3 * 10**9 + 1, 4 * 10**9)


def linked_away(path: Path) -> None:
    shutil.move(path / "shard-0002.chg", path.parent / "away.chg")
    (path / "shard-0002.chg").symlink_to(path.parent / "away.chg")


def linked_within(path: Path) -> None:
    shutil.rmtree(path / "shard-0002.chg")
    (path / "shard-0002.chg").symlink_to("shard-0001.chg")


def copied(path: Path) -> None:
    shutil.rmtree(path / "shard-0002.chg")
    shutil.copytree(path / "shard-0001.chg", path / "shard-0002.chg")


def missing(path: Path) -> None:
    shutil.rmtree(path / "shard-0002.chg")


def without_database(path: Path) -> None:
    (path / "shard-0002.chg" / "gallery.sqlite").unlink()


def emptied(path: Path) -> None:
    (path / "shard-0002.chg" / "gallery.sqlite").write_bytes(b"")


def overwritten(path: Path) -> None:
    for file in (path / "shard-0002.chg").glob("gallery.sqlite*"):
        file.write_bytes(b"x" * 5000)


def of_another_model(path: Path) -> None:
    shutil.rmtree(path / "shard-0002.chg")
    other = {**MODEL, "fingerprint": "cd" * 32, "model": "other"}
    Gallery.create(path / "shard-0002.chg", **other).close()


def of_another_layout(path: Path) -> None:
    shutil.rmtree(path / "shard-0002.chg")
    Gallery.create(path / "shard-0002.chg", **{**MODEL, "layout": CodeLayout(16, 4)}).close()


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege")
@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (linked_away, "shard-0002.chg is a link"),
        (linked_within, "shard-0002.chg is a link"),
        (copied, "shard-0002.chg has the id 1, which is not one of its own"),
        (missing, "shard-0002.chg is missing"),
        (without_database, "shard-0002.chg is missing"),
        (emptied, "the database is empty"),
        (overwritten, "the database is damaged from its first bytes on"),
        (of_another_model, "shard-0002.chg is of model cdcdcdcd (other)"),
        (of_another_layout, "shard-0002.chg is of model"),
    ],
)
def test_shard__that_is_not_the_listed_one_is_refused_and_replaced(
    path: Path, spoil: Callable[[Path], object], what: str
) -> None:
    before = held(path)
    with open_gallery(path) as gallery:
        lost = {entry.id for entry in gallery.shards[1].entries()}
        largest = gallery.shards[1].last_id()
    spoil(path)
    error = refusal(path)
    assert what in error.what
    assert "shard-0002.chg" in str(error)
    assert f"chash index repair {path}" in str(error.hint)
    assert [what in found.what for found in check(path)] == [True]
    report = repair(path)
    assert report.replaced == ["shard-0002.chg"]
    assert "shard-0002.chg: cannot be saved, begins anew" in str(report)
    assert "and those of shard-0002.chg, nobody knows how many, " in str(report)
    assert (report.to_json()["replaced"], report.to_json()["uncounted"]) == (report.replaced, True)
    assert held(path) == {id: values for id, values in before.items() if id not in lost}
    assert report.images == len(before) - len(lost)
    assert check(path) == []
    with open_gallery(path, write=True) as gallery:
        numbers = range(100, 110)
        new = gallery.add(images(path.parent, numbers), codes(numbers))
        assert not lost.intersection(new)
        assert len(gallery.shards[1]) > 0
        assert min(e.id for e in gallery.shards[1].entries()) > largest  # no id is given twice
    assert repair(path).damage == []


def test_shard__that_comes_back_from_a_backup_fits(path: Path, tmp_path: Path) -> None:
    before = held(path)
    shutil.copytree(path / "shard-0002.chg", tmp_path / "backup")
    missing(path)
    repair(path)
    shutil.rmtree(path / "shard-0002.chg")
    shutil.copytree(tmp_path / "backup", path / "shard-0002.chg")
    assert held(path) == before
    with open_gallery(path, write=True) as gallery:
        numbers = range(100, 110)
        new = gallery.add(images(tmp_path, numbers), codes(numbers))
        assert not before.keys() & set(new)
        assert list(gallery.damage()) == []


def test_repair__of_damaged_codes_in_a_shard(path: Path) -> None:
    before = held(path)
    segment = path / "shard-0003.chg" / "segments" / "000001.codes"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    (found,) = check(path)
    assert found.file == segment
    with open_gallery(path) as gallery, pytest.raises(GalleryDamaged) as caught:
        gallery.verify()
    assert f"chash index repair {path}," in str(caught.value.hint)  # of the gallery, not the shard
    (path / "notes.txt").write_text("mine")
    report = repair(path)
    assert report.removed == 3
    assert report.strays == [path / "notes.txt"]
    assert [shard.gallery.name for shard in report.shards] == ["shard-0003.chg"]
    assert "damaged-1: what was replaced" in str(report)
    assert report.to_json()["shards"][0]["removed"] == 3
    left = held(path)
    assert left == {id: values for id, values in before.items() if id in left}
    assert len(left) == report.images == 8
    assert repair(path).damage == []


def test_repair__writes_a_lost_manifest_anew(path: Path) -> None:
    before = held(path)
    for number, lost in enumerate(((), ("shard-0002.chg",))):
        with open_gallery(path) as gallery:
            gone = {entry.id for entry in gallery.shards[1].entries()} if lost else set()
        (path / "shards.json").unlink()
        for name in lost:
            shutil.rmtree(path / name)
        assert is_sharded(path)
        assert "list of shards is missing" in refusal(path).what
        report = repair(path)
        assert report.replaced == list(lost)
        with open_gallery(path, write=True) as gallery:
            assert gallery.names == ("shard-0001.chg", "shard-0002.chg", "shard-0003.chg")
            now = content(gallery)
            assert now == {id: values for id, values in before.items() if id not in gone}
            numbers = range(200 + 10 * number, 210 + 10 * number)
            new = gallery.add(images(path.parent, numbers), codes(numbers))
            assert min(new) > max(now)
            assert list(gallery.damage()) == []
            before = content(gallery)


def test_repair__of_copies_of_a_shard_leaves_each_id_one_owner(path: Path) -> None:
    before = held(path)
    with open_gallery(path) as gallery:
        lost = {entry.id for entry in gallery.shards[2].entries()}
    shutil.rmtree(path / "shard-0003.chg")
    for name in ("shard-0003.chg", "shard-0005.chg"):
        shutil.copytree(path / "shard-0001.chg", path / name)
    assert "shard-0005.chg lies there and is not listed" in refusal(path).what
    report = repair(path)
    assert report.replaced == ["shard-0003.chg", "shard-0004.chg", "shard-0005.chg"]
    assert held(path) == {id: values for id, values in before.items() if id not in lost}
    assert check(path) == []
    assert repair(path).damage == []


def test_repair__of_an_older_copy_of_a_shard_keeps_the_fuller(path: Path) -> None:
    older = path.parent / "older.chg"
    shutil.copytree(path / "shard-0001.chg", older)
    with open_gallery(path, write=True) as gallery:
        gallery.add(images(path.parent, range(30, 60)), codes(range(30, 60)))
    before = held(path)
    (path / "shard-0001.chg").rename(path / "shard-0004.chg")
    older.rename(path / "shard-0001.chg")
    assert repair(path).replaced == ["shard-0001.chg"]
    assert held(path) == before
    assert check(path) == []


@pytest.mark.parametrize("swapped", [True, False])
def test_repair__of_shards_with_each_other_s_names_empties_none(path: Path, swapped: bool) -> None:
    before = held(path)
    one, two, aside = (path / name for name in ("shard-0001.chg", "shard-0002.chg", "x"))
    one.rename(aside)
    if swapped:
        two.rename(one)
    else:
        shutil.rmtree(two)
    aside.rename(two)
    with pytest.raises(GalleryError, match=r"shard-0002.chg is shard-0001.chg by its ids") as told:
        repair(path)
    assert "mv shard-0002.chg shard-0001.chg" in str(told.value.hint)
    assert not list(path.glob("damaged-*"))
    two.rename(aside)
    if swapped:
        one.rename(two)
    aside.rename(one)
    if swapped:
        assert held(path) == before
    else:
        assert repair(path).replaced == ["shard-0002.chg"]


def test_repair__of_shards_of_several_models_or_none(path: Path) -> None:
    (path / "shards.json").unlink()
    of_another_model(path)
    with pytest.raises(GalleryError, match=r"several models: shard-0002\.chg of other"):
        repair(path)
    for shard in path.glob("shard-*"):
        for file in shard.glob("gallery.sqlite*"):
            file.write_bytes(b"x" * 5000)
    with pytest.raises(GalleryLost, match="no shard can be opened") as caught:
        repair(path)
    assert f"--out {path} --rebuild" in str(caught.value.hint)


def test_repair__removes_what_another_shard_has_too(path: Path, tmp_path: Path) -> None:
    before = held(path)
    with open_gallery(path) as gallery:
        (twin,) = [entry for entry in gallery.entries() if entry.id == 2]
    with Gallery.open(path / "shard-0003.chg", write=True) as alone:  # as no commit of ours does
        (id,) = alone.add([twin], codes([1]))
    (found,) = check(path)
    assert f"image {id} is from a path that another shard has too: '1.jpg'" in found.what
    report = repair(path)
    assert report.removed == 1
    assert held(path) == before
    # And an id that is no one's, between those of the shard.
    with Gallery.open(path / "shard-0003.chg", write=True) as alone:
        alone.start_ids(90 * 10**9)
        alone.add(images(tmp_path, [300]), codes([300]))
    assert "which is not one of its own" in refusal(path).what


def test_is_sharded__of_an_ordinary_gallery_or_none(tmp_path: Path) -> None:
    ordinary(tmp_path / "one.chg", range(3))
    assert not is_sharded(tmp_path / "one.chg")
    assert not is_sharded(tmp_path)
    assert not is_sharded(tmp_path / "absent")


def test_repair__that_is_killed_can_be_done_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_sharded import Crash, crash_at

    expected = {id: values for id, values in held(path).items() if id not in (4, 5, 6)}
    with open_gallery(path) as gallery:
        for entry in gallery.shards[1].entries():
            expected.pop(entry.id, None)
    for number in range(0, 40, 2):
        copy = path.with_name("copy.chg")
        shutil.copytree(path, copy)
        missing(copy)
        (copy / "shards.json").write_text("{")
        crashed = False
        with monkeypatch.context() as patch:
            crash_at(patch, number)
            try:
                repair(copy)
            except Crash:
                crashed = True
        repair(copy)
        assert held(copy) == expected
        with ShardedGallery.open(copy, write=True) as gallery:
            assert len(gallery.names) == 3
            assert list(gallery.damage()) == []
        shutil.rmtree(copy)
        if not crashed:
            assert number > 2
            break
    else:
        raise AssertionError("the repair never ended")
