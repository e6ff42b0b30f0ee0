"""Graphs that carry a manifest, and graphs whose weights lie where no checksum reaches."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from colour_bundle import lone_file
from tiny_bundle import tiny_bundle

from concepthash.bundle import MANIFEST, MODEL, Bundle
from concepthash.errors import BundleError
from concepthash.files import sha256
from concepthash.onnxmeta import read_metadata, refuse_external
from concepthash.runtime.backends import open_encoder

onnx = pytest.importorskip("onnx")


def put_outside(file: Path, location: str, *, within: bool = False) -> None:
    """Let the largest weights of a graph lie in another file; ``within`` an inner graph."""
    model = onnx.load(file)
    weights = max(model.graph.initializer, key=lambda tensor: tensor.ByteSize())
    data = weights.raw_data
    if within:
        model.graph.initializer.remove(weights)
        inner = onnx.helper.make_graph([], "inner", [], [], [weights])
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("body", inner))
        weights = model.graph.node[0].attribute[-1].g.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    file.write_bytes(model.SerializeToString())
    (file.parent / "weights.bin").write_bytes(data)


@pytest.mark.parametrize("within", [False, True])
def test_refuse_external__finds_weights_wherever_they_are_named(
    tmp_path: Path, within: bool
) -> None:
    file = tiny_bundle(tmp_path).file(MODEL)
    refuse_external(file)
    put_outside(file, "weights.bin", within=within)
    with pytest.raises(BundleError, match="another file"):
        refuse_external(file)


def test_refuse_external__a_word_is_no_reason(tmp_path: Path) -> None:
    file = tiny_bundle(tmp_path).file(MODEL)
    model = onnx.load(file)
    model.doc_string = "the location of nothing"
    onnx.helper.set_model_props(model, {"location": "weights.bin"})
    file.write_bytes(model.SerializeToString())
    refuse_external(file)
    assert read_metadata(file) == {"location": "weights.bin"}


@pytest.mark.parametrize("location", ["weights.bin", "link.bin", "../weights.bin"])
def test_open_encoder__takes_no_weights_from_elsewhere(tmp_path: Path, location: str) -> None:
    bundle = tiny_bundle(tmp_path)
    put_outside(bundle.file(MODEL), location)
    (bundle.path / "link.bin").symlink_to("weights.bin")
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["files"][MODEL] = sha256(bundle.file(MODEL))
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no checksum covers") as caught:
        open_encoder(Bundle.open(bundle.path), device="cpu")
    assert caught.value.hint


def test_lone_file__of_zeros_without_end_is_refused_at_once(tmp_path: Path) -> None:
    file = lone_file(tiny_bundle(tmp_path), tmp_path / "alone.onnx")
    os.truncate(file, 1 << 40)  # sparse
    with pytest.raises(BundleError, match="not an ONNX file"):
        Bundle.open(file)
    file.write_bytes(bytes(4096))
    with pytest.raises(BundleError, match="not an ONNX file"):
        Bundle.open(file)


def test_lone_file__a_manifest_too_deep(tmp_path: Path) -> None:
    file = lone_file(tiny_bundle(tmp_path), tmp_path / "alone.onnx")
    model = onnx.load(file)
    text = '{"format_version": ' + "[" * 100_000 + "]" * 100_000 + "}"
    onnx.helper.set_model_props(model, {"concepthash.manifest": text})
    file.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="manifest in it is damaged"):
        Bundle.open(file)
