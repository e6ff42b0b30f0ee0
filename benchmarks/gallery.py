"""How long a gallery takes to open, and to answer one query, at sizes up to 100 million images.

Codes are committed as ``chash index`` commits them. The records of the images (a path, a content
hash) are then made by one SQL statement a commit, because a hundred million photos are not at hand.
``--images`` sets the sizes; 100 million take about 15 GB of disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.codes import WHAT, clustered_codes
from benchmarks.report import write
from concepthash.codes import CodeLayout
from concepthash.runtime import Gallery, records

COMMIT = 1_000_000
REPEATS = 9

IMAGES = """
    WITH RECURSIVE numbers(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
    INSERT INTO images (id, path, label, size, mtime_ns, sha256)
    SELECT n, printf('%010d.jpg', n), 'bird', 1, 1, CAST(printf('%032d', n) AS BLOB) FROM numbers
"""


def make(folder: Path, count: int, *, fingerprint: str = "0" * 64) -> Path:
    path = folder / f"{count}.chg"
    layout = CodeLayout(64, 4)
    with Gallery.create(path, layout=layout, fingerprint=fingerprint, model="none") as gallery:
        for first in range(1, count + 1, COMMIT):
            rows = min(COMMIT, count + 1 - first)
            batches = gallery._files.append(
                clustered_codes(rows, seed=first),
                first_id=first,
                last=records.last_batch(gallery._database, gallery._file),
                last_segment=gallery._last_segment(),
            )
            with gallery.transaction() as database:
                database.execute(IMAGES, (first, first + rows - 1))
                records.write_batches(database, batches)
    return path


def measure(path: Path, count: int) -> dict[str, object]:
    query = clustered_codes(1, seed=0)
    opened, answered, named = [], [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        with Gallery.open(path) as gallery:
            index = gallery.index()
            opened.append(time.perf_counter() - started)
            assert len(gallery) == len(index) == count
            started = time.perf_counter()
            hits = index.search(query, k=10)
            answered.append(time.perf_counter() - started)
            started = time.perf_counter()
            names = [gallery.entry(int(id)).path.name for id in hits.ids[0]]
            named.append(time.perf_counter() - started)
            assert names == [f"{id:010d}.jpg" for id in hits.ids[0]]
    return {
        "open_ms": statistics.median(opened) * 1e3,
        "first_query_ms": statistics.median(answered) * 1e3,
        "ten_records_ms": statistics.median(named) * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="1000000,100000000")
    rows = []
    for count in map(int, parser.parse_args().images.split(",")):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = make(Path(folder), count)
            before = measure(path, count)
            with Gallery.open(path, write=True) as gallery:
                started = time.perf_counter()
                gallery.accelerate()
                built = time.perf_counter() - started
            rows.append(
                {
                    "images": count,
                    **before,
                    "accelerate_seconds": built,
                    "accelerated": measure(path, count),
                    "code_bytes_an_image": sum(
                        file.stat().st_size for file in (path / "segments").iterdir()
                    )
                    / count,
                }
            )
            print(rows[-1], flush=True)
    what = "a gallery of 64-bit codes in the page cache, from open to an index that can be asked"
    write("gallery", {"what": f"{what}; {WHAT}; medians of {REPEATS}", "rows": rows})


if __name__ == "__main__":
    main()
