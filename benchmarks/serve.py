"""``chash serve`` on loopback: queries by code in a gallery of a million, queries by photo.

``python -m benchmarks.serve [BUNDLE] [PHOTOS]``; client and server share the processors. By photo
the bound is what the model does alone: ``Hasher.hash`` over the same encoded photos, in turns with
the server.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.codes import WHAT, clustered_codes
from benchmarks.gallery import make
from benchmarks.load import load, memory, request, server
from benchmarks.report import SHARED, write
from concepthash.bundle import Bundle
from concepthash.images import find_images
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher

CODES = 1_000_000
RATES = (1000, 2000, 3000)
SECONDS, ROUNDS = 10.0, 5
PRECISION = "int8"
PHOTOS = 200
CLIENTS = 16
COMMITS, PAUSE = 2, 3.0


def commit(gallery: Path) -> None:
    """Add one image at a time, with a pause between."""
    with Gallery.open(gallery, write=True) as opened:
        for number in range(COMMITS):
            time.sleep(PAUSE)
            sha256 = f"{number:064x}"
            entry = Entry(gallery.parent / f"{sha256}.jpg", "bird", 1, 1, sha256)
            opened.add([entry], np.zeros((1, opened.layout.nbytes), np.uint8))


def while_it_grows(url: str, requests: list[bytes], gallery: Path) -> dict[str, object]:
    """Queries while another process commits to the gallery, and the server takes that up."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        committed = pool.submit(commit, gallery)
        answers = asyncio.run(load(url, requests, seconds=SECONDS, connections=64, rate=RATES[1]))
        committed.result()
    return {"commits": COMMITS, **answers}


def main(bundle: str, photos: str) -> None:
    opened = Bundle.open(bundle)
    some = sorted(find_images([photos]))
    pictures = [path.read_bytes() for path in some[:: max(1, len(some) // PHOTOS)][:PHOTOS]]
    by_photo = [request("POST", "/v1/query?k=10", data, "image/jpeg") for data in pictures]
    by_code = [
        request("POST", "/v1/query", json.dumps({"code": code.tobytes().hex(), "k": 10}).encode())
        for code in clustered_codes(5000, seed=99)
    ]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        gallery = make(Path(folder), CODES, fingerprint=opened.manifest.fingerprint)
        with server(gallery, "--model", bundle, "--precision", PRECISION) as (url, process):
            asyncio.run(load(url, by_code, seconds=2, connections=CLIENTS))
            before = memory(process)
            codes = [
                asyncio.run(load(url, by_code, seconds=SECONDS, connections=64, rate=rate))
                for rate in RATES
            ]
            codes.append(asyncio.run(load(url, by_code, seconds=SECONDS, connections=CLIENTS)))
            growing = while_it_grows(url, by_code, gallery)
            served, alone, answers = [], [], []
            for _ in range(ROUNDS):
                answers.append(
                    asyncio.run(load(url, by_photo, seconds=SECONDS, connections=CLIENTS))
                )
                served.append(answers[-1]["answers_per_second"])
                hasher = Hasher(opened, precision=PRECISION)
                started = time.perf_counter()
                count = sum(hashed.code is not None for hashed in hasher.hash(pictures))
                alone.append(count / (time.perf_counter() - started))
                del hasher
            after = memory(process)
    write(
        "serve",
        {
            "what": "queries over HTTP on loopback, ten hits each; the client shares the CPUs",
            "model": opened.manifest.name,
            "precision": PRECISION,
            "codes": CODES,
            "kind_of_codes": WHAT,
            "by_code": codes,
            "by_code_while_it_grows": growing,
            "by_photo": {
                "photos": len(pictures),
                "kilobytes_a_photo": round(float(np.mean([len(p) for p in pictures])) / 1e3, 1),
                "connections": CLIENTS,
                "served_per_second": round(statistics.median(map(float, served)), 1),
                "hasher_alone_per_second": round(statistics.median(alone), 1),
                "ratio": round(statistics.median(map(float, served)) / statistics.median(alone), 3),
                "rounds": answers,
            },
            "memory": {"before": before, "after": after},
        },
    )


if __name__ == "__main__":
    photos = SHARED / "data" / "cub20" / "images"
    given = sys.argv[1:]
    main(given[0] if given else "runs/cub20.chb", given[1] if len(given) > 1 else str(photos))
