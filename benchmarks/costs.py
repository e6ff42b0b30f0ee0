"""What a search costs: constants measured at one size, and how well they tell the time at others.

    milliseconds = W * n * q * pair(q) * (1 + a_term * (T - 1)) / speedup(threads)

n codes of W = ceil(K / 64) words, q queries asked together, T different weights above 0; pair(q) is
how long a code, word and query take.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.codes import random_codes
from benchmarks.report import interleaved
from concepthash.codes import CodeLayout
from concepthash.runtime import Gallery, HammingIndex
from concepthash.runtime.entries import Entry
from concepthash.runtime.planes import cut
from concepthash.runtime.segment import Segment

K = 10
BATCHES = (1, 4, 16, 64, 1024)
BITS = (16, 32, 64, 128, 256, 512)
IMAGES = 300_000


def repeats(pairs: float) -> int:
    """How often to run what compares so many codes with queries."""
    return 9 if pairs < 1e9 else 5 if pairs < 1e10 else 3 if pairs < 3e11 else 1


def first_rows(index: HammingIndex, count: int) -> HammingIndex:
    """An index of the first rows of another, not copied, without its tables."""
    parts = cut(index.parts(), 0, count)
    segments = [Segment(part.planes, part.ids, sealed=True) for part in parts]
    return HammingIndex.of(index.layout, segments, count - 1)


def seconds(index: HammingIndex, batches: Sequence[int], **arguments: object) -> dict[int, float]:
    """Of one search of each batch, a median; the batches take turns."""
    queries = random_codes(max(batches), index.bits, seed=1)
    pairs = len(index) * max(batches)
    runs = {
        str(batch): lambda asked=queries[:batch]: index.search(asked, K, **arguments)
        for batch in batches
    }
    return {int(name): value for name, value in interleaved(runs, repeats(pairs)).items()}


def constants(index: HammingIndex) -> dict[str, object]:
    """Of 64-bit codes and one thread; what weights, threads and k change."""
    n = len(index)
    pair = {q: t / n / q * 1e9 for q, t in seconds(index, BATCHES, threads=1).items()}
    two = {q: t / n / q * 1e9 for q, t in seconds(index, BATCHES, threads=2).items()}
    weighed = seconds(index, (64,), threads=1, weights=[1, 2, 3, 4])[64] / n / 64 * 1e9
    query = random_codes(1, index.bits, seed=1)
    deep = interleaved(
        {str(k): lambda k=k: index.search(query, k, threads=1) for k in (1, 10, 100, 1000)}, 9
    )
    return {
        "codes": n,
        "pair_ns": pair,
        "a_term": (weighed / pair[64] - 1) / 3,
        "speedup_of_two_threads": {q: pair[q] / two[q] for q in pair},
        "one_query_ms_by_k": {k: t * 1e3 for k, t in deep.items()},
    }


def by_bits(count: int) -> list[dict[str, object]]:
    """Nanoseconds a code and query for codes of other lengths; tables of each, and their room."""
    rows = []
    for bits in BITS:
        index = HammingIndex(bits, bits // 16)
        index.add(random_codes(count, bits))
        taken = seconds(index, (1, 64), threads=1)
        started = time.perf_counter()
        index.accelerate(threads=1)
        built = time.perf_counter() - started
        assert index.tables is not None
        rows.append(
            {
                "bits": bits,
                "bytes_a_code": 8 * -(-bits // 64),
                "one_query_ns_a_code": taken[1] / count * 1e9,
                "of_64_ns_a_code": taken[64] / count / 64 * 1e9,
                "table_bytes_a_code": index.tables.nbytes / count,
                "table_build_ns_a_code": built / count * 1e9,
            }
        )
        print(rows[-1], flush=True)
    return rows


def predictions(index: HammingIndex, counts: Sequence[int], pair: dict[int, float]) -> list[dict]:
    """What the constants say of other sizes, beside what those take; one thread."""
    rows = []
    for count in counts:
        some = first_rows(index, count)
        batches = BATCHES if count <= 100_000_000 else BATCHES[:-1]
        for batch, taken in seconds(some, batches, threads=1).items():
            told = count * batch * pair[batch] / 1e9
            rows.append(
                {
                    "codes": count,
                    "batch": batch,
                    "ms_a_query": taken / batch * 1e3,
                    "told_ms_a_query": told / batch * 1e3,
                    "error": told / taken - 1,
                }
            )
            print(rows[-1], flush=True)
    return rows


def gallery_bytes(folder: Path, images: int = IMAGES) -> dict[str, object]:
    """Bytes an image of the database of a gallery, with paths as cameras and archives make them."""
    rng = np.random.default_rng(0)
    sizes, days = rng.integers(10**5, 10**7, images), rng.integers(1, 29, images)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "photos.chg"
        new = Gallery.create(path, layout=CodeLayout(64, 4), fingerprint="0" * 64, model="none")
        length = 0
        with new as gallery:
            for first in range(0, images, 10_000):
                entries = []
                for n in range(first, min(first + 10_000, images)):
                    day = f"2024{n % 12 + 1:02d}{days[n]:02d}"
                    name = f"photos/camera-{n % 40:02d}/{day[:4]}/{day[4:6]}/IMG_{day}_{n:07d}.jpg"
                    sha256 = rng.bytes(32).hex()
                    time_ns = 1_700_000_000_000_000_000 + n
                    file = Path(place) / name
                    entries.append(
                        Entry(file, f"species {n % 555}", int(sizes[n]), time_ns, sha256)
                    )
                    length += len(name)
                gallery.add(entries, random_codes(len(entries), seed=first))
        with Gallery.open(path, write=True):
            pass
        files = {name: (path / name) for name in ("gallery.sqlite", "gallery.sqlite-wal")}
        database = sum(file.stat().st_size for file in files.values() if file.exists())
        codes = sum(file.stat().st_size for file in (path / "segments").iterdir())
    return {
        "images": images,
        "path_bytes": length / images,
        "database_bytes_an_image": database / images,
        "code_bytes_an_image": codes / images,
    }
