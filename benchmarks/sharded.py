"""Sharded against single: the same rows, and the time of a query, here and through Ray Serve.

``python -m benchmarks.sharded``: 10,000 queries, half near codes of the gallery and half random,
that ask in five ways. Each is answered by one gallery, by the same gallery in shards, and by
replicas of these shards under Ray Serve on this machine; ids, distances and the distance of every
concept must be equal in every row. With ``--codes 100000 --queries 1000`` it takes a minute.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.codes import WHAT, clustered_codes
from benchmarks.gallery import make
from benchmarks.report import write
from concepthash.cluster.deploying import Gallery as Place
from concepthash.cluster.serving import serving
from concepthash.cluster.start import connected
from concepthash.codes import Codes
from concepthash.decode import usable_cpus
from concepthash.runtime.answers import Hit
from concepthash.runtime.galleries import open_gallery
from concepthash.runtime.shards import split
from concepthash.serve.held import AnyHeld, Asked, Held

FINGERPRINT = "0" * 64
BATCH, ALONE, ROUNDS = 64, 200, 5
WAYS = {
    "k=10": Asked(),
    "k=100": Asked(k=100),
    "k=10, radius 12": Asked(radius=12),
    "k=10, two of four concepts": Asked(concepts=(0, 2)),
    "k=10, weights 2, 1, 0, 1": Asked(weights=(2, 1, 0, 1)),
}
Queries = list[tuple[Codes, Asked]]


def drawn(count: int) -> Queries:
    """Queries that ask in all ways in turns, a batch in each."""
    random = np.random.default_rng(7).integers(0, 256, (count // 2, 8), dtype=np.uint8)
    codes = np.concatenate([clustered_codes(count - count // 2, seed=99), random])
    codes = codes[np.random.default_rng(8).permutation(count)]
    ways = list(WAYS.values())
    return [(code, ways[row // BATCH % len(ways)]) for row, code in enumerate(codes)]


def answers(held: AnyHeld, queries: Queries, step: int = BATCH) -> list[tuple[Hit, ...]]:
    """What was found, asked in batches of ``step``, as a server does under load."""
    found: list[tuple[Hit, ...]] = []
    for first in range(0, len(queries), step):
        some = queries[first : first + step]
        own: dict[int, tuple[Hit, ...]] = {}
        for places, part in held.search(some):
            for place, answer in zip(places, part, strict=True):
                if isinstance(answer, Exception):
                    raise answer
                assert not answer.missing, answer.missing
                own[place] = answer.hits
        found += [own[place] for place in range(len(some))]
    return found


def same(one: list[tuple[Hit, ...]], other: list[tuple[Hit, ...]]) -> int:
    """Queries with the same ids, distances and distances of every concept, in the same order."""

    def rows(hits: tuple[Hit, ...]) -> list[tuple[int, int, tuple[int, ...]]]:
        return [(hit.id, hit.distance, hit.per_concept) for hit in hits]

    return sum(rows(a) == rows(b) for a, b in zip(one, other, strict=True))


def interleaved(runs: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Median milliseconds a query, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - started) / count * 1e3)
    return {name: round(statistics.median(values), 4) for name, values in taken.items()}


def times(held: dict[str, AnyHeld], queries: Queries) -> dict[str, dict[str, float]]:
    some = {name: [(code, way) for code, _ in queries[: 4 * BATCH]] for name, way in WAYS.items()}
    found = {
        f"batches of {BATCH}, {name}": interleaved(
            {kind: lambda h=one, a=asked: answers(h, a) for kind, one in held.items()}, 4 * BATCH
        )
        for name, asked in some.items()
    }
    alone = [(code, Asked()) for code, _ in queries[:ALONE]]
    found["one at a time, k=10"] = interleaved(
        {kind: lambda h=one: answers(h, alone, 1) for kind, one in held.items()}, ALONE
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=1)
    given = parser.parse_args()
    queries = drawn(given.queries)
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        single = make(Path(folder), given.codes, fingerprint=FINGERPRINT)
        sharded = Path(folder) / "shards.chg"
        started = time.perf_counter()
        split(single, given.shards, sharded)
        splitting = time.perf_counter() - started
        with connected(None):
            for tables in (False, True):
                for path in (single, sharded) if tables else ():
                    with open_gallery(path, write=True) as gallery:
                        gallery.accelerate()
                started = time.perf_counter()
                with serving(
                    Place(sharded, FINGERPRINT), lasting=True, replicas=given.replicas, seconds=300
                ) as shards:
                    deploying = time.perf_counter() - started
                    threads = usable_cpus()
                    held: dict[str, AnyHeld] = {
                        "single": Held(single, FINGERPRINT, threads=threads),
                        "shards": Held(sharded, FINGERPRINT, threads=threads),
                        "ray": shards,
                    }
                    found = {name: answers(one, queries) for name, one in held.items()}
                    equal = {name: same(found["single"], found[name]) for name in found}
                    rows.append(
                        {
                            "tables": tables,
                            "equal_answers": equal,
                            "hits_compared": sum(map(len, found["single"])),
                            "ms_a_query": times(held, queries),
                            "deploy_seconds": round(deploying, 2),
                        }
                    )
                    print(rows[-1], flush=True)
                    assert set(equal.values()) == {len(queries)}, equal
                    held["single"].close()
                    held["shards"].close()
    write(
        "sharded",
        {
            "what": "one gallery, the same in shards, and those under Ray Serve on this machine: "
            "rows of ids, distances and distances of every concept, and the time of a query with "
            "its names",
            "codes": given.codes,
            "kind_of_codes": WHAT,
            "shards": given.shards,
            "replicas": given.replicas,
            "queries": len(queries),
            "split_seconds": round(splitting, 1),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
