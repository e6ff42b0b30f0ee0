"""The rules of the house: who may import whom, and what the light rooms must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "concepthash"

# room -> rooms of this package it may import; "" is the ground floor.
ALLOWED = {
    "": {""},
    "datasets": {"", "datasets"},
    "demo": {"", "demo"},
    "learn": {"", "datasets", "learn"},
    "runtime": {"", "datasets", "runtime"},
    "explain": {"", "runtime", "explain"},
    "export": {"", "datasets", "demo", "learn", "runtime", "export"},
    "gpu": {"", "runtime", "gpu"},
    "serve": {"", "runtime", "explain", "serve"},
    "cluster": {"", "datasets", "runtime", "explain", "serve", "cluster"},
    "cli": {
        *("", "datasets", "demo", "learn", "runtime", "explain", "export", "gpu", "serve"),
        *("cluster", "cli"),
    },
}
HEAVY = {"torch", "torchvision", "timm", "open_clip", "onnx", "onnxscript", "accelerate"}
LIGHT = ("", "datasets", "demo", "runtime", "explain", "serve", "cluster")


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else ""


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    assert len(found) > 30
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_room__imports_only_the_rooms_below_it(path: Path) -> None:
    if path.name == "__main__.py":
        return
    for name in imports(path):
        if name == "concepthash" or not name.startswith("concepthash."):
            continue
        target = name.split(".")[1]
        target = target if (PACKAGE / target).is_dir() else ""
        assert target in ALLOWED[room(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_room__never_imports_heavy_libraries(path: Path) -> None:
    if room(path) in LIGHT:
        assert not {name.split(".")[0] for name in imports(path)} & (HEAVY | {"typer"})
    if room(path) not in ("cluster", "cli"):
        assert "ray" not in {name.split(".")[0] for name in imports(path)}
    if room(path) == "cli":
        at_once = {name.split(".")[0] for name in imports(path, top_level=True)}
        assert not at_once & {*HEAVY, "numpy", "ray"}


@pytest.mark.parametrize("name", ["export", "runtime", "cli"])
def test_link__is_a_view_and_refuses_import(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert link.readlink() == Path("concepthash") / name
    result = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"import concepthash.{name}" in result.stderr


def test_runtime__loads_without_heavy_libraries() -> None:
    code = (
        "import sys, concepthash.runtime, concepthash.evaluation, concepthash.bundle\n"
        f"print(sorted(set(sys.modules) & {HEAVY | {'typer', 'onnxruntime'}!r}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
