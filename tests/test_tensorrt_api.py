"""Every attribute of TensorRT that is used exists in 10.16, in 11.4 and in TensorRT-RTX."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from tensorrt_fakes import CROP, LISTING, VERSIONS, FakeTensorRT, listing

import concepthash.runtime.tensorrt as room
from concepthash.errors import BundleError
from concepthash.runtime.tensorrt import BuildOptions, Cuda, build_engine, open_engine

# On objects of ours, of numpy or of the standard library, though TensorRT has them somewhere too.
OTHERS = {"engine", "itemsize"}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Class and attribute of all that building and running use, recorded by the fakes."""
    folder = tmp_path_factory.mktemp("api")
    graph = folder / "model.onnx"
    found: set[tuple[str, str]] = set()
    for name in ("tensorrt", "tensorrt_rtx"):
        trt: Any = FakeTensorRT("11.4", name=name)
        trt.listing = {}  # record first, compare below
        trt.memory = FakeCudart()
        cuda = Cuda(trt.memory, 0)
        capabilities = ("8.6",) if name == "tensorrt_rtx" else ()
        options = BuildOptions(timing_cache=folder / name, capabilities=capabilities)
        graph.write_bytes(b"errors 1")
        with pytest.raises(BundleError):
            build_engine(trt, graph, precision="fp32", cuda=cuda)
        graph.write_bytes(b"ours")
        built = build_engine(trt, graph, precision="fp32", cuda=cuda, options=options)
        encoder = open_engine(built.engine, trt=trt, cuda=cuda, precision="fp32")
        encoder.run(np.zeros((3, CROP, CROP, 3), np.uint8))
        encoder.close()
        found |= trt.used
    return found


@pytest.mark.skipif(not LISTING.is_file(), reason="needs NVIDIA's listing of both versions")
@pytest.mark.parametrize("version", VERSIONS)
def test_api__every_attribute_exists(used: set[tuple[str, str]], version: str) -> None:
    classes = listing(version)
    checked = {(real, name) for real, name in used if real in classes}
    assert len(checked) > 25
    only_rtx = {"num_compute_capabilities", "set_compute_capability"}
    missing = {(real, name) for real, name in checked if name not in classes[real]}
    assert {name for _, name in missing} == only_rtx


def test_api__every_attribute_exists_in_rtx(used: set[tuple[str, str]]) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    assert len(used) > 40
    for real, name in used:
        assert hasattr(getattr(rtx, real), name), f"{real}.{name}"


def test_api__the_record_is_complete(used: set[tuple[str, str]]) -> None:
    """No attribute of TensorRT in our sources went unseen by the test above."""
    rtx = pytest.importorskip("tensorrt_rtx")
    known = {name for real in {real for real, _ in used} for name in dir(getattr(rtx, real))}
    written = {
        node.attr
        for file in Path(room.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and not node.attr.startswith("_")
    }
    assert len(written & known) > 25
    assert written & known <= {name for _, name in used} | OTHERS
