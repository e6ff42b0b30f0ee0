"""The engine of a bundle, used where it fits and built anew where not: on fakes of both sides."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from tensorrt_fakes import CROP, FakeTensorRT, tiny_outputs
from tiny_bundle import tiny_bundle

from concepthash.bundle import MODEL, Artifact, Bundle, extend_bundle
from concepthash.errors import BackendError, BundleError
from concepthash.formats import FORMATS
from concepthash.runtime.tensorrt import Cuda, EngineEncoder, load_engine, read_provenance, sidecar

ENGINE = FORMATS["trt"].files["fp32"]
PIXELS = np.random.default_rng(0).integers(0, 256, (5, CROP, CROP, 3), dtype=np.uint8)


class Machine:
    """A bundle on a machine with a fake TensorRT and a fake GPU."""

    def __init__(self, folder: Path) -> None:
        self.path = tiny_bundle(folder).path
        (self.path / MODEL).write_bytes(b"ours")  # what the fake parser reads
        self.trt = FakeTensorRT("11.4")
        self.cudart = self.trt.memory = FakeCudart()
        self.told: list[str] = []

    def store(self, files: dict[str, bytes]) -> None:
        extend_bundle(Bundle.open(self.path), dict(files), [Artifact("trt", "fp32", ENGINE)])

    def load(self, **changes: Any) -> EngineEncoder:
        self.told.clear()
        options = {
            "form": "trt",
            "precision": "fp32",
            "trt": self.trt,
            "cuda": Cuda(self.cudart, 0),
            "note": self.told.append,
            "store": self.store,
            **changes,
        }
        return load_engine(self.path / ENGINE, self.path / MODEL, **options)

    def check(self, encoder: EngineEncoder) -> None:
        np.testing.assert_array_equal(encoder.codes(PIXELS), tiny_outputs(PIXELS)["codes"])
        encoder.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Machine(tmp_path)
    yield made
    assert made.cudart.mistakes == []
    assert made.cudart.live == {}


def test_load__builds_the_engine_that_is_missing_and_keeps_it(machine: Machine) -> None:
    encoder = machine.load()
    assert encoder.note == "the bundle has no engine of this kind: built anew"
    assert "a new one is built from model.onnx" in machine.told[0]
    assert "this takes minutes" in machine.told[1]
    machine.check(encoder)
    bundle = Bundle.open(machine.path)
    assert Artifact("trt", "fp32", ENGINE) in bundle.manifest.artifacts
    assert {ENGINE, sidecar(ENGINE)} <= set(bundle.manifest.files)
    again = machine.load(rebuild=False)
    assert (again.note, machine.told) == (None, [])
    machine.check(again)


def spoil_version(machine: Machine) -> None:
    machine.trt.__version__ = "11.5.0"


def spoil_gpu(machine: Machine) -> None:
    machine.cudart.name = "NVIDIA Fake 200"


def spoil_graph(machine: Machine) -> None:
    (machine.path / MODEL).write_bytes(b"ours too")


def spoil_engine(machine: Machine) -> None:
    with (machine.path / ENGINE).open("ab") as file:
        file.write(b"\0")


def spoil_record(machine: Machine) -> None:
    (machine.path / sidecar(ENGINE)).write_bytes(b"{")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (spoil_version, "here is TensorRT 11.5.0"),
        (spoil_gpu, "this GPU is a NVIDIA Fake 200"),
        (spoil_graph, "built from another model.onnx"),
        (spoil_engine, "the engine is damaged"),
        (spoil_record, "the record of this engine is damaged"),
    ],
)
def test_load__a_stale_engine_is_explained_and_built_anew(
    machine: Machine, change: Any, reason: str
) -> None:
    machine.load().close()
    change(machine)
    with pytest.raises(BackendError, match=reason) as caught:
        machine.load(rebuild=False)
    assert caught.value.exit_code == 6
    assert caught.value.hint == "chash export RUN --format trt --precision fp32"
    encoder = machine.load()
    assert reason in machine.told[0]
    assert encoder.note is not None
    assert reason in encoder.note
    machine.check(encoder)
    fresh = machine.load(rebuild=False)
    assert fresh.note is None
    machine.check(fresh)


@pytest.mark.parametrize("error", [BundleError("cannot write"), PermissionError(13, "Read-only")])
def test_load__a_folder_that_cannot_be_written_to_is_told(
    machine: Machine, error: Exception
) -> None:
    def store(files: dict[str, bytes]) -> None:
        raise error

    encoder = machine.load(store=store)
    assert "the new engine is used from memory and not kept" in machine.told[-1]
    assert encoder.note is not None
    assert "not kept" in encoder.note
    assert not (machine.path / ENGINE).exists()
    machine.check(encoder)


def test_load__an_engine_without_its_record_is_not_trusted(machine: Machine) -> None:
    machine.load().close()
    (machine.path / sidecar(ENGINE)).unlink()
    encoder = machine.load(store=None)
    assert "nothing says what this engine was built for" in machine.told[0]
    machine.check(encoder)


def test_load__without_a_store_keeps_nothing(machine: Machine) -> None:
    machine.load(store=None).close()
    assert not (machine.path / ENGINE).exists()


def test_load__keeps_the_timings_for_the_next_build(machine: Machine) -> None:
    machine.load(store=None).close()
    (timings,) = (machine.path.parent / "cache").rglob("*.timings")
    assert timings.read_bytes() == b"+timings"
    machine.load(store=None).close()
    assert timings.read_bytes() == b"+timings+timings"


def test_load__keeps_what_the_engine_was_built_for(machine: Machine) -> None:
    machine.load().close()
    made = read_provenance(machine.path / ENGINE)
    assert (made.gpu, made.graph, made.precision) == ("NVIDIA Fake 100", MODEL, "fp32")


def test_load__without_a_gpu_says_where_to_run(machine: Machine) -> None:
    with pytest.raises(BackendError, match="no GPU can be used here") as caught:
        machine.load(cuda=Cuda(FakeCudart(driver=False), 0))
    assert caught.value.exit_code == 6


def test_load__without_the_library_says_what_to_install(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="tensorrt cannot be imported") as caught:
        machine.load(trt=None)
    assert caught.value.hint is not None
    assert "pip install 'concepthash[trt]'" in caught.value.hint


def test_load__without_the_graph_is_an_error(machine: Machine) -> None:
    (machine.path / MODEL).unlink()
    with pytest.raises(BundleError, match="cannot read the graph"):
        machine.load()


def test_load__an_engine_of_rtx_is_used_on_every_gpu_that_it_covers(machine: Machine) -> None:
    rtx: Any = FakeTensorRT("11.4", name="tensorrt_rtx")
    rtx.memory = machine.cudart
    machine.load(trt=rtx, form="trt-rtx").close()
    made = read_provenance(machine.path / ENGINE)
    assert (made.gpu, made.capabilities) == (None, ("8.0+",))
    machine.cudart.name = "NVIDIA Fake 200"
    other = machine.load(trt=rtx, form="trt-rtx", rebuild=False)
    machine.check(other)


def test_load__files_without_end_are_not_read(machine: Machine) -> None:
    machine.load().close()
    os.truncate(machine.path / ENGINE, 1 << 40)  # sparse
    with pytest.raises(BackendError, match="larger than any"):
        machine.load(rebuild=False)
    os.truncate(machine.path / MODEL, 1 << 40)
    with pytest.raises(BundleError, match="larger than any"):
        machine.load(rebuild=False)
