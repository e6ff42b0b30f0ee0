"""How long ``chash atlas`` takes for 100,000 images, how much memory, how large the page is.

Needs ``../shared`` and a bundle (``--model``, by default ``runs/cub20.chb``). There are 1,185
photos of 20 birds; the gallery has each under 85 paths, with the code that the model gives it.
Those are hashed once, which is not part of the time. Real photos would have more different codes,
so a second gallery has 2 to 10 % of the bits of every code flipped: nearly all codes differ there,
which is the harder case for rooms and map (its rooms mean nothing, and the crops are not of these
codes).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.codes import FLIPPED
from benchmarks.report import SHARED, write
from concepthash.codes import Codes
from concepthash.files import sha256
from concepthash.images import find_images
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher

PHOTOS = SHARED / "data" / "cub20" / "images"
REPEATS = 3
COMMIT = 20_000


def entries(folder: Path, count: int) -> Iterator[Entry]:
    """Photos under as many paths as it takes, which are links to them."""
    photos = list(find_images([PHOTOS]))
    facts = [(photo.stat(), sha256(photo)) for photo in photos]
    for copy in range(-(-count // len(photos))):
        for photo, (stat, digest) in zip(photos, facts, strict=True):
            path = folder / str(copy) / photo.relative_to(PHOTOS)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(photo.resolve())
            yield Entry(path, path.parent.name, stat.st_size, stat.st_mtime_ns, digest)


def flipped(codes: Codes, bits: int) -> Codes:
    rng = np.random.default_rng(0)
    rate = rng.uniform(*FLIPPED, size=(len(codes), 1))
    return codes ^ np.packbits(rng.random((len(codes), bits)) < rate, axis=1)


def make(path: Path, hasher: Hasher, images: list[Entry], codes: Codes) -> None:
    with Gallery.create(
        path, layout=hasher.layout, fingerprint=hasher.fingerprint, model=hasher.name
    ) as gallery:
        for first in range(0, len(images), COMMIT):
            some = slice(first, first + COMMIT)
            gallery.add(images[some], codes[some])


def run(gallery: Path, model: Path, out: Path) -> dict[str, float]:
    """One run of the program, from start to end."""
    command = [sys.executable, "-m", "concepthash", "atlas", gallery, "--model", model]
    with tempfile.TemporaryFile("w+") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            [*map(str, command), "--out", str(out), "--json"],
            stdout=said,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        assert os.waitstatus_to_exitcode(status) == 0
        said.seek(0)
        value = json.load(said)
    shown = {
        crop["id"]
        for concept in value["concepts"]
        for room in concept["rooms"]
        for crop in room["crops"]
    }
    return {
        "seconds": seconds,
        "peak_mb": used.ru_maxrss / 1e3,
        "page_mb": value["bytes"] / 1e6,
        "photos_read": len(shown),
        "crops": sum(len(r["crops"]) for c in value["concepts"] for r in c["rooms"]),
        "values_in_use": statistics.fmean(c["values"] for c in value["concepts"]),
        "points_on_map": value["map"]["points"],
        "stress": value["map"]["stress"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("runs/cub20.chb"))
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    asked = parser.parse_args()
    hasher = Hasher(asked.model)
    photos = list(find_images([PHOTOS]))
    started = time.perf_counter()
    own = np.stack([hashed.code for hashed in hasher.hash(photos, strict=True)])
    hashing = time.perf_counter() - started
    rows = {}
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        images = list(islice(entries(folder, asked.images), asked.images))
        codes = own[np.arange(asked.images) % len(own)]
        for kind, given in (("real", codes), ("flipped", flipped(codes, hasher.layout.bits))):
            path = folder / f"{kind}.chg"
            make(path, hasher, images, given)
            runs = [run(path, asked.model, folder / "page.html") for _ in range(asked.repeats)]
            rows[kind] = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
            print(kind, rows[kind], file=sys.stderr, flush=True)
    write(
        "atlas",
        {
            "what": f"chash atlas of {asked.images:,} images, start of the process to its end; "
            f"medians of {asked.repeats}. real: {len(own):,} photos under many paths with their "
            "codes; flipped: 2 to 10 % of the bits of each code flipped, so that nearly all differ",
            "images": asked.images,
            "photos": len(own),
            "seconds_to_hash_the_photos_once": hashing,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
