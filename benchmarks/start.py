"""Whole processes: ``chash --help`` and ``chash query``, and the stages of a query.

``python -m benchmarks.start`` measures on the drawn birds of ``chash demo``;
``python -m benchmarks.start BUNDLE`` on CUB-20, which lies outside the project.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import SHARED, interleaved, write
from concepthash.bundle import newest

CHASH = Path(sys.executable).with_name("chash")
REPEATS = 15
PHOTOS = SHARED / "data" / "cub20" / "images"

STAGES = """
import json, sys, time
times, last = {}, time.perf_counter()

def stage(name):
    global last
    now = time.perf_counter()
    times[name], last = now - last, now

import concepthash.cli.query, concepthash.cli.main; stage("import the command line")
import numpy; stage("import numpy")
import concepthash.images; stage("import Pillow")
import concepthash.cli.answers; stage("import the rest of ours")
from concepthash.runtime.gallery import Gallery
gallery = Gallery.open(sys.argv[1]); stage("open the gallery")
from concepthash.quiet import import_onnxruntime
import_onnxruntime(); stage("import ONNX Runtime")
from concepthash.bundle import Bundle
from concepthash.runtime.backends import open_encoder
bundle = Bundle.open(sys.argv[2])
encoder = open_encoder(bundle, device="cpu"); stage("load the graph and verify it")
pixels = bundle.manifest.preprocess(sys.argv[3]); stage("decode the photo")
codes = encoder.codes(pixels[None]); stage("compute its code")
gallery.index().search(codes, k=10); stage("search")
print(json.dumps(times))
"""


def run(*arguments: str | Path, environment: dict[str, str]) -> str:
    result = subprocess.run(
        [*map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode:
        raise SystemExit(f"{arguments}: {result.stderr}")
    return result.stdout


def main(bundle: str | None = None) -> None:
    """Measure with ``bundle`` on CUB-20, or on the drawn birds."""
    with tempfile.TemporaryDirectory() as folder:
        # As after an installation: compiled modules are there, wherever this one writes them.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        name = "start" if bundle is None else "start_cub20"
        if bundle is None:
            made = Path(folder) / "demo"
            run(CHASH, "demo", "--out", made, "--epochs", "1", environment=environment)
            gallery, bundle = newest(made, "*.chg"), str(newest(made, "*.chb"))
            photo = newest(made, "**/queries/*.jpg")
        else:
            gallery = Path(folder) / "cub20.chg"
            run(
                CHASH, "index", PHOTOS, "--model", bundle, "--out", gallery, environment=environment
            )
            photo = min(PHOTOS.rglob("*.jpg"))
        assert gallery is not None
        assert photo is not None
        query = (CHASH, "query", photo, "--gallery", gallery, "--model", bundle)
        processes = {
            "python": (sys.executable, "-c", "pass"),
            "import onnxruntime": (
                sys.executable,
                "-c",
                "from concepthash.quiet import import_onnxruntime; import_onnxruntime()",
            ),
            "chash --help": (CHASH, "--help"),
            "chash query": query,
        }
        seconds = interleaved(
            {
                name: lambda command=command: run(*command, environment=environment)
                for name, command in processes.items()
            },
            repeats=REPEATS,
        )
        staged = (sys.executable, "-c", STAGES, gallery, bundle, photo)
        run(*staged, environment=environment)
        taken = [json.loads(run(*staged, environment=environment)) for _ in range(REPEATS)]
        stages = {name: statistics.median(times[name] for times in taken) for name in taken[0]}
        size = (Path(bundle) / "model.onnx").stat().st_size
    values = {
        "what": "median seconds of a whole process, and of the stages of a query within one",
        "bundle": {"name": Path(bundle).stem, "model_bytes": size},
        "seconds": seconds,
        "stages": stages,
    }
    write(name, values)


if __name__ == "__main__":
    main(*sys.argv[1:])
