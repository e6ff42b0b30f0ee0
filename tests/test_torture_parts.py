"""Each part of ``make torture`` for a moment, so that it still runs and still finds nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("msgspec", reason="the extra serve is not installed")

ROOT = Path(__file__).parents[1]
PART = """
import json, random, sys
from importlib import import_module
from pathlib import Path
module = import_module(f"benchmarks.torture.{sys.argv[1]}")
part = module.run(float(sys.argv[2]), random.Random(7), Path(sys.argv[3]))
print(json.dumps([part.figures, part.failures]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize(
    ("name", "seconds", "figure"),
    [("images", 1, "accepted"), ("artefacts", 0, "cases"), ("paths", 0, "cases"),
     ("memory", 1, "searches")],
)  # fmt: skip
def test_torture__a_part_runs_and_finds_nothing(
    tmp_path: Path, name: str, seconds: int, figure: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PART, name, str(seconds), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures, failures = json.loads(done.stdout.splitlines()[-1])
    assert failures == []
    assert figures[figure] > 10
