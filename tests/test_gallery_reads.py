"""What a gallery tells of many images at once, and that it has changed."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError
from concepthash.runtime import tablestore
from concepthash.runtime.answers import Hit, Query, name_hits
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.repair import check, repair
from concepthash.runtime.tables import Tables

LAYOUT = CodeLayout(16, 2)


def filled(folder: Path, labels: list[str | None]) -> Gallery:
    """A gallery, open to write, of one image a label."""
    gallery = Gallery.create(folder / "a.chg", layout=LAYOUT, fingerprint="f" * 64, model="m")
    add(gallery, labels)
    return gallery


def add(gallery: Gallery, labels: list[str | None]) -> None:
    first = len(gallery)
    entries = [
        Entry(gallery.path.parent / f"{first + n}.png", label, 1, 1, f"{first + n:064x}")
        for n, label in enumerate(labels)
    ]
    codes = np.random.default_rng(first).integers(0, 256, (len(labels), LAYOUT.nbytes), np.uint8)
    gallery.add(entries, codes)


def test_entries_of__equals_entry_for_every_id(tmp_path: Path) -> None:
    with filled(tmp_path, ["a", None] * 600) as gallery:
        ids = np.random.default_rng(0).permutation(np.arange(1, 1201))
        found = gallery.entries_of(np.concatenate([ids, ids]))
        assert sorted(found) == list(range(1, 1201))
        assert all(found[id] == gallery.entry(id) for id in ids[:20].tolist())
        assert gallery.entries_of([]) == {}


def test_entries_of__names_the_first_id_that_is_not_there(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"] * 3) as gallery, pytest.raises(GalleryError, match="the id 7"):
        gallery.entries_of([1, 9, 7])


def test_labels__are_those_of_the_entries(tmp_path: Path) -> None:
    given = ["wren", None, "", "crow", "wren", None]
    with filled(tmp_path, given) as gallery:
        gallery.remove([4])
        labels = gallery.labels()
        assert labels.names == ("", "wren")
        assert labels.ids.tolist() == [1, 2, 3, 5, 6]
        named = [None if n < 0 else labels.names[n] for n in labels.numbers.tolist()]
        assert named == [entry.label for entry in gallery.entries()]


def test_name_hits__leaves_out_what_is_no_hit(tmp_path: Path) -> None:
    with filled(tmp_path, ["a", None]) as gallery:
        ids = np.array([[2, 1], [1, -1]])
        distances = np.array([[0, 3], [5, -1]], np.int32)
        parts = np.array([[[0, 0], [1, 2]], [[5, 0], [-1, -1]]], np.int32)
        found = name_hits(gallery, ids, distances, parts)
        path = [str(gallery.entry(id).path) for id in (1, 2)]
        assert found == [
            (Hit(1, 2, path[1], None, 0, (0, 0)), Hit(2, 1, path[0], "a", 3, (1, 2))),
            (Hit(1, 1, path[0], "a", 5, (5, 0)),),
        ]
        assert Query(None, "ffff", found[1], ("x", "y")).to_json()["hits"][0]["label"] == "a"


def test_changed__after_a_commit_of_another_until_refreshed(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"]) as writer, closing(Gallery.open(writer.path)) as reader:
        assert not reader.changed()
        add(writer, ["b"])
        assert reader.changed()
        assert reader.changed()
        assert len(reader) == 1
        reader.refresh()
        assert not reader.changed()
        assert len(reader) == 2
        writer.remove([1])
        assert reader.changed()
        assert not writer.changed()


def test_names_of__are_path_and_label_of_the_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path, ["a", None]) as gallery:
        outside = Entry(Path(tmp_path.anchor) / "elsewhere" / "\udcff.png", "b", 1, 1, "f" * 64)
        gallery.add([outside], np.zeros((1, LAYOUT.nbytes), np.uint8))
        for folder in (tmp_path, tmp_path.parent, Path(tmp_path.anchor)):
            monkeypatch.chdir(folder)
            expected = {e.id: (str(e.path), e.label) for e in gallery.entries()}
            assert gallery.names_of([3, 1, 2, 2]) == expected
        with pytest.raises(GalleryError, match="the id 4"):
            gallery.names_of([4])


@pytest.mark.parametrize("column", ["path = 7", "label = x'00'"])
def test_names_of__refuses_a_damaged_record(tmp_path: Path, column: str) -> None:
    with filled(tmp_path, ["a"]) as gallery:
        with gallery.transaction() as database:
            database.execute(f"UPDATE images SET {column}")
        with pytest.raises(GalleryError, match="damaged"):
            gallery.names_of([1])
        with pytest.raises(GalleryError, match="damaged"):
            gallery.entries_of([1])


def test_damage__none_where_a_writer_compacted_meanwhile(tmp_path: Path) -> None:
    with filled(tmp_path, ["a"] * 60) as writer, Gallery.open(writer.path) as reader:
        writer.remove([3, 4])
        writer.compact()
        assert list(reader.damage()) == []
        reader.verify()
        assert len(reader) == 60
        writer.remove([5])
        writer.compact()
        (segment,) = (writer.path / "segments").glob("*.codes")
        with segment.open("r+b") as file:
            file.seek(70)
            file.write(b"\0\0\0")
        assert "checksum" in next(reader.damage()).what


@pytest.mark.parametrize("size", [0, 100, 1000, -1])
def test_damage__tells_of_tables_that_cannot_be_opened(tmp_path: Path, size: int) -> None:
    with filled(tmp_path, ["a"] * 60) as writer:
        writer.accelerate()
        assert list(writer.damage()) == []
        (tables,) = (writer.path / "tables").iterdir()
        data = tables.read_bytes()
        tables.write_bytes(data[:size])
        (found,) = writer.damage()
        assert found.file == tables
    assert repair(writer.path).damage
    assert check(writer.path) == []
    with Gallery.open(writer.path) as reader:
        assert len(reader) == 60


def test_damage__none_where_a_writer_replaces_the_tables_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(tmp_path, ["a"] * 60) as writer:
        writer.accelerate()
        add(writer, ["b"] * 5)
        real = tablestore.find

        def find(*arguments: Any) -> Tables | None:
            monkeypatch.undo()
            tables = real(*arguments)
            writer.accelerate()  # no commit: the images stay as they are
            return tables

        monkeypatch.setattr(tablestore, "find", find)
        with Gallery.open(writer.path) as reader:
            assert list(reader.damage()) == []
        assert [file.stem for file in (writer.path / "tables").iterdir()] == [f"{65:012d}"]


def test_index__where_the_folder_of_tables_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.iterdir

    def gone(folder: Path) -> Iterator[Path]:
        if folder.name == "tables":
            raise FileNotFoundError(2, "No such file or directory", str(folder))
        return real(folder)

    with filled(tmp_path, ["a"] * 60) as gallery:
        gallery.accelerate()
        assert gallery.index().tables is not None
        monkeypatch.setattr(Path, "iterdir", gone)
        assert gallery.index().tables is None


def test_stats__where_a_file_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def gone(path: Path, **options: bool) -> os.stat_result:
        if path.suffix == ".codes" and not seen:
            seen.append(path)
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, **options)

    with filled(tmp_path, ["a"] * 60) as gallery:
        seen: list[Path] = []
        monkeypatch.setattr(Path, "stat", gone)
        less = gallery.stats().total_bytes
        assert len(seen) == 1
        assert gallery.stats().total_bytes > less
