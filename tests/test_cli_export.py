"""``chash export`` in precisions and formats, through the command line."""

import json

import pytest
from cli_entry import Chash

pytest.importorskip("torch")
pytest.importorskip("onnx")
from tiny_bundle import tiny_bundle
from tiny_run import drawn_birds, parts_config

from concepthash.formats import FORMATS, PRECISIONS
from concepthash.learn.train import train
from concepthash.limits import LIMITS, Limits

LOOSE = ("--gate", "bits=30%,map=1", "--sample", "8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    data = drawn_birds(folder / "data")
    train(parts_config(data, folder / "vit.safetensors"), folder / "run")
    return folder / "run"


def test_export__precisions_at_the_command_line(chash: Chash, run, tmp_path):
    out = tmp_path / "a.chb"
    result = chash("export", run, "--precision", "int8,fp16", "--out", out, *LOOSE, "--json")
    value = result.json("chash.export/1")
    assert value["artifacts"] == ["model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    assert {"bits_flipped", "top10_overlap", "map_delta"} <= set(value["parity"])
    assert [found["precision"] for found in value["checked"]] == ["fp32", "fp16", "int8"]
    photo = next((run.parent / "data").glob("test/*/*.jpg"))
    for lone in ("model.onnx", "model.int8.onnx"):
        folder, gallery = photo.parent, tmp_path / f"{lone}.chg"
        assert chash("index", folder, "--model", out / lone, "--out", gallery).code == 0
        query = ("query", photo, "--gallery", gallery, "--model", out / lone, "--json")
        [answer] = chash(*query).json("chash.query/1")["queries"]
        assert answer["hits"][0]["distance"] == 0
        facts = chash("inspect", out / lone, "--json").json("chash.inspect/1")
        assert facts["kind"] == "model"


def test_export__bundle_gets_more(chash: Chash, run, tmp_path):
    out = tmp_path / "a.chb"
    assert chash("export", run, "--out", out, *LOOSE).code == 0
    result = chash("export", out, "--precision", "int8")
    assert result.code == 2
    assert "--calibrate FOLDER" in result.err
    photos = ("--calibrate", run.parent / "data" / "train")
    assert chash("export", out, "--precision", "int8", *photos, *LOOSE).code == 0
    listed = json.loads((out / "manifest.json").read_text())["artifacts"]
    assert [entry["precision"] for entry in listed] == ["fp32", "int8"]
    again = chash("export", out, "--precision", "int8", *photos)
    assert (again.code, again.out) == (2, "")
    assert "--force" in again.err


def test_export__gate_that_fails_exits_7(chash: Chash, run, tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "fp32", Limits(bits=1, overlap=1.1))  # nothing is that good
    out = tmp_path / "a.chb"
    result = chash("export", run, "--out", out, "--sample", "8")
    assert result.code == 7
    assert "top-10 overlap" in result.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--precision", "dynamic"], "photos beside it"),
        (["--precision", "int4"], "fp32, fp16, int8"),
        (["--precision", ""], "nothing was named"),
        (["--format", "tensorrt"], "onnx, openvino, trt, trt-rtx"),
        (["--gate", "bits=lots"], "--gate bits=0.5%"),
        (["--gate", "overlap=1.5"], "a share is at most 1"),
        (["--gate", "overlap=1.5", "--dry-run"], "a share is at most 1"),
        (["--keep-fp32", "-1"], "--keep-fp32 0"),
        (["--calibrate-n", "0"], "--calibrate-n 512"),
        (["--calibrate", "gone"], "no such folder"),
        (["--capability", "8.6"], "--format trt-rtx"),
    ],
)
def test_export__options_that_cannot_be_exit_2(chash: Chash, run, arguments, text):
    result = chash("export", run, "--out", "x.chb", *arguments)
    assert (result.code, result.out) == (2, "")
    assert text in result.err


def test_export__dry_run_says_what_would_be_made(chash: Chash, run):
    both = ("--format", ",".join(FORMATS), "--precision", ",".join(PRECISIONS))
    result = chash("export", run, *both, "--dry-run")
    assert result.code == 0
    for form in FORMATS.values():
        for file in form.files.values():
            assert file in result.out
    assert "model.trt.fp16.engine  (made on the GPU that will run it)" in result.out


def test_export__help_names_every_format(chash: Chash):
    text = " ".join(chash("export", "--help").out.split())
    for form in FORMATS.values():
        assert f"{form.name}: {form.text}" in text


def test_export__a_checkpoint_of_a_bundle_is_refused(chash: Chash, tmp_path, monkeypatch):
    out = tiny_bundle(tmp_path).path
    result = chash("export", out, "--checkpoint", "last", "--dry-run")
    assert (result.code, result.out) == (2, "")
    assert "only a run has checkpoints" in result.err
    assert "try: leave it out" in result.err
    monkeypatch.setenv("CHASH_CHECKPOINT", "last")  # of runs to come
    assert chash("export", out, "--dry-run").code == 0
