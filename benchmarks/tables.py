"""Search tables beside faiss IndexBinaryFlat and our own scan; equal answers in the same run.

Queries are asked in batches of 100 and one by one, on one thread, so that the time around a single
call shows too. ``--codes`` gives the sizes; random codes are measured up to ten million.
"""

import argparse
import time

import faiss
import numpy as np

from benchmarks.codes import KINDS, WHAT, Codes
from benchmarks.report import interleaved, write
from concepthash.runtime import HammingIndex

K, BATCH, FAISS_QUERIES, REPEATS = 10, 100, 5, 5


def one_by_one(index: HammingIndex, queries: Codes) -> None:
    for query in queries:
        index.search(query, K, threads=1)


def measure(kind: str, count: int) -> list[dict[str, object]]:
    codes, queries = KINDS[kind](count), KINDS[kind](BATCH, seed=1)
    plain, peer = HammingIndex(bits=64, concepts=4), faiss.IndexBinaryFlat(64)
    plain.add(codes)
    peer.add(codes)
    del codes
    few = queries[:FAISS_QUERIES]
    exact = plain.search(queries, K, threads=1)
    assert np.array_equal(peer.search(few, K)[0], exact.distances[:FAISS_QUERIES])
    rows = []
    for copied in (False, True):
        index = HammingIndex.of(plain.layout, plain._segments, count)  # the same memory
        started = time.perf_counter()
        index.accelerate(copy_codes=copied)
        built = time.perf_counter() - started
        found = index.search(queries, K, threads=1)
        assert np.array_equal(found.ids, exact.ids)
        assert np.array_equal(found.distances, exact.distances)
        seconds = interleaved(
            {
                "tables": lambda index=index: index.search(queries, K, threads=1),
                "scan": lambda: plain.search(queries, K, threads=1),
                "faiss": lambda: peer.search(few, K),
                "tables alone": lambda index=index: one_by_one(index, queries),
                "scan alone": lambda: one_by_one(plain, few),
            },
            REPEATS,
        )
        alone, batched = seconds["tables alone"] / BATCH, seconds["tables"] / BATCH
        peer_time = seconds["faiss"] / FAISS_QUERIES
        assert index.tables is not None
        rows.append(
            {
                "codes": kind,
                "count": count,
                "copied": copied,
                "build_seconds": built,
                "table_bytes_a_code": index.tables.nbytes / count,
                "batch_ms_a_query": batched * 1e3,
                "alone_ms": alone * 1e3,
                "faiss_ms_a_query": peer_time * 1e3,
                "batch_ratio_to_faiss": peer_time / batched,
                "alone_ratio_to_faiss": peer_time / alone,
                "batch_ratio_to_scan": seconds["scan"] / seconds["tables"],
                "alone_ratio_to_scan": seconds["scan alone"] / FAISS_QUERIES / alone,
            }
        )
        print(rows[-1], flush=True)
        del index
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", default="1000000,10000000,100000000")
    faiss.omp_set_num_threads(1)
    rows = [
        row
        for count in map(int, parser.parse_args().codes.split(","))
        for kind in KINDS
        if kind == "clustered" or count <= 10_000_000
        for row in measure(kind, count)
    ]
    write("tables", {"what": f"64 bits, k = {K}, one thread; {WHAT}", "rows": rows})


if __name__ == "__main__":
    main()
