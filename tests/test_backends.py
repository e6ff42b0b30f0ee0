"""The table of back ends, what is chosen of it, and each that runs here against the oracle."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from cli_entry import photos as photo_folder
from colour_bundle import lone_file
from tiny_bundle import tiny_bundle, tiny_codes

from concepthash.bundle import FIRST_ARTIFACT, Artifact, Bundle, extend_bundle
from concepthash.encoder import Encoder
from concepthash.errors import BackendError, BundleError, UsageError
from concepthash.formats import FORMATS
from concepthash.runtime import backends, openvino, session
from concepthash.runtime.backends import BACKENDS, open_encoder, usable_backends
from concepthash.runtime.openvino import open_openvino
from concepthash.runtime.session import open_session

OPENVINO_FP32 = Artifact("openvino", "fp32", "model.onnx")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One file that two back ends run."""
    made = tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return extend_bundle(made, {}, [OPENVINO_FP32])


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def on_onnxruntime(bundle: Bundle) -> Encoder:
    return open_encoder(bundle, device="cpu", threads=2)


def on_openvino(bundle: Bundle) -> Encoder:
    pytest.importorskip("openvino")
    return open_encoder(bundle, backend="openvino", threads=2)


EVERY = pytest.mark.parametrize("open_one", [on_onnxruntime, on_openvino])


@EVERY
def test_encoder__answers_like_the_oracle(
    bundle: Bundle, open_one: Callable[[Bundle], Encoder]
) -> None:
    encoder, pixels = open_one(bundle), photos(5)
    assert isinstance(encoder, Encoder)
    found = encoder.run(pixels)
    np.testing.assert_array_equal(found.codes, tiny_codes(pixels))
    np.testing.assert_array_equal(encoder.codes(pixels), tiny_codes(pixels))
    assert (found.logits.dtype, found.logits.shape) == (np.float32, (5, 16))
    cells = pixels[0].reshape(4, 8, 4, 8, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(found.attention[0, 1], cells, rtol=1e-5)
    assert found.background is None
    assert (encoder.image_side, encoder.code_bytes) == (32, 2)
    assert (encoder.device, encoder.note) == ("cpu", None)
    assert encoder.backend.endswith(", fp32, 2 threads")
    encoder.close()


@EVERY
def test_encoder__a_code_does_not_depend_on_its_batch_mates(
    bundle: Bundle, open_one: Callable[[Bundle], Encoder]
) -> None:
    encoder, pixels = open_one(bundle), photos(32)
    together = encoder.codes(pixels)
    np.testing.assert_array_equal(encoder.codes(pixels[::-1])[::-1], together)
    for size in (1, 7, 16):
        parts = [encoder.codes(pixels[start : start + size]) for start in range(0, 32, size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)


@EVERY
def test_encoder__results_outlive_the_next_batch(
    bundle: Bundle, open_one: Callable[[Bundle], Encoder]
) -> None:
    encoder, pixels = open_one(bundle), photos(6)
    pending = [encoder.submit(pixels[:3]), encoder.submit(pixels[3:])]
    first = encoder.run(pixels[:3])
    kept = first.logits.copy()
    encoder.run(pixels[3:])
    np.testing.assert_array_equal(first.logits, kept)
    codes = np.concatenate([one.result() for one in pending])
    np.testing.assert_array_equal(codes, tiny_codes(pixels))
    encoder.close()


@EVERY
def test_encoder__a_batch_it_cannot_compute(
    bundle: Bundle, open_one: Callable[[Bundle], Encoder]
) -> None:
    encoder = open_one(bundle)
    wrong = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(BackendError, match="inference failed"):
        encoder.codes(wrong)
    with pytest.raises(BackendError, match="inference failed"):
        encoder.submit(wrong).result()
    np.testing.assert_array_equal(encoder.codes(photos(1)), tiny_codes(photos(1)))


def test_openvino__computes_in_float32_whatever_the_processor_has(bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    _, core = openvino.openvino_core()
    compiled = core.compile_model(str(bundle.file("model.onnx")), "CPU", openvino.settings(2))
    assert "float32" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
    assert compiled.get_property("NUM_STREAMS") == 1


def test_openvino__files_that_are_no_graph_of_ours(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    onnx = pytest.importorskip("onnx")
    made = tiny_bundle(tmp_path)
    model = onnx.load(made.file("model.onnx"))
    del model.graph.output[1]
    onnx.save(model, tmp_path / "half.onnx")
    (tmp_path / "broken.onnx").write_bytes(made.file("model.onnx").read_bytes()[:500])
    for name, message in (
        ("half.onnx", "not a graph of this project"),
        ("broken.onnx", "cannot load the graph"),
        ("absent.onnx", "cannot load the graph"),
    ):
        with pytest.raises(BundleError, match=message) as caught:
            open_openvino(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_openvino__is_missed_in_a_way_that_helps(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino.openvino_core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"usable here: .*onnxruntime") as caught:
        open_encoder(bundle, backend="openvino")
    assert "pip install 'concepthash[openvino]'" in str(caught.value)
    assert "openvino" not in usable_backends()


def test_table__knows_every_back_end_of_every_format() -> None:
    for form in FORMATS.values():
        for name in form.backends:
            assert form.name in BACKENDS[name].formats
            assert BACKENDS[name].engine == form.engine
    for entry in BACKENDS.values():
        assert entry.formats[0] in FORMATS
        assert entry.install.startswith("pip ")


def test_table__a_provider_of_tensorrt_runs_symmetric_integers_only(bundle: Bundle) -> None:
    entry = BACKENDS["onnxruntime-tensorrt"]
    assert entry.artifact(bundle, "fp32") == FIRST_ARTIFACT
    for artifact, runs in (
        (Artifact("onnx", "int8", "model.int8.onnx"), False),
        (Artifact("openvino", "int8", "model.int8.qdq.onnx"), True),
    ):
        manifest = replace(bundle.manifest, artifacts=(FIRST_ARTIFACT, artifact))
        found = entry.artifact(Bundle(bundle.path, manifest), "int8")
        assert (found is not None) == runs


def test_open_encoder__takes_the_file_of_the_precision(tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "a")
    other = tiny_bundle(tmp_path / "b", seed=1).file("model.onnx").read_bytes()
    made = extend_bundle(
        made, {"model.int8.onnx": other}, [Artifact("onnx", "int8", "model.int8.onnx")]
    )
    pixels = photos(8)
    exact = open_encoder(made, device="cpu")
    np.testing.assert_array_equal(exact.codes(pixels), tiny_codes(pixels))
    small = open_encoder(made, precision="int8", device="cpu", threads=1)
    np.testing.assert_array_equal(small.codes(pixels), tiny_codes(pixels, seed=1))
    assert small.backend.endswith("int8, 1 thread")
    only = Bundle(made.path, replace(made.manifest, artifacts=made.manifest.artifacts[1:]))
    assert ", int8, " in open_encoder(only, device="cpu").backend


def test_open_encoder__runs_only_what_the_manifest_lists(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"has no int8; it has onnx fp32") as caught:
        open_encoder(bundle, precision="int8")
    assert ".chb --format onnx --precision int8 --calibrate FOLDER" in str(caught.value)
    alone = tiny_bundle(tmp_path)
    with pytest.raises(BackendError, match="has no artefact for openvino") as caught:
        open_encoder(alone, backend="openvino")
    assert ".chb --format openvino --precision fp32" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnx"}, "no back end is called 'onnx'"),
        ({"backend": "openvino", "device": "cuda"}, "openvino does not run on cuda"),
        ({"backend": "tensorrt", "device": "cpu"}, "tensorrt does not run on cpu"),
        ({"precision": "fp8"}, "has no precision 'fp8'"),
        ({"precision": "dynamic"}, "dynamic int8 is refused"),
        ({"device": "gpu"}, "no device is called 'gpu'"),
    ],
)
def test_open_encoder__impossible_wishes(
    bundle: Bundle, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_encoder(bundle, **options)


@pytest.mark.parametrize("name", ["onnxruntime-tensorrt", "onnxruntime-openvino"])
def test_open_encoder__a_provider_that_is_not_there(bundle: Bundle, name: str) -> None:
    if name in usable_backends():
        pytest.skip(f"this ONNX Runtime has {name}")
    with pytest.raises(BackendError, match=r"usable here: onnxruntime") as caught:
        open_encoder(bundle, backend=name)
    assert caught.value.exit_code == 6
    assert BACKENDS[name].install in str(caught.value)


def test_open_encoder__a_damaged_file_is_refused_on_every_back_end(tmp_path: Path) -> None:
    made = extend_bundle(tiny_bundle(tmp_path / "a"), {}, [OPENVINO_FP32])
    swapped = tiny_bundle(tmp_path / "b", seed=1).file("model.onnx").read_bytes()
    for content in (swapped, b"not a graph"):
        made.file("model.onnx").write_bytes(content)
        for name in {"auto", "openvino"} & {"auto", *usable_backends()}:
            with pytest.raises(BundleError, match="sha256"):
                open_encoder(made, backend=name)


def test_open_encoder__other_files_of_the_bundle_are_not_read(tmp_path: Path) -> None:
    made = extend_bundle(tiny_bundle(tmp_path), {"prototypes.npy": b"x"}, [])
    made.file("prototypes.npy").write_bytes(b"y")
    assert open_encoder(made, device="cpu").codes(photos(1)).shape == (1, 2)


class FakeEngine:
    """A fake of a TensorRT engine that fits the GPU."""

    def __init__(self, note: str | None = None) -> None:
        self.backend = "fake engine"
        self.device = "cuda:0"
        self.note = note


@pytest.fixture
def with_engine(tmp_path: Path) -> Bundle:
    """A bundle that has a TensorRT engine too, which is none."""
    made = tiny_bundle(tmp_path)
    engine = FORMATS["trt"].files["fp32"]
    return extend_bundle(made, {engine: b"engine"}, [Artifact("trt", "fp32", engine)])


def fake_load(monkeypatch: pytest.MonkeyPatch, fails: str | None = None) -> list[dict]:
    """Put a fake in the place of TensorRT's loader; what it was asked for."""
    tensorrt = pytest.importorskip("concepthash.runtime.tensorrt")
    asked = []

    def load(file, graph, **options):
        asked.append({"file": file.name, "graph": graph.name, **options})
        if fails:
            raise BackendError(fails, where="cuda:0", hint="nvidia-smi")
        return FakeEngine()

    monkeypatch.setattr(tensorrt, "load_engine", load)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    return asked


def test_auto__an_engine_that_fits_comes_first(
    with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake_load(monkeypatch)
    assert open_encoder(with_engine, device="cuda:2").backend == "fake engine"
    assert open_encoder(with_engine).backend == "fake engine"
    assert "onnxruntime" in open_encoder(with_engine, device="cpu").backend
    assert [call["rebuild"] for call in asked] == [False, False]
    assert (asked[0]["form"], asked[0]["precision"], asked[0]["device"]) == ("trt", "fp32", 2)
    assert (asked[0]["file"], asked[0]["graph"]) == ("model.trt.fp32.engine", "model.onnx")


def test_auto__an_engine_that_does_not_fit_is_told_in_one_line(
    with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_load(monkeypatch, fails="the engine is of another GPU")
    opened = open_encoder(with_engine)
    assert "onnxruntime" in opened.backend
    assert opened.note is not None
    assert opened.note.splitlines() == [opened.note]
    assert "not tensorrt: the engine is of another GPU" in opened.note
    if session.CUDA not in session.available_providers():
        with pytest.raises(BackendError, match="CUDA was asked for"):
            open_encoder(with_engine, device="cuda")


def test_auto__without_the_library_engines_are_not_worth_a_word(with_engine: Bundle) -> None:
    if "tensorrt" in usable_backends():
        pytest.skip("this machine has TensorRT")
    assert open_encoder(with_engine).note is None
    with pytest.raises(BackendError, match="cannot be imported"):
        open_encoder(with_engine, backend="tensorrt")


def test_tensorrt__by_name_builds_anew_and_keeps_the_engine(
    with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fake_load(monkeypatch)
    told: list[str] = []
    open_encoder(with_engine, backend="tensorrt", tell=told.append)
    assert asked[0]["rebuild"]
    asked[0]["note"]("building")
    assert told == ["building"]
    asked[0]["store"]({"model.trt.fp32.engine": b"new", "model.trt.fp32.engine.json": b"{}"})
    kept = Bundle.open(with_engine.path)
    assert kept.file("model.trt.fp32.engine").read_bytes() == b"new"
    kept.verify()


def test_tensorrt__a_damaged_graph_is_refused_and_an_engine_left_to_its_record(
    with_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr(FakeEngine, "close", lambda self: closed.append(self), raising=False)
    fake_load(monkeypatch)
    with_engine.file("model.trt.fp32.engine").write_bytes(b"other")
    open_encoder(with_engine, backend="tensorrt")
    assert not closed
    with_engine.file("model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match="sha256"):
        open_encoder(with_engine, backend="tensorrt")
    assert len(closed) == 1


def test_auto__openvino_where_onnx_runtime_is_missing(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    opened = open_encoder(bundle, device="cpu")
    assert opened.backend.startswith("openvino ")
    assert opened.note is not None
    assert "not onnxruntime: " in opened.note
    alone = Bundle(bundle.path, replace(bundle.manifest, artifacts=(FIRST_ARTIFACT,)))
    with pytest.raises(BackendError, match="ONNX Runtime cannot be imported"):
        open_encoder(alone)


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    """An ONNX file that was taken out of its bundle, with the manifest in it."""
    return lone_file(tiny_bundle(tmp_path / "whole"), tmp_path / "alone.onnx")


def test_open_encoder__a_lone_file(lone: Path) -> None:
    encoder = open_encoder(Bundle.open(lone), device="cpu")
    np.testing.assert_array_equal(encoder.codes(photos(3)), tiny_codes(photos(3)))


def test_cli__a_lone_file_is_a_model(chash: Chash, lone: Path, tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos")
    done = chash("index", "photos", "--model", lone, "--out", "a.chg", "--device", "cpu", "--json")
    assert done.code == 0, done.err
    assert done.json("chash.index/1")["model"] == str(lone)
    command = ("query", "photos/a/0.png", "--gallery", "a.chg", "--model", lone, "--json")
    found = chash(*command, "--backend", "onnxruntime", "--precision", "fp32").json("chash.query/1")
    assert found["queries"][0]["hits"][0]["distance"] == 0
    assert "CPUExecutionProvider, fp32" in found["backend"]
    facts = chash("inspect", lone, "--json").json("chash.inspect/1")
    assert (facts["kind"], facts["artifacts"]) == ("model", ["onnx fp32"])
    scores = chash("eval", lone, "--data", "photos", "--test-share", "0.5", "--json")
    assert "fp32" in scores.json("chash.eval/1")["backend"]


def test_cli__a_file_that_is_no_model(chash: Chash, tmp_path: Path) -> None:
    photo_folder(tmp_path / "photos")
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "text.txt").write_text("hello")
    refused = chash("index", "photos", "--model", "text.onnx")
    assert (refused.code, "not an ONNX file" in refused.err) == (1, True)
    refused = chash("index", "photos", "--model", "text.txt")
    assert (refused.code, "a file, not a bundle" in refused.err) == (1, True)


def test_cli__the_back_end_is_chosen_and_named(
    chash: Chash, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    photo_folder(tmp_path / "photos")
    index = ("index", "photos", "--model", bundle.path, "--out", "a.chg", "--json")
    assert "openvino" in chash(*index, "--backend", "openvino").json("chash.index/1")["backend"]
    query = ("query", "photos/a/0.png", "--gallery", "a.chg", "--model", bundle.path, "--json")
    monkeypatch.setenv("CHASH_BACKEND", "openvino")
    assert chash(*query).json("chash.query/1")["backend"].startswith("openvino")
    (tmp_path / "chash.toml").write_text('[query]\nbackend = "onnxruntime"\n')
    assert chash(*query).json("chash.query/1")["backend"].startswith("openvino")
    monkeypatch.delenv("CHASH_BACKEND")
    assert chash(*query).json("chash.query/1")["backend"].startswith("onnxruntime")
    scores = ("eval", bundle.path, "--data", "photos", "--test-share", "0.5", "--json")
    assert "openvino" in chash(*scores, "--backend", "openvino").json("chash.eval/1")["backend"]


def test_cli__what_is_not_to_be_had_ends_with_6(
    chash: Chash, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo_folder(tmp_path / "photos")
    index = ("index", "photos", "--model", bundle.path)
    refused = chash(*index, "--precision", "int8")
    assert refused.code == 6
    assert ".chb --format onnx --precision int8 --calibrate FOLDER" in refused.err
    monkeypatch.setenv("CHASH_MODEL_PRECISION", "int8")
    assert chash(*index).code == 6
    monkeypatch.delenv("CHASH_MODEL_PRECISION")
    assert chash(*index, "--backend", "quick").code == 2
    assert not (tmp_path / "photos.chg").exists()


def test_cli__eval_of_codes_has_no_back_end(chash: Chash, tmp_path: Path) -> None:
    np.savez(tmp_path / "codes.npz", a=1)
    refused = chash("eval", "codes.npz", "--backend", "openvino")
    assert refused.code == 2
    assert "only a bundle can be run in several ways, not codes" in refused.err


def test_cli__help_names_every_back_end(chash: Chash) -> None:
    text = "".join(chash("query", "--help").out.split())
    for name in backends.BACKENDS:
        assert name in text


def test_torch_encoder__is_the_network(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tiny_run import drawn_birds, tiny_config

    from concepthash.learn.checkpoint import build_model
    from concepthash.learn.encoder import TorchEncoder

    config = tiny_config(drawn_birds(tmp_path)).model
    torch.manual_seed(0)
    model = build_model(config, crop=48)
    encoder = TorchEncoder(model)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), dtype=np.uint8)
    assert isinstance(encoder, Encoder)
    found = encoder.run(pixels)
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(pixels)).logits.numpy()
    np.testing.assert_array_equal(found.logits, expected)
    np.testing.assert_array_equal(found.codes, np.packbits(expected > 0, axis=1))
    np.testing.assert_array_equal(encoder.submit(pixels).result(), found.codes)
    alone = np.concatenate([encoder.codes(pixels[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(alone, found.codes)
    assert encoder.code_bytes == 2
    assert encoder.backend.startswith(f"torch {torch.__version__} cpu, fp32")
    with pytest.raises(BackendError, match="inference failed"):
        encoder.codes(pixels[:, :20])
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no such CUDA device"):
            TorchEncoder(model, device="cuda")
    encoder.close()


def test_session__threads_do_not_wait_in_a_loop(bundle: Bundle) -> None:
    opened = open_session(bundle.file("model.onnx"), threads=2)
    options = opened.native.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
