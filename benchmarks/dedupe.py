"""All groups of near duplicates among a million codes, checked against a scan for some of them."""

import statistics
import time

import numpy as np

from benchmarks.codes import KINDS, WHAT
from benchmarks.report import write
from concepthash.runtime import HammingIndex
from concepthash.runtime.join import groups

COUNT, CHECKED, REPEATS = 1_000_000, 2_000, 3


def check(index: HammingIndex, codes: np.ndarray, found: list[np.ndarray], radius: int) -> None:
    """The first codes and all that a scan finds near them are in one group, others in none."""
    group = np.full(len(index), -1)
    for number, members in enumerate(found):
        group[members] = number
    near = index.within(codes[:CHECKED], radius)
    for one in range(CHECKED):
        ids = near.ids[near.offsets[one] : near.offsets[one + 1]]
        assert (group[ids] == group[one]).all()
        assert (group[one] >= 0) == (len(ids) > 1)


def main() -> None:
    rows = []
    for kind, make in KINDS.items():
        codes = make(COUNT)
        index = HammingIndex(bits=64, concepts=4)
        index.add(codes)
        for radius in (0, 2, 4):
            seconds, found = [], []
            for _ in range(REPEATS):
                started = time.perf_counter()
                found = groups(index, radius, threads=1)
                seconds.append(time.perf_counter() - started)
            check(index, codes, found, radius)
            rows.append(
                {
                    "codes": kind,
                    "radius": radius,
                    "seconds": statistics.median(seconds),
                    "groups": len(found),
                    "in_groups": sum(map(len, found)),
                }
            )
            print(rows[-1], flush=True)
    write("dedupe", {"what": f"{COUNT:,} codes of 64 bits, one thread; {WHAT}", "rows": rows})


if __name__ == "__main__":
    main()
