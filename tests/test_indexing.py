"""Indexing: after any change on disk, the gallery is what indexing from scratch would give."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import tiny_bundle, tiny_codes

from concepthash.decode import Waits
from concepthash.errors import GalleryError, GalleryLocked, MismatchError, UsageError
from concepthash.images import Source
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import IndexReport, index_images


class Watched(Hasher):
    """A hasher that notes which files it was asked for."""

    hashed: list[str]

    def hash(self, sources: Iterable[Source], *, strict: bool = False, waits: Waits | None = None):
        self.hashed = []

        def noted():
            for source in sources:
                self.hashed.append(Path(str(source)).name)
                yield source

        return super().hash(noted(), strict=strict, waits=waits)


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return Watched(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=4)


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path, "png")


def touch(path: Path, later: int = 1) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later * 10**9))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos: two a class, one outside the classes."""
    for number, name in enumerate(
        ["wren/a", "wren/b", "finch/c", "finch/d", "owl/e", "owl/f", "g"]
    ):
        draw(tmp_path / "photos" / f"{name}.png", number)
    return tmp_path / "photos"


def counts(report: IndexReport) -> dict[str, int]:
    values = report.to_json()
    values["skipped"] = len(values["skipped"])
    for name in ("seconds", "hashed", "waits", "photos_per_second", "bound_by"):
        del values[name]
    return {name: count for name, count in values.items() if count}


def content(gallery: Path) -> dict[str, tuple[str | None, bytes, str]]:
    """Name of each image -> label, code and hash; the store's own checks passed."""
    with Gallery.open(gallery) as opened:
        opened.verify()
        return {
            entry.path.name: (entry.label, opened.code(entry.id).tobytes(), entry.sha256)
            for entry in opened.entries()
        }


def ids(gallery: Path) -> dict[str, int]:
    with Gallery.open(gallery) as opened:
        return {entry.path.name: entry.id for entry in opened.entries()}


def code(number: int) -> bytes:
    return tiny_codes(pixels(number)[None]).tobytes()


def test_index__a_folder(photos: Path, tmp_path: Path, hasher: Watched) -> None:
    path = tmp_path / "g.chg"
    report = index_images(photos, path, hasher, commit_every=3)
    assert counts(report) == {"added": 7}
    assert str(report) == "7 new, 0 unchanged"
    found = content(path)
    assert {name: label for name, (label, _, _) in found.items()} == {
        "a.png": "wren",
        "b.png": "wren",
        "c.png": "finch",
        "d.png": "finch",
        "e.png": "owl",
        "f.png": "owl",
        "g.png": None,
    }
    assert [found[f"{name}.png"][1] for name in "abcdefg"] == [code(n) for n in range(7)]
    with Gallery.open(path) as gallery:
        assert gallery.fingerprint == hasher.fingerprint
        assert gallery.model == "tiny-0"


def test_index__again_does_nothing(photos: Path, tmp_path: Path, hasher: Watched) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    before = content(path), ids(path)
    report = index_images([str(photos)], path, hasher)
    assert counts(report) == {"unchanged": 7}
    assert hasher.hashed == []
    assert (content(path), ids(path)) == before


def test_index__says_how_fast_it_was_and_what_bounded_it(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    (photos / "broken.png").write_bytes(b"broken")
    first = index_images([photos], tmp_path / "g.chg", hasher)
    assert first.hashed == 8
    assert first.photos_per_second == pytest.approx(8 / first.seconds)
    assert first.pace is not None
    assert "photos/s, bound by " in first.pace
    values = first.to_json()
    assert values["bound_by"] in values["waits"]
    assert 0 < sum(values["waits"].values()) <= first.seconds

    again = index_images([photos], tmp_path / "g.chg", hasher)  # tries the broken one again
    assert again.hashed == 1
    (photos / "broken.png").unlink()
    nothing = index_images([photos], tmp_path / "g.chg", hasher)
    assert (nothing.hashed, nothing.pace, nothing.bound_by) == (0, None, None)
    assert nothing.to_json()["photos_per_second"] is None


@pytest.mark.parametrize(
    ("waits", "bound", "text"),
    [
        (Waits(0.1, 0.2, 6.0), "model", "bound by the model: of 8.0 s waited 6.0 s for the model"),
        (Waits(0.1, 5.0, 0.0), "decoding", "bound by decoding: of 8.0 s waited 5.0 s for decoding"),
        (Waits(7.0, 0.2, 0.0), "files", "bound by reading the files: of 8.0 s waited 7.0 s"),
    ],
)
def test_report__names_the_stage_that_was_waited_for_most(
    waits: Waits, bound: str, text: str
) -> None:
    report = IndexReport(hashed=100, waits=waits, seconds=8.0)
    assert report.bound_by == bound
    assert report.pace is not None
    assert report.pace.startswith("12.5 photos/s, " + text)


def test_index__does_only_what_is_left(photos: Path, tmp_path: Path, hasher: Watched) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    before = ids(path)
    touch(photos / "wren" / "a.png")  # same content
    draw(photos / "wren" / "b.png", 20)  # new content
    touch(photos / "wren" / "b.png", 2)
    (photos / "finch" / "c.png").rename(photos / "owl" / "moved.png")
    (photos / "finch" / "d.png").unlink()
    draw(photos / "owl" / "new.png", 21)
    shutil.copy(photos / "owl" / "e.png", photos / "twin.png")

    expected = {"added": 2, "changed": 1, "moved": 1, "removed": 1, "unchanged": 4}
    stored = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert counts(index_images([photos], path, hasher, dry_run=True)) == expected
    for file, data in stored.items():
        assert file.read_bytes() == data

    report = index_images([photos], path, hasher)
    assert counts(report) == expected
    assert sorted(hasher.hashed) == ["b.png", "new.png"]
    after, found = ids(path), content(path)
    assert after["a.png"] == before["a.png"]
    assert after["moved.png"] == before["c.png"]
    assert found["moved.png"][:2] == ("owl", code(2))
    assert after["b.png"] > max(before.values())
    assert found["b.png"][1] == code(20)
    assert found["twin.png"][:2] == (None, code(4))
    assert "d.png" not in found
    assert counts(index_images([photos], path, hasher)) == {"unchanged": 8}


def test_index__copies_are_hashed_once(photos: Path, tmp_path: Path, hasher: Watched) -> None:
    for number in range(3):
        shutil.copy(photos / "g.png", photos / "owl" / f"copy{number}.png")
    index_images([photos], tmp_path / "g.chg", hasher, commit_every=2)
    found = content(tmp_path / "g.chg")
    assert len(found) == 10
    assert {found[f"copy{n}.png"][:2] for n in range(3)} == {("owl", code(6))}
    assert len(hasher.hashed) == 7


def test_index__broken_photos_are_listed_and_tried_again(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"
    whole = (photos / "owl" / "e.png").read_bytes()
    (photos / "owl" / "e.png").write_bytes(whole[:100])
    (photos / "link.png").symlink_to("nowhere.png")
    report = index_images([photos], path, hasher)
    assert counts(report) == {"added": 6, "skipped": 2}
    reasons = {Path(skip.path).name: skip.reason for skip in report.skipped.items}
    assert reasons["link.png"] == "a link to nothing"
    assert "cannot decode" in reasons["e.png"]
    assert counts(index_images([photos], path, hasher)) == {"unchanged": 6, "skipped": 2}
    (photos / "owl" / "e.png").write_bytes(whole)
    assert counts(index_images([photos], path, hasher))["added"] == 1


@pytest.mark.parametrize("broken", [b"", b"<html>log in, please</html>"])
def test_index__what_can_be_read_no_more_keeps_its_images(
    photos: Path, tmp_path: Path, hasher: Watched, broken: bytes
) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    before = content(path)
    whole = {file: file.read_bytes() for file in photos.rglob("*.png")}
    for file in whole:
        file.write_bytes(broken)
    for _ in range(2):
        report = index_images([photos], path, hasher)
        assert counts(report) == {"skipped": 7}
        assert all("its image of before stays" in skip.reason for skip in report.skipped.items)
        assert content(path) == before
    for file, data in whole.items():
        file.write_bytes(data)
    assert counts(index_images([photos], path, hasher)) == {"unchanged": 7}
    (photos / "owl" / "e.png").unlink()
    assert counts(index_images([photos], path, hasher)) == {"unchanged": 6, "removed": 1}


def test_index__prunes_only_below_its_sources(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    (photos / "wren" / "a.png").unlink()
    (photos / "owl" / "e.png").unlink()
    assert counts(index_images([photos], path, hasher, prune=False)) == {"unchanged": 5}
    report = index_images([photos / "owl"], path, hasher)
    assert counts(report) == {"unchanged": 1, "removed": 1}
    assert set(content(path)) == {"a.png", "b.png", "c.png", "d.png", "f.png", "g.png"}
    assert content(path)["f.png"][0] == "owl"  # a label once known is kept
    index_images([photos], path, hasher)
    assert "a.png" not in content(path)


def test_index__an_emptied_folder_is_taken_for_an_unmounted_disk(
    photos: Path, tmp_path: Path, hasher: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index_images(["photos"], "g.chg", hasher)
    before = content(tmp_path / "g.chg")
    (tmp_path / "photos").rename(tmp_path / "unmounted")
    (tmp_path / "photos").mkdir()
    draw(tmp_path / "other" / "new.png", 40)
    for dry_run in (True, False):
        with pytest.raises(GalleryError, match="nothing was removed") as caught:
            index_images(["other", "photos"], "g.chg", hasher, dry_run=dry_run)
        assert caught.value.where == "photos"
        assert "--prune all" in str(caught.value.hint)
    kept = content(tmp_path / "g.chg")
    assert before.items() <= kept.items()
    assert counts(index_images(["photos"], "g.chg", hasher, prune=False)) == {}
    # One photo is enough for the others to be gone.
    draw(tmp_path / "photos" / "wren" / "a.png", 0)
    assert counts(index_images(["photos"], "g.chg", hasher))["removed"] == 6
    (tmp_path / "photos" / "wren" / "a.png").unlink()
    report = index_images(["photos"], "g.chg", hasher, prune="all")
    assert counts(report) == {"removed": 1}
    assert counts(index_images(["photos"], "g.chg", hasher)) == {}


def test_index__names_what_it_skips_as_the_user_did(
    photos: Path, tmp_path: Path, hasher: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "owl" / "e.png").write_bytes(b"broken")
    (tmp_path / "single.png").write_bytes(b"broken too")
    sources = {
        tmp_path: ["photos", "single.png"],
        photos: [".", "../single.png"],
        photos / "owl": ["..", str(tmp_path / "single.png")],
    }
    for here, named in sources.items():
        monkeypatch.chdir(here)
        report = index_images(named, tmp_path / "g.chg", hasher)
        names = [skip.path for skip in report.skipped.items]
        assert names == [str(Path(named[0]) / "owl" / "e.png"), named[1]]


def test_index__single_files_and_overlapping_sources(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"
    odd = tmp_path / "no-suffix"
    draw(odd, 30)
    sources = [photos / "owl" / "e.png", photos / "owl", photos, odd]
    assert counts(index_images(sources, path, hasher)) == {"added": 8}
    assert content(path)["no-suffix"] == (None, code(30), content(path)["no-suffix"][2])
    assert counts(index_images([photos], path, hasher)) == {"relabelled": 2, "unchanged": 5}
    assert content(path)["e.png"][0] == "owl"
    odd.unlink()
    with pytest.raises(UsageError, match="no such file"):
        index_images([photos, odd], path, hasher)


def test_index__labels_from_a_table(
    photos: Path, tmp_path: Path, hasher: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g.chg"
    monkeypatch.chdir(photos)
    table = {"wren/a.png": "Troglodytes", str(photos / "g.png"): "Strix"}
    index_images(["."], path, hasher, label_from=table)
    labels = {name: label for name, (label, _, _) in content(path).items() if label}
    assert labels == {"a.png": "Troglodytes", "g.png": "Strix"}
    assert counts(index_images(["."], path, hasher, label_from=None)) == {"unchanged": 7}
    report = index_images(["."], path, hasher, label_from={"g.png": "owl"})
    assert counts(report) == {"relabelled": 1, "unchanged": 6}
    assert content(path)["g.png"][0] == "owl"


def test_index__another_model_is_refused_or_replaces(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    other = Watched(tiny_bundle(tmp_path, bits=24, concepts=3, seed=1), threads=1)
    for dry_run in (False, True):
        with pytest.raises(MismatchError, match="tiny-0"):
            index_images([photos], path, other, dry_run=dry_run)
    Gallery.open(path, write=True).close()  # the refusal let go of the lock
    assert counts(index_images([photos], path, other, rebuild=True, dry_run=True)) == {"added": 7}
    assert content(path)["a.png"][1] == code(0)
    assert counts(index_images([photos], path, other, rebuild=True)) == {"added": 7}
    assert content(path)["a.png"][1] == tiny_codes(pixels(0)[None], bits=24, seed=1).tobytes()
    assert min(ids(path).values()) == 8
    assert counts(index_images([photos], path, other)) == {"unchanged": 7}
    assert [file.name for file in (path / "segments").iterdir()] == ["000002.codes"]


def test_index__a_damaged_gallery_is_rebuilt_when_asked(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"
    index_images([photos], path, hasher)
    expected = content(path)
    os.truncate(path / "segments" / "000001.codes", 65)
    with pytest.raises(GalleryError, match="truncated"):
        index_images([photos], path, hasher)
    index_images([photos], path, hasher, rebuild=True)
    assert content(path) == expected
    (path / "gallery.sqlite").write_bytes(b"noise" * 1000)
    index_images([photos], path, hasher, rebuild=True)
    assert content(path) == expected
    with Gallery.open(path, write=True), pytest.raises(GalleryLocked):
        index_images([photos], path, hasher, rebuild=True)


def test_index__an_interrupted_run_is_continued(
    photos: Path, tmp_path: Path, hasher: Watched
) -> None:
    path = tmp_path / "g.chg"

    def interrupts(report: IndexReport) -> None:
        if report.added == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_images([photos], path, hasher, commit_every=2, progress=interrupts)
    assert len(content(path)) == 5
    seen: list[int] = []
    report = index_images([photos], path, hasher, progress=lambda r: seen.append(r.seen))
    assert counts(report) == {"added": 2, "unchanged": 5}
    assert len(hasher.hashed) == 2
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert [content(path)[f"{name}.png"][1] for name in "abcdefg"] == [code(n) for n in range(7)]


def test_index__a_dry_run_of_nothing_yet(photos: Path, tmp_path: Path, hasher: Watched) -> None:
    report = index_images([photos], tmp_path / "g.chg", hasher, dry_run=True)
    assert counts(report) == {"added": 7}
    assert not (tmp_path / "g.chg").exists()


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["draw", "break", "move", "copy", "unlink", "touch", "swap", "index"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=14,
)


@given(EDITS)
@settings(max_examples=25, deadline=None)
def test_index__any_edits_end_as_if_from_scratch(
    hasher: Watched, edits: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        files = [photos / folder / f"{n}{folder}.png" for folder in "pq" for n in range(3)]
        for clock, (edit, a, b) in enumerate([*edits, ("index", 0, 0)]):
            photos.mkdir(exist_ok=True)
            edit_files(edit, files[a], files[b], number=a, clock=clock)
            if edit == "index":
                index_images(
                    [photos], Path(name) / "g.chg", hasher, prune="all", commit_every=1 + b
                )
        index_images([photos], Path(name) / "scratch.chg", hasher)
        found, scratch = content(Path(name) / "g.chg"), content(Path(name) / "scratch.chg")
        assert {photo: found[photo] for photo in found if photo in scratch} == scratch
        kept = [file for file in files if file.name in found.keys() - scratch.keys()]
        assert len(kept) == len(found) - len(scratch)
        assert all(file.read_bytes().startswith(b"broken") for file in kept)


def edit_files(edit: str, a: Path, b: Path, *, number: int, clock: int) -> None:
    """One change on disk; times move on by a second a step, as they do outside of tests."""
    if edit == "draw":
        draw(a, number)
    elif edit == "break":
        a.parent.mkdir(parents=True, exist_ok=True)
        a.write_bytes(b"broken" * (1 + number))
    elif edit in ("move", "copy", "swap", "unlink", "touch") and a.exists():
        b.parent.mkdir(parents=True, exist_ok=True)
        if edit == "move":
            a.rename(b)
        elif edit == "copy" and a != b:
            shutil.copy(a, b)
        elif edit == "swap" and b.exists() and a != b:
            aside = a.with_suffix(".aside")
            a.rename(aside)
            b.rename(a)
            aside.rename(b)
        elif edit == "unlink":
            a.unlink()
    for file in {a, b}:
        if edit not in ("index", "unlink") and file.exists():
            touch(file, 1000 + clock)


@pytest.mark.parametrize("year", [1901, 1969, 2038, 2107, 2300, 2400])
def test_index__photos_from_years_that_few_clocks_show(
    tmp_path: Path, hasher: Watched, year: int
) -> None:
    photo, path = tmp_path / "photos/1.png", tmp_path / "a.chg"
    draw(photo, 1)
    seconds = round((year - 1970) * 365.2425 * 86_400)
    try:
        os.utime(photo, ns=(0, seconds * 10**9 + 1))
    except (OSError, OverflowError):
        pytest.skip("this file system knows no such year")
    assert index_images(photo.parent, path, hasher).added == 1
    again = index_images(photo.parent, path, hasher)
    assert (again.unchanged, hasher.hashed) == (1, [])
