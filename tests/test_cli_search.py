"""``chash index``, ``query``, ``eval`` and ``inspect`` on a tiny bundle and drawn blocks."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash, photo, photos
from tiny_bundle import tiny_bundle, tiny_codes

from concepthash.codes import CodeLayout, hamming, per_concept
from concepthash.codesets import load_codes, save_codes
from concepthash.evaluation import evaluate
from concepthash.images import Preprocess
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex

LAYOUT = CodeLayout(16, 2)


@pytest.fixture
def chash(chash: Chash, tmp_path: Path) -> Chash:
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    return chash


@pytest.fixture
def gallery(chash: Chash) -> Path:
    assert chash("index", "shop").code == 0
    return Path("shop.chg")


def codes_of(paths: list[Path]) -> np.ndarray:
    prepare = Preprocess(resize=32, crop=32)
    return tiny_codes(np.stack([prepare(path) for path in paths]))


def test_index__says_what_it_chose_and_did(chash: Chash) -> None:
    result = chash("index", "./shop")
    assert result.code == 0
    assert result.out == "shop.chg: 6 new, 0 unchanged\n"
    assert "model: tiny-0.chb (the newest bundle here)" in result.err
    assert "gallery: shop.chg (named after the source)" in result.err
    assert "next: chash query IMAGE --gallery shop.chg" in result.err
    with Gallery.open("shop.chg") as opened:
        assert sorted(entry.label or "" for entry in opened.entries()) == ["a"] * 3 + ["b"] * 3


def test_index__is_incremental_and_reports_json(chash: Chash, gallery: Path) -> None:
    photo(Path("shop/a/new.png"), 90)
    photo(Path("shop/a/1.png"), 91)
    Path("shop/b/2.png").unlink()
    value = chash("index", "shop", "--dry-run", "--json").json("chash.index/1")
    counts = {"added": 1, "changed": 1, "removed": 1, "unchanged": 4, "dry_run": True}
    assert {key: value[key] for key in counts} == counts
    assert value["choices"] == {"model": "tiny-0.chb", "gallery": "shop.chg"}
    value = chash("index", "shop", "--json", "--no-prune").json("chash.index/1")
    counts = {"added": 1, "changed": 1, "removed": 0, "unchanged": 4, "dry_run": False}
    assert {key: value[key] for key in counts} == counts
    assert chash("index", "shop").out == "shop.chg: 1 gone, 6 unchanged\n"


def test_index__skips_broken_photos_with_exit_3(chash: Chash) -> None:
    Path("shop/a/broken.jpg").write_bytes(b"no photo")
    result = chash("index", "shop", "--label", "none", "--out", "g.chg", "--batch", 2)
    assert result.code == 3
    assert result.out == "g.chg: 6 new, 1 skipped, 0 unchanged\n"
    assert "broken.jpg: not an image Pillow can read" in result.err
    with Gallery.open("g.chg") as opened:
        assert {entry.label for entry in opened.entries()} == {None}


def test_index__of_nothing_exits_4_and_makes_no_gallery(chash: Chash) -> None:
    Path("empty").mkdir()
    result = chash("index", "empty")
    assert (result.code, result.out) == (4, "")
    assert not Path("empty.chg").exists()


def test_index__of_a_folder_that_was_emptied_asks_before_it_prunes(
    chash: Chash, gallery: Path
) -> None:
    for path in Path("shop").rglob("*.png"):
        path.unlink()
    result = chash("index", "shop")
    assert (result.code, result.out) == (1, "")
    assert "--prune all" in result.err
    assert chash("index", "shop", "--no-prune").out == "shop.chg: 0 unchanged\n"
    assert chash("index", "shop", "--prune", "none").out == "shop.chg: 0 unchanged\n"
    assert chash("index", "shop", "--prune", "some").code == 2
    assert chash("index", "shop", "--prune", "all").out == "shop.chg: 6 gone, 0 unchanged\n"


def test_index__with_another_model_exits_5_until_rebuilt(chash: Chash, gallery: Path) -> None:
    tiny_bundle(Path("other"), seed=1)
    result = chash("index", "shop", "--model", "other/tiny-1.chb")
    assert (result.code, result.out) == (5, "")
    assert "--rebuild" in result.err
    assert chash("index", "shop", "-m", "other/tiny-1.chb", "--rebuild").code == 0


def test_index__on_a_device_that_is_missing_exits_6(chash: Chash) -> None:
    result = chash("index", "shop", "--device", "cuda:7")
    assert (result.code, result.out) == (6, "")
    assert "try: --device cpu" in result.err


def test_query__json_is_the_contract(chash: Chash, gallery: Path) -> None:
    asked = [Path("shop/a/0.png"), photo(Path("new.png"), 77)]
    value = chash("query", *asked, "--top", 3, "--json").json("chash.query/1")
    assert value["choices"] == {"gallery": "shop.chg", "model": "tiny-0.chb"}
    assert value["backend"].startswith("onnxruntime ")
    with Gallery.open(gallery) as opened:
        ids, known = opened.codes()
        paths = {entry.id: (str(entry.path), entry.label) for entry in opened.entries()}
    codes = codes_of(asked)
    assert [query["path"] for query in value["queries"]] == [str(path) for path in asked]
    assert [query["code"] for query in value["queries"]] == [code.tobytes().hex() for code in codes]
    for query, code, distances in zip(value["queries"], codes, hamming(codes, known), strict=True):
        nearest = sorted(zip(distances.tolist(), ids.tolist(), strict=True))[:3]
        hits = query["hits"]
        assert [(hit["distance"], hit["id"]) for hit in hits] == nearest
        assert [hit["rank"] for hit in hits] == [1, 2, 3]
        for hit in hits:
            assert (hit["path"], hit["label"]) == paths[hit["id"]]
            row = known[ids == hit["id"]]
            assert hit["per_concept"] == per_concept(code[None], row, LAYOUT)[0].tolist()
    assert value["queries"][0]["hits"][0]["path"] == "shop/a/0.png"


def test_query__table_shows_every_column(chash: Chash, gallery: Path) -> None:
    result = chash("query", "shop/a/0.png", "--top", 2)
    assert result.code == 0
    assert "gallery: shop.chg (the newest here)" in result.err
    assert "model: tiny-0.chb (of the model that made the gallery)" in result.err
    title, head, first, _ = result.out.splitlines()
    assert title.startswith("shop/a/0.png  ")
    assert head.split() == ["rank", "dist", "c0", "c1", "label", "path"]
    assert first.split() == ["1", "0", "0", "0", "a", "shop/a/0.png"]


def test_query__formats_agree(chash: Chash, gallery: Path) -> None:
    arguments = ("query", "shop/a/0.png", "shop/b/1.png", "--top", 4, "--format")
    value = chash(*arguments, "json").json("chash.query/1")
    hits = [(query, hit) for query in value["queries"] for hit in query["hits"]]
    lines = chash(*arguments, "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == value["queries"]
    assert chash(*arguments, "paths").out.splitlines() == [hit["path"] for _, hit in hits]
    rows = list(csv.DictReader(io.StringIO(chash(*arguments, "tsv").out), delimiter="\t"))
    assert [(row["query"], int(row["rank"]), int(row["id"]), row["path"]) for row in rows] == [
        (query["path"], hit["rank"], hit["id"], hit["path"]) for query, hit in hits
    ]
    assert [[int(row["concept_0"]), int(row["concept_1"])] for row in rows] == [
        hit["per_concept"] for _, hit in hits
    ]


def test_query__by_concepts_and_weights(chash: Chash, gallery: Path) -> None:
    def hits(*arguments: object) -> list[dict[str, object]]:
        value = chash("query", "shop/a/0.png", "--json", *arguments).json("chash.query/1")
        return value["queries"][0]["hits"]

    for hit in hits("--concepts", "1"):
        assert hit["distance"] == hit["per_concept"][1]
    for hit in hits("--weights", "3,1"):
        assert hit["distance"] == 3 * hit["per_concept"][0] + hit["per_concept"][1]
    assert {hit["distance"] for hit in hits("--radius", "0")} == {0}
    for wrong in (("--concepts", "7"), ("--weights", "1"), ("--concepts", "a"), ("--top", "0")):
        assert chash("query", "shop/a/0.png", *wrong).code == 2


def test_query__refuses_the_weight_of_a_concept_that_does_not_count(
    chash: Chash, gallery: Path
) -> None:
    for weights in ("1=5", "1,5"):
        result = chash("query", "shop/a/0.png", "--concepts", "0", "--weights", weights)
        assert (result.code, result.out) == (2, "")
        assert "concept 1 has a weight of 5 but does not count" in result.err
        assert "try: --concepts 0,1, or" in result.err
    for weights in ("0=5", "5,1", "5,0"):
        result = chash("query", "shop/a/0.png", "--concepts", "0", "--weights", weights)
        assert result.code == 0, result.err


def test_query__reads_paths_from_stdin(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("shop/a/0.png\n\nshop/b/1.png\r\n"))
    result = chash("query", "-", "--top", 1, "--format", "paths")
    assert (result.code, result.out) == (0, "shop/a/0.png\nshop/b/1.png\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert chash("query", "-").code == 4


def test_query__of_a_folder_asks_with_every_photo_in_it(chash: Chash, gallery: Path) -> None:
    result = chash("query", "shop/b", "--top", 1, "--format", "paths")
    assert result.out.splitlines() == [f"shop/b/{n}.png" for n in range(3)]


def test_query__answers_the_others_when_one_is_broken(chash: Chash, gallery: Path) -> None:
    Path("broken.jpg").write_bytes(b"no photo")
    asked = ("broken.jpg", "shop/a/0.png", "gone.jpg")
    result = chash("query", *asked, "--top", 1, "--json")
    assert result.code == 3
    value = result.json("chash.query/1")
    assert [query["path"] for query in value["queries"]] == ["shop/a/0.png"]
    assert value["skipped"] == [
        {"path": "broken.jpg", "reason": "not an image Pillow can read"},
        {"path": "gone.jpg", "reason": "no such file"},
    ]
    assert "skipped 2:" in result.err


def test_query__with_no_readable_photo_fails(chash: Chash, gallery: Path) -> None:
    result = chash("query", "gone.jpg")
    assert (result.code, result.out) == (1, "")
    assert "where: gone.jpg: no such file" in result.err


def test_query__without_a_hit_in_the_radius_exits_4(chash: Chash, gallery: Path) -> None:
    codes = codes_of(sorted(Path("shop").rglob("*.png")))
    seed = next(
        seed
        for seed in range(100, 400)
        if hamming(codes_of([photo(Path("far.png"), seed)]), codes).min() > 1
    )
    photo(Path("far.png"), seed)
    result = chash("query", "far.png", "--radius", 1, "--json")
    assert result.code == 4
    assert result.json("chash.query/1")["queries"][0]["hits"] == []
    assert "error: no hit within radius 1" in result.err


def test_query__with_another_model_exits_5(chash: Chash, gallery: Path) -> None:
    tiny_bundle(Path("other"), seed=1)
    result = chash("query", "shop/a/0.png", "--model", "other/tiny-1.chb")
    assert (result.code, result.out) == (5, "")


def test_query__finds_its_model_by_fingerprint_or_exits_5(chash: Chash, gallery: Path) -> None:
    Path("tiny-0.chb").rename("kept")
    tiny_bundle(Path(), seed=1)  # newer, and not the one
    (Path("broken.chb")).mkdir()
    Path("broken.chb/manifest.json").write_text("{")
    result = chash("query", "shop/a/0.png")
    assert (result.code, result.out) == (5, "")
    assert "tiny-0" in result.err
    Path("runs/r").mkdir(parents=True)
    Path("kept").rename("runs/r/tiny-0.chb")
    result = chash("query", "shop/a/0.png")
    assert result.code == 0
    assert "model: runs/r/tiny-0.chb (of the model that made the gallery)" in result.err


def test_query__passes_a_damaged_copy_of_the_model_by(chash: Chash, gallery: Path) -> None:
    shutil.copytree("tiny-0.chb", "copy.chb")
    graph = Path("copy.chb/model.onnx")
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    Path("tiny-0.chb").rename("original.chb")
    for newest in ("original.chb", "copy.chb"):
        os.utime(Path(newest) / "manifest.json")
        result = chash("query", "shop/a/0.png")
        assert result.code == 0, result.err
        assert "model: original.chb (of the model that made the gallery; 1 more here)" in result.err


def test_query__finds_the_model_beside_the_gallery(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos(Path("elsewhere")))
    assert chash("query", "a/0.png", "--gallery", "../shop.chg").code == 0


def test_eval__of_a_bundle_is_that_of_its_codes(chash: Chash, tmp_path: Path) -> None:
    data = tmp_path / "data"
    photos(data / "train", each=4, first_seed=20)
    photos(data / "test", each=2, first_seed=40)
    (data / "test/a/broken.jpg").write_bytes(b"no photo")
    result = chash(
        *("eval", "tiny-0.chb", "--data", data, "--json"),
        *("--save-codes", "kept", "--csv", "classes.csv"),
    )
    assert result.code == 3
    value = result.json("chash.eval/1")
    assert [Path(item["path"]).name for item in value["skipped"]] == ["broken.jpg"]
    database, queries = load_codes("kept/database.npz"), load_codes("kept/queries.npz")
    expected = codes_of(sorted((data / "train").rglob("*.png")))
    assert np.array_equal(database.codes, expected)
    truth = evaluate(queries.codes, queries.labels, database.codes, database.labels, layout=LAYOUT)
    assert value["map"]["expected"] == truth.map.expected
    assert value["protocol"]["database_size"] == 8
    assert value["protocol"]["query_split"] == "test"
    rows = list(csv.DictReader(io.StringIO(Path("classes.csv").read_text())))
    assert [(row["class"], row["queries"], row["database"]) for row in rows] == [
        ("a", "2", "4"),
        ("b", "2", "4"),
    ]
    again = chash("eval", "kept/database.npz", "kept/queries.npz", "--json").json("chash.eval/1")
    assert again["map"] == value["map"]
    assert again["protocol"]["query_sha256"] == value["protocol"]["query_sha256"]
    assert chash("eval", "tiny-0.chb").code == 2


def test_eval__prints_its_report(chash: Chash) -> None:
    codes = np.random.default_rng(0).integers(0, 256, size=(6, 2), dtype=np.uint8)
    save_codes("codes.npz", codes, [0, 1] * 3, LAYOUT)
    result = chash("eval", "codes.npz")
    assert result.code == 0
    assert result.out.startswith("mAP ")
    assert "self_match" in result.out
    assert "excluded" in result.out
    assert "queries: codes.npz (the database itself" in result.err


def test_eval__of_codes_that_do_not_belong_together_exits_5(chash: Chash) -> None:
    codes = np.zeros((4, 2), np.uint8)
    save_codes("a.npz", codes, [0, 1, 0, 1], LAYOUT)
    save_codes("b.npz", codes, [0, 1, 0, 1], CodeLayout(16, 4))
    result = chash("eval", "a.npz", "b.npz")
    assert (result.code, result.out) == (5, "")
    assert chash("eval", "tiny-0.chb", "b.npz").code == 2


def test_inspect__tells_each_kind(chash: Chash, gallery: Path) -> None:
    save_codes("codes.npz", np.zeros((4, 2), np.uint8), [0, 1, 0, 1], LAYOUT)
    index = HammingIndex(bits=16, concepts=2)
    index.add(np.zeros((5, 2), np.uint8))
    index.save(Path("some.index"))
    Path("run").mkdir()
    Path("run/config.json").write_text('{"model": {"bits": 16, "concepts": 2}}')
    Path("run/run.json").write_text('{"class_names": ["a", "b"], "guidance": {"source": "none"}}')
    for path, kind, key, number in (
        ("tiny-0.chb", "bundle", "classes", 2),
        (gallery, "gallery", "images", 6),
        ("codes.npz", "codes", "codes", 4),
        ("some.index", "index", "codes", 5),
        ("run", "run", "classes", 2),
    ):
        value = chash("inspect", path, "--json").json("chash.inspect/1")
        assert (value["kind"], value["bits"], value[key]) == (kind, 16, number)
        assert chash("inspect", path).out.startswith(f"{path}: {kind}\n")


def test_inspect__of_a_damaged_bundle_fails(chash: Chash) -> None:
    with Path("tiny-0.chb/model.onnx").open("ab") as file:
        file.write(b"x")
    result = chash("inspect", "tiny-0.chb")
    assert (result.code, result.out) == (1, "")
    assert "sha256 differs" in result.err


def test_query__on_a_device_gives_the_same_answers(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU stands in for the device."""
    pytest.importorskip("torch")
    from concepthash.gpu import TorchSearcher

    real = TorchSearcher.of
    monkeypatch.setattr(TorchSearcher, "of", lambda index, device: real(index, device="cpu"))
    photos = sorted(map(str, Path("shop").rglob("*.png")))[:2]
    for extra in ([], ["--radius", "6", "--top", "all"], ["--concepts", "1"], ["--top", "2"]):
        plain = chash("query", *photos, *extra, "--json").json("chash.query/1")
        on_device = chash("query", *photos, *extra, "--search-on", "cuda", "--json")
        value = on_device.json("chash.query/1")
        assert value["queries"] == plain["queries"]
        assert plain["search"] == "cpu"
        assert "torch" in str(value["search"])


def test_query__device_that_is_missing_exits_6_and_of_no_kind_2(
    chash: Chash, gallery: Path
) -> None:
    torch = pytest.importorskip("torch")
    photo = next(Path("shop").rglob("*.png"))
    assert chash("query", photo, "--search-on", "tpu").code == 2
    if not torch.cuda.is_available():
        result = chash("query", photo, "--search-on", "cuda")
        assert (result.code, result.out) == (6, "")
