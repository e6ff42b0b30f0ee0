"""Whole processes: ``chash --help``, and ``chash query`` on a gallery of drawn birds."""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import interleaved, write
from concepthash.bundle import newest

CHASH = Path(sys.executable).with_name("chash")


def run(*arguments: str | Path) -> None:
    result = subprocess.run([CHASH, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"chash {arguments}: {result.stderr}")


def main(gallery: str | None = None, photo: str | None = None) -> None:
    """Measure on ``gallery`` with ``photo``, or on the drawn birds of ``chash demo``."""
    with tempfile.TemporaryDirectory() as folder:
        found, name = gallery, "start"
        if found is None:
            run("demo", "--out", Path(folder) / "demo", "--epochs", "1")
            found = str(newest(Path(folder), "demo/*.chg"))
            photo = str(newest(Path(folder), "demo/**/queries/*.jpg"))
        else:
            name = "start_cub20"
        seconds = interleaved(
            {
                "python": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
                "import onnxruntime": lambda: subprocess.run(
                    [sys.executable, "-c", "import onnxruntime"], check=True
                ),
                "chash --help": lambda: run("--help"),
                "chash query": lambda: run("query", photo or "", "--gallery", found or ""),
            },
            repeats=9,
        )
    write(name, {"what": "median seconds of a whole process", "seconds": seconds})


if __name__ == "__main__":
    main(*sys.argv[1:])
