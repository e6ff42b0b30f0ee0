"""The hasher against the tiny bundle's exact oracle, and sessions against fakes of the GPU."""

from __future__ import annotations

import copy
import io
import itertools
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import tiny_bundle, tiny_codes, tiny_graph

from concepthash.bundle import MODEL, Manifest, write_bundle
from concepthash.codes import pack
from concepthash.decode import Waits
from concepthash.encoder import DEPTH
from concepthash.errors import BackendError, BundleError, ImageError, UsageError
from concepthash.runtime import session
from concepthash.runtime.hasher import CPU_BATCH, DEVICE_BATCH, Hasher
from concepthash.runtime.session import open_session


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=4)


def photos(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_hash__every_kind_of_source_gives_the_oracle_code(hasher: Hasher, tmp_path: Path) -> None:
    pixels = photos(4)
    (tmp_path / "a.png").write_bytes(png(pixels[0]))
    (tmp_path / "b.png").write_bytes(png(pixels[1]))
    sources = [tmp_path / "a.png", str(tmp_path / "b.png"), png(pixels[2]), pixels[3]]
    records = list(hasher.hash([*sources, Image.fromarray(pixels[0])]))
    assert [record.source for record in records[:3]] == sources[:3]
    assert all(record.error is None for record in records)
    codes = np.stack([record.code for record in records])
    np.testing.assert_array_equal(codes, tiny_codes(np.concatenate([pixels, pixels[:1]])))


def test_hash__a_code_does_not_depend_on_its_batch_mates(hasher: Hasher) -> None:
    pixels = photos(11)
    expected = tiny_codes(pixels)
    for size in (1, 3, 32):
        one = Hasher(hasher.bundle, threads=1, batch_size=size)
        codes = np.stack([record.code for record in one.hash(pixels)])
        np.testing.assert_array_equal(codes, expected)


def test_hash__broken_images_are_records_in_their_place(hasher: Hasher, tmp_path: Path) -> None:
    pixels = photos(9)
    sources: list = list(pixels)
    sources[0] = b"not an image"
    sources[5] = tmp_path / "absent.jpg"
    sources[6] = png(pixels[6])[:60]
    records = list(hasher.hash(sources))
    assert [i for i, record in enumerate(records) if record.code is None] == [0, 5, 6]
    assert all((record.code is None) == (record.error is not None) for record in records)
    assert records[5].error is not None
    assert records[5].error.what == "no such file"
    whole = [1, 2, 3, 4, 7, 8]
    codes = np.stack([records[i].code for i in whole])
    np.testing.assert_array_equal(codes, tiny_codes(pixels[whole]))


def test_hash__nothing_but_broken_images(hasher: Hasher) -> None:
    records = list(hasher.hash([b"x"] * 6))
    assert len(records) == 6
    assert all(isinstance(record.error, ImageError) for record in records)
    assert list(hasher.hash([])) == []


def test_hash__strict_raises_after_what_came_before(hasher: Hasher) -> None:
    stream = hasher.hash([photos(1)[0], b"x", photos(1)[0]], strict=True)
    assert next(stream).code is not None
    with pytest.raises(ImageError):
        next(stream)
    assert not any(thread.is_alive() for thread in join(decoders()))


def test_hash__an_endless_source_is_read_only_a_little_ahead(hasher: Hasher) -> None:
    pulled = itertools.count()
    pixels = photos(1)[0]

    def endless():
        while True:
            next(pulled)
            yield pixels

    stream = hasher.hash(endless())
    for _ in range(20):
        next(stream)
    stream.close()
    assert next(pulled) <= 20 + 4 * hasher.batch_size
    assert not any(thread.is_alive() for thread in join(decoders()))


def test_hash__an_error_of_the_source_reaches_the_caller(hasher: Hasher) -> None:
    def breaks():
        yield from photos(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(hasher.hash(breaks()))
    assert not any(thread.is_alive() for thread in join(decoders()))


class FakeEncoder:
    """A fake that computes when it is told to, and keeps count of what is under way."""

    def __init__(self, hold: int = 0, fails: int | None = None) -> None:
        self.submitted = 0
        self.under_way = 0
        self.most = 0
        self.hold = hold
        self.fails = fails

    def submit(self, pixels):
        self.submitted += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return FakePending(self, self.submitted, pixels)


class FakePending:
    """A fake batch under way, whose result is not there before ``hold`` more were submitted."""

    def __init__(self, encoder: FakeEncoder, number: int, pixels: np.ndarray) -> None:
        self.encoder = encoder
        self.number = number
        self.pixels = pixels
        self.asked = False

    def result(self):
        self.encoder.under_way -= not self.asked
        self.asked = True
        if self.number == self.encoder.fails:
            raise BackendError("out of memory")
        assert self.encoder.submitted >= self.number + self.encoder.hold or self.number > 3
        return tiny_codes(self.pixels)


def with_encoder(hasher: Hasher, encoder: FakeEncoder) -> Hasher:
    changed = copy.copy(hasher)
    changed._encoder = encoder
    return changed


def test_hash__the_next_batch_is_under_way_while_one_is_computed(hasher: Hasher) -> None:
    pixels, encoder = photos(18), FakeEncoder(hold=DEPTH - 1)
    records = list(with_encoder(hasher, encoder).hash(pixels))
    np.testing.assert_array_equal([record.code for record in records], tiny_codes(pixels))
    assert encoder.submitted == 5
    assert (encoder.most, encoder.under_way) == (DEPTH, 0)


def test_hash__stopping_early_leaves_nothing_under_way(hasher: Hasher) -> None:
    encoder = FakeEncoder()
    stream = with_encoder(hasher, encoder).hash(itertools.repeat(photos(1)[0]))
    next(stream)
    assert encoder.under_way > 0
    stream.close()
    assert encoder.under_way == 0
    assert not any(thread.is_alive() for thread in join(decoders()))


def test_hash__a_batch_that_fails_is_an_error_after_those_before(hasher: Hasher) -> None:
    encoder = FakeEncoder(fails=2)
    stream = with_encoder(hasher, encoder).hash(photos(30))
    assert len(list(itertools.islice(stream, 4))) == 4
    with pytest.raises(BackendError, match="out of memory"):
        next(stream)
    assert encoder.under_way == 0
    assert not any(thread.is_alive() for thread in join(decoders()))


def test_hash__gives_the_codes_of_one_image_at_a_time(hasher: Hasher) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 50, 60, 3), dtype=np.uint8)
    alone = [hasher.encode(hasher.preprocess(image)[None]).codes[0] for image in pixels]
    many = Hasher(hasher.bundle, threads=3, batch_size=7)
    np.testing.assert_array_equal([record.code for record in many.hash(pixels)], alone)


def test_hasher__takes_larger_batches_on_a_device(
    hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Hasher(hasher.bundle).batch_size == CPU_BATCH
    on_gpu = SimpleNamespace(device="cuda:0", image_side=None, code_bytes=None)
    monkeypatch.setattr("concepthash.runtime.hasher.open_encoder", lambda *_, **options: on_gpu)
    assert Hasher(hasher.bundle).batch_size == DEVICE_BATCH
    assert Hasher(hasher.bundle, batch_size=5).batch_size == 5


def test_hash__says_what_it_waited_for(hasher: Hasher) -> None:
    waits = Waits()
    list(hasher.hash(photos(9), waits=waits))
    assert min(waits.files, waits.decoding, waits.model) > 0


def join(threads: list[threading.Thread]) -> list[threading.Thread]:
    for thread in threads:
        thread.join(timeout=5)
    return threads


def test_encode__codes_are_the_signs_of_the_logits(hasher: Hasher) -> None:
    pixels = photos(5)
    encoded = hasher.encode(pixels)
    np.testing.assert_array_equal(encoded.codes, tiny_codes(pixels))
    np.testing.assert_array_equal(encoded.codes, pack(encoded.logits))
    assert encoded.attention.shape == (5, 2, 4, 4)
    assert encoded.attention.dtype == np.float32
    cells = pixels[0].reshape(4, 8, 4, 8, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(encoded.attention[0, 1], cells, rtol=1e-5)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 31, 32, 3), (1, 3, 32, 32)])
def test_encode__other_shapes_are_refused(hasher: Hasher, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"\(B, 32, 32, 3\)"):
        hasher.encode(np.zeros(shape, np.uint8))


def test_hasher__gives_back_the_threads_of_its_encoder_once(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    hasher = Hasher(tiny_bundle(tmp_path), threads=1)
    list(hasher.hash(photos(1)))
    assert set(threading.enumerate()) - before
    hasher.close()
    assert not set(threading.enumerate()) - before
    hasher.close()


def test_hasher__says_what_it_is(hasher: Hasher) -> None:
    assert hasher.name == "tiny-0"
    assert hasher.layout.bits == 16
    assert hasher.fingerprint == hasher.bundle.manifest.fingerprint
    assert "CPUExecutionProvider, fp32, 1 thread" in hasher.backend
    assert hasher.note is None
    assert Hasher(hasher.bundle.path, threads=2).backend.endswith("2 threads")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "no device is called 'gpu'"),
        ({"device": "cuda:x"}, "no device"),
        ({"device": "cpu:1"}, "no device"),
        ({"threads": 0}, "0 threads"),
        ({"batch_size": 0}, "at least one image"),
    ],
)
def test_hasher__impossible_options_are_refused(hasher: Hasher, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        Hasher(hasher.bundle, **options)


def test_hasher__a_graph_that_disagrees_with_its_manifest(hasher: Hasher, tmp_path: Path) -> None:
    values = hasher.bundle.manifest.to_json()
    for name, graph in (("crop", tiny_graph(16, 2, 40)), ("bits", tiny_graph(24, 2, 32))):
        manifest = Manifest.from_json({**values, "files": {}}, tmp_path)
        bundle = write_bundle(tmp_path / f"{name}.chb", manifest, {MODEL: graph})
        with pytest.raises(BundleError, match="graph and manifest disagree"):
            Hasher(bundle)


def test_open_session__files_that_are_no_graph_of_ours(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    model = onnx.load_from_string(tiny_graph(16, 2, 32))
    del model.graph.output[1]
    onnx.save(model, tmp_path / "half.onnx")
    for name, message in (
        ("text.onnx", "cannot load the graph"),
        ("absent.onnx", "cannot load the graph"),
        ("half.onnx", "not a graph of this project"),
    ):
        with pytest.raises(BundleError, match=message) as caught:
            open_session(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


class FakeRuntime:
    """A fake ONNX Runtime that offers CUDA: its sessions start on ``takes``, or not at all."""

    __version__ = "0.fake"
    ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
    GraphOptimizationLevel = SimpleNamespace(ORT_DISABLE_ALL=0)

    def __init__(
        self, takes: str | None, *, offers: str = session.CUDA, breaks: bool = False
    ) -> None:
        self.takes = takes
        self.offers = offers
        self.breaks = breaks

    def get_available_providers(self) -> list[str]:
        return [self.offers, session.CPU]

    def SessionOptions(self) -> SimpleNamespace:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, path, sess_options, providers, enable_fallback):
        assert enable_fallback == 0
        first = providers[0][0]
        if self.breaks or (first == self.offers and self.takes is None):
            raise RuntimeError("libcudart.so.13: cannot open shared object\nand more")
        actual = self.takes if first == self.offers else first
        nodes = {
            name: SimpleNamespace(name=name, type=kind) for name, kind in session.OUTPUTS.items()
        }
        image = SimpleNamespace(name="image", type="tensor(uint8)", shape=["batch", 32, 32, 3])
        return SimpleNamespace(
            options=providers[0][1],
            providers=[name for name, _ in providers],
            settings=sess_options,
            get_providers=lambda: [actual],
            get_inputs=lambda: [image],
            get_outputs=lambda: list(nodes.values()),
        )


def use(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime) -> None:
    monkeypatch.setattr(session, "_onnxruntime", lambda: runtime)


def test_open_session__cuda_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeRuntime(takes=session.CUDA))
    for device in ("auto", "cuda", "cuda:1"):
        opened = open_session(Path("model.onnx"), device=device, threads=1)
        assert session.CUDA in opened.backend
        assert opened.note is None
        assert opened._native.options == {"device_id": int(device == "cuda:1")}
    assert session.CPU in open_session(Path("model.onnx"), device="cpu", threads=1).backend


@pytest.mark.parametrize(
    ("takes", "reason"), [(None, "libcudart.so.13"), (session.CPU, "took CPUExecutionProvider")]
)
def test_open_session__cuda_never_degrades_silently(
    monkeypatch: pytest.MonkeyPatch, takes: str | None, reason: str
) -> None:
    use(monkeypatch, FakeRuntime(takes))
    with pytest.raises(BackendError, match=reason) as caught:
        open_session(Path("model.onnx"), device="cuda", threads=1)
    assert caught.value.exit_code == 6
    assert "pip install onnxruntime-gpu" in str(caught.value)
    opened = open_session(Path("model.onnx"), device="auto", threads=1)
    assert session.CPU in opened.backend
    assert opened.note is not None
    assert reason in opened.note


def test_open_session__tensorrt_keeps_its_engines_apart_by_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, FakeRuntime(takes=session.TENSORRT, offers=session.TENSORRT))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = set()
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        opened = open_session(
            tmp_path / name, provider=session.TENSORRT, device="cuda:1", precision="int8"
        )
        options = opened._native.options
        assert opened.device == "cuda:1"
        assert options["device_id"] == 1
        assert options["trt_int8_enable"]
        assert not options["trt_fp16_enable"]
        assert options["trt_profile_max_shapes"] == "image:32x32x32x3"
        assert opened._native.providers == [session.TENSORRT, session.CUDA, session.CPU]
        folders.add(Path(options["trt_engine_cache_path"]))
    assert len(folders) == 2
    assert all(folder.is_dir() and tmp_path in folder.parents for folder in folders)


def test_open_session__openvino_computes_in_float32_on_the_graph_as_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, FakeRuntime(takes=session.OPENVINO, offers=session.OPENVINO))
    opened = open_session(Path("model.onnx"), provider=session.OPENVINO, threads=2)
    assert opened._native.options["precision"] == "FP32"
    assert opened._native.options["num_of_threads"] == "2"
    assert opened._native.settings.graph_optimization_level == 0
    assert opened.device == "cpu"
    assert opened.note is None


@pytest.mark.parametrize("provider", [session.TENSORRT, session.OPENVINO])
def test_open_session__a_provider_never_degrades_silently(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "model.onnx").touch()
    for runtime, reason in (
        (FakeRuntime(takes=session.CPU, offers=provider), "took CPUExecutionProvider"),
        (FakeRuntime(takes=None, offers=provider), "libcudart"),
        (FakeRuntime(takes=None), "offers only CUDAExecutionProvider"),
    ):
        use(monkeypatch, runtime)
        with pytest.raises(BackendError, match=reason) as caught:
            open_session(tmp_path / "model.onnx", provider=provider)
        assert session.PACKAGES[provider] in str(caught.value)


def test_open_session__a_broken_file_is_not_blamed_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeRuntime(session.CUDA, breaks=True))
    with pytest.raises(BundleError, match="cannot load the graph"):
        open_session(Path("model.onnx"), device="cuda", threads=1)


def test_open_session__cuda_is_refused_where_it_is_not_built_in(hasher: Hasher) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if session.CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendError, match=r"offers only .*CPUExecutionProvider"):
        Hasher(hasher.bundle, device="cuda")


def test_open_session__without_onnxruntime(hasher: Hasher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="cannot be imported") as caught:
        Hasher(hasher.bundle)
    assert "pip install onnxruntime" in str(caught.value)


def test_session__a_failing_run_is_a_backend_error(hasher: Hasher) -> None:
    with pytest.raises(BackendError, match="inference failed"):
        hasher._encoder.codes(np.zeros((1, 16, 16, 3), np.uint8))


def test_hasher__refuses_a_graph_that_was_swapped_under_its_manifest(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "a")
    other = tiny_bundle(tmp_path / "b", seed=1)
    bundle.file("model.onnx").write_bytes(other.file("model.onnx").read_bytes())
    with pytest.raises(BundleError, match="sha256"):
        Hasher(bundle)


@pytest.mark.parametrize("threads", [0, 999_999])
def test_hasher__refuses_a_number_of_threads_that_cannot_work(tmp_path: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="cannot work"):
        Hasher(tiny_bundle(tmp_path), threads=threads)
