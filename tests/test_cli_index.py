"""The parts of ``chash index``, ``dedupe`` and ``knn-graph`` on a tiny gallery."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash, photo, photos
from tiny_bundle import tiny_bundle

from concepthash.cli.app import PARTS
from concepthash.runtime import machine, native
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.interchange import load_index
from concepthash.runtime.join import groups, knn_graph


@pytest.fixture
def gallery(tmp_path: Path, chash: Chash) -> Path:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    shutil.copy("shop/a/0.png", "shop/b/twin.png")
    assert chash("index", "shop").code == 0
    return Path("shop.chg")


def ids_and_codes(path: Path) -> tuple[list[int], np.ndarray]:
    with Gallery.open(path) as opened:
        ids, codes = opened.codes()
        return ids.tolist(), codes.copy()


@pytest.mark.parametrize("part", PARTS["index"])
def test_help__of_a_part_has_its_examples(chash: Chash, part: str) -> None:
    result = chash("index", part, "--help")
    assert result.code == 0
    assert f"Usage: chash index {part} " in result.out
    assert f"chash index {part} " in result.out[result.out.index("Examples:") :]
    assert f"index {part} " in chash("index", "--help").out


def test_index__of_a_folder_named_like_a_part(chash: Chash, gallery: Path) -> None:
    photo(Path("verify/x.png"), 300)
    assert chash("index", "./verify").out == "verify.chg: 1 new, 0 unchanged\n"
    assert chash("index", "verify").code == 2  # the part, without its gallery


def test_verify__of_a_whole_gallery(chash: Chash, gallery: Path) -> None:
    assert chash("index", "verify", gallery).out == "shop.chg: everything is as it was written\n"
    value = chash("index", "verify", gallery, "--json").json("chash.verify/1")
    assert value["damage"] == []


def test_verify__then_repair_then_index_again(chash: Chash, gallery: Path) -> None:
    segment = gallery / "segments" / "000001.codes"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    result = chash("index", "verify", gallery)
    assert result.code == 1
    assert str(segment) in result.out
    assert "try: chash index repair shop.chg" in result.err.splitlines()
    value = chash("index", "repair", gallery, "--json").json("chash.repair/1")
    assert value["removed"] > 0
    assert value["damage"]
    assert chash("index", "verify", gallery).code == 0
    assert chash("index", "shop").code == 0
    assert len(ids_and_codes(gallery)[0]) == 7
    assert "nothing to repair" in chash("index", "repair", gallery).out


def test_verify__of_an_index_file(chash: Chash, gallery: Path) -> None:
    assert chash("index", "export", gallery, "a.chx").code == 0
    assert chash("index", "verify", "a.chx").code == 0
    data = bytearray(Path("a.chx").read_bytes())
    data[140] ^= 1
    Path("a.chx").write_bytes(data)
    result = chash("index", "verify", "a.chx")
    assert (result.code, result.out) == (1, "")
    assert "damaged" in result.err


def test_remove__by_path_and_id_and_compact(chash: Chash, gallery: Path) -> None:
    before = ids_and_codes(gallery)[0]
    value = chash("index", "remove", gallery, "shop/a/1.png", "--json", "--dry-run")
    assert value.json("chash.remove/1")["images"] == 6
    assert ids_and_codes(gallery)[0] == before
    result = chash("index", "remove", gallery, "shop/a/1.png", "--id", before[0])
    assert result.out == "shop.chg: 2 removed, 5 in the gallery\n"
    assert Path("shop/a/1.png").exists()
    left, codes = ids_and_codes(gallery)
    assert set(left) < set(before)
    value = chash("index", "compact", gallery, "--json").json("chash.compact/1")
    assert (value["freed"], value["images"]) == (2, 5)
    again = ids_and_codes(gallery)
    assert again[0] == left
    assert np.array_equal(again[1], codes)


@pytest.mark.parametrize(
    "arguments", [[], ["gone.png"], ["--id", "999"], ["shop/a/0.png", "--id", "-1"]]
)
def test_remove__of_what_is_not_there_removes_nothing(
    chash: Chash, gallery: Path, arguments: list[str]
) -> None:
    result = chash("index", "remove", gallery, *arguments)
    assert result.code in (1, 2)
    assert len(ids_and_codes(gallery)[0]) == 7


def answers(chash: Chash) -> object:
    return chash("query", "shop", "--json").json("chash.query/1")["queries"]


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
def test_accelerate__covers_the_gallery_and_changes_no_answer(chash: Chash, gallery: Path) -> None:
    before = answers(chash)
    value = chash("index", "accelerate", gallery, "--json").json("chash.accelerate/1")
    assert (value["codes"], value["copy_codes"]) == (7, False)
    with Gallery.open(gallery) as opened:
        tables = opened.index().tables
        assert tables is not None
        assert (tables.rows, tables.copy_codes) == (7, False)
    assert answers(chash) == before
    photo(Path("shop/a/new.png"), 400)
    result = chash("index", "shop", "--accelerate", "--copy-codes", "--json")
    value = result.json("chash.index/1")
    assert (value["added"], value["accelerated"]) == (1, 8)
    with Gallery.open(gallery) as opened:
        tables = opened.index().tables
        assert tables is not None
        assert (tables.rows, tables.copy_codes) == (8, True)


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
def test_compact__says_that_the_tables_went(chash: Chash, gallery: Path) -> None:
    assert chash("index", "accelerate", gallery).code == 0
    assert "tables" not in chash("index", "compact", gallery).err
    chash("index", "remove", gallery, "shop/a/1.png")
    result = chash("index", "compact", gallery)
    assert "search tables went with the old codes" in result.err
    assert "next: chash index accelerate shop.chg" in result.err


def test_index__names_a_bundle_that_query_would_not_find(chash: Chash, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    bundle = tiny_bundle(tmp_path / "models").path
    photos(tmp_path / "shop")
    result = chash("index", "shop", "--model", bundle.relative_to(tmp_path))
    command = f"chash query IMAGE --gallery shop.chg --model models/{bundle.name}"
    assert f"next: {command}\n" in result.err
    assert chash(*command.replace("IMAGE", "shop/a/0.png").split()[1:]).code == 0


@pytest.mark.skipif(native._kernel is None, reason="the native kernel is not built")
@pytest.mark.parametrize(("limit", "told"), [(1000, True), (10**9, False)])
def test_accelerate__says_if_tables_do_not_fit_into_the_memory(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch, limit: int, told: bool
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(None, limit, None))
    result = chash("index", "accelerate", gallery)
    assert result.code == 0
    assert ("of memory: searches may wait for the disk" in result.err) == told


def test_accelerate__without_the_kernel_exits_6(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHASH_KERNEL", "numpy")
    result = chash("index", "accelerate", gallery)
    assert (result.code, result.out) == (6, "")
    assert "try: " in result.err


def test_index__copies_codes_into_tables_only(chash: Chash, gallery: Path) -> None:
    assert chash("index", "shop", "--copy-codes").code == 2
    assert chash("index", "shop", "--dry-run", "--accelerate").code == 0
    assert not (gallery / "tables").exists()


def test_merge__and_split_of_galleries(chash: Chash, gallery: Path) -> None:
    value = chash("index", "split", gallery, "-n", 3, "--out", "shards", "--json")
    shards = value.json("chash.split/1")["shards"]
    assert len(shards) == 3
    parts = [ids_and_codes(Path(shard)) for shard in shards]
    assert sorted(id for ids, _ in parts for id in ids) == ids_and_codes(gallery)[0]
    assert max(len(ids) for ids, _ in parts) - min(len(ids) for ids, _ in parts) <= 1
    value = chash("index", "merge", *shards, gallery, "--out", "all.chg", "--json")
    merged = value.json("chash.merge/1")
    assert merged["images"] == 7
    assert len(merged["repeated"]) == 7
    with Gallery.open("all.chg") as opened, Gallery.open(gallery) as first:
        assert {e.path for e in opened.entries()} == {e.path for e in first.entries()}
    assert chash("index", "merge", gallery, "--out", "all.chg").code == 1
    assert chash("index", "split", gallery, "-n", 0, "--out", "none").code == 2


def test_merge__and_split_of_index_files(chash: Chash, gallery: Path) -> None:
    assert chash("index", "export", gallery, "a.chx").code == 0
    assert chash("index", "split", "a.chx", "-n", 2, "-o", "shards").code == 0
    shards = sorted(Path("shards").iterdir())
    assert [shard.name for shard in shards] == ["a-1.chx", "a-2.chx"]
    assert chash("index", "merge", *shards, "--out", "b.chx").code == 0
    assert HammingIndex.open("b.chx").ids.tolist() == HammingIndex.open("a.chx").ids.tolist()
    assert chash("index", "merge", *shards, "--out", "b.chx").code == 2
    assert chash("index", "merge", *shards, "--out", "b.chx", "--force").code == 0
    assert chash("index", "merge", "a.chx", "a.chx", "--out", "c.chx").code == 2
    assert chash("index", "merge", "a.chx", gallery, "--out", "c.chx").code == 2
    assert chash("index", "split", "a.chx", "-n", 2, "-o", "shards").code == 2


@pytest.mark.parametrize("suffix", [".chx", ".npy", ".faiss", ".parquet"])
def test_export__then_import_is_the_gallery(chash: Chash, gallery: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    value = chash("index", "export", gallery, f"a{suffix}", "--json").json("chash.index-export/1")
    assert (value["codes"], value["bits"], value["concepts"]) == (7, 16, 2)
    assert chash("index", "export", gallery, f"a{suffix}").code == 2
    assert chash("index", "export", gallery, f"a{suffix}", "--force").code == 0
    ids, codes = ids_and_codes(gallery)
    result = chash("index", "import", f"a{suffix}", "b.chx", "--concepts", 2)
    assert result.out == "b.chx: 7 codes of 16 bits, 2 concepts\n"
    index = HammingIndex.open("b.chx")
    assert index.ids.tolist() == ids
    assert all(np.array_equal(index[id], code) for id, code in zip(ids, codes, strict=True))
    assert chash("index", "export", "b.chx", "c.npy").code == 0
    assert load_index("c.npy").ids.tolist() == ids


def test_import__refuses_another_suffix_and_other_files(chash: Chash, gallery: Path) -> None:
    assert chash("index", "export", gallery, "a.npy").code == 0
    assert chash("index", "import", "a.npy", "b.npy").code == 2
    assert chash("index", "export", gallery, "a.txt").code == 2
    Path("c.npy").write_bytes(b"nothing")
    assert chash("index", "import", "c.npy", "c.chx").code == 1
    assert not Path("c.chx").exists()


def test_dedupe__lists_groups_and_deletes_nothing(chash: Chash, gallery: Path) -> None:
    files = sorted(Path("shop").rglob("*.png"))
    with Gallery.open(gallery) as opened:
        paths = {entry.id: str(entry.path) for entry in opened.entries()}
        index = opened.index()
        for radius in (0, 6, 16):
            expected = [[paths[id] for id in group.tolist()] for group in groups(index, radius)]
            value = chash("dedupe", gallery, "--radius", radius, "--json").json("chash.dedupe/1")
            assert [[item["path"] for item in group] for group in value["groups"]] == expected
            assert (value["radius"], value["codes"]) == (radius, 7)
            arguments = ("dedupe", gallery, "--radius", radius, "--format", "paths")
            text = "\n\n".join("\n".join(group) for group in expected)
            assert chash(*arguments).out == text + "\n" * bool(expected)
            names = [name for group in expected for name in group]
            assert chash(*arguments, "-0").out == "".join(f"{name}\0" for name in names)
    result = chash("dedupe", gallery)
    assert result.out.splitlines()[0] == "group 1: 2"
    assert "shop/b/twin.png" in result.out
    assert "1 groups within radius 0, 2 of 7 images are in one" in result.err
    assert sorted(Path("shop").rglob("*.png")) == files
    assert chash("dedupe", gallery, "--format", "xml").code == 2


def test_dedupe__of_a_file_of_codes_lists_ids(chash: Chash, gallery: Path) -> None:
    assert chash("index", "export", gallery, "a.chx").code == 0
    value = chash("dedupe", "a.chx", "--json").json("chash.dedupe/1")
    first = [group.tolist() for group in groups(HammingIndex.open("a.chx"), 0)]
    assert [[item["id"] for item in group] for group in value["groups"]] == first
    assert value["groups"][0][0]["path"] is None
    assert chash("dedupe", "a.chx", "--format", "paths").out.split() == [str(i) for i in first[0]]


def test_dedupe__without_a_group_is_done(chash: Chash, gallery: Path) -> None:
    Path("shop/b/twin.png").unlink()
    assert chash("index", "shop").code == 0
    result = chash("dedupe", gallery)
    assert (result.code, result.out) == (0, "")


def test_settings__of_dedupe_come_from_the_file(chash: Chash, gallery: Path) -> None:
    Path("chash.toml").write_text("[dedupe]\nradius = 16\n")
    assert len(chash("dedupe", gallery, "--json").json("chash.dedupe/1")["groups"][0]) == 7


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_knn_graph__is_written(chash: Chash, gallery: Path, suffix: str) -> None:
    with Gallery.open(gallery) as opened:
        graph = knn_graph(opened.index(), 3)
    arguments = ("knn-graph", gallery, "--top", 3, "--out", f"g{suffix}")
    if suffix == ".npz":
        assert chash(*arguments).code == 0
        with np.load("g.npz", allow_pickle=False) as found:
            assert np.array_equal(found["ids"], graph.ids)
            assert np.array_equal(found["neighbours"], graph.neighbours)
            assert np.array_equal(found["distances"], graph.distances)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert chash(*arguments, "--json").json("chash.knn-graph/1")["codes"] == 7
        table = parquet.read_table("g.parquet").to_pydict()
        assert table["neighbour"] == graph.neighbours.ravel().tolist()
        assert table["distance"] == graph.distances.ravel().tolist()
        assert table["rank"] == [1, 2, 3] * 7
        assert table["id"] == np.repeat(graph.ids, 3).tolist()
    assert chash(*arguments).code == 2
    assert chash(*arguments, "--force").code == 0
    assert chash("knn-graph", gallery, "--top", 10**12, "--out", "all.npz").code == 0
    assert chash("knn-graph", gallery, "--top", 0, "--out", "x.npz").code == 2
    assert chash("knn-graph", gallery, "--out", "x.csv").code == 2
