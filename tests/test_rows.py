"""Photos from rows of Parquet files: named, read and missed like files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import source_photos
from cli_entry import photo, photos
from source_photos import content, write_parquet

from concepthash.errors import Skipped, UsageError
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images
from concepthash.runtime.rows import RowReader
from concepthash.runtime.sources import Columns, Place, is_gone, open_sources

hasher, memory = source_photos.hasher, source_photos.memory


def test_index__of_parquet_with_bytes(tmp_path: Path, hasher: Hasher) -> None:
    files = sorted(photos(tmp_path / "photos", each=5).rglob("*.png"))
    data = [file.read_bytes() for file in files]
    folder = tmp_path / "table"
    labels = ["wren", None] * 4
    write_parquet(folder / "1.parquet", {"image": data[:8], "label": labels}, row_group_size=3)
    write_parquet(folder / "2.parquet", {"image": [*data[8:], b"broken", None]})
    path = tmp_path / "g.chg"
    report = index_images(folder, path, hasher)
    codes = [record.code.tobytes() for record in hasher.hash(files) if record.code is not None]
    assert {name: code for name, (_, code) in content(path).items()} == {
        str(folder / f"{file}.parquet#{row}"): codes[8 * (file - 1) + row]
        for file, rows in ((1, 8), (2, 2))
        for row in range(rows)
    }
    assert [label for label, _ in list(content(path).values())[:8]] == labels
    assert {Path(skip.path).name: skip.reason for skip in report.skipped.items} == {
        "2.parquet#2": "not an image Pillow can read",
        "2.parquet#3": "no photo in this row",
    }
    again = index_images(folder, path, hasher)
    assert (again.unchanged, again.hashed) == (10, 1)
    write_parquet(folder / "1.parquet", {"image": data[1:8], "label": labels[1:8]})
    shorter = index_images(folder, path, hasher)
    assert shorter.removed == 1
    assert shorter.hashed == 1  # the broken one: what moved to another row keeps its code
    assert content(path)[str(folder / "1.parquet#0")][1] == codes[1]
    (folder / "2.parquet").write_bytes(b"damaged")
    damaged = index_images(folder, path, hasher)
    assert damaged.removed == 0
    assert [skip.path for skip in damaged.skipped.items] == [str(folder / "2.parquet")]
    (folder / "2.parquet").unlink()
    assert index_images(folder, path, hasher).removed == 2


def test_index__of_another_column_is_read_anew(tmp_path: Path, hasher: Hasher) -> None:
    one, two = (photo(tmp_path / f"{n}.png", n).read_bytes() for n in (1, 2))
    file = write_parquet(tmp_path / "x.parquet", {"image": [one], "photo": [two]})
    path = tmp_path / "g.chg"
    codes = [record.code.tobytes() for record in hasher.hash([one, two]) if record.code is not None]
    for column, code in ((None, codes[0]), ("photo", codes[1]), ("image", codes[0])):
        index_images(open_sources([file], Columns(image=column)), path, hasher)
        assert [found for _, found in content(path).values()] == [code]


def test_index__of_parquet_with_encoded_columns(tmp_path: Path, hasher: Hasher) -> None:
    arrow = pytest.importorskip("pyarrow")
    data = [photo(tmp_path / f"{n}.png", n).read_bytes() for n in range(2)]
    image = arrow.array([data[0], data[1], data[0]]).dictionary_encode()
    nested = arrow.array([{"image": {"bytes": data[0], "path": "x"}}] * 3)
    label = arrow.array(["a", "b", "a"]).dictionary_encode()
    table = arrow.table({"nested": nested, "image": image, "label": label})
    path = tmp_path / "g.chg"
    index_images(write_parquet(tmp_path / "x.parquet", table), path, hasher)
    codes = [record.code.tobytes() for record in hasher.hash(data) if record.code is not None]
    found = [value for _, value in sorted(content(path).items())]
    assert found == [("a", codes[0]), ("b", codes[1]), ("a", codes[0])]


def test_index__of_files_with_columns_of_their_own(tmp_path: Path, hasher: Hasher) -> None:
    data = [photo(tmp_path / f"{n}.png", n).read_bytes() for n in range(3)]
    folder = tmp_path / "tables"
    write_parquet(folder / "a.parquet", {"image": data[:1], "label": ["a"]})
    write_parquet(folder / "b.parquet", {"size": [1]})
    write_parquet(folder / "c.parquet", {"photo": [{"bytes": data[1]}], "species": ["c"]})
    write_parquet(folder / "d.parquet", {"path": [str(tmp_path / "2.png")]})
    path = tmp_path / "g.chg"
    report = index_images(folder, path, hasher)
    assert {name: label for name, (label, _) in content(path).items()} == {
        str(folder / "a.parquet#0"): "a",
        str(folder / "c.parquet#0"): "c",
        str(tmp_path / "2.png"): tmp_path.name,
    }
    ((name, reason),) = [(skip.path, skip.reason) for skip in report.skipped.items]
    assert (Path(name).name, reason) == (
        "b.parquet",
        "no column of photos or of their paths; there are size",
    )


def test_index__of_parquet_as_hugging_face_writes_it(
    memory, tmp_path: Path, hasher: Hasher
) -> None:
    arrow = pytest.importorskip("pyarrow")
    data = photo(tmp_path / "x.png", 1).read_bytes()
    names = {"info": {"features": {"label": {"names": ["wren", "owl"], "_type": "ClassLabel"}}}}
    table = arrow.table({"image": [{"bytes": data, "path": "x.png"}], "label": [1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    file = write_parquet(tmp_path / "x.parquet", table)
    memory.put(str(file), "/bucket/x.parquet")
    for source, name in ((file, str(file)), ("memory://bucket", "memory://bucket/x.parquet")):
        path = tmp_path / f"{len(str(source))}.chg"
        index_images(source, path, hasher)
        ((found, (label, _)),) = content(path).items()
        assert (found, label) == (f"{name}#0", "owl")


def test_index__of_parquet_with_paths(tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "photos")
    rows = ["a/0.png", str(folder / "b" / "1.png"), "gone.png", None]
    file = write_parquet(folder / "list.parquet", {"file": rows, "species": ["x", "y", "z", "z"]})
    path = tmp_path / "g.chg"
    columns = Columns(image="file")
    report = index_images(open_sources([file], columns), path, hasher)
    assert {name: label for name, (label, _) in content(path).items()} == {
        str(folder / "a/0.png"): "x",
        str(folder / "b/1.png"): "y",
    }
    assert [skip.reason for skip in report.skipped.items] == ["no such file", "no path in this row"]
    assert index_images(folder, tmp_path / "h.chg", hasher).added == 6  # a folder of photos


def test_rows__are_read_in_any_order(tmp_path: Path) -> None:
    values = [b"%d" % number for number in range(500)]
    file = write_parquet(tmp_path / "x.parquet", {"image": values}, row_group_size=150)
    reader = RowReader()
    for row in (0, 499, 3, 149, 150, 80, 64, 63, 400, 2):
        assert reader.read(Place(str(file), row, "image")) == values[row]
    with pytest.raises(OSError, match="no such row"):
        reader.read(Place(str(file), 500, "image"))


@pytest.mark.parametrize(
    ("columns", "flags", "what"),
    [
        ({"size": [1]}, {}, "no column of photos"),
        ({"one": [b""], "two": [b""]}, {}, "no column of photos"),
        ({"image": [b""]}, {"image": "photo"}, "no column 'photo'"),
        ({"image": [b""]}, {"label": "kind"}, "no column 'kind'"),
        ({"image": [b""], "size": [1]}, {"image": "size"}, "of int64: neither photos nor"),
        ({"image": [{"in": {"bytes": b""}}]}, {"image": "image"}, "of a struct without bytes"),
        ({"image": [b""]}, {"label": "image"}, "column 'image' is of binary, which is no label"),
    ],
)
def test_parquet__without_the_columns_is_refused(
    tmp_path: Path, columns: dict[str, object], flags: dict[str, str], what: str
) -> None:
    file = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(UsageError, match=what) as told:
        open_sources([file], Columns(**flags))
    assert "--image-column" in str(told.value) or "--label-column" in str(told.value)


def test_is_gone__of_a_row_asks_for_its_file(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"image": [b""]})
    assert not is_gone(Path(f"{file}#0"))
    assert is_gone(tmp_path / "y.parquet#0")
    assert is_gone(tmp_path / "x.jpg#0")


def test_unread__is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pytest.importorskip("pyarrow")
    file.write_bytes(b"no")
    (source,) = open_sources([file], Columns())
    unread = Skipped()
    assert list(source.photos(unread)) == []
    assert len(unread) == 1
