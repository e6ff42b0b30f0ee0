"""What ``chash query`` loads, as a process of its own: the modules behind its first answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_entry import photos
from tiny_bundle import tiny_bundle

from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images

QUERY = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from concepthash.cli.main import run
run()
"""
NEEDLESS = {
    "accelerate", "faiss", "matplotlib", "onnx", "open_clip", "openvino", "openvino_telemetry",
    "pyarrow", "rich.console", "scipy", "sklearn", "tensorrt", "tensorrt_rtx", "timm", "torch",
    "triton", "urllib.request",
}  # fmt: skip
ROOMS = ("cli", "datasets", "runtime")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, photos and their gallery."""
    folder = tmp_path_factory.mktemp("place")
    bundle = tiny_bundle(folder)
    index_images([photos(folder / "photos")], folder / "a.chg", Hasher(bundle, threads=1))
    return folder


def loaded(place: Path, *options: str) -> set[str]:
    """The modules of a process that has answered."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHASH_")}
    result = subprocess.run(
        [sys.executable, "-c", QUERY, "query", "photos/a/0.png", "--format", "paths", *options],
        cwd=place,
        env={**environment, "HOME": str(place / "home")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].endswith("0.png")
    return set(result.stderr.splitlines()[-1].split())


def test_query__loads_only_what_it_answers_with(place: Path) -> None:
    modules = loaded(place)
    assert "onnxruntime" in modules
    assert not modules & NEEDLESS
    ours = {name.split(".")[1] for name in modules if name.startswith("concepthash.")}
    packages = {name for name in ours if any(m.startswith(f"concepthash.{name}.") for m in modules)}
    assert packages <= set(ROOMS)
    assert not any(name.startswith("concepthash.runtime.tensorrt") for name in modules)
    assert "concepthash.runtime.openvino" not in modules


def test_query__leaves_nothing_in_the_home_of_the_user(place: Path) -> None:
    (place / "home").mkdir(exist_ok=True)
    loaded(place)
    assert not list((place / "home").rglob("*"))


def test_query__another_back_end_loads_no_onnx_runtime(place: Path) -> None:
    pytest.importorskip("openvino")
    from concepthash.bundle import Artifact, Bundle, extend_bundle

    extend_bundle(
        Bundle.open(place / "tiny-0.chb"), {}, [Artifact("openvino", "fp32", "model.onnx")]
    )
    (place / "home").mkdir(exist_ok=True)
    modules = loaded(place, "--backend", "openvino")
    assert "openvino" in modules
    assert not modules & {"onnxruntime", "openvino_telemetry"}
    assert not list((place / "home").rglob("*"))
