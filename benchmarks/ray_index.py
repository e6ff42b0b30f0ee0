"""``chash index`` with ``--engine ray`` against the plain command, whole commands, on one machine.

Run it with ``python -m benchmarks.ray_index [BUNDLE] [PHOTOS] [REPEATS]``; few photos show the
overhead, many the throughput. The photos are those of CUB-20, each several times with a comment of
its own, so that no content is there twice.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import count
from pathlib import Path

from benchmarks.report import SHARED, write
from concepthash.bundle import Bundle
from concepthash.decode import usable_cpus
from concepthash.images import find_images
from concepthash.runtime.galleries import open_gallery

MANY = 10_000
REPEATS = 2
WORKERS = (1, 2)


def distinct(sources: list[Path], folder: Path, wanted: int) -> None:
    """``wanted`` JPEG files: each of ``sources`` in turn, with its number as a comment."""
    numbers = count()
    while True:
        for source in sources:
            number = next(numbers)
            if number == wanted:
                return
            data = source.read_bytes()
            if data[:2] != b"\xff\xd8":
                raise SystemExit(f"{source} is no JPEG file")
            file = folder / source.parent.name / f"{number:06d}.jpg"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(data[:2] + b"\xff\xfe\x00\x08%06d" % number + data[2:])


def indexed(photos: Path, gallery: Path, bundle: Path, workers: int) -> dict:
    """One run of the command, in a process of its own; no workers: the plain one."""
    cluster = (
        ["--engine", "ray", "--workers", workers, "--cpus-per-worker", usable_cpus() / workers]
        if workers
        else []
    )
    arguments = [photos, "--model", bundle, "--out", gallery, "--json", *cluster]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "concepthash", "index", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "command_seconds": seconds}


def content(gallery: Path) -> Iterator[tuple]:
    """Name, label, digest and code of each image, by name."""
    with open_gallery(gallery) as opened:
        for entry in sorted(opened.entries(), key=lambda entry: entry.path):
            name = (entry.path.name, entry.label, entry.sha256)
            yield (*name, opened.code(entry.id).tobytes())


def row(runs: list[dict], plain: list[dict]) -> dict:
    """The medians of one way to run it."""

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    photos = runs[0]["added"]
    seconds = median(run["command_seconds"] for run in runs)
    rate = photos / seconds
    values = {
        "engine": runs[0]["engine"],
        "workers": runs[0].get("workers"),
        "command_seconds": seconds,
        "photos_per_second": rate,
        "to_plain": rate * median(run["command_seconds"] for run in plain) / photos,
    }
    if "overhead" in runs[0]:
        start, first = (
            median(run["overhead"][name] for run in runs) for name in ("start", "first_photo")
        )
        working = median(run["seconds"] for run in runs)
        end = median(
            run["command_seconds"] - run["seconds"] - run["overhead"]["start"] for run in runs
        )
        values["overhead_seconds"] = {
            "cluster_start": start,
            "first_photos_back": first,
            "process_start_and_shutdown": end,
        }
        values["working_to_plain"] = median(run["seconds"] for run in plain) / working
    return values


def main(bundle: str = "runs/cub20.chb", photos: str = str(MANY), repeats: str = str(REPEATS)):
    sources = list(find_images([SHARED / "data" / "cub20" / "images"]))
    runs: dict[int, list[dict]] = {workers: [] for workers in (0, *WORKERS)}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        distinct(sources, folder, int(photos))
        for turn in range(int(repeats)):
            for workers, done in runs.items():
                gallery = Path(name) / f"{turn}-{workers}.chg"
                done.append(indexed(folder, gallery, Path(bundle), workers))
                if done[-1]["added"] != int(photos):
                    raise SystemExit(f"{done[-1]['added']} of {photos} photos were indexed")
                first = Path(name) / "0-0.chg"
                equal = equal and list(content(gallery)) == list(content(first))
    write(
        "ray_index",
        {
            "what": "whole commands, medians of interleaved runs into fresh galleries; to_plain: "
            "photos a second against the plain command; working_to_plain: without the start and "
            "end of Python and Ray, but with first_photos_back: workers start, load the model and "
            "hash the photos they are given at once, 256 at most",
            "model": Bundle.open(bundle).manifest.backbone,
            "photos": int(photos),
            "repeats": int(repeats),
            "ray": version("ray"),
            "galleries_equal": equal,
            "rows": [row(done, runs[0]) for done in runs.values()],
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
