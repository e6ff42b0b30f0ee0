"""Measuring a bundle: targets, worker processes, agreement with the reference, verification."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_entry import photos
from tiny_bundle import tiny_bundle, tiny_codes, tiny_graph

from concepthash.bundle import PARITY, Artifact, Bundle, extend_bundle
from concepthash.codes import CodeLayout
from concepthash.errors import BackendError, BundleError, DataError, GateError, UsageError
from concepthash.evaluation import evaluate
from concepthash.images import Pixels
from concepthash.limits import LIMITS
from concepthash.runtime import machine
from concepthash.runtime.bench import measure, process
from concepthash.runtime.bench.accuracy import Images, Maps, compare, hash_images
from concepthash.runtime.bench.measure import bench
from concepthash.runtime.bench.process import Board, Worker
from concepthash.runtime.bench.targets import REFERENCE, Target, list_targets
from concepthash.runtime.bench.verify import limits_of, verify
from concepthash.runtime.bench.worker import peak_memory

FP16 = Target(Artifact("onnx", "fp16", "model.fp16.onnx"), "onnxruntime", "cpu")
INT8 = Target(Artifact("onnx", "int8", "model.int8.onnx"), "onnxruntime", "cpu")
DYNAMIC = Target(Artifact("openvino", "fp32", "model.onnx"), "openvino", "cpu")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Path(__file__).with_name("fake_bench_worker.py")
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-P", str(fake)))


def pixels(count: int, seed: int = 0) -> Pixels:
    shape = (count, 32, 32, 3)
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def images(count: int = 12) -> Images:
    labels = np.arange(count, dtype=np.int64) % 3
    return Images(list(pixels(count)), labels, count // 2, "noise")


def with_files(bundle: Bundle, **graphs: bytes) -> Bundle:
    """The bundle with graphs by precision."""
    names = {precision: f"model.{precision}.onnx" for precision in graphs}
    return extend_bundle(
        bundle,
        {names[precision]: graph for precision, graph in graphs.items()},
        [Artifact("onnx", precision, name) for precision, name in names.items()],  # type: ignore[arg-type]
    )


# Targets


def test_list_targets__is_every_back_end_and_device_of_each_file(bundle: Bundle) -> None:
    found, lacking = list_targets(bundle)
    assert lacking == []
    assert {(t.artifact.format, t.backend, t.device) for t in found} == {
        ("onnx", "onnxruntime", "cpu"),
        ("onnx", "onnxruntime", "cuda"),
        ("onnx", "onnxruntime-tensorrt", "cuda"),
    }
    assert found[0] == REFERENCE
    assert {target.file for target in found} == {"model.onnx"}
    both = extend_bundle(bundle, {}, [DYNAMIC.artifact])
    on_cpu, _ = list_targets(both, device="cpu")
    assert [(t.backend, t.device) for t in on_cpu] == [
        ("onnxruntime", "cpu"),
        ("onnxruntime-openvino", "cpu"),
        ("openvino", "cpu"),
    ]
    second, _ = list_targets(bundle, device="cuda:1", backends=["onnxruntime"])
    assert [t.device for t in second] == ["cuda:1"]


def test_list_targets__names_what_was_asked_for_and_is_not_there(bundle: Bundle) -> None:
    found, lacking = list_targets(bundle, backends=["tensorrt"], precisions=["fp16"])
    assert found == []
    (missing,) = lacking
    assert missing.reason == "the bundle has no trt fp16"
    assert missing.hint == "chash export RUN --format trt --precision fp16"
    found, lacking = list_targets(bundle, backends=["onnxruntime", "tensorrt"])
    assert {target.backend for target in found} == {"onnxruntime"}
    assert {entry.target.backend for entry in lacking} == {"tensorrt"}
    found, lacking = list_targets(bundle, precisions=["fp32", "int8"])
    assert {target.artifact.precision for target in found} == {"fp32"}
    assert {entry.target.artifact.precision for entry in lacking} == {"int8"}


@pytest.mark.parametrize(
    "asked",
    [
        {"backends": ["abacus"]},
        {"precisions": ["fp4"]},
        {"device": "tpu"},
        {"backends": ["tensorrt"], "device": "cpu"},
    ],
)
def test_list_targets__refuses_what_cannot_be(bundle: Bundle, asked: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        list_targets(bundle, **asked)  # type: ignore[arg-type]


# Workers


def test_worker__gives_the_codes_of_the_model(bundle: Bundle) -> None:
    shown = pixels(5)
    with Board(8, 32) as board, Worker(bundle, REFERENCE, 1, board) as worker:
        board.show(shown)
        assert np.array_equal(worker.codes(5, 2), tiny_codes(shown))
        codes, logits = worker.logits(3, 3)
        assert np.array_equal(np.packbits(logits > 0, axis=1), codes)
        assert len(worker.time(4, 6)) == 6
        assert "onnxruntime" in worker.ran
        assert worker.seconds > 0
        assert worker.peak is None or worker.peak > 1e6
    assert not worker.alive


@pytest.mark.usefixtures("fakes")
def test_worker__crash_is_an_error_that_names_the_signal(bundle: Bundle) -> None:
    with Board(8, 32) as board, pytest.raises(BackendError) as caught:
        Worker(bundle, INT8, 1, board)
    assert "SIGKILL" in caught.value.what
    assert caught.value.where == str(INT8)


@pytest.mark.usefixtures("fakes")
def test_worker__is_not_disturbed_by_libraries_that_print(bundle: Bundle) -> None:
    shown = pixels(8)
    with Board(8, 32) as board, Worker(bundle, REFERENCE, 1, board) as worker:
        board.show(shown)
        assert np.array_equal(worker.codes(8, 8), tiny_codes(shown))


@pytest.mark.usefixtures("fakes")
def test_worker__tells_what_takes_long_before_its_answer(bundle: Bundle) -> None:
    told: list[str] = []
    with Board(8, 32) as board, Worker(bundle, REFERENCE, 1, board, told.append):
        assert told == [f"{REFERENCE}: this takes long"]


def test_worker__error_leaves_it_alive(bundle: Bundle) -> None:
    with Board(8, 32) as board, Worker(bundle, REFERENCE, 1, board) as worker:
        with pytest.raises(BackendError):
            worker.ask("codes", rows=8, batch=0, logits=False)
        assert worker.alive
        assert worker.codes(8, 8).shape == (8, 2)


def test_worker__file_that_is_no_model_is_the_bundles_fault(bundle: Bundle) -> None:
    bundle.file("model.onnx").write_bytes(b"not a graph")
    with Board(8, 32) as board, pytest.raises(BundleError):
        Worker(bundle, REFERENCE, 1, board)


def test_peak_memory__is_that_of_this_process() -> None:
    peak = peak_memory()
    assert peak is None or 1e6 < peak < 1e12


def test_board__fills_all_rows_with_few_images() -> None:
    few = pixels(3)
    with Board(8, 32) as board:
        board.fill(few)
        held = np.fromfile(board.path, np.uint8).reshape(board.shape)
        assert np.array_equal(held, few[[0, 1, 2, 0, 1, 2, 0, 1]])
        path = board.path
    assert not path.exists()


# Agreement


def test_compare__counts_flips_by_concept_and_their_margin() -> None:
    layout = CodeLayout(16, 2)
    logits = np.full((2, 16), -1.0, np.float32)
    logits[1, 9] = 0.25
    reference = np.packbits(logits > 0, axis=1)
    codes = reference.copy()
    codes[1, 1] ^= 0b01000000  # bit 9
    codes[0, 0] ^= 0b10000000  # bit 0
    found = compare(codes, reference, logits, layout, Maps(Images([], None, 0, ""), [0, 1]))
    assert found.bits_flipped == 2 / 32
    assert found.per_concept == (1 / 16, 1 / 16)
    assert found.largest_margin == 1.0
    assert found.map is None
    assert compare(reference, reference, logits, layout, Maps(images(), [0, 1])).bits_flipped == 0


def test_maps__is_the_map_of_the_evaluation() -> None:
    held = images(30)
    codes = tiny_codes(np.stack(held.sources))  # type: ignore[arg-type]
    read = [n for n in range(30) if n not in (3, 20)]
    assert held.labels is not None
    asked, known = [n for n in read if n >= 15], [n for n in read if n < 15]
    expected = evaluate(
        codes[asked], held.labels[asked], codes[known], held.labels[known], layout=CodeLayout(16, 2)
    )
    assert Maps(held, read)(codes[read]) == pytest.approx(expected.map.expected)
    assert Maps(replace(held, labels=None), read)(codes[read]) is None
    assert Maps(held, known)(codes[known]) is None


def test_hash_images__leaves_out_what_cannot_be_read(bundle: Bundle, tmp_path: Path) -> None:
    folder = photos(tmp_path / "shop", classes=1, each=3)
    paths = sorted(folder.rglob("*.png"))
    paths[1].write_bytes(b"no image")
    spec = bundle.manifest.preprocess
    failed: list[object] = []
    steps: list[tuple[str, int, int]] = []
    with Board(32, 32) as board, Worker(bundle, REFERENCE, 1, board) as worker:
        hashes = hash_images(
            [worker],
            worker,
            Images(paths, None, 0, "shop"),
            spec,
            board,
            failed=lambda *what: failed.append(what),
            progress=lambda *step: steps.append(step),
        )
    assert hashes.positions == [0, 2]
    assert np.array_equal(
        hashes.codes[worker], tiny_codes(np.stack([spec(paths[0]), spec(paths[2])]))
    )
    assert [item.path for item in hashes.skipped.items] == [str(paths[1])]
    assert hashes.logits is not None
    assert hashes.logits.shape == (2, 16)
    assert failed == []
    assert steps[-1] == ("comparing codes", 3, 3)


# The measurement


@pytest.mark.usefixtures("fakes")
def test_bench__a_crash_costs_its_rows_only(bundle: Bundle) -> None:
    other = tiny_graph(16, 2, 32, seed=1)
    bundle = with_files(bundle, fp16=other, int8=other)
    found = bench(bundle, [REFERENCE, FP16, INT8], images(), batches=(2, 1), threads=1, repeats=2)
    assert [(row.target, row.batch) for row in found.rows] == [
        (REFERENCE, 1),
        (REFERENCE, 2),
        (FP16, 1),
        (FP16, 2),
    ]
    (lost,) = found.not_run
    assert lost.target == INT8
    assert "SIGKILL" in lost.reason
    assert lost.hint is not None
    shown = np.stack(images().sources)  # type: ignore[arg-type]
    flipped = np.unpackbits(tiny_codes(shown) ^ tiny_codes(shown, seed=1)).mean()
    for row in found.rows:
        assert row.runs >= 2
        assert 0 < row.ms_p50 <= row.ms_p95
        assert row.images_per_second == pytest.approx(1000 / row.ms_p50)
        assert row.cold_start_ms > 0
        assert row.file_bytes == bundle.file(row.target.artifact.file).stat().st_size
        assert row.agreement is not None
        assert row.agreement.images == 12
        assert row.agreement.map is not None
        assert row.agreement.bits_flipped == (0 if row.target == REFERENCE else flipped)
    assert found.images == 12


@pytest.mark.usefixtures("fakes")
def test_bench__compares_with_a_reference_that_was_not_asked_for(bundle: Bundle) -> None:
    bundle = with_files(bundle, fp16=tiny_graph(16, 2, 32))
    found = bench(bundle, [FP16], images(), batches=(1,), threads=1, repeats=1)
    assert [row.target for row in found.rows] == [FP16]
    assert found.rows[0].agreement is not None
    assert found.rows[0].agreement.bits_flipped == 0


@pytest.mark.usefixtures("fakes")
def test_bench__too_little_memory_makes_groups_not_other_answers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []

    class CountedWorker(Worker):
        """A real worker that tells how many there are with it."""

        def __init__(self, *what: object) -> None:
            super().__init__(*what)  # type: ignore[arg-type]
            counted.append(self)
            alive.append(sum(worker.alive for worker in counted))

    counted: list[Worker] = []
    bundle = with_files(bundle, fp16=tiny_graph(16, 2, 32, seed=1))
    monkeypatch.setattr(measure, "Worker", CountedWorker)
    together = bench(bundle, [REFERENCE, FP16], images(), batches=(1,), threads=1, repeats=1)
    assert max(alive) == 2
    alive.clear()
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(1, None, 1))
    apart = bench(bundle, [REFERENCE, FP16], images(), batches=(1,), threads=1, repeats=1)
    assert max(alive) == 1
    for one, other in zip(together.rows, apart.rows, strict=True):
        assert one.target == other.target
        assert one.agreement == other.agreement


def test_bench__interrupted_leaves_no_process(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Worker] = []

    class KeptWorker(Worker):
        """A real worker that is remembered."""

        def __init__(self, *what: object) -> None:
            super().__init__(*what)  # type: ignore[arg-type]
            started.append(self)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "timing":
            assert started[-1].alive
            raise KeyboardInterrupt

    monkeypatch.setattr(measure, "Worker", KeptWorker)
    with pytest.raises(KeyboardInterrupt):
        bench(bundle, [REFERENCE], images(), batches=(1,), repeats=1, progress=interrupt)
    assert not any(worker.alive for worker in started)


def test_bench__no_image_that_can_be_read_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError):
        bench(bundle, [REFERENCE], Images([broken], None, 0, "broken"))


# Verification


def record(bundle: Bundle, value: object) -> Bundle:
    return extend_bundle(bundle, {PARITY: json.dumps(value).encode()}, [])


def test_limits_of__come_from_the_record_of_the_bundle(bundle: Bundle) -> None:
    assert limits_of(bundle, INT8.artifact) == LIMITS["int8"]
    flat = record(bundle, {"images": 256, "bits_flipped": 0.0})
    assert limits_of(flat, REFERENCE.artifact) == LIMITS["fp32"]
    limits = {"bits": 0.02, "margin": 0.5, "map": 0.01, "overlap": 0.9}
    entry = {"format": "onnx", "precision": "int8", "limits": limits}
    full = record(bundle, {"schema": "chash.parity/1", "artifacts": [entry]})
    found = limits_of(full, INT8.artifact)
    assert (found.bits, found.margin, found.map) == (0.02, 0.5, 0.01)
    assert limits_of(full, FP16.artifact) == LIMITS["fp16"]
    assert limits_of(full, INT8.artifact, drawn=True).bits == 0.02
    flipped = {"drawn_bits_flipped": 0.04, "unseen_bits_flipped": 0.02}
    loose = {**entry, "limits": {**limits, "margin": None}, **flipped}
    on_birds = record(bundle, {"artifacts": [loose]})
    assert limits_of(on_birds, INT8.artifact).bits == pytest.approx(0.03)
    assert limits_of(on_birds, INT8.artifact, drawn=True).bits == pytest.approx(0.06)
    with pytest.raises(BundleError):
        limits_of(record(bundle, {"artifacts": [{"format": "onnx"}]}), INT8.artifact)


@pytest.mark.usefixtures("fakes")
def test_verify__passes_the_same_and_fails_another_model(bundle: Bundle) -> None:
    same = with_files(bundle, fp16=tiny_graph(16, 2, 32))
    found = verify(same, [REFERENCE, FP16], images(), threads=1)
    assert [check.failures for check in found.checks] == [(), ()]
    assert np.array_equal(found.reference, tiny_codes(np.stack(images().sources)))  # type: ignore[arg-type]
    other = with_files(bundle, fp16=tiny_graph(16, 2, 32, seed=1))
    (failed,) = verify(other, [REFERENCE, FP16], images(), threads=1).failed
    assert failed.target == FP16
    assert "of the bits flipped, at most 0.100% may" in failed.failures[0]


@pytest.mark.usefixtures("fakes")
def test_verify__fails_codes_that_depend_on_the_batch(bundle: Bundle) -> None:
    (failed,) = verify(bundle, [DYNAMIC], images(), threads=1).failed
    assert failed.batch_flips == 1.0
    assert failed.failures[-1].startswith("codes depend on the batch: 100.000%")


@pytest.mark.usefixtures("fakes")
def test_verify__goes_on_after_what_cannot_run(bundle: Bundle) -> None:
    bundle = with_files(bundle, int8=tiny_graph(16, 2, 32))
    found = verify(bundle, [INT8, REFERENCE], images(), threads=1)
    assert [check.target for check in found.checks] == [REFERENCE]
    assert [entry.target for entry in found.not_run] == [INT8]


@pytest.mark.usefixtures("fakes")
def test_verify__fails_a_file_that_changed_or_cannot_be_loaded(bundle: Bundle) -> None:
    broken = with_files(bundle, fp16=b"not a graph")
    (failed,) = verify(broken, [FP16], images(), threads=1).failed
    assert "cannot load" in failed.failures[0]
    broken.file("model.fp16.onnx").write_bytes(tiny_graph(16, 2, 32))
    (failed,) = verify(broken, [FP16], images(), threads=1).failed
    assert "sha256" in failed.failures[0]
    assert failed.agreement is None


def test_verify__refuses_a_changed_reference(bundle: Bundle) -> None:
    bundle.file("model.onnx").write_bytes(tiny_graph(16, 2, 32, seed=1))
    with pytest.raises(GateError, match="sha256"):
        verify(bundle, [REFERENCE], images())
