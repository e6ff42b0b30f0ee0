"""``chash atlas``: the page it writes, what it says of it, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_entry import Chash
from colour_bundle import colour_bundle, lone_file, painted
from tiny_bundle import tiny_bundle

from concepthash.bundle import Bundle


@pytest.fixture
def gallery(chash: Chash, tmp_path: Path) -> Path:
    colour_bundle(tmp_path)
    painted(tmp_path / "birds", 12)
    assert chash("index", "birds/images", "--out", "birds.chg").code == 0
    return Path("birds.chg")


def test_atlas__writes_a_page_named_after_the_gallery(chash: Chash, gallery: Path) -> None:
    result = chash("atlas")
    assert result.code == 0
    assert "gallery: birds.chg (the newest here)" in result.err
    assert "model: colour.chb" in result.err
    assert "page: birds-atlas.html" in result.err
    assert result.out.startswith("birds-atlas.html: ")
    assert "12 images" in result.out
    first = Path("birds-atlas.html").read_text()
    assert "<h1>Atlas of birds.chg</h1>" in first
    assert chash("atlas", "birds.chg", "--title", "Birds").code == 0  # our own page is replaced
    assert "<h1>Birds</h1>" in Path("birds-atlas.html").read_text()


def test_atlas__as_json_has_the_figures(chash: Chash, gallery: Path) -> None:
    result = chash(
        "atlas", gallery, "--out", "new/a.html", "--rooms", 3, "--examples", 2, "--radius", 1,
        "--sample", 5, "--parts", "birds", "--split", "all", "--json",
    )  # fmt: skip
    assert result.code == 0
    value = result.json("chash.atlas/1")
    assert value["bytes"] == Path("new/a.html").stat().st_size
    assert (value["file"], value["images"], value["skipped"]) == ("new/a.html", 12, [])
    assert value["choices"] == {"model": "colour.chb"}
    assert value["backend"].startswith("onnxruntime")
    assert value["parts"]["schema"] == "chash.parts/1"
    for concept in value["concepts"]:
        assert len(concept["rooms"]) <= 3
        assert concept["radius"] == 1
        assert all(len(room["crops"]) <= 2 for room in concept["rooms"])
        images = sum(room["images"] for room in concept["rooms"])
        assert images + concept["images_in_no_room"] == 12
        assert [bit["bit"] for bit in concept["bits"]] == list(
            range(8 * concept["concept"], 8 * concept["concept"] + 8)
        )
    assert "Agreement with annotated parts" in Path("new/a.html").read_text()


def test_atlas__settings_of_its_table(chash: Chash, gallery: Path) -> None:
    Path("chash.toml").write_text("[atlas]\nrooms = 2\ntitle = 'Of a file'\n")
    value = chash("atlas", "--json").json("chash.atlas/1")
    assert value["title"] == "Of a file"
    assert max(len(concept["rooms"]) for concept in value["concepts"]) == 2


def test_atlas__of_a_lone_onnx_file(chash: Chash, gallery: Path) -> None:
    lone_file(Bundle.open("colour.chb"), Path("lone.onnx"))
    Path("colour.chb").rename("hidden")
    result = chash("atlas", gallery, "--model", "lone.onnx", "--json")
    assert result.code == 0
    assert [own["name"] for own in result.json("chash.atlas/1")["concepts"]] == [
        "red",
        "green",
        "blue",
    ]


def test_atlas__with_photos_gone_ends_with_three(chash: Chash, gallery: Path) -> None:
    Path("birds/images/4.png").unlink()
    result = chash("atlas", gallery, "--rooms", 24, "--examples", 12, "--json")
    assert result.code == 3
    value = result.json("chash.atlas/1")
    assert [item["path"] for item in value["skipped"]] == ["birds/images/4.png"]
    assert [sum(room["lost"] for room in own["rooms"]) for own in value["concepts"]] == [1, 1, 1]
    assert "skipped 1:\n  birds/images/4.png: cannot read: No such file" in result.err


def test_atlas__of_an_empty_gallery_says_what_fills_it(chash: Chash, gallery: Path) -> None:
    ids = [word for id in range(1, 13) for word in ("--id", id)]
    assert chash("index", "remove", gallery, *ids).code == 0
    result = chash("atlas", gallery)
    assert result.code == 0
    assert "nothing to show yet" in result.out
    assert "next: chash index FOLDER --out birds.chg" in result.err
    assert "no images yet" in Path("birds-atlas.html").read_text()


def test_atlas__without_scikit_learn_names_what_adds_the_map(
    chash: Chash, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    result = chash("atlas", gallery, "--json")
    assert result.code == 0
    assert result.json("chash.atlas/1")["map"] is None
    assert "next: pip install 'concepthash[atlas]'" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "words", "hint"),
    [
        (["--rooms", "0"], 2, "0 rooms cannot be shown", "--rooms 12"),
        (["--examples", "0"], 2, "0 cannot be shown", "--examples 1"),
        (["--radius", "9"], 2, "of a sub-code of 8", "--radius 1, or 0 for exact values"),
        (["--sample", "0"], 2, "0 cannot be shown", "--sample 2"),
        (["--split", "val"], 2, "unknown split 'val'", "test, train, all"),
        (["--threads", "0"], 2, "0 threads", "--threads 1"),
        (["--out", "birds"], 2, "a folder, not a file", "--out birds/atlas.html"),
        (["--out", "mine.html"], 2, "that chash did not write", "--out mine-2.html"),
        (["--out", "atlas.txt"], 2, "an HTML page", "--out atlas.html"),
        (["--out", "mine.html/a.html"], 2, "--out is a folder", "ls -l "),
        (["--parts", "nowhere"], 1, "no such file", "--parts FOLDER/part_locs.csv"),
        (["--model", "tiny-0.chb"], 5, "the gallery was made with model", "give the bundle"),
    ],
)
def test_atlas__refuses(
    arguments: list[str], code: int, words: str, hint: str, chash: Chash, gallery: Path
) -> None:
    Path("mine.html").write_text("<p>mine")
    tiny_bundle(Path(), bits=24, concepts=3)
    result = chash("atlas", gallery, *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert f"try: {hint}" in result.err
    assert not Path("birds-atlas.html").exists()
    assert Path("mine.html").read_text() == "<p>mine"


def test_atlas__of_no_gallery(chash: Chash) -> None:
    result = chash("atlas")
    assert result.code == 2
    assert "there is none here" in result.err
    result = chash("atlas", "none.chg")
    assert result.code == 1
    assert "try: chash index PHOTOS --out none.chg" in result.err
    assert "page: " not in result.err


def test_atlas__and_pages_of_other_verbs_leave_each_other_alone(
    chash: Chash, gallery: Path
) -> None:
    photo = next(Path("birds/images").rglob("*.png"))
    assert chash("query", photo, "--explain", "why").code == 0
    before = Path("why/hits.html").read_text()
    result = chash("atlas", gallery, "--out", "why/hits.html")
    assert (result.code, result.out) == (2, "")
    assert "a page that another verb wrote" in result.err
    assert "try: --out why/hits-2.html" in result.err
    assert Path("why/hits.html").read_text() == before
    assert chash("atlas", gallery, "--out", "new/hits.html").code == 0
    assert chash("query", photo, "--explain", "new").code == 2
