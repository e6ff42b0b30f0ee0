"""``chash bench``: what it prints, writes and draws, and how it ends."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash, photos
from tiny_bundle import tiny_bundle, tiny_graph

from concepthash.bundle import Artifact, Bundle, extend_bundle
from concepthash.cli.bench_search import check_search, compare_searchers
from concepthash.codes import CodeLayout
from concepthash.runtime import HammingIndex, Hits
from concepthash.runtime.bench import process
from concepthash.runtime.bench.measure import STARTS

QUICK = ("--batch", "1,2", "--repeats", "1", "--threads", "1", "--backend", "onnxruntime")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Path(__file__).with_name("fake_bench_worker.py")
    monkeypatch.setattr(process, "COMMAND", (sys.executable, "-P", str(fake)))


def add(bundle: Bundle, precision: str, graph: bytes) -> Bundle:
    name = f"model.{precision}.onnx"
    artifact = Artifact("onnx", precision, name)  # type: ignore[arg-type]
    return extend_bundle(bundle, {name: graph}, [artifact])


def test_bench__json_says_what_where_and_how_fast(chash: Chash, bundle: Bundle) -> None:
    result = chash("bench", bundle.path, *QUICK, "--precision", "fp32,int8", "--json")
    assert result.code == 0
    assert "64 drawn birds" in result.err
    value = result.json("chash.bench/1")
    assert value["bundle"] == str(bundle.path)
    assert value["model"]["bits"] == 16
    assert value["threads"] == 1
    assert value["images"] == {"source": "64 drawn birds", "count": 64}
    assert value["protocol"]["repeats"] == 1
    assert value["protocol"]["starts"] == STARTS
    assert value["skipped"] == []
    described = value["machine"]
    assert set(described["versions"]) >= {"python", "numpy", "onnxruntime", "concepthash"}
    assert described["processor"]
    assert described["cpus"] >= 1
    measured = [row for row in value["rows"] if row["status"] == "measured"]
    assert [row["batch"] for row in measured] == [1, 2]
    for row in measured:
        assert row["artifact"] == {"format": "onnx", "precision": "fp32", "file": "model.onnx"}
        assert (row["backend"], row["device"]) == ("onnxruntime", "cpu")
        assert "CPUExecutionProvider" in row["ran"]
        assert 0 < row["ms_per_image"]["p50"] <= row["ms_per_image"]["p95"]
        assert row["agreement"]["bits_flipped"] == 0
        assert row["agreement"]["per_concept"] == [0, 0]
        assert row["agreement"]["map"] is None
        assert {"images_per_second", "runs", "cold_start_ms", "file_bytes"} <= set(row)
        assert "peak_memory_bytes" in row
    skipped = [row for row in value["rows"] if row["status"] == "skipped"]
    lacking = [row for row in skipped if row["artifact"]["precision"] == "int8"]
    assert {row["device"] for row in lacking} == {"cpu", "cuda"}
    assert all("chash export RUN" in row["try"] for row in lacking)


def test_bench__gpu_that_is_not_there_is_listed_as_skipped(
    chash: Chash, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = chash("bench", bundle.path, *QUICK)
    assert result.code == 0
    assert "onnx fp32  onnxruntime cpu" in result.out
    assert "skipped onnx fp32, onnxruntime on cuda: CUDA was asked for" in result.out
    assert "  try: " in result.out
    nothing = chash("bench", bundle.path, *QUICK, "--device", "cuda")
    assert nothing.code == 6
    assert "skipped onnx fp32, onnxruntime on cuda" in nothing.out


def test_bench__takes_photos_and_their_classes(
    chash: Chash, bundle: Bundle, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "shop", each=5)
    (folder / "a" / "0.png").write_bytes(b"no image")
    arguments = ("bench", bundle.path, *QUICK, "--device", "cpu", "--data", folder)
    result = chash(*arguments, "--out", "bench.json")
    assert result.code == 3
    assert "skipped 1:" in result.err
    assert "wrote bench.json" in result.err
    value = json.loads(Path("bench.json").read_text(encoding="utf-8"))
    assert value["images"] == {"source": str(folder), "count": 9}
    assert len(value["skipped"]) == 1
    eval_map = chash("eval", bundle.path, "--data", folder, "--json").json("chash.eval/1")["map"]
    for row in value["rows"]:
        assert row["agreement"]["map"] == pytest.approx(eval_map["expected"])
        assert row["agreement"]["map_delta"] == 0


def test_bench__draws_accuracy_over_latency(chash: Chash, bundle: Bundle) -> None:
    pytest.importorskip("matplotlib")
    result = chash("bench", bundle.path, *QUICK, "--device", "cpu", "--plot", "bench.svg")
    assert result.code == 0
    assert "<svg" in Path("bench.svg").read_text(encoding="utf-8")
    assert chash("bench", bundle.path, "--plot", "bench.xyz").code == 2


def test_bench__plot_without_matplotlib_is_refused_before_the_work(
    chash: Chash, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = chash("bench", bundle.path, "--plot", "bench.png")
    assert result.code == 6
    assert "pip install 'concepthash[plot]'" in result.err
    assert "drawn birds" not in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "0"], "--batch 1,8"),
        (["--batch", "1,many"], "--batch 1,8"),
        (["--repeats", "0"], "--repeats 10"),
        (["--threads", "0"], "--threads 1"),
        (["--backend", "abacus"], "onnxruntime"),
        (["--precision", "fp4"], "fp32, fp16, int8"),
        (["--device", "tpu"], "auto, cpu, cuda"),
        (["--verify", "--plot", "bench.png"], "--plot"),
        (["--out", "nowhere/bench.json"], "mkdir -p nowhere"),
        (["--out", "."], "something else is there"),
        (["--plot", "nowhere/bench.png"], "mkdir -p nowhere"),
    ],
)
def test_bench__says_what_is_wrong_with_its_arguments(
    chash: Chash, bundle: Bundle, arguments: list[str], words: str
) -> None:
    result = chash("bench", bundle.path, *arguments)
    assert result.code == 2
    assert words in result.err


def test_bench__refuses_a_damaged_bundle(chash: Chash, bundle: Bundle) -> None:
    bundle.file("model.onnx").write_bytes(b"damaged")
    result = chash("bench", bundle.path, *QUICK)
    assert result.code == 1
    assert "sha256 differs" in result.err


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("damaged", ["fp16", "fp32"])
def test_bench__goes_on_after_a_damaged_artefact_and_exits_3(
    chash: Chash, bundle: Bundle, damaged: str
) -> None:
    bundle = add(bundle, "fp16", tiny_graph(16, 2, 32))
    name = "model.fp16.onnx" if damaged == "fp16" else "model.onnx"
    bundle.file(name).write_bytes(b"damaged")
    result = chash("bench", bundle.path, *QUICK, "--device", "cpu", "--json")
    assert result.code == 3
    assert f"skipped 1:\n  {bundle.path / name}: the file is not the one that was" in result.err
    value = result.json("chash.bench/1")
    assert [item["path"] for item in value["skipped"]] == [str(bundle.path / name)]
    measured = [row for row in value["rows"] if row["status"] == "measured"]
    (other,) = {"fp16", "fp32"} - {damaged}
    assert {row["artifact"]["precision"] for row in measured} == {other}
    assert [row["agreement"] is None for row in measured] == [damaged == "fp32"] * 2
    (lost,) = [row for row in value["rows"] if row["status"] == "skipped"]
    assert "sha256 differs" in lost["reason"]
    assert lost["try"].startswith("copy the bundle again")


@pytest.mark.usefixtures("fakes")
def test_bench__replaces_its_own_result_and_no_other_file(chash: Chash, bundle: Bundle) -> None:
    arguments = ("bench", bundle.path, *QUICK, "--device", "cpu", "--out", "out.json")
    for foreign in ("my notes", "[1]", '{"schema": "chash.eval/1"}'):
        Path("out.json").write_text(foreign)
        for verify in ([], ["--verify"]):
            refused = chash(*arguments, *verify)
            assert (refused.code, refused.out) == (2, "")
            assert "where: out.json\ntry: another --out; --force replaces it" in refused.err
            assert "drawn birds" not in refused.err
        assert Path("out.json").read_text() == foreign
    assert chash(*arguments, "--force").code == 0
    assert json.loads(Path("out.json").read_text())["schema"] == "chash.bench/1"
    assert chash(*arguments, "--verify").code == 0
    assert json.loads(Path("out.json").read_text())["schema"] == "chash.verify/1"
    assert chash(*arguments).code == 0


def test_bench__takes_the_newest_bundle_and_settings_of_a_file(
    chash: Chash, bundle: Bundle
) -> None:
    settings = '[bench]\nbatch = "3"\nrepeats = 1\nbackend = "onnxruntime"\ndevice = "cpu"\n'
    Path("chash.toml").write_text(settings, encoding="utf-8")
    result = chash("bench", "--layout", "csv", "--json")
    assert "not used without --data: --layout" in result.err
    value = result.json("chash.bench/1")
    assert value["choices"]["bundle"] == bundle.path.name
    assert [row["batch"] for row in value["rows"]] == [3]


# --verify


def test_verify__tells_that_all_is_well(chash: Chash, bundle: Bundle) -> None:
    arguments = ("bench", bundle.path, "--verify", "--backend", "onnxruntime", "--device", "cpu")
    result = chash(*arguments)
    assert result.code == 0
    assert "passed" in result.out
    assert "search on the GPU: skipped, --device cpu" in result.out
    value = chash(*arguments, "--json").json("chash.verify/1")
    assert value["passed"] is True
    (check,) = value["checks"]
    assert check["status"] == "passed"
    assert check["batch_flips"] == 0
    assert check["limits"] == {"bits": 1e-3, "margin": 1e-4, "map": 5e-3, "overlap": 0.99}
    assert value["gpu_search"]["status"] == "skipped"


@pytest.mark.usefixtures("fakes")
def test_verify__another_model_exits_7_with_the_figure(chash: Chash, bundle: Bundle) -> None:
    add(bundle, "fp16", tiny_graph(16, 2, 32, seed=1))
    arguments = ("bench", bundle.path, "--verify", "--backend", "onnxruntime", "--device", "cpu")
    result = chash(*arguments, "--precision", "fp32,fp16")
    assert result.code == 7
    assert "FAILED onnx fp16, onnxruntime on cpu: " in result.out
    assert "of the bits flipped, at most 0.100% may" in result.err
    assert "chash export RUN --force" in result.err
    value = chash(*arguments, "--json", "--out", "verify.json").json("chash.verify/1")
    assert value["passed"] is False
    assert [check["status"] for check in value["checks"]] == ["passed", "failed"]
    assert json.loads(Path("verify.json").read_text(encoding="utf-8"))["passed"] is False


@pytest.mark.usefixtures("fakes")
def test_verify__crash_is_skipped_with_its_reason(chash: Chash, bundle: Bundle) -> None:
    add(bundle, "int8", tiny_graph(16, 2, 32))
    result = chash("bench", bundle.path, "--verify", "--backend", "onnxruntime", "--device", "cpu")
    assert result.code == 0
    assert "skipped onnx int8, onnxruntime on cpu: its process ended (SIGKILL)" in result.out


def test_check_search__without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, layout = np.zeros((3, 2), np.uint8), CodeLayout(16, 2)
    assert check_search(codes, layout, "cpu")["status"] == "skipped"
    monkeypatch.setattr("concepthash.cli.bench_search.find_spec", lambda name: None)
    found = check_search(codes, layout, "auto")
    assert (found["status"], found["reason"]) == ("skipped", "torch is not installed")
    assert found["try"].startswith("pip install")


def test_check_search__without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = check_search(np.zeros((3, 2), np.uint8), CodeLayout(16, 2), "auto")
    assert found["status"] == "skipped"
    assert "no CUDA device" in found["reason"]


class FakeWrongSearcher(HammingIndex):
    """A fake that takes the second hit for the first where a radius is asked for."""

    def search(self, *arguments: object, **options: object) -> Hits:
        found = super().search(*arguments, **options)  # type: ignore[arg-type]
        if options.get("radius") is None:
            return found
        ids = found.ids.copy()
        ids[:, [0, 1]] = ids[:, [1, 0]]
        return replace(found, ids=ids)


def test_compare_searchers__tells_equal_from_unequal() -> None:
    codes = np.random.default_rng(0).integers(256, size=(500, 2), dtype=np.uint8)
    index, same, wrong = HammingIndex(16, 2), HammingIndex(16, 2), FakeWrongSearcher(16, 2)
    for searcher in (index, same, wrong):
        searcher.add(codes)
    assert compare_searchers(index, same, codes[:9], "fake")["status"] == "passed"
    found = compare_searchers(index, wrong, codes[:9], "fake")
    assert found["status"] == "failed"
    assert "ids differ" in found["reason"]
    assert "a radius" in found["reason"]


def test_compare_searchers__torch_is_equal() -> None:
    pytest.importorskip("torch")
    gpu = pytest.importorskip("concepthash.gpu")
    codes = np.random.default_rng(0).integers(256, size=(500, 2), dtype=np.uint8)
    index = HammingIndex(16, 2)
    index.add(codes)
    other = gpu.TorchSearcher.of(index, device="cpu")
    assert compare_searchers(index, other, codes[:9], other.backend)["status"] == "passed"
