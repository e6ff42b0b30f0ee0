"""Photos from patterns, URLs and Parquet files: named, marked, read and missed like files."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_entry import Chash, photo, photos
from photo_server import serving
from tiny_bundle import tiny_bundle
from web_server import status, web_server

from concepthash.errors import (
    BackendError,
    DataError,
    GalleryError,
    ImageError,
    Skipped,
    UsageError,
)
from concepthash.images import open_rgb
from concepthash.runtime.entries import Anchor, Url, is_url, place
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images
from concepthash.runtime.rows import RowReader
from concepthash.runtime.sources import Columns, Place, is_gone, open_sources


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=4)


@pytest.fixture
def memory() -> Iterator[object]:
    """The file system of ``memory://``, empty."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def content(gallery: Path) -> dict[str, tuple[str | None, bytes]]:
    """Path -> label and code, of a gallery that is sound."""
    with Gallery.open(gallery) as opened:
        opened.verify()
        return {str(e.path): (e.label, opened.code(e.id).tobytes()) for e in opened.entries()}


def codes_of(folder: Path, hasher: Hasher) -> dict[str, bytes]:
    """Name below the folder -> code."""
    files = sorted(folder.rglob("*.png"))
    codes = [record.code.tobytes() for record in hasher.hash(files) if record.code is not None]
    return {str(f.relative_to(folder)): code for f, code in zip(files, codes, strict=True)}


@pytest.mark.parametrize(
    "text", ["s3://bucket/x.jpg", "s3://bucket//x.jpg", "https://host/a/x.jpg?w=3#top"]
)
def test_url__is_kept_letter_for_letter(text: str, tmp_path: Path) -> None:
    url = place(text)
    assert is_url(text)
    assert isinstance(url, Url)
    assert str(url) == text
    assert pickle.loads(pickle.dumps(url)) == url
    assert url != Path(text)
    anchor = Anchor(tmp_path)
    assert anchor.key(url) == text
    assert anchor.path(text, tmp_path) == url
    assert anchor.names(Path("/elsewhere"))(text) == text


def test_url__is_taken_apart_like_a_path() -> None:
    url = Url("s3://bucket/wren/x.jpg")
    assert (url.name, url.parent.name, url.suffix) == ("x.jpg", "wren", ".jpg")
    assert str(url.parent) == "s3://bucket/wren"
    assert Url("s3://bucket") in url.parents
    assert not url.exists()
    assert not is_gone(url)
    assert not any(map(is_url, ("a/b.jpg", "/a//b.jpg", "C:/a.jpg", "C://a.jpg", "s3:/b/x.jpg")))


def test_index__of_a_bucket(memory, tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "photos")
    memory.put(str(folder), "/bucket", recursive=True)
    memory.pipe("/bucket/a/.hidden.png", b"hidden")
    memory.pipe("/bucket/a/notes.txt", b"text")
    memory.pipe("/bucket/a/broken.png", b"broken")
    path = tmp_path / "g.chg"
    report = index_images("memory://bucket", path, hasher)
    expected = {
        f"memory://bucket/{name}": (name[0], code)
        for name, code in codes_of(folder, hasher).items()
    }
    assert content(path) == expected
    assert [skip.path for skip in report.skipped.items] == ["memory://bucket/a/broken.png"]
    with Gallery.open(path) as gallery:
        index = gallery.index()
        assert {name for name, _ in gallery.names_of(index.ids).values()} == set(expected)

    again = index_images("memory://bucket", path, hasher)
    assert (again.unchanged, again.hashed) == (6, 1)
    memory.mv("/bucket/a/0.png", "/bucket/b/moved.png")
    memory.rm("/bucket/a/1.png")
    memory.pipe("/bucket/a/2.png", photo(tmp_path / "new.png", 77).read_bytes())
    report = index_images("memory://bucket", path, hasher)
    counts = report.moved, report.removed, report.changed, report.unchanged
    assert counts == (1, 1, 1, 3)

    memory.rm("/bucket/a", recursive=True)
    memory.rm("/bucket/b", recursive=True)
    memory.pipe("/bucket/notes.txt", b"text")
    with pytest.raises(GalleryError, match="no photo here any more"):
        index_images("memory://bucket", path, hasher)
    assert index_images("memory://bucket", path, hasher, prune="all").removed == 5


def test_index__of_one_source_leaves_the_images_of_others(
    memory, tmp_path: Path, hasher: Hasher
) -> None:
    folder = photos(tmp_path / "photos")
    memory.put(str(folder / "a"), "/bucket/a", recursive=True)
    photo(tmp_path / "more" / "x.png", 500)
    path = tmp_path / "g.chg"
    index_images(["memory://bucket", folder / "b", tmp_path / "more"], path, hasher)
    for source in ("memory://bucket", str(folder / "b"), str(tmp_path / "*" / "x.png")):
        report = index_images(source, path, hasher)
        assert (report.removed, len(content(path))) == (0, 7)


def test_index__of_a_pattern_of_urls(memory, tmp_path: Path, hasher: Hasher) -> None:
    memory.put(str(photos(tmp_path / "photos")), "/bucket", recursive=True)
    path = tmp_path / "g.chg"
    index_images("memory://bucket/*/0.png", path, hasher)
    assert {name: label for name, (label, _) in content(path).items()} == {
        "memory://bucket/a/0.png": "a",
        "memory://bucket/b/0.png": "b",
    }


def test_index__of_what_is_unmarked_reads_it_again(
    memory, tmp_path: Path, hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concepthash.runtime import urls

    monkeypatch.setattr(urls, "mark", lambda info: urls.UNMARKED)
    first, second = (photo(tmp_path / f"{n}.png", n).read_bytes() for n in (1, 2))
    size = max(len(first), len(second))
    path = tmp_path / "g.chg"
    for data, expected in ((first, "added"), (first, "unchanged"), (second, "changed")):
        memory.pipe("/bucket/x.png", data.ljust(size, b"\0"))
        assert index_images("memory://bucket", path, hasher).to_json()[expected] == 1


def test_index__over_http(tmp_path: Path, hasher: Hasher) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    folder = photos(tmp_path / "photos", each=1)

    with serving(folder) as base:
        path = tmp_path / "g.chg"
        index_images([f"{base}/", f"{base}/a/0.png"], path, hasher)
        expected = codes_of(folder, hasher)
        found = {name: code for name, (_, code) in content(path).items()}
        assert found == {f"{base}/{name}": code for name, code in expected.items()}
        with pytest.raises((UsageError, DataError)):
            open_sources([f"{base}/gone.png"], Columns())
        with pytest.raises(UsageError, match="ends with a slash") as told:
            open_sources([f"{base}/a"], Columns())
        assert told.value.hint == f"chash index {base}/a/"
        with pytest.raises(UsageError, match="nothing is there") as told:
            open_sources([f"{base}/none/"], Columns())
        assert told.value.hint


@pytest.mark.parametrize("code", [403, 503])
@pytest.mark.parametrize("name", ["", "x.png"])
def test_sources__of_a_server_that_refuses_say_so(tmp_path: Path, name: str, code: int) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with web_server(tmp_path) as web:
        web.tricks["*"] = [status(code)]
        with pytest.raises(DataError, match=f"the server answers {code}"):
            open_sources([f"{web.url}/{name}"], Columns())


@pytest.mark.parametrize("name", ["", "photos/", "x.png", "*.png"])
def test_sources__of_a_server_that_is_down_say_so(tmp_path: Path, name: str) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    with serving(tmp_path) as base:
        pass
    with pytest.raises(DataError, match=os.strerror(errno.ECONNREFUSED)) as told:
        open_sources([f"{base}/{name}"], Columns())
    assert "the network" in str(told.value.hint)


def test_sources__of_a_file_url_and_a_pattern_are_files(tmp_path: Path, hasher: Hasher) -> None:
    folder = photos(tmp_path / "a b")
    path = tmp_path / "g.chg"
    index_images(f"file://{tmp_path}/a%20b", path, hasher)
    assert len(content(path)) == 6
    other = tmp_path / "h.chg"
    index_images(f"{folder}/*/[01].png", other, hasher)
    assert {Path(name).name for name in content(other)} == {"0.png", "1.png"}
    assert {label for label, _ in content(other).values()} == {"a", "b"}
    (folder / "a" / "0.png").unlink()
    assert index_images(f"{folder}/*/[01].png", other, hasher).removed == 0
    assert index_images(folder, other, hasher).removed == 1


def write_parquet(path: Path, columns: dict[str, object], **options: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True)
    table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    parquet.write_table(table, path, **options)
    return path


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
    ],
)
def test_parquet__without_the_columns_is_refused(
    tmp_path: Path, columns: dict[str, object], flags: dict[str, str], what: str
) -> None:
    file = write_parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(UsageError, match=what) as told:
        open_sources([file], Columns(**flags))
    assert "--image-column" in str(told.value) or "--label-column" in str(told.value)


def test_sources__say_what_is_missing(memory, tmp_path: Path) -> None:
    for name in (tmp_path / "gone", str(tmp_path / "*.png"), "memory://gone"):
        with pytest.raises(UsageError):
            open_sources([name], Columns())
    with pytest.raises(UsageError, match="no such scheme"):
        open_sources(["nosuch://x"], Columns())


def test_sources__name_the_package_of_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("fsspec.core")

    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(core, "url_to_fs", missing)
    with pytest.raises(BackendError) as told:
        open_sources(["s3://bucket/x"], Columns())
    assert told.value.hint == "pip install s3fs"


def test_is_gone__of_a_row_asks_for_its_file(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "x.parquet", {"image": [b""]})
    assert not is_gone(Path(f"{file}#0"))
    assert is_gone(tmp_path / "y.parquet#0")
    assert is_gone(tmp_path / "x.jpg#0")


def test_cli__indexes_rows_and_writes_what_failed(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    data = photo(tmp_path / "x.png", 1).read_bytes()
    write_parquet(tmp_path / "t.parquet", {"picture": [data, b"no"], "kind": ["wren", "owl"]})
    columns = ("--image-column", "picture", "--label-column", "kind")
    result = chash("index", "t.parquet", *columns, "--failed", "f.csv", "--json")
    assert result.code == 3
    value = result.json("chash.index/1")
    assert (value["gallery"], value["engine"], value["added"]) == ("t.chg", "local", 1)
    assert Path("f.csv").read_text().splitlines() == [
        "path,reason",
        "t.parquet#1,not an image Pillow can read",
    ]
    assert chash("index", "t.parquet", *columns, "--failed", "f.parquet").code == 3
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table("f.parquet").to_pydict()["path"] == ["t.parquet#1"]
    assert chash("index", "t.parquet", "--failed", "f.txt").code == 2


def test_cli__tells_of_rows_that_lie_beside_photos(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    folder = photos(tmp_path / "shop")
    data = photo(tmp_path / "x.png", 99).read_bytes()
    write_parquet(folder / "t.parquet", {"image": [data]})
    alone = chash("index", "shop")
    assert (alone.code, alone.out) == (0, "shop.chg: 6 new, 0 unchanged\n")
    assert "not read, as photos lie beside it: shop/t.parquet" in alone.err
    both = chash("index", "shop", "shop/t.parquet")
    assert (both.code, both.out) == (0, "shop.chg: 1 new, 6 unchanged\n")
    assert "not read" not in both.err
    for flag in ("--image-column", "--label-column"):
        result = chash("index", "shop", flag, "image")
        assert (result.code, result.out) == (2, "")
        assert flag in result.err
        assert "try: chash index shop/t.parquet" in result.err


@pytest.mark.parametrize("flag", ["--image-column", "--label-column"])
def test_cli__refuses_columns_where_there_is_no_parquet(
    chash: Chash, tmp_path: Path, flag: str
) -> None:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    result = chash("index", "shop", flag, "x")
    assert (result.code, result.out) == (2, "")
    assert f"where: {flag}" in result.err
    assert not Path("shop.chg").exists()


def test_cli__says_that_a_truncated_parquet_cannot_be_read(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    data = photo(tmp_path / "x.png", 1).read_bytes()
    file = write_parquet(tmp_path / "t.parquet", {"image": [data]})
    file.write_bytes(file.read_bytes()[:100])
    result = chash("index", "t.parquet")
    assert (result.code, result.out) == (1, "")
    assert "not a Parquet file that can be read" in result.err
    assert "where: t.parquet" in result.err
    assert not Path("t.chg").exists()
    (tmp_path / "empty").mkdir()
    assert chash("index", "empty").code == 4


def test_cli__explains_no_row_of_a_parquet_file(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    result = chash("explain", "t.parquet#0")
    assert (result.code, result.out) == (1, "")
    assert "a row of a Parquet file, which is not read here" in result.err


def test_cli__refuses_to_index_into_a_shard(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    assert chash("index", "shop", "--shards", 2).code == 0
    for name in ("shard-0001.chg", "shard-0003.chg", "other.chg"):
        for more in ((), ("--dry-run",), ("--rebuild",)):
            result = chash("index", "shop", "--out", f"shop.chg/{name}", *more)
            assert (result.code, result.out) == (2, "")
            assert f"try: chash index PHOTOS --out {Path('shop.chg').absolute()}" in result.err
    assert sorted(p.name for p in Path("shop.chg").glob("*.chg")) == [
        "shard-0001.chg",
        "shard-0002.chg",
    ]
    assert chash("index", "shop").out == "shop.chg: 6 unchanged\n"


def test_cli__shows_urls_whole(memory, chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    memory.put(str(photos(tmp_path / "shop")), "/bucket", recursive=True)
    assert chash("index", "memory://bucket").out == "bucket.chg: 6 new, 0 unchanged\n"
    value = chash("query", "shop/a/0.png", "--json").json("chash.query/1")
    hit = value["queries"][0]["hits"][0]
    assert (hit["path"], hit["distance"], hit["label"]) == ("memory://bucket/a/0.png", 0, "a")
    assert "memory://bucket/a/0.png" in chash("query", "shop/a/0.png").out
    assert chash("index", "remove", "bucket.chg", "memory://bucket/a/0.png").code == 0
    assert chash("inspect", "bucket.chg").code == 0


def test_photo__behind_a_url_is_refused_in_words() -> None:
    with pytest.raises(ImageError, match="behind a URL, which is not read here"):
        open_rgb(Url("s3://bucket/x.jpg"))


def test_cli__makes_a_gallery_of_shards(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    assert chash("index", "shop", "--shards", 2).code == 0
    assert sorted(p.name for p in Path("shop.chg").glob("shard-*")) == [
        "shard-0001.chg",
        "shard-0002.chg",
    ]
    assert chash("index", "shop", "--shards", 2).out == "shop.chg: 6 unchanged\n"
    result = chash("index", "shop", "--shards", 3)
    assert result.code == 2
    assert "chash index split" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "spark"),
        ("--address", "auto"),
        ("--workers", "2"),
        ("--engine", "ray", "--workers", "0"),
        ("--engine", "ray", "--device", "cuda"),
        ("--engine", "ray", "--address", "ray://127.0.0.1:10001"),
        ("--shards", "0"),
    ],
)
def test_cli__refuses_what_does_not_go_together(
    chash: Chash, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop", each=1)
    result = chash("index", "shop", *arguments)
    assert (result.code, result.out) == (2, "")
    assert arguments[-2] in result.err
    assert not Path("shop.chg").exists()


def test_cli__tries_a_cluster_s_run_without_one(chash: Chash, tmp_path: Path) -> None:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    value = chash("index", "shop", "--engine", "ray", "--dry-run", "--json").json("chash.index/1")
    assert (value["engine"], value["added"], value["overhead"]["start"]) == ("ray", 6, None)
    assert not Path("shop.chg").exists()


def test_unread__is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    pytest.importorskip("pyarrow")
    file.write_bytes(b"no")
    (source,) = open_sources([file], Columns())
    unread = Skipped()
    assert list(source.photos(unread)) == []
    assert len(unread) == 1
