"""The choice between the scan and the tables, made per call and again per query.

Both give the same hits in the same order; only the time differs, by a factor of hundreds either
way. A search of tables knows what each of its steps costs before it takes it. When what is left
would cost more than a scan, it stops there, and the query is scanned with the others of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.decode import usable_cpus
from concepthash.runtime.native import kernel, path
from concepthash.runtime.planes import Found, Part, Plan, Words, cut
from concepthash.runtime.scan import (
    Within,
    arguments,
    listed,
    merged,
    offsets_of,
    padded,
    scan,
    scan_lists,
    shares,
    within,
)
from concepthash.runtime.tablefile import Run
from concepthash.runtime.tables import Tables, cuts, gaps

# Of each query the hits, their rows and distances; and whether it gave up.
_Answer = tuple[tuple[bytes, bytes, bytes], bytes]


class Costs(NamedTuple):
    """Nanoseconds of the parts of a search in tables, measured on 10M codes in main memory."""

    entry: float  # a candidate
    bucket: float  # a bucket visited
    looked: float  # a bucket counted


# Fitted to searches of 1M and 10M codes on an AVX2 server core; whether the choice they lead to is
# right shows in benchmarks/tables.py. They err on the side of the scan: what fits into a cache
# costs the tables less.
_ROWS = Costs(entry=4.5, bucket=40.0, looked=4.0)
_COPIED = Costs(entry=0.6, bucket=40.0, looked=4.0)
# The portable loops take candidates one by one.
_COPIED_PORTABLE = Costs(entry=2.5, bucket=40.0, looked=4.0)

# Nanoseconds a scan takes for a code and query of one word, by the smallest batch it holds for; and
# what each weight beyond the first adds, as a share.
_SCAN = ((64, 0.10), (16, 0.17), (8, 0.26), (1, 0.33))
_A_WEIGHT = 0.3
_PATHS = {"avx512": 0.4, "portable": 4.0}  # against AVX2

# Of the time of a scan: what a query may take before it is known that it will stay in its budget,
# and that budget, which the queries of a batch share. Together they keep the worst case within 1.1
# of the scan.
_TRIAL = 0.025
_BUDGET = 0.75
# Below this a call is over before a choice pays, in nanoseconds of scan.
_WORTH_IT = 200_000
# Below this even finding out costs a tenth of it: calls that follow misses are scanned at once.
_SURE = 1_500_000
_QUERIES_A_THREAD = 8
# Code-query pairs of a word from which a few queries look through several runs in as many threads.
_APART = 1 << 27


def find(
    parts: Sequence[Part],
    tables: Sequence[Tables],
    queries: Words,
    plan: Plan,
    *,
    k: int,
    ordered: bool,
    radius: int | None = None,
    threads: int | None = None,
) -> Found:
    """The k live codes nearest to each query, as :func:`concepthash.runtime.scan.scan`.

    Args:
        parts: where the codes are; rows are numbered through them.
        tables: each of other rows of ``parts``; rows that none covers are scanned.
        queries: word planes ``(W, q)``.
        plan: how a distance is computed.
        k: hits a query, 0 or more.
        ordered: whether ids ascend with the rows, over all parts.
        radius: the largest distance of a hit; None for no bound.
        threads: at most; None for all cores.
    """
    depth = min(k, sum(len(part.ids) for part in parts))
    hits = _search(parts, tables, queries, plan, depth, ordered, radius, threads)
    if hits is None:
        return scan(parts, queries, plan, k=k, ordered=ordered, radius=radius, threads=threads)
    return padded(hits, k)


def find_within(
    parts: Sequence[Part],
    tables: Sequence[Tables],
    queries: Words,
    plan: Plan,
    *,
    radius: int,
    ordered: bool,
    threads: int | None = None,
) -> Within:
    """All live codes at ``radius`` or nearer; arguments as :func:`find`."""
    total = sum(len(part.ids) for part in parts)
    hits = _search(parts, tables, queries, plan, total, ordered, radius, threads)
    if hits is None:
        return within(parts, queries, plan, radius=radius, ordered=ordered, threads=threads)
    return hits


def _search(
    parts: Sequence[Part],
    tables: Sequence[Tables],
    queries: Words,
    plan: Plan,
    k: int,
    ordered: bool,
    radius: int | None,
    threads: int | None,
) -> Within | None:
    """The k nearest of each query; None if the scan is the better choice for all."""
    native = kernel()
    if native is None or not k or not plan.terms:
        return None
    asked = _Question(native, parts, queries, plan, k, ordered, radius, threads)
    found: list[Within] = []
    covered: list[Run] = []
    for each in tables:
        hits = asked.look_up(each)
        if hits is not None:
            found += hits
            covered += each.runs
    if not found:
        return None
    rest = gaps(covered, asked.rows)
    if rest:
        found.append(asked.scan(rest, np.arange(asked.count)))
    return found[0] if len(found) == 1 else merged(found, asked.count, k)


@dataclass(frozen=True, eq=False)
class _Question:
    """What one call asks of some codes, answered by tables here and by the scan there."""

    native: ModuleType
    parts: Sequence[Part]
    queries: Words
    plan: Plan
    k: int
    ordered: bool
    radius: int | None
    threads: int | None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(len(part.ids) for part in self.parts)

    @property
    def count(self) -> int:
        """How many queries there are."""
        return int(self.queries.shape[1])

    def look_up(self, tables: Tables) -> list[Within] | None:
        """Answers from the rows of tables, to be merged; None if these are better scanned."""
        which, most = path(), usable_cpus() if self.threads is None else self.threads
        count, rows = self.count, tables.rows
        words, terms = len(self.queries), len(self.plan.terms)
        workers = max(1, min(most, count // _QUERIES_A_THREAD))
        # Few queries keep all cores busy only if each thread looks for them in runs of its own.
        apart = workers < most and rows * words * count >= _APART
        dealt = _dealt(tables.runs, most) if apart else [tables.runs]
        shared = shares(count, workers) if len(dealt) == 1 else [(0, count)]
        jobs = [(runs, low, high) for runs in dealt for low, high in shared]
        alone = scan_time(which, rows, count, words, terms) * len(jobs) / most
        if not rows or alone * count < _WORTH_IT:
            return None
        if alone * count < _SURE and tables.misses.skip():
            return None
        most_alone = scan_time(which, rows, 1, words, terms)
        costs = _ROWS
        if tables.copy_codes:
            costs = _COPIED_PORTABLE if which == "portable" else _COPIED
        taken, asked = arguments(self.parts, self.ordered), np.ascontiguousarray(self.queries.T)
        longest = self.plan.longest
        bound = longest if self.radius is None else min(self.radius, longest)
        # The kernel scans at once for queries that give up, unless several threads can share that.
        scanned = most == 1 and rows == self.rows

        def run(job: tuple[Sequence[Run], int, int]) -> _Answer:
            runs, low, high = job
            part = sum(run.rows for run in runs) / rows
            times = _TRIAL * alone, _BUDGET * alone, _BUDGET * most_alone
            answer: _Answer = self.native.tables_search(
                which, taken, asked[low:high], self.plan.masks, self.plan.factors, self.k, bound,
                cuts(tables.layout), [(run.block, run.first, run.rows) for run in runs],
                tables.copy_codes, scanned, self.ordered,
                (*costs, *(part * time for time in times)),
            )  # fmt: skip
            return answer

        if len(jobs) == 1:
            answers = [run(jobs[0])]
        else:
            with ThreadPoolExecutor(len(jobs), thread_name_prefix="tables") as pool:
                answers = list(pool.map(run, jobs))
        each = [answers[i : i + len(shared)] for i in range(0, len(jobs), len(shared))]
        gave_up = [np.frombuffer(b"".join(flags for _, flags in some), np.uint8) for some in each]
        tables.misses.note(missed=any(2 * np.count_nonzero(flags) > count for flags in gave_up))
        if all((flags == 1).all() for flags in gave_up):
            return None
        return [
            hits
            for runs, some, flags in zip(dealt, each, gave_up, strict=True)
            for hits in self._completed(runs, some, flags)
        ]

    def _completed(
        self, runs: Sequence[Run], answers: Sequence[_Answer], gave_up: npt.NDArray[np.uint8]
    ) -> Iterator[Within]:
        """Answers of threads to queries that follow one another, and a scan for what is missing."""
        columns = zip(*(answer for answer, _ in answers), strict=True)
        yield listed(self.parts, [b"".join(column) for column in columns])
        left = np.flatnonzero(gave_up == 1)  # what is 2 was scanned by the kernel
        if len(left):
            yield self.scan([(run.first, run.first + run.rows) for run in runs], left)

    def scan(self, stretches: Sequence[tuple[int, int]], some: npt.NDArray[np.int64]) -> Within:
        """The answer from some stretches of the rows to some of the queries; none to the others."""
        parts = [part for low, high in stretches for part in cut(self.parts, low, high)]
        hits = scan_lists(
            self.native, parts, self.queries[:, some], self.plan, self.k, self.ordered,
            self.radius, self.threads,
        )  # fmt: skip
        ends = np.cumsum([high - low for low, high in stretches])
        moved = np.array([high for _, high in stretches]) - ends
        lengths = np.zeros(self.count, dtype=np.int64)
        lengths[some] = np.diff(hits.offsets)
        rows = hits.rows + moved[np.searchsorted(ends, hits.rows, side="right")]
        return hits._replace(offsets=offsets_of(lengths), rows=rows)


def _dealt(runs: Sequence[Run], hands: int) -> list[tuple[Run, ...]]:
    """Runs in about equal shares of their rows, at most so many; the longest are dealt first."""
    shares: list[list[Run]] = [[] for _ in range(min(hands, len(runs)))]
    for run in sorted(runs, key=lambda run: -run.rows):
        min(shares, key=lambda share: sum(run.rows for run in share)).append(run)
    return [tuple(share) for share in shares]


def scan_time(which: str, rows: int, queries: int, words: int, terms: int) -> float:
    """Nanoseconds a scan takes for a query of a batch on one thread, rather too few than many."""
    pair = next(cost for least, cost in _SCAN if queries >= least)
    return rows * words * pair * (1 + _A_WEIGHT * (terms - 1)) * _PATHS.get(which, 1.0)
