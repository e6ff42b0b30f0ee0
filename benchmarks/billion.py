"""A billion codes of 64 bits on one machine: built in shards, opened, asked, cold and warm.

The shards are index files whose ids follow one another, so 8 GB in all; they are mapped and joined
into one index. ``--codes`` takes fewer; ``--tables one`` builds search tables for one shard only
(all need 17 GB more of disk, else they are left out); ``--keep`` leaves the files in ``--folder``.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks import costs
from benchmarks.report import interleaved, write
from concepthash.codes import CodeLayout
from concepthash.runtime import HammingIndex
from concepthash.runtime.segment import Segment
from concepthash.runtime.tables import Tables

LAYOUT = CodeLayout(64, 4)
K = 10
BATCHES = (1, 16, 64, 1024)
CENTRES = np.random.default_rng(12345).integers(0, 2**64, 200, dtype=np.uint64)
TWIN = 0x0123_4567_89AB_CDEF
"""A code that is in every shard twelve times, so that more than k are equal."""
TABLE_BYTES = 17.1
SPARE = 3 * 2**30
STEP = 1 << 20
WHAT = (
    "random: all bits; clustered: 200 random centres, each bit of a code flipped with probability "
    "1/16; cold: the files dropped from the page cache; memory: a thread reads all words with numpy"
)
Words = npt.NDArray[np.uint64]


def words(kind: str, count: int, seed: int) -> Words:
    rng = np.random.Generator(np.random.SFC64(seed))
    out = np.empty(count, dtype=np.uint64)
    for first in range(0, count, STEP):
        here = out[first : first + STEP]
        if kind == "random":
            here[:] = rng.integers(0, 2**64, len(here), dtype=np.uint64)
        else:
            flips = rng.integers(0, 2**64, (4, len(here)), dtype=np.uint64)
            centres = CENTRES[rng.integers(0, len(CENTRES), len(here))]
            np.bitwise_xor(centres, np.bitwise_and.reduce(flips), out=here)
    return out


def queries(kind: str, count: int) -> npt.NDArray[np.uint8]:
    return words(kind, count, seed=2**32).view(np.uint8).reshape(count, 8)


def build(folder: Path, kind: str, count: int, shards: int) -> tuple[list[Path], dict]:
    """Index files, one shard after another; never more than one of them in memory."""
    files, made, saved = [], 0.0, 0.0
    edges = [count * shard // shards for shard in range(shards + 1)]
    for shard, (low, high) in enumerate(pairwise(edges)):
        started = time.perf_counter()
        codes = words(kind, high - low, shard)
        codes[np.linspace(0, len(codes) - 1, 12).astype(int)] = TWIN
        made += time.perf_counter() - started
        segment = Segment(codes[None], range(low, high), sealed=True)
        files.append(folder / f"{kind}-{shard:02d}.chx")
        started = time.perf_counter()
        HammingIndex.of(LAYOUT, [segment], high - 1).save(files[-1])
        saved += time.perf_counter() - started
    size = sum(file.stat().st_size for file in files)
    return files, {"making_codes_seconds": made, "saving_seconds": saved, "bytes": size}


def opened(files: Sequence[Path]) -> HammingIndex:
    return HammingIndex.joined([HammingIndex.open(file) for file in files])


def drop(files: Sequence[Path]) -> None:
    """Of these files alone: from the page cache to the disk, where nobody has mapped them."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_all(files: Sequence[Path]) -> None:
    buffer = bytearray(8 << 20)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def read_memory(index: HammingIndex, threads: int) -> None:
    """The words of all codes, by as many threads: no search can be faster."""
    pieces = [part.planes[0] for part in index.parts()]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.bitwise_or.reduce, pieces))


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def cold(files: list[Path], also: list[Path], open_: Callable[[], HammingIndex], kind: str) -> dict:
    """Open and ask once, nothing of the files in memory; beside reading them from the disk."""
    taken: dict[str, list[float]] = {"open": [], "first_query": [], "reading": []}
    one = queries(kind, 1)
    for _ in range(3):
        drop([*files, *also])
        index: list[HammingIndex] = []
        taken["open"].append(timed(lambda index=index: index.append(open_())))
        taken["first_query"].append(timed(lambda index=index: index[0].search(one, K)))
        del index
        if not also:
            drop(files)
            taken["reading"].append(timed(lambda: read_all(files)))
    median = {f"cold_{name}_ms": statistics.median(v) * 1e3 for name, v in taken.items() if v}
    return {**median, "runs_ms": {name: [1e3 * t for t in v] for name, v in taken.items() if v}}


def row(kind: str, what: str, index: HammingIndex, batch: int, threads: int, taken: float) -> dict:
    """A line of the results."""
    values = {"codes": kind, "count": len(index), "search": what, "batch": batch}
    a_query = taken / batch
    values |= {"threads": threads, "ms_a_query": a_query * 1e3}
    return {**values, "ns_a_code_and_query": a_query / len(index) * 1e9}


def shown(values: dict) -> dict:
    print(values, flush=True)
    return values


def warm(index: HammingIndex, kind: str) -> Iterator[dict]:
    for threads in (1, 2):
        for batch in BATCHES:
            asked = queries(kind, batch)
            runs = {"search": lambda a=asked, t=threads: index.search(a, K, threads=t)}
            if batch == 1:
                runs["memory"] = lambda t=threads: read_memory(index, t)
            seconds = interleaved(runs, costs.repeats(len(index) * batch))
            values = row(kind, "scan", index, batch, threads, seconds["search"])
            if batch == 1:
                values["ratio_to_reading_memory"] = seconds["search"] / seconds["memory"]
            yield shown(values)


def beside_faiss(index: HammingIndex, kind: str, count: int) -> Iterator[dict]:
    """The largest part that fits into memory twice; medians of runs that take turns."""
    some, peer = costs.first_rows(index, count), faiss.IndexBinaryFlat(64)
    for part in some.parts():
        for low in range(0, len(part.ids), STEP):
            peer.add(part.planes[0, low : low + STEP].view(np.uint8).reshape(-1, 8))
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        for batch in (1, 16, 64):
            asked = queries(kind, batch)
            hits, (distances, _) = some.search(asked, K), peer.search(asked, K)
            assert np.array_equal(hits.distances, distances), "both are exact"
            runs = {
                "ours": lambda a=asked, t=threads: some.search(a, K, threads=t),
                "faiss": lambda a=asked: peer.search(a, K),
            }
            seconds = interleaved(runs, 3)
            values = row(kind, "scan", some, batch, threads, seconds["ours"])
            yield shown(values | {"ratio_to_faiss": seconds["faiss"] / seconds["ours"]})


def exact(index: HammingIndex, kind: str) -> int:
    """Compare with plain numpy over all codes, ids and ties included; how many queries did."""
    asked = np.append(words(kind, 7, 2**32), np.uint64(TWIN))
    hits = index.search(asked.view(np.uint8).reshape(-1, 8), K)
    nearest = [np.empty((0, 2), dtype=np.int64)] * len(asked)  # (distance, id)
    for part in index.parts():
        for low in range(0, len(part.ids), STEP):
            codes = part.planes[0, low : low + STEP]
            for q, query in enumerate(asked):
                distances = np.bitwise_count(codes ^ query)
                limit = nearest[q][-1, 0] if len(nearest[q]) == K else np.sort(distances)[:K][-1]
                rows = np.flatnonzero(distances <= limit)
                found = np.stack((distances[rows].astype(np.int64), part.ids[low] + rows), axis=1)
                both = np.concatenate((nearest[q], found))
                nearest[q] = both[np.lexsort((both[:, 1], both[:, 0]))][:K]
    for q, rows in enumerate(nearest):
        assert np.array_equal(rows, np.stack((hits.distances[q], hits.ids[q]), axis=1))
    assert (hits.distances[-1] == 0).all()
    assert hits.ids[-1, 0] == 0
    return len(asked)


def tables_of(files: Sequence[Path]) -> tuple[list[Path], dict]:
    """Search tables of some shards, each written beside it."""
    made, built, saved = [], 0.0, 0.0
    for file in files:
        index = HammingIndex.open(file)
        built += timed(index.accelerate)
        assert index.tables is not None
        made.append(file.with_suffix(".mih"))
        tables = index.tables
        saved += timed(lambda to=made[-1], of=tables: of.save(to, to.name))
        del index, tables
    size = sum(file.stat().st_size for file in made)
    return made, {"build_seconds": built, "saving_seconds": saved, "bytes": size}


def with_tables(files: Sequence[Path], tables: Sequence[Path]) -> HammingIndex:
    indexes = []
    for file, beside in zip(files, tables, strict=True):
        indexes.append(HammingIndex.open(file))
        indexes[-1].attach(Tables.open(beside, key=beside.name))
    return HammingIndex.joined(indexes)


def beside_scan(index: HammingIndex, plain: HammingIndex, kind: str) -> Iterator[dict]:
    """Searches with tables and scans of the same codes; equal answers."""
    for threads in (1, 2):
        for batch in (1, 16, 64):
            asked = queries(kind, batch)
            a, b = plain.search(asked, K), index.search(asked, K)
            assert np.array_equal(a.ids, b.ids)
            assert np.array_equal(a.distances, b.distances)
            runs = {
                "tables": lambda a=asked, t=threads: index.search(a, K, threads=t),
                "scan": lambda a=asked, t=threads: plain.search(a, K, threads=t),
            }
            seconds = interleaved(runs, costs.repeats(len(plain) * batch))
            values = row(kind, "tables", index, batch, threads, seconds["tables"])
            yield shown(values | {"ratio_to_scan": seconds["scan"] / seconds["tables"]})


def accelerated(files: list[Path], kind: str) -> tuple[list[dict], dict]:
    beside, built = tables_of(files)
    rows = list(beside_scan(with_tables(files, beside), opened(files), kind))
    built |= cold(files, beside, lambda: with_tables(files, beside), kind)
    for file in beside:
        file.unlink()
    return rows, built


def measure(folder: Path, kind: str, asked: argparse.Namespace) -> tuple[list[dict], dict]:
    files, built = build(folder, kind, asked.codes, asked.shards)
    values = {"build": built, "files": cold(files, [], lambda: opened(files), kind)}
    values["open_ms"] = statistics.median(timed(lambda: opened(files)) for _ in range(9)) * 1e3
    index = opened(files)
    assert len(index) == asked.codes
    values["queries_equal_to_numpy"] = exact(index, kind)
    rows = list(warm(index, kind))
    if kind == "random":
        rows += beside_faiss(index, kind, min(250_000_000, asked.codes // 4))
        sizes = [n for n in (10**6, 10**7, 10**8, 10**9) if n <= asked.codes]
        values["constants"] = costs.constants(costs.first_rows(index, min(10**7, asked.codes)))
        values["predictions"] = costs.predictions(index, sizes, values["constants"]["pair_ns"])
    del index
    found, values["tables_of_one_shard"] = accelerated(files[:1], kind)
    rows += found
    room = TABLE_BYTES * asked.codes + SPARE
    if asked.tables == "all" and shutil.disk_usage(folder).free < room:
        values["tables_of_all"] = f"left out: they need {room / 1e9:.0f} GB of disk"
    elif asked.tables == "all":
        found, values["tables_of_all"] = accelerated(files, kind)
        rows += found
    if not asked.keep:
        for file in files:
            file.unlink()
    return rows, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=1_000_000_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--kinds", default="random,clustered")
    parser.add_argument("--tables", choices=["one", "all"], default="all")
    parser.add_argument(
        "--folder", type=Path, help="where the files go; a temporary one by default"
    )
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    values: dict[str, object] = {"what": WHAT, "codes": asked.codes, "shards": asked.shards, "k": K}
    rows: list[dict] = []
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        values["gallery"] = costs.gallery_bytes(folder)
        values["by_bits"] = costs.by_bits(min(10_000_000, asked.codes))
        for kind in asked.kinds.split(","):
            found, values[kind] = measure(folder, kind, asked)
            rows += found
    write("billion", {**values, "rows": rows})


if __name__ == "__main__":
    main()
