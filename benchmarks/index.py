"""``chash index`` against its parts: decoding alone, the model alone, and a peer's loader.

Run it with ``python -m benchmarks.index [BUNDLE] [PHOTOS]``. A peer that is installed for another
Python is measured too if ``CHASH_PEER_PYTHON`` names that one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.decode import camera_photo
from benchmarks.report import SHARED, interleaved, write
from concepthash.bundle import Bundle
from concepthash.decode import decode_batches, usable_cpus
from concepthash.images import find_images
from concepthash.runtime.backends import open_encoder
from concepthash.runtime.engine import Photo, digested
from concepthash.runtime.entries import Entry, IndexReport
from concepthash.runtime.hasher import CPU_BATCH, Hasher
from concepthash.runtime.indexing import index_images
from concepthash.runtime.rows import RowReader
from concepthash.runtime.sources import Place

REPEATS = 3
SMALL, LARGE = 640, 240

PEER = """
import importlib.metadata, json, sys, time
from rclip.main import RClip
print(importlib.metadata.version("rclip"), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    loader = RClip(None, None, job["batch"], None)
    loader._image_loading_workers = job["threads"]
    meta = {"modified_at": 0.0, "size": 0}
    started = time.perf_counter()
    count = sum(1 for _ in loader._load_images((path, meta) for path in job["paths"]))
    print(json.dumps([count, time.perf_counter() - started]), flush=True)
    loader.close()
"""


class Peer:
    """rclip's own loader (content hash, decode, prepare, in threads) in its Python."""

    def __init__(self) -> None:
        python = os.environ.get("CHASH_PEER_PYTHON", sys.executable)
        self._process = subprocess.Popen(
            [python, "-c", PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._line().strip()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def load(self, paths: list[Path], threads: int) -> None:
        assert self._process.stdin is not None
        job = {"paths": [str(path) for path in paths], "threads": threads, "batch": CPU_BATCH}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._line()
        count = json.loads(answer)[0] if answer else 0
        if count != len(paths):
            raise SystemExit(f"rclip loaded {count} of {len(paths)} photos")

    def close(self) -> None:
        self._process.communicate()


def large_photos(folder: Path) -> list[Path]:
    """Camera files of 12 megapixels: eight drawn birds, each file with a comment of its own."""
    birds = [camera_photo(seed, 3000, noise=4.0) for seed in range(8)]
    for number in range(LARGE):
        data = birds[number % len(birds)]
        comment = b"\xff\xfe\x00\x06%04d" % number
        (folder / f"{number:04d}.jpg").write_bytes(data[:2] + comment + data[2:])
    return sorted(folder.iterdir())


def measure(bundle: Bundle, kind: str, paths: list[Path], threads: int, peer: Peer) -> dict:
    hasher = Hasher(bundle, threads=threads)
    spec, size = hasher.preprocess, hasher.batch_size
    prepared = [b.pixels for b in decode_batches(paths, spec, batch_size=size, threads=threads)]
    encoder = open_encoder(bundle, threads=threads)
    reports: list[IndexReport] = []
    cpu: dict[str, list[float]] = {}

    def index() -> None:
        with tempfile.TemporaryDirectory() as folder:
            reports.append(index_images(paths, Path(folder) / "new.chg", hasher))

    def load() -> None:
        photos = (Photo(Entry(path), None, Place(str(path))) for path in paths)
        with closing(digested(photos, RowReader(), threads=threads)) as read:
            sources = (source for _, _, source in read if source is not None)
            deque(decode_batches(sources, spec, batch_size=size, threads=threads), maxlen=0)

    def counted(name: str, run: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            started = time.process_time()
            run()
            cpu.setdefault(name, []).append(time.process_time() - started)

        return timed

    runs: dict[str, Callable[[], object]] = {
        "decode": lambda: deque(
            decode_batches(paths, spec, batch_size=size, threads=threads), maxlen=0
        ),
        "model": lambda: [encoder.codes(pixels) for pixels in prepared],
        "index": index,
        "load": load,
    }
    runs = {name: counted(name, run) for name, run in runs.items()}
    if peer.version:
        runs["rclip load"] = lambda: peer.load(paths, threads)
    seconds = interleaved(runs, repeats=REPEATS)
    rate = {name: len(paths) / value for name, value in seconds.items()}
    slower = min(rate["decode"], rate["model"])
    work = threads / rate["decode"] + threads / rate["model"]
    reachable = min(slower, usable_cpus() / work)
    last = reports[-1]
    assert last.added == len(paths)
    encoder.close()
    return {
        "photos": kind,
        "count": len(paths),
        "threads": threads,
        "backend": hasher.backend,
        "photos_per_second": rate,
        "cpu_ms_per_photo": {n: min(values) / len(paths) * 1e3 for n, values in cpu.items()},
        "slower_of_both": slower,
        "one_after_the_other": threads / work,
        "reachable_on_these_cpus": reachable,
        "index_to_slower_of_both": rate["index"] / slower,
        "index_to_reachable": rate["index"] / reachable,
        "load_to_rclip": rate["load"] / rate["rclip load"] if peer.version else None,
        "bound_by": last.bound_by,
        "pace": last.pace,
    }


def main(bundle: str = "runs/cub20.chb", photos: str | None = None) -> None:
    opened, peer = Bundle.open(bundle), Peer()
    source = Path(photos) if photos else SHARED / "data" / "cub20" / "images"
    small = list(find_images([source]))[:SMALL]
    with tempfile.TemporaryDirectory() as folder:
        large = large_photos(Path(folder))
        rows = [
            measure(opened, kind, paths, threads, peer)
            for threads in (1, 2)
            for kind, paths in (("as given", small), ("12 megapixels", large))
        ]
    peer.close()
    write(
        "index",
        {
            "what": "photos a second into a fresh gallery, against decoding alone and the model "
            "alone; reachable: the slower of both, or, where both compete for the CPUs, these "
            "CPUs shared out between them; load: content hash and decoding, as rclip's loader",
            "model": opened.manifest.backbone,
            "batch": CPU_BATCH,
            "rclip": peer.version or "skipped: not installed here; set CHASH_PEER_PYTHON",
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
