"""Artefacts of a bundle: made with it or later, each through its gate."""

import json
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
from tiny_run import drawn_birds, parts_config

from concepthash.bundle import Artifact, Bundle
from concepthash.errors import BackendError, BundleError, GateError, UsageError
from concepthash.export.bundle import Options, export_bundle
from concepthash.learn.train import train
from concepthash.limits import LIMITS, Limits
from concepthash.runtime import Hasher

# A network of three blocks that has hardly learned: its logits lie near 0, so bits flip easily.
LOOSE = "bits=30%,map=1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    data = drawn_birds(folder / "data")
    train(parts_config(data, folder / "vit.safetensors"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    return export_bundle(
        run, precisions=("fp32", "fp16", "int8"), options=Options(sample=8, gate=LOOSE)
    )


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(exported.bundle, tmp_path / "copy.chb")
    return tmp_path / "copy.chb"


def photos(run):
    return sorted((run.parent / "data").glob("train/*/*.jpg"))


def test_export__every_precision_is_listed_recorded_and_smaller(exported):
    bundle = Bundle.open(exported.bundle)
    bundle.verify()
    names = ["onnx fp32", "onnx fp16", "onnx int8"]
    assert [str(artifact) for artifact in bundle.manifest.artifacts] == names
    recorded = json.loads(bundle.file("parity.json").read_text())
    assert recorded["schema"] == "chash.parity/1"
    assert [f"{e['format']} {e['precision']}" for e in recorded["artifacts"]] == names
    for entry in recorded["artifacts"]:
        assert {"bits_flipped", "per_concept", "margins", "limits", "backend"} <= set(entry)
        assert entry["ran"] is True
        assert entry["mates"] == 0
    sizes = [bundle.file(a.file).stat().st_size for a in bundle.manifest.artifacts]
    assert sizes[0] > sizes[1] > sizes[2]
    assert exported.to_json()["artifacts"] == [a.file for a in bundle.manifest.artifacts]


def test_export__every_precision_hashes(exported, run):
    codes = {}
    for precision in ("fp32", "fp16", "int8"):
        hasher = Hasher(exported.bundle, device="cpu", precision=precision)
        assert precision in hasher.backend
        codes[precision] = np.stack([found.code for found in hasher.hash(photos(run))])
    assert np.unpackbits(codes["fp32"] ^ codes["fp16"]).mean() < 0.05
    assert np.unpackbits(codes["fp32"] ^ codes["int8"]).mean() < 0.3


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx"])
def test_export__a_lone_file_is_a_bundle(exported, run, tmp_path, name):
    shutil.copy(exported.bundle / name, tmp_path / "lone.onnx")
    manifest = Bundle.open(exported.bundle).manifest
    lone = Bundle.open(tmp_path / "lone.onnx")
    assert lone.manifest.fingerprint == manifest.fingerprint
    assert lone.manifest.training == manifest.training
    assert all(artifact.file == name for artifact in lone.manifest.artifacts)
    precision = "int8" if "int8" in name else "fp32"
    [found] = Hasher(tmp_path / "lone.onnx", device="cpu").hash(photos(run)[:1])
    [same] = Hasher(exported.bundle, device="cpu", precision=precision).hash(photos(run)[:1])
    assert np.array_equal(found.code, same.code)


def test_bundle__a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "notes.onnx").write_bytes(b"\x08\x0a\x12\x03abc")
    (tmp_path / "damaged.onnx").write_bytes(b"\x72\xff\xff\xff\x7f")
    for name, what in (("notes", "does not carry a manifest"), ("damaged", "not an ONNX file")):
        with pytest.raises(BundleError, match=what):
            Bundle.open(tmp_path / f"{name}.onnx")


def test_export__a_failed_gate_names_layers_and_writes_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(LIMITS, "int8", Limits(bits=1, overlap=1.1))  # nothing is that good
    with pytest.raises(GateError) as caught:
        export_bundle(run, tmp_path / "a.chb", precisions=["int8"], options=Options(sample=8))
    assert caught.value.exit_code == 7
    assert "blocks." in caught.value.what
    assert "--keep-fp32" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_export__keeps_as_many_layers_as_are_asked_for(run, tmp_path):
    options = Options(sample=8, gate=LOOSE, keep=3)
    result = export_bundle(run, tmp_path / "a.chb", precisions=["int8"], options=options)
    assert len(result.checked[-1].kept) == 3
    assert set(result.checked[-1].kept) == {b.layer for b in result.checked[-1].blame[:3]}


def test_export__openvino_runs_what_it_will_run(bundle, run):
    pytest.importorskip("openvino")
    options = Options(sample=8, gate=LOOSE, calibrate=run.parent / "data" / "train")
    result = export_bundle(
        bundle, formats=["openvino"], precisions=["fp32", "int8"], options=options
    )
    assert result.artifacts == ("model.onnx", "model.int8.qdq.onnx")
    assert all("openvino" in found.parity.backend for found in result.checked)
    listed = Bundle.open(bundle).manifest.artifacts
    assert Artifact("onnx", "fp16", "model.fp16.onnx") in listed
    assert Artifact("openvino", "int8", "model.int8.qdq.onnx") in listed
    recorded = json.loads((bundle / "parity.json").read_text())["artifacts"]
    assert len(recorded) == 5
    with pytest.raises(UsageError, match="already"):
        export_bundle(bundle, formats=["openvino"], precisions=["fp32", "int8"])
    hasher = Hasher(bundle, device="cpu", backend="openvino", precision="int8")
    assert next(iter(hasher.hash(photos(run)[:1]))).code is not None


def test_export__int8_of_a_bundle_needs_photos(bundle):
    with pytest.raises(UsageError, match="calibrated on photos") as caught:
        export_bundle(bundle, precisions=["int8"], force=True)
    assert "--calibrate" in str(caught.value.hint)
    Bundle.open(bundle).verify()


def test_export__an_engine_for_rtx_is_built_without_a_gpu(bundle):
    pytest.importorskip("tensorrt_rtx")
    options = Options(gate=LOOSE, capabilities=("8.6",))
    result = export_bundle(bundle, formats=["trt-rtx"], precisions=["fp32"], options=options)
    opened = Bundle.open(bundle)
    opened.verify()
    assert opened.file("model.rtx.fp32.engine").stat().st_size > 10_000
    record = json.loads(opened.file("model.rtx.fp32.engine.json").read_text())
    assert record["precision"] == "fp32"
    if not result.checked[0].ran:  # no GPU here
        assert "engine itself was not run" in str(result)


def test_export__trt_without_its_module_says_where_and_how(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(BackendError, match="tensorrt") as caught:
        export_bundle(bundle, formats=["trt"], precisions=["fp16"], options=Options(gate=LOOSE))
    assert "concepthash[trt]" in str(caught.value.hint)
    assert (bundle / "manifest.json").read_bytes() == before


def test_export__dynamic_quantisation_is_refused_with_the_reason(run, tmp_path):
    with pytest.raises(UsageError, match="beside it"):
        export_bundle(run, tmp_path / "a.chb", precisions=["dynamic"])
    for formats, precisions in ((["coreml"], ["fp32"]), (["onnx"], ["int4"])):
        with pytest.raises(UsageError):
            export_bundle(run, tmp_path / "a.chb", formats=formats, precisions=precisions)


def test_export__old_bundles_are_read_and_extended_in_fp32(bundle, run):
    """As an earlier version wrote them: no list of artefacts, one flat comparison."""
    for name in ("model.fp16.onnx", "model.int8.onnx"):
        (bundle / name).unlink()
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["artifacts"]
    manifest["files"] = {"model.onnx": manifest["files"]["model.onnx"]}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "parity.json").write_text(json.dumps({"images": 8, "bits_flipped": 0.0}))
    assert [str(a) for a in Bundle.open(bundle).manifest.artifacts] == ["onnx fp32"]
    export_bundle(bundle, precisions=["fp16"], options=Options(gate=LOOSE))
    recorded = json.loads((bundle / "parity.json").read_text())["artifacts"]
    assert [entry["precision"] for entry in recorded] == ["fp32", "fp16"]
    Bundle.open(bundle).verify()


def test_export__bundle_whose_record_was_cut_off_from_its_digest_can_be_extended(bundle):
    """As a crash between the two leaves it."""
    recorded = (bundle / "parity.json").read_text()
    (bundle / "parity.json").write_text(recorded + "\n")
    with pytest.raises(BundleError):
        Bundle.open(bundle).verify()
    export_bundle(bundle, precisions=["fp16"], force=True, options=Options(gate=LOOSE))
    Bundle.open(bundle).verify()
    assert not list(bundle.glob(".export*"))


def test_export__keeps_artefacts_of_later_versions(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    later = [
        {"format": "coreml", "precision": "fp16", "file": "model.mlpackage"},
        {"format": "onnx", "precision": "fp8", "file": "model.fp8.onnx"},
    ]
    manifest["artifacts"] += later
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert len(Bundle.open(bundle).manifest.artifacts) == 3
    export_bundle(bundle, precisions=["fp16"], force=True, options=Options(gate=LOOSE))
    listed = json.loads((bundle / "manifest.json").read_text())["artifacts"]
    assert [entry for entry in listed if entry in later] == later


def test_export__uses_the_graphs_a_bundle_has(bundle, monkeypatch):
    pytest.importorskip("openvino")
    before = (bundle / "model.fp16.onnx").read_bytes()
    monkeypatch.setitem(sys.modules, "concepthash.export.graphs", None)  # as without onnx
    export_bundle(bundle, formats=["openvino"], precisions=["fp16"], options=Options(gate=LOOSE))
    assert (bundle / "model.fp16.onnx").read_bytes() == before


def test_export__of_a_bundle_says_so_of_the_fp32_graph(bundle):
    with pytest.raises(UsageError, match="already") as caught:
        export_bundle(bundle, force=True)
    assert "chash export RUN --force" in str(caught.value.hint)


def test_export__replaces_no_bundle_by_less_and_a_link_stays_one(run, exported, tmp_path):
    shutil.copytree(exported.bundle, tmp_path / "real.chb")
    (tmp_path / "link.chb").symlink_to(tmp_path / "real.chb")
    with pytest.raises(UsageError, match="onnx fp16, onnx int8, which would be gone") as caught:
        export_bundle(run, tmp_path / "link.chb", force=True)
    assert "--precision fp32,fp16,int8" in str(caught.value.hint) or "mv " in str(caught.value.hint)
    shutil.rmtree(tmp_path / "real.chb")
    shutil.copytree(exported.bundle, tmp_path / "real.chb")
    for name in ("model.fp16.onnx", "model.int8.onnx"):
        (tmp_path / "real.chb" / name).unlink()
    export_bundle(run, tmp_path / "link.chb", force=True, options=Options(sample=4))
    assert (tmp_path / "link.chb").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.chb", "real.chb"]
    assert [str(a) for a in Bundle.open(tmp_path / "real.chb").manifest.artifacts] == ["onnx fp32"]
