"""The exact scan beside faiss IndexBinaryFlat, one thread, 64 bits, equal answers checked."""

import faiss
import numpy as np

from benchmarks.report import interleaved, write
from concepthash.runtime import HammingIndex


def main() -> None:
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    rows = []
    for count in (100_000, 1_000_000, 4_000_000):
        codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
        ours = HammingIndex(bits=64, concepts=4)
        ours.add(codes)
        peer = faiss.IndexBinaryFlat(64)
        peer.add(codes)
        for batch in (1, 64):
            queries = rng.integers(0, 256, (batch, 8), dtype=np.uint8)
            hits, (distances, _) = ours.search(queries, k=10), peer.search(queries, 10)
            assert np.array_equal(hits.distances, distances), "both are exact"
            seconds = interleaved(
                {
                    "ours": lambda q=queries, i=ours: i.search(q, k=10),
                    "faiss": lambda q=queries, i=peer: i.search(q, 10),
                },
                repeats=9,
            )
            rows.append(
                {
                    "codes": count,
                    "batch": batch,
                    "ours_ms": seconds["ours"] / batch * 1e3,
                    "faiss_ms": seconds["faiss"] / batch * 1e3,
                    "ratio_to_faiss": seconds["faiss"] / seconds["ours"],
                }
            )
    write(
        "search",
        {
            "what": "k = 10, random codes, blocked numpy; ms a query, above 1 is faster",
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
