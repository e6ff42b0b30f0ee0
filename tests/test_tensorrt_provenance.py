"""What an engine was built for, and why one cannot be used."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concepthash.errors import BundleError
from concepthash.runtime.tensorrt import Gpu, Provenance, Target, read_provenance, sidecar, stale
from concepthash.runtime.tensorrt.provenance import PORTABLE, host

ORIN = Gpu("Orin (nvgpu)", "8.7")
MADE = Provenance(
    module="tensorrt",
    version="10.16.1.11",
    gpu="Orin (nvgpu)",
    capabilities=("8.7",),
    precision="fp16",
    graph="model.fp16.onnx",
    graph_sha256="a" * 64,
    profile=(1, 8, 32),
    flags={"strongly_typed": True, "tf32": False, "workspace_bytes": 1 << 30},
    engine_sha256="b" * 64,
    host="linux-aarch64",
    created="2026-01-31T12:00:00+00:00",
)
NOW = Target("tensorrt", "10.16.1.99", ORIN, host="linux-aarch64")
RTX = replace(MADE, module="tensorrt_rtx", version="1.7.1.116", gpu=None, capabilities=(PORTABLE,))
RTX_NOW = Target("tensorrt_rtx", "1.7.1.116", Gpu("NVIDIA GeForce RTX 4090", "8.9"), host="any-os")


def why(made: Provenance, now: Target, *, graph: str = "a", engine: str = "b") -> str | None:
    return stale(made, now, graph_sha256=graph * 64, engine_sha256=engine * 64)


def test_stale__an_engine_that_fits_is_not() -> None:
    assert why(MADE, NOW) is None  # the build number of the library does not matter
    assert why(RTX, RTX_NOW) is None


def test_stale__says_why_in_one_sentence() -> None:
    cases: list[tuple[str | None, str]] = [
        (why(MADE, NOW, engine="c"), "the engine is damaged"),
        (why(MADE, NOW, graph="c"), "built from another model.fp16.onnx than the bundle has now"),
        (
            why(MADE, replace(NOW, version="10.16.2.11")),
            "built by TensorRT 10.16.1, and here is TensorRT 10.16.2",
        ),
        (
            why(MADE, replace(NOW, version="11.4.0")),
            "built by TensorRT 10.16.1, and here is TensorRT 11.4.0",
        ),
        (
            why(MADE, replace(NOW, module="tensorrt_rtx")),
            "built by TensorRT 10.16.1, and here is TensorRT-RTX 10.16.1",
        ),
        (
            why(MADE, replace(NOW, host="windows-amd64")),
            "built on linux-aarch64, and this is windows-amd64",
        ),
        (
            why(MADE, replace(NOW, gpu=Gpu("Thor", "11.0"))),
            "for compute capability 8.7, and this GPU is a Thor (compute capability 11.0)",
        ),
        (
            why(MADE, replace(NOW, gpu=Gpu("Orin Nano", "8.7"))),
            "for Orin (nvgpu), and this GPU is a Orin Nano (compute capability 8.7)",
        ),
    ]
    for found, expected in cases:
        assert found is not None
        assert expected in found
        assert found.startswith("the engine ")
        assert "\n" not in found


@pytest.mark.parametrize(
    ("listed", "capability", "fits"),
    [
        ((PORTABLE,), "8.0", True),
        ((PORTABLE,), "8.6", True),
        ((PORTABLE,), "12.0", True),  # a number, not a text: "12.0" < "8.0"
        ((PORTABLE,), "7.5", False),
        (("7.5",), "7.5", True),
        (("8.6", "8.9"), "8.9", True),
        (("8.6", "8.9"), "12.0", False),
    ],
)
def test_stale__an_engine_of_rtx_fits_the_capabilities_it_lists(
    listed: tuple[str, ...], capability: str, fits: bool
) -> None:
    now = replace(RTX_NOW, gpu=Gpu("any", capability))
    found = why(replace(RTX, capabilities=listed), now)
    assert (found is None) == fits
    if found is not None:
        assert f"for compute capability {', '.join(listed)}" in found


def test_host__names_system_and_processor() -> None:
    system, processor = host().split("-", 1)
    assert system
    assert processor == processor.lower()


texts = st.text(max_size=20)
made = st.builds(
    Provenance,
    module=texts,
    version=texts,
    gpu=st.none() | texts,
    capabilities=st.lists(texts, max_size=3).map(tuple),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    graph=texts,
    graph_sha256=texts,
    profile=st.tuples(*[st.integers(1, 64)] * 3),
    flags=st.dictionaries(texts, st.booleans() | st.integers()),
    engine_sha256=texts,
    host=texts,
    created=texts,
)


@given(made)
def test_provenance__comes_back_as_it_was(record: Provenance) -> None:
    assert Provenance.from_bytes(record.to_bytes(), Path("engine.json")) == record


@given(made, made)
def test_stale__never_fails_on_records_of_others(first: Provenance, second: Provenance) -> None:
    now = Target(second.module, second.version, Gpu(second.graph, second.host))
    found = stale(first, now, graph_sha256="", engine_sha256=first.engine_sha256)
    assert found is None or found.startswith("the engine ")


def test_provenance__is_read_from_beside_the_engine(tmp_path: Path) -> None:
    engine = tmp_path / "model.trt.fp16.engine"
    (tmp_path / sidecar(engine.name)).write_bytes(MADE.to_bytes())
    assert sidecar(engine.name) == "model.trt.fp16.engine.json"
    assert read_provenance(engine) == MADE


def test_provenance__fields_of_later_versions_are_left_out(tmp_path: Path) -> None:
    values = {**json.loads(MADE.to_bytes()), "colour": "red"}
    assert Provenance.from_bytes(json.dumps(values).encode(), tmp_path) == MADE


def test_provenance__of_an_unknown_schema_is_refused_kindly(tmp_path: Path) -> None:
    values = {**json.loads(MADE.to_bytes()), "schema": "chash.engine/2"}
    with pytest.raises(BundleError, match=r"'chash\.engine/2'.*'chash\.engine/1'") as caught:
        Provenance.from_bytes(json.dumps(values).encode(), tmp_path / "e.json")
    assert caught.value.where == str(tmp_path / "e.json")
    assert caught.value.hint is not None
    assert "pip install --upgrade concepthash" in caught.value.hint


def damaged() -> list[Any]:
    whole = json.loads(MADE.to_bytes())
    lacking = [{k: v for k, v in whole.items() if k != f.name} for f in fields(Provenance)]
    wrong = [
        {**whole, "profile": 3},
        {**whole, "profile": [1, 2]},
        {**whole, "profile": [1, 2, "many"]},
        {**whole, "capabilities": [8.6]},
        {**whole, "capabilities": None},
        {**whole, "version": 10},
    ]
    return [*lacking, *wrong]


@pytest.mark.parametrize("values", damaged())
def test_provenance__incomplete_is_an_error(values: Any) -> None:
    with pytest.raises(BundleError, match="damaged"):
        Provenance.from_bytes(json.dumps(values).encode(), Path("engine.json"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_provenance__damaged_is_an_error(content: bytes) -> None:
    with pytest.raises(BundleError, match="damaged"):
        Provenance.from_bytes(content, Path("engine.json"))


def test_provenance__missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing says what this engine was built for"):
        read_provenance(tmp_path / "model.trt.fp32.engine")
