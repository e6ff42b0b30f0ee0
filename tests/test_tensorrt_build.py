"""The builder: real engines by TensorRT-RTX, without a GPU; TensorRT 10 and 11 by a fake."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from tensorrt_fakes import CROP, VERSIONS, FakeTensorRT
from tiny_bundle import tiny_graph, tiny_weights

from concepthash.errors import BackendError, BundleError, UsageError
from concepthash.runtime.tensorrt import (
    BuildOptions,
    Cuda,
    Step,
    build_engine,
    import_library,
    timing_cache_file,
)
from concepthash.runtime.tensorrt.library import logger_of


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> FakeTensorRT:
    """A fake TensorRT 10 or 11."""
    return FakeTensorRT(request.param)


@pytest.fixture
def cuda() -> Cuda:
    """A fake GPU."""
    return Cuda(FakeCudart(), 0)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """What the fake parser takes for a graph of the contract."""
    file = tmp_path / "model.onnx"
    file.write_bytes(b"ours")
    return file


def test_build__sets_what_it_promises(trt: Any, cuda: Cuda, graph: Path) -> None:
    options = BuildOptions(usual=4, most=16, workspace=123456)
    built = build_engine(trt, graph, precision="fp16", cuda=cuda, options=options)
    config = trt.config
    assert trt.BuilderFlag.TF32 not in config._flags
    assert config._limits == {trt.MemoryPoolType.WORKSPACE: 123456}
    shapes = [(n, CROP, CROP, 3) for n in (1, 4, 16)]
    assert [profile._shapes for profile in config._profiles] == [{"image": tuple(shapes)}]
    made = built.provenance
    assert (made.module, made.version) == ("tensorrt", trt.__version__)
    assert (made.gpu, made.capabilities) == ("NVIDIA Fake 100", ("8.6",))
    assert (made.precision, made.graph, made.profile) == ("fp16", "model.onnx", (1, 4, 16))
    assert made.graph_sha256 == hashlib.sha256(b"ours").hexdigest()
    assert made.engine_sha256 == hashlib.sha256(built.engine).hexdigest()
    assert made.flags == {"strongly_typed": True, "tf32": False, "workspace_bytes": 123456}
    files = built.files("model.trt.fp16.engine")
    assert files["model.trt.fp16.engine"] == built.engine
    assert json.loads(files["model.trt.fp16.engine.json"])["schema"] == "chash.engine/1"


def test_build__says_beforehand_that_it_takes_minutes(trt: Any, cuda: Cuda, graph: Path) -> None:
    told: list[str] = []
    build_engine(
        trt,
        graph,
        precision="fp32",
        cuda=cuda,
        note=told.append,
        progress=lambda step: told.append(step.phase),
    )
    assert "NVIDIA Fake 100" in told[0]
    assert "minutes" in told[0]
    assert told[1] == "Building"


def test_build__reports_every_step_of_every_phase(trt: Any, cuda: Cuda, graph: Path) -> None:
    steps: list[Step] = []
    build_engine(trt, graph, precision="fp32", cuda=cuda, progress=steps.append)
    expected = [("Building", done, 2, 0) for done in range(3)]
    expected += [("Timing", done, 3, 1) for done in range(4)]
    assert [(s.phase, s.done, s.steps, s.depth) for s in steps] == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("enough")])
def test_build__stops_when_the_progress_raises(
    trt: Any, cuda: Cuda, graph: Path, error: BaseException
) -> None:
    steps: list[Step] = []

    def progress(step: Step) -> None:
        steps.append(step)
        raise error

    with pytest.raises(type(error)):
        build_engine(trt, graph, precision="fp32", cuda=cuda, progress=progress)
    assert trt.stopped
    assert len(steps) == 1


def test_build__on_another_gpu_than_the_first(trt: Any, graph: Path) -> None:
    cudart = FakeCudart()
    build_engine(trt, graph, precision="fp32", cuda=Cuda(cudart, 3))
    assert cudart.chosen == [3, 3]  # this thread's, and the one that builds


def test_build__lists_what_the_parser_says(trt: Any, cuda: Cuda, graph: Path) -> None:
    graph.write_bytes(b"errors 3")
    with pytest.raises(BundleError) as caught:
        build_engine(trt, graph, precision="fp32", cuda=cuda)
    for number in range(3):
        assert (
            f"no such operator {number} (node {number}, Strange node_{number})" in caught.value.what
        )
    graph.write_bytes(b"errors 12")
    with pytest.raises(BundleError, match="and 2 more"):
        build_engine(trt, graph, precision="fp32", cuda=cuda)


def test_build__refuses_a_file_that_is_no_graph(trt: Any, cuda: Cuda, graph: Path) -> None:
    graph.write_bytes(b"empty")
    with pytest.raises(BundleError, match="not a graph of this project: inputs none"):
        build_engine(trt, graph, precision="fp32", cuda=cuda)
    graph.unlink()
    with pytest.raises(BundleError, match="cannot read the graph: No such file"):
        build_engine(trt, graph, precision="fp32", cuda=cuda)


def test_build__a_failure_says_what_the_library_logged(trt: Any, cuda: Cuda, graph: Path) -> None:
    trt.fail = "build"
    with pytest.raises(BackendError, match="cannot be built: no kernel for node_of_logits"):
        build_engine(trt, graph, precision="fp32", cuda=cuda)


def test_build__needs_a_gpu(graph: Path, cuda: Cuda) -> None:
    with pytest.raises(BackendError, match="on the GPU that will run it") as caught:
        build_engine(FakeTensorRT("11.4"), graph, precision="fp32", cuda=None)
    assert caught.value.hint is not None
    assert "to the machine with the GPU" in caught.value.hint
    gone = Cuda(FakeCudart(driver=False), 0)
    with pytest.raises(BackendError, match="no GPU can be used here"):
        build_engine(FakeTensorRT("11.4"), graph, precision="fp32", cuda=gone)
    with pytest.raises(BackendError, match="does not start: CUDA initialization failure"):
        build_engine(FakeTensorRT("11.4", gpu=False), graph, precision="fp32", cuda=cuda)


def test_timing_cache__is_kept_for_the_next_build(
    trt: Any, cuda: Cuda, graph: Path, tmp_path: Path
) -> None:
    options = BuildOptions(timing_cache=tmp_path / "new" / "timings")
    told: list[str] = []
    for count in (1, 2):
        build_engine(trt, graph, precision="fp32", cuda=cuda, options=options, note=told.append)
        assert options.timing_cache is not None
        assert options.timing_cache.read_bytes() == b"+timings" * count
    assert not [text for text in told if "timing cache" in text]


@pytest.mark.parametrize("content", [b"old", b"none", b"raise"])
def test_timing_cache__of_another_version_is_not_used(
    trt: Any, cuda: Cuda, graph: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "timings"
    file.write_bytes(content)
    told: list[str] = []
    options = BuildOptions(timing_cache=file)
    build_engine(trt, graph, precision="fp32", cuda=cuda, options=options, note=told.append)
    assert f"the timing cache {file} is not used" in told[0]
    assert file.read_bytes() == b"+timings"


def test_timing_cache__that_cannot_be_written_is_told(
    trt: Any, cuda: Cuda, graph: Path, tmp_path: Path
) -> None:
    options = BuildOptions(timing_cache=graph / "timings")  # a file is no folder
    told: list[str] = []
    build_engine(trt, graph, precision="fp32", cuda=cuda, options=options, note=told.append)
    assert "is not kept" in told[-1]


def test_timing_cache_file__is_of_one_version_and_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: Cuda
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = timing_cache_file(FakeTensorRT("11.4"), cuda.gpu())
    assert file == tmp_path / "concepthash" / "tensorrt-11.4.0.7-NVIDIA-Fake-100.timings"


@pytest.mark.parametrize("sizes", [(0, 4), (8, 4), (-1, -1)])
def test_options__refuse_batches_that_cannot_be(sizes: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        BuildOptions(usual=sizes[0], most=sizes[1])
    with pytest.raises(UsageError, match="bytes of memory"):
        BuildOptions(workspace=0)


def test_capabilities__are_for_tensorrt_rtx_alone(trt: Any, cuda: Cuda, graph: Path) -> None:
    options = BuildOptions(capabilities=("8.6",))
    with pytest.raises(UsageError, match="TensorRT builds for the GPU it runs on") as caught:
        build_engine(trt, graph, precision="fp32", cuda=cuda, options=options)
    assert caught.value.hint == "--format trt-rtx"


def test_import__names_the_extra_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for form, module in (("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(BackendError, match="cannot be imported") as caught:
            import_library(form)
        assert caught.value.hint is not None
        assert f"pip install 'concepthash[{form}]' on the machine" in caught.value.hint


def test_import__refuses_an_old_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FakeTensorRT("10.16")
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    assert import_library("trt") is old
    old.__version__ = "8.6.1"
    with pytest.raises(BackendError, match=r"8\.6\.1 is too old"):
        import_library("trt")


# What follows builds engines, with the real TensorRT-RTX.


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def retyped(change: str) -> bytes:
    """The tiny graph with the product of its logits in float16 or in symmetric int8 (QDQ)."""
    onnx = pytest.importorskip("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    model = onnx.load_from_string(tiny_graph(16, 2, CROP))
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if node.output[0] == "logits")
    weights = tiny_weights(16, CROP)
    if change == "fp16":
        values = {"half": weights.astype(np.float16)}
        new = [
            helper.make_node("Cast", ["rows"], ["rows16"], to=types.FLOAT16),
            helper.make_node("MatMul", ["rows16", "half"], ["logits16"]),
            helper.make_node("Cast", ["logits16"], ["logits"], to=types.FLOAT),
        ]
    else:
        values = {
            "scale": np.float32(1),
            "scales": np.ones(16, np.float32),
            "zero8": np.int8(0),
            "zeros8": np.zeros(16, np.int8),
            "weights8": weights.astype(np.int8),
        }
        new = [
            helper.make_node("QuantizeLinear", ["rows", "scale", "zero8"], ["rows8"]),
            helper.make_node("DequantizeLinear", ["rows8", "scale", "zero8"], ["rowsd"]),
            helper.make_node("DequantizeLinear", ["weights8", "scales", "zeros8"], ["wd"], axis=1),
            helper.make_node("MatMul", ["rowsd", "wd"], ["logits"]),
        ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], *new, *nodes[place + 1 :]])
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def heard(rtx: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that TensorRT-RTX logs, chatter too."""
    messages: list[str] = []
    monkeypatch.setattr(logger_of(rtx), "log", lambda severity, text: messages.append(text))
    return messages


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rtx__builds_an_engine_of_the_precision_of_the_graph(
    rtx: Any, heard: list[str], tmp_path: Path, precision: Any
) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP) if precision == "fp32" else retyped(precision))
    built = build_engine(rtx, graph, precision=precision, cuda=None)
    assert len(built.engine) > 16 * CROP * CROP * 3
    assert (built.provenance.module, built.provenance.gpu) == ("tensorrt_rtx", None)
    assert built.provenance.capabilities == ("8.0+",)
    # An engine cannot be opened without a GPU; these are the words of the builder.
    (engine,) = [text for text in heard if text.startswith("Engine Layer Information")]
    assert f"image (UInt8[-1,{CROP},{CROP},3])" in engine
    for output in ("codes (UInt8[-1,2])", "logits (Float[-1,16])", "attention (Float[-1,2,4,4])"):
        assert output in engine
    assert [text for text in heard if "[1,32]\tbatch" in text]  # from 1 to the largest batch


def test_rtx__the_profile_is_what_was_asked(rtx: Any, heard: list[str], tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP))
    options = BuildOptions(usual=2, most=6)
    built = build_engine(rtx, graph, precision="fp32", cuda=None, options=options)
    assert built.provenance.profile == (1, 2, 6)
    assert [text for text in heard if "[1,6]\tbatch" in text]
    assert not [text for text in heard if "[1,32]\tbatch" in text]


def test_rtx__builds_for_the_compute_capabilities_it_is_given(rtx: Any, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(retyped("fp16"))
    options = BuildOptions(capabilities=("8.9", "12.0", "8.9"))
    built = build_engine(rtx, graph, precision="fp16", cuda=None, options=options)
    assert built.provenance.capabilities == ("8.9", "12.0")
    other = BuildOptions(capabilities=("8.9",))
    again = build_engine(rtx, graph, precision="fp16", cuda=None, options=other)
    assert again.engine != built.engine
    options = BuildOptions(capabilities=("5.2",))
    with pytest.raises(UsageError, match=r"does not build for compute capability '5\.2'") as caught:
        build_engine(rtx, graph, precision="fp16", cuda=None, options=options)
    assert caught.value.hint is not None
    assert "8.9, 12.0" in caught.value.hint


def test_rtx__says_why_a_graph_cannot_be_built(rtx: Any, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP))
    options = BuildOptions(capabilities=("7.5",))
    with pytest.raises(BackendError, match="FP32 GEMM is not supported"):
        build_engine(rtx, graph, precision="fp32", cuda=None, options=options)


def test_rtx__refuses_other_graphs(rtx: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"no graph at all")
    with pytest.raises(BundleError, match=r"not a graph of this project|cannot read the graph"):
        build_engine(rtx, graph, precision="fp32", cuda=None)
    model = onnx.load_from_string(tiny_graph(16, 2, CROP))
    model.graph.node[0].op_type = "Unheard"
    model.graph.node[2].op_type = "Unknown"
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"\(node 0, Unheard\); .*\(node 2, Unknown\)"):
        build_engine(rtx, graph, precision="fp32", cuda=None)
    model = onnx.load_from_string(tiny_graph(16, 2, CROP))
    del model.graph.output[1]
    graph.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="not a graph of this project"):
        build_engine(rtx, graph, precision="fp32", cuda=None)


def test_rtx__takes_no_timing_cache(rtx: Any, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP))
    options = BuildOptions(timing_cache=tmp_path / "timings")
    build_engine(rtx, graph, precision="fp32", cuda=None, options=options)
    assert not (tmp_path / "timings").exists()


def test_rtx__ctrl_c_stops_the_build(rtx: Any, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP))
    steps: list[Step] = []

    def progress(step: Step) -> None:
        if not steps:
            os.kill(os.getpid(), signal.SIGINT)
        steps.append(step)

    with pytest.raises(KeyboardInterrupt):
        build_engine(rtx, graph, precision="fp32", cuda=None, progress=progress)


def test_rtx__a_progress_that_raises_stops_the_build(rtx: Any, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph(16, 2, CROP))
    steps: list[Step] = []

    def progress(step: Step) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        build_engine(rtx, graph, precision="fp32", cuda=None, progress=progress)
    assert len(steps) == 3


def test_rtx__builds_a_real_vision_transformer(rtx: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tiny_run import tiny_config

    from concepthash.export.graph import write_onnx
    from concepthash.learn.checkpoint import build_model

    torch.manual_seed(0)
    model = build_model(tiny_config(tmp_path).model, crop=48)
    graph = tmp_path / "model.onnx"
    write_onnx(model.eval(), graph, crop=48)
    built = build_engine(rtx, graph, precision="fp32", cuda=None)
    assert built.provenance.graph_sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()
    assert len(built.engine) > 2 * sum(weights.numel() for weights in model.encoder.parameters())
