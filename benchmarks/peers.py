"""Exact search beside the approximate ways of the field: time at their recall.

faiss IndexBinaryMultiHash and IndexBinaryHNSW, usearch (HNSW over bits), one thread each.
"""

import faiss
import numpy as np
from usearch.index import Index

from benchmarks.codes import KINDS, WHAT
from benchmarks.report import interleaved, write
from concepthash.runtime import HammingIndex

COUNT, QUERIES, K = 300_000, 100, 10
FAR = 999  # of a place that was not filled


def recall(distances: np.ndarray, exact: np.ndarray) -> float:
    """Share of hits as near as an exact hit of that rank: ids of ties may differ."""
    return float(np.mean(distances <= exact[:, -1:]))


def hashed(index: faiss.IndexBinaryMultiHash, query: np.ndarray) -> np.ndarray:
    distances, ids = index.search(query, K)
    return np.where(ids < 0, FAR, distances)


def measure(kind: str) -> list[dict[str, object]]:
    codes, queries = KINDS[kind](COUNT), KINDS[kind](QUERIES, seed=1)
    ours = HammingIndex()
    ours.add(codes)
    tables = HammingIndex()
    tables.add(codes)
    tables.accelerate()
    flat = faiss.IndexBinaryFlat(64)
    hnsw = faiss.IndexBinaryHNSW(64, 16)
    hash4 = faiss.IndexBinaryMultiHash(64, 4, 16)
    hash4.nflip = 2
    graph = Index(ndim=64, metric="hamming", dtype="b1")
    for index in (flat, hnsw, hash4):
        index.add(codes)
    graph.add(np.arange(COUNT), codes, threads=1)
    exact = flat.search(queries, K)[0]
    for index in (ours, tables):
        assert np.array_equal(index.search(queries, K, threads=1).distances, exact)

    def one_by_one(search):
        def run() -> np.ndarray:
            rows = [np.asarray(search(query[None])).reshape(-1) for query in queries]
            return np.array(
                [np.pad(row[:K], (0, K - len(row[:K])), constant_values=FAR) for row in rows]
            )

        return run

    runs = {
        "ours, scan": one_by_one(lambda q: ours.search(q, K, threads=1).distances),
        "ours, tables": one_by_one(lambda q: tables.search(q, K, threads=1).distances),
        "faiss IndexBinaryFlat": one_by_one(lambda q: flat.search(q, K)[0]),
        "faiss IndexBinaryMultiHash, 4 x 16 bits, 2 flips": one_by_one(lambda q: hashed(hash4, q)),
        "faiss IndexBinaryHNSW, M = 16, efSearch 16": one_by_one(lambda q: hnsw.search(q, K)[0]),
        "usearch, default": one_by_one(lambda q: graph.search(q[0], K, threads=1).distances),
    }
    found = {name: recall(run(), exact) for name, run in runs.items()}
    seconds = interleaved(runs, 3)
    return [
        {
            "codes": kind,
            "index": name,
            "recall_at_10": found[name],
            "ms_a_query": seconds[name] / QUERIES * 1e3,
        }
        for name in runs
    ]


def main() -> None:
    faiss.omp_set_num_threads(1)
    rows = [row for kind in KINDS for row in measure(kind)]
    write("peers", {"what": f"{COUNT:,} codes of 64 bits, k = {K}; {WHAT}", "rows": rows})


if __name__ == "__main__":
    main()
