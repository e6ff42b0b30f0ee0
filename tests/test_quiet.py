"""Libraries that report to their makers: imported in one place, where they are kept quiet."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import concepthash

ROOT = Path(concepthash.__file__).parent
REPORTS = """
import sys
seen = []
sys.addaudithook(lambda name, _: seen.append(name) if name.startswith("socket.") else None)
from concepthash import quiet
getattr(quiet, sys.argv[1])()
print(sorted(set(seen)), "openvino_telemetry" in sys.modules)
"""


@pytest.mark.parametrize("name", ["import_onnxruntime", "import_openvino"])
def test_quiet__nothing_is_sent_and_nothing_left_behind(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name.removeprefix("import_"))
    environment = {"HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", REPORTS, name],
        env=environment,
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "[] False", result.stderr
    assert not list(tmp_path.rglob("*"))


def test_quiet__is_the_only_way_in() -> None:
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        hidden = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            loud = {name.split(".")[0] for name in names} & {"onnxruntime", "openvino"}
            assert not loud or id(node) in hidden or path.name == "quiet.py", path
