"""``chash train``, ``export``, ``eval`` of a run, and ``demo``: real, and as small as can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from cli_entry import Chash
from tiny_run import TINY_VIT, drawn_birds

from concepthash.cli import demo

pytestmark = pytest.mark.slow

SETTINGS = f"""
[data]
resize = 48
crop = 48
val_share = 0.25
workers = 0
[model]
backbone = "vit_tiny_patch16_224"
weights = "none"
concept_mode = "paper"
freeze = false
backbone_args = {{{", ".join(f"{key} = {value}" for key, value in TINY_VIT.items())}}}
concepts = 2
concept_dim = 16
concept_heads = 2
[guidance]
source = "none"
[train]
epochs = 1
batch_size = 4
device = "cpu"
"""


def test_train__to_export_and_eval(chash: Chash) -> None:
    Path("chash.toml").write_text(SETTINGS)
    birds = drawn_birds(Path("birds"))
    broken = next(birds.glob("train/*/001.jpg"))
    broken.write_bytes(b"no photo")

    result = chash("train", "birds", "--bits", 16, "--json", "--threads", 1)
    assert result.code == 3
    value = result.json("chash.train/1")
    assert (value["run"], value["epochs"]) == ("runs/birds-16b-1", 1)
    assert value["choices"] == {"run": "runs/birds-16b-1"}
    assert value["evaluation"]["schema"] == "chash.eval/1"
    assert {Path(item["path"]).name for item in value["skipped"]} == {"001.jpg"}
    assert "next: chash export runs/birds-16b-1" in result.err
    assert "001.jpg: not an image Pillow can read" in result.err
    recorded = json.loads(Path("runs/birds-16b-1/config.json").read_text())
    assert (recorded["model"]["bits"], recorded["model"]["concept_dim"]) == (16, 16)

    again = chash("train", "./birds", "--resume")  # the bits are those of the run
    assert again.code == 3
    assert "run: runs/birds-16b-1 (the newest under runs/)" in again.err
    assert again.out.startswith("mAP ")
    changed = chash("train", "--resume", "--seed", 5)
    assert (changed.code, changed.out) == (2, "")
    assert "train.seed: 0 -> 5" in changed.err

    assert chash("inspect", "runs/birds-16b-1", "--json").json("chash.inspect/1")["kind"] == "run"
    exported = chash("export", "--json")
    value = exported.json("chash.export/1")
    assert value["parity"]["bits_flipped"] == 0
    assert value["choices"] == {"run": "runs/birds-16b-1"}
    assert chash("export").code == 2  # the bundle exists

    run = chash("eval", "runs/birds-16b-1", "--json").json("chash.eval/1")
    bundle = chash("eval", value["bundle"], "--data", "birds", "--json").json("chash.eval/1")
    for key in ("map", "precision", "per_concept_map"):
        assert run[key] == bundle[key]
    assert run["protocol"]["query_sha256"] == bundle["protocol"]["query_sha256"]
    assert chash("index", "birds/test").err.startswith(f"model: {value['bundle']} (the newest")


def test_eval__says_where_queries_may_be_training_photos(chash: Chash) -> None:
    Path("chash.toml").write_text(SETTINGS)
    drawn_birds(Path("birds"))
    arguments = ("birds/train", "--test-share", 0, "--bits", 16, "--threads", 1, "--out", "run")
    assert chash("train", *arguments).code == 0
    told = chash("eval", "run", "--test-share", 0.25)
    assert told.code == 0, told.err
    assert (
        "the run was trained with 0, so queries at 0.25 may be photos that it was trained on"
        in told.err
    )
    config = Path("run/config.json")
    config.write_text(config.read_text().replace('"test_share": 0.0', '"test_share": null'))
    told = chash("eval", "run", "--test-share", 0.2)  # what null stands for
    assert told.code == 0, told.err
    assert "test share:" not in told.err


def test_demo__is_the_whole_road_and_can_begin_afresh(
    chash: Chash, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**demo.DEMO_CONFIG["model"], "backbone_args": {**TINY_VIT, "patch_size": 12}}
    monkeypatch.setitem(demo.DEMO_CONFIG, "model", small)
    arguments = ("demo", "--out", "d", "--species", 2, "--images", 6, "--epochs", 1, "--json")
    result = chash(*arguments)
    assert result.err.splitlines()[-1] == (
        "next: chash serve d/birds.chg --open (chash demo --open does so by itself)"
    )
    value = result.json("chash.demo/1")
    assert value["export"]["parity"]["bits_flipped"] == 0
    assert value["index"]["added"] == 12
    assert len(value["query"]["queries"]) == demo.QUERIES
    assert all(len(query["hits"]) == 5 for query in value["query"]["queries"])
    assert all(Path(place).exists() for place in value["places"].values())
    demo._claim(Path("d"))  # what a second demo does first
    assert {path.name for path in Path("d").iterdir()} == {"data", "demo.json"}


def test_demo__refuses_a_folder_of_something_else(chash: Chash) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    result = chash("demo", "--out", "mine")
    assert (result.code, result.out) == (2, "")
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]
