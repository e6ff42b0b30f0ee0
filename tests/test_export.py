import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from tiny_run import drawn_birds, tiny_config  # noqa: E402

from concepthash.bundle import Bundle  # noqa: E402
from concepthash.codes import CodeLayout, pack  # noqa: E402
from concepthash.errors import DataError, GateError, UsageError  # noqa: E402
from concepthash.export.bundle import Options, export_bundle  # noqa: E402
from concepthash.export.graph import Graph  # noqa: E402
from concepthash.learn.checkpoint import Run  # noqa: E402
from concepthash.learn.train import train  # noqa: E402
from concepthash.runtime.session import open_session  # noqa: E402


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    data = drawn_birds(folder / "data")
    train(tiny_config(data), folder / "run")
    return folder / "run", export_bundle(folder / "run", options=Options(sample=9))


def test_export__bundle_is_the_network_in_every_bit(exported):
    run_path, result = exported
    parity = result.checked[0].parity
    assert parity.images == 8
    assert parity.bits_flipped == 0
    assert parity.top10_overlap == 1
    assert parity.map_delta == 0
    assert parity.unseen_bits_flipped == 0
    bundle = Bundle.open(result.bundle)
    bundle.verify()
    assert bundle.manifest.layout == CodeLayout(16, 2)
    assert bundle.manifest.metrics["map"]["expected"] > 0
    [checked] = json.loads(bundle.file("parity.json").read_text())["artifacts"]
    assert checked["images"] == 8
    assert checked["limits"]["margin"] == 1e-4
    assert str(run_path.parent) not in (bundle.path / "manifest.json").read_text()


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_export__graph_gives_the_network_s_outputs_at_any_batch(exported, batch):
    run_path, result = exported
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, 48, 48, 3), dtype=np.uint8)
    encoded = open_session(result.bundle / "model.onnx", device="cpu").run(pixels)
    with torch.inference_mode():
        output = Run.open(run_path).load()(torch.from_numpy(pixels))
    assert np.array_equal(encoded.codes, pack(encoded.logits))
    assert np.allclose(encoded.logits, output.logits.numpy(), atol=1e-4)
    assert np.allclose(encoded.attention, output.maps.numpy(), atol=1e-5)


def test_export__codes_do_not_depend_on_batch_mates(exported):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), dtype=np.uint8)
    session = open_session(exported[1].bundle / "model.onnx", device="cpu")
    alone = np.concatenate([session.codes(pixels[i : i + 1]) for i in range(8)])
    assert np.array_equal(session.codes(pixels), alone)


def test_graph__packs_as_numpy_does(exported):
    graph = Graph(Run.open(exported[0]).load())
    with torch.inference_mode():
        codes, logits, _ = graph(torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8))
    assert np.array_equal(codes.numpy(), pack(logits.numpy()))


def test_export__never_replaces_a_bundle_unasked(exported):
    with pytest.raises(UsageError, match="exists"):
        export_bundle(exported[0])


def test_export__a_failed_gate_writes_nothing(exported, tmp_path, monkeypatch):
    """The fault is injected: a graph whose head is another one's."""

    def wrong(model, path, *, crop):
        with torch.no_grad():
            model.head.hash.weight.neg_()
        original(model, path, crop=crop)
        with torch.no_grad():
            model.head.hash.weight.neg_()

    from concepthash.export import run as module

    original = module.write_onnx
    monkeypatch.setattr(module, "write_onnx", wrong)
    with pytest.raises(GateError, match="nothing was written"):
        export_bundle(exported[0], tmp_path / "bad.chb", options=Options(sample=4))
    assert list(tmp_path.iterdir()) == []


def test_export__force_replaces_bundles_only(exported, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "precious.jpg").touch()
    for place in (photos, exported[0]):
        with pytest.raises(UsageError, match="something else"):
            export_bundle(exported[0], place, force=True)
    assert (photos / "precious.jpg").exists()
    assert (exported[0] / "run.json").exists()
    before = exported[1].bundle.stat().st_ino
    export_bundle(exported[0], force=True, options=Options(sample=2))
    assert exported[1].bundle.stat().st_ino != before


def test_export__keeps_the_paths_of_the_training_machine_to_itself(tmp_path):
    data = drawn_birds(tmp_path / "data")
    np.save(tmp_path / "words.npy", np.eye(3))
    changes = {"guidance": {"source": f"file:{tmp_path / 'words.npy'}"}}
    train(tiny_config(data, epochs=1).updated(changes, where="test"), tmp_path / "run")
    bundle = export_bundle(tmp_path / "run", options=Options(sample=4)).bundle
    text = (bundle / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert "file:words.npy" in text


def test_export__from_within_the_run_folder(exported, tmp_path, monkeypatch):
    shutil.copytree(exported[0], tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert export_bundle(Path(), options=Options(sample=2)).bundle == tmp_path / "mine.chb"


def test_export__says_when_the_training_photos_are_gone(exported, tmp_path):
    data = drawn_birds(tmp_path / "data")
    train(tiny_config(data, epochs=1), tmp_path / "run")
    for photo in data.glob("train/*/*.jpg"):
        photo.unlink()
        photo.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        export_bundle(tmp_path / "run", options=Options(sample=4))
