"""Every verb that takes a gallery, on a sharded one: the answers of an ordinary one, row by row."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_entry import Chash, Outcome
from colour_bundle import colour_bundle, painted
from sharded_gallery import content, without_ids

from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.interchange import load_index

ONE, MANY = "bird.chg", "flok.chg"


@pytest.fixture
def galleries(chash: Chash, tmp_path: Path) -> None:
    """The same 24 photos, some of them twins, in an ordinary gallery and in three shards."""
    pytest.importorskip("onnx")
    colour_bundle(tmp_path)
    images = painted(tmp_path / "birds", 20) / "images"
    for number, file in enumerate(sorted(images.rglob("*.png"))[:4]):
        shutil.copy(file, file.with_name(f"twin-{number}.png"))
    assert chash("index", "birds/images", "--out", ONE).code == 0
    assert chash("index", "split", ONE, "--shards", 3, "--out", MANY).code == 0


def plain(value: str | bytes) -> str:
    """Text without the name of the gallery and what differs from run to run."""
    text = value if isinstance(value, str) else value.decode()
    return re.sub(r"[0-9.]+ (ms|s)\b", "TIME", text.replace(MANY[:-4], ONE[:-4]))


def both(chash: Chash, *words: object, code: int = 0) -> Outcome:
    """What a verb says of the sharded gallery, after it said the same of the ordinary one.

    ``G`` stands for the gallery, in words like ``G-out`` too.
    """
    outcomes = []
    for gallery in (ONE, MANY):
        asked = [re.sub(r"^G(?=$|-)", gallery, str(word)) for word in words]
        outcomes.append(chash(*asked))
    one, many = outcomes
    assert (one.code, many.code) == (code, code), (words, one.err, many.err)
    assert plain(many.out) == plain(one.out)
    assert plain(many.err) == plain(one.err)
    return many


def files(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The files below ``G-name`` of both galleries, as text."""
    found = []
    for gallery in (ONE, MANY):
        root = Path(f"{gallery}-{name}")
        below = [root] if root.is_file() else [f for f in root.rglob("*") if f.is_file()]
        assert below
        read = {str(f.relative_to(root)): f.read_bytes() for f in below}
        found.append({key: plain(value.decode("latin-1")) for key, value in read.items()})
    return found[0], found[1]


def same_files(name: str) -> None:
    one, many = files(name)
    assert many == one


def test_verbs__that_read_say_the_same_of_both(chash: Chash, galleries: None) -> None:
    photo = sorted(Path("birds/images").rglob("*.png"))[7]
    for words in (
        ("--top", 5, "--json"),
        ("--top", "all"),
        ("--radius", 3, "--format", "paths"),
        ("--concepts", "red", "--json"),
        ("--top", 3, "--explain", "G-pages"),
    ):
        both(chash, "query", photo, "--gallery", "G", *words)
    same_files("pages")
    both(chash, "index", "verify", "G", "--json")
    both(chash, "dedupe", "G", "--radius", 1, "--json")
    assert "twin-0" in both(chash, "dedupe", "G").out
    both(chash, "knn-graph", "G", "--top", 4, "--out", "G-graph.npz", "--json")
    with np.load(f"{ONE}-graph.npz") as one, np.load(f"{MANY}-graph.npz") as many:
        assert sorted(one) == sorted(many)
        for key in one:
            np.testing.assert_array_equal(many[key], one[key])
    page = ("--out", "G-atlas.html", "--parts", "birds", "--split", "all")
    both(chash, "atlas", "G", *page, "--json")
    same_files("atlas.html")
    both(chash, "concepts", "--gallery", "G", "--json")
    both(chash, "index", "merge", "G", "--out", "G-merged.chg", "--json")
    for suffix in (".chx", ".npy", ".ibin", ".parquet"):
        if suffix == ".parquet":
            pytest.importorskip("pyarrow")
        both(chash, "index", "export", "G", f"G-codes{suffix}", "--json")
        one, many = (load_index(f"{name}-codes{suffix}", concepts=3) for name in (ONE, MANY))
        np.testing.assert_array_equal(one.ids, many.ids)
        assert all(one[id].tobytes() == many[id].tobytes() for id in one.ids.tolist())
    both(chash, "index", "remove", "G", photo, "--dry-run", "--json")
    both(chash, "index", "remove", "G", "--id", 999, code=2)
    facts = {n: chash("inspect", n, "--json").json("chash.inspect/1") for n in (ONE, MANY)}
    assert facts[MANY]["shards"] == dict.fromkeys(
        ("shard-0001.chg", "shard-0002.chg", "shard-0003.chg"), 8
    )
    for key in ("kind", "images", "labels", "bits", "concepts", "model", "fingerprint"):
        assert facts[MANY][key] == facts[ONE][key]
    assert re.search(r"shards +shard-0001.chg 8, shard-0002.chg 8, ", chash("inspect", MANY).out)


def test_verbs__that_write_do_the_same_to_both(chash: Chash, galleries: None) -> None:
    paths = sorted(Path("birds/images").rglob("*.png"))
    both(chash, "index", "remove", "G", paths[0], "--id", 11, "--json")
    both(chash, "index", "verify", "G")
    both(chash, "index", "compact", "G", "--json")
    both(chash, "index", "accelerate", "G", "--json")
    both(chash, "query", paths[3], "--gallery", "G", "--top", "all", "--json")
    both(chash, "index", "repair", "G")
    both(chash, "index", "split", "G", "--shards", 2, "--out", "G-again.chg")
    with open_gallery(f"{ONE}-again.chg") as one, open_gallery(f"{MANY}-again.chg") as many:
        assert content(one) == content(many)


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


def test_index__brings_both_up_to_date(chash: Chash, galleries: None) -> None:
    paths = sorted(Path("birds/images").rglob("*.png"))
    paths[0].unlink()
    paths[1].rename(paths[1].with_name("moved.png"))
    shutil.copy(paths[5], paths[5].with_name("copy.png"))
    paths[6].write_bytes(paths[7].read_bytes())
    painted(Path("more"), 30)
    for file in sorted(Path("more/images").rglob("*.png"))[-5:]:
        shutil.copy(file, Path("birds/images") / f"more-{file.name}")
    timed = ("gallery", "seconds", "waits", "photos_per_second", "bound_by")
    for _ in range(2):
        reports = []
        for name in (ONE, MANY):
            result = chash("index", "birds/images", "--out", name, "--json")
            assert result.code == 0, result.err
            reports.append(without(result.json("chash.index/1"), *timed))
        assert reports[0] == reports[1]
        with open_gallery(ONE) as one, open_gallery(MANY) as many:
            assert without_ids(many) == without_ids(one)
            assert list(many.damage()) == []
    assert chash("knn-graph", MANY, "--out", "a.npz").code == 0
    with np.load("a.npz") as graph:  # in id order, though shards lie one after another
        assert (np.diff(graph["ids"]) > 0).all()
        assert graph["ids"][-1] > 10**9 > graph["ids"][0]
    assert chash("index", "birds/images", "--out", MANY, "--rebuild").code == 0
    with open_gallery(ONE) as one, open_gallery(MANY) as many:
        assert without_ids(many).keys() == without_ids(one).keys()
        assert len(many.names) == 3


def test_newest__gallery_is_the_one_that_was_committed_to(chash: Chash, galleries: None) -> None:
    photo = sorted(Path("birds/images").rglob("*.png"))[0]
    old = time.time() - 1000
    for name in (ONE, MANY):
        for file in Path(name).rglob("*"):
            os.utime(file, (old, old))
    for newest in (MANY, ONE):
        mark = "shard-0002.chg/gallery.sqlite" if newest == MANY else "gallery.sqlite"
        os.utime(Path(newest) / mark)
        assert f"gallery: {newest} (the newest here)" in chash("query", photo).err
        time.sleep(0.01)
    assert "a gallery, not a bundle" in chash("query", photo, "--model", MANY).err


def test_errors__say_that_the_list_of_shards_is_lost(chash: Chash, galleries: None) -> None:
    Path(MANY, "shards.json").unlink()
    photo = next(Path("birds/images").rglob("*.*"))
    for words in (
        ("query", photo, "--gallery", MANY),
        ("inspect", MANY),
        ("dedupe", MANY),
        ("index", "push", MANY, "pushed.chg"),
    ):
        result = chash(*words)
        assert result.code == 1, words
        assert "list of shards is missing" in result.err
        assert "chash index repair" in result.err


def test_errors__name_the_shard_and_the_command(chash: Chash, galleries: None) -> None:
    photo = sorted(Path("birds/images").rglob("*.png"))[0]
    shutil.rmtree(Path(MANY, "shard-0002.chg"))
    for words in (
        ("query", photo, "--gallery", MANY),
        ("inspect", MANY),
        ("dedupe", MANY),
        ("knn-graph", MANY, "--out", "a.npz"),
        ("atlas", MANY),
        ("concepts", "--gallery", MANY),
        ("index", "birds/images", "--out", MANY),
        ("index", "compact", MANY),
        ("index", "accelerate", MANY),
        ("index", "remove", MANY, photo),
        ("index", "merge", ONE, MANY, "--out", "a.chg"),
        ("index", "split", MANY, "-n", 2, "--out", "a.chg"),
        ("index", "export", MANY, "a.npy"),
        ("index", "verify", MANY),
    ):
        result = chash(*words)
        assert result.code == 1, words
        assert "shard-0002.chg is missing" in result.err + result.out, words
        assert f"chash index repair {MANY}" in result.err
    assert not list(Path().glob("a.*"))
    repaired = chash("index", "repair", MANY, "--json")
    value = repaired.json("chash.repair/1")
    assert (value["replaced"], value["uncounted"]) == (["shard-0002.chg"], True)
    assert f"--out {MANY}, or instead put the shards back from a backup" in repaired.err
    assert chash("index", "birds/images", "--out", MANY).code == 0
    with open_gallery(ONE) as one, open_gallery(MANY) as many:
        assert without_ids(many) == without_ids(one)
    (Path(MANY) / "shards.json").unlink()
    result = chash("query", photo, "--gallery", MANY)
    assert (result.code, result.out) == (1, "")
    assert f"chash index repair {MANY}" in result.err
    assert json.loads(chash("index", "repair", MANY, "--json").out)["images"] == 24
