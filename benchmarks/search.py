"""The exact scan beside faiss IndexBinaryFlat: equal answers checked in the same run.

``--codes`` limits how many codes are searched, so that a small machine can run it.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import faiss
import numpy as np

from benchmarks.codes import random_codes
from benchmarks.report import interleaved, write
from concepthash.runtime import HammingIndex, native

MILLION = 1_000_000
# A random hit is seldom nearer than the k-th by chance, so that ties abound: order is tested too.
K = 10


@contextmanager
def forced(path: str) -> Iterator[None]:
    os.environ[native.VARIABLE] = path
    try:
        yield
    finally:
        del os.environ[native.VARIABLE]


def on(path: str, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with forced(path):
            return run()

    return call


def repeats(pairs: float) -> int:
    return 15 if pairs < 2e9 else 5 if pairs < 2e10 else 3


def check(index: HammingIndex, peer: faiss.IndexBinaryFlat, queries: np.ndarray) -> None:
    """Distances as faiss has them; ids too, where its order of ties does not hide them."""
    hits, (distances, ids) = index.search(queries, K, threads=1), peer.search(queries, K)
    assert np.array_equal(hits.distances, distances), "both are exact"
    for ours, theirs, d in zip(hits.ids, ids, hits.distances, strict=True):
        sure = d < d[-1]  # ties at the last place are cut by faiss in another order
        assert set(ours[sure]) == set(theirs[sure])
    order = [list(zip(d, i, strict=True)) for d, i in zip(hits.distances, hits.ids, strict=True)]
    assert all(row == sorted(row) for row in order), "by (distance, id)"


def beside_faiss(bits: int, count: int, batches: list[int]) -> list[dict[str, object]]:
    codes = random_codes(count, bits)
    index, peer = HammingIndex(bits=bits, concepts=4), faiss.IndexBinaryFlat(bits)
    index.add(codes)
    peer.add(codes)
    del codes
    rows = []
    for batch in batches:
        queries = random_codes(batch, bits, seed=1)
        check(index, peer, queries)
        best, *others = native.paths()
        if count == MILLION and bits == 64:
            groups = [[best], others]  # apart: the slow ones would clear the caches of the best
        else:
            groups = [[p for p in native.paths() if p not in ("portable", "numpy")] or [best]]
        for paths in groups:
            runs = {p: on(p, lambda q=queries: index.search(q, K, threads=1)) for p in paths}
            seconds = interleaved(
                {**runs, "faiss": lambda q=queries: peer.search(q, K)}, repeats(count * batch)
            )
            for path in paths:
                rows.append(
                    {
                        "bits": bits,
                        "codes": count,
                        "batch": batch,
                        "path": path,
                        "ms_a_query": seconds[path] / batch * 1e3,
                        "faiss_ms_a_query": seconds["faiss"] / batch * 1e3,
                        "ratio_to_faiss": seconds["faiss"] / seconds[path],
                        "gigabytes_read_a_second": count * bits / 8 / seconds[path] / 1e9,
                    }
                )
                print(rows[-1], flush=True)
    return rows


def bandwidth(count: int) -> dict[str, float]:
    """One query, one thread, beside the fastest way numpy knows to read as many bytes."""
    index = HammingIndex()
    index.add(random_codes(count))
    (words,) = index.parts()[0].planes  # the very memory the query reads
    query = random_codes(1, seed=1)
    seconds = interleaved(
        {
            "search": lambda: index.search(query, K, threads=1),
            "sum": lambda: words.sum(),
            "max": lambda: words.max(),
            "or": lambda: np.bitwise_or.reduce(words),
        },
        9,
    )
    fastest = min(seconds[name] for name in ("sum", "max", "or"))
    return {
        "codes": count,
        "read_gigabytes_a_second": words.nbytes / fastest / 1e9,
        "search_gigabytes_a_second": words.nbytes / seconds["search"] / 1e9,
        "share_of_read_bandwidth": fastest / seconds["search"],
    }


def weighted(count: int, batch: int) -> list[dict[str, object]]:
    index = HammingIndex(bits=64, concepts=4)
    index.add(random_codes(count))
    queries = random_codes(batch, seed=1)
    asked = {
        "plain": {},
        "one concept": {"concepts": [0]},
        "two concepts": {"concepts": [0, 2]},
        "weights 2,1,0,1": {"weights": [2, 1, 0, 1]},
        "weights 1,2,3,4": {"weights": [1, 2, 3, 4]},
    }
    seconds = interleaved(
        {
            name: lambda options=options: index.search(queries, K, threads=1, **options)
            for name, options in asked.items()
        },
        repeats(count * batch),
    )
    return [
        {
            "codes": count,
            "batch": batch,
            "asked": name,
            "ms_a_query": taken / batch * 1e3,
            "speed_of_plain": seconds["plain"] / taken,
        }
        for name, taken in seconds.items()
    ]


def threads(count: int, batch: int) -> dict[str, object]:
    index = HammingIndex()
    index.add(random_codes(count))
    queries = random_codes(batch, seed=1)
    seconds = interleaved(
        {str(n): lambda n=n: index.search(queries, K, threads=n) for n in (1, 2)},
        repeats(count * batch),
    )
    gain = seconds["1"] / seconds["2"]
    return {"codes": count, "batch": batch, "two_threads_over_one": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=100 * MILLION, help="at most")
    most = parser.parse_args().codes
    faiss.omp_set_num_threads(1)
    rows = []
    for bits, count, batches in (
        (64, MILLION, [1, 64, 1024]),
        (64, 10 * MILLION, [1, 64, 1024]),
        (64, 100 * MILLION, [1]),
        (128, 10 * MILLION, [1, 64]),
        (256, 10 * MILLION, [1, 64]),
    ):
        if count <= most:
            rows += beside_faiss(bits, count, batches)
    ten = min(10 * MILLION, most)
    write(
        "search",
        {
            "what": f"exact scan, k = {K}, random codes, one thread; answers equal to faiss's",
            "rows": rows,
            "bandwidth": bandwidth(ten),
            "weights_and_masks": [
                row for batch in (1, 64) for row in weighted(min(ten, 4 * MILLION), batch)
            ],
            "threads": [threads(ten, batch) for batch in (1, 64, 1024)],
        },
    )


if __name__ == "__main__":
    main()
