"""Sources of photos on the command line, and the runs and shards they go into."""

from __future__ import annotations

from pathlib import Path

import pytest
import source_photos
from cli_entry import Chash, photo, photos
from source_photos import write_parquet
from tiny_bundle import tiny_bundle

memory = source_photos.memory


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
