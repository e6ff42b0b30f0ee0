"""The choice between the scan and the tables, made per call and again per query.

Both give the same hits in the same order; only the time differs, by a factor of hundreds either
way. A search of tables knows what each of its steps costs before it takes it. When what is left
would cost more than a scan, it stops there, and the query is scanned with the others of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

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
from concepthash.runtime.tables import Tables, cuts


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


def find(
    parts: Sequence[Part],
    tables: Tables | None,
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
        tables: of the first rows of ``parts``, or None; rows beyond theirs are scanned.
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
    tables: Tables | None,
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
    tables: Tables | None,
    queries: Words,
    plan: Plan,
    k: int,
    ordered: bool,
    radius: int | None,
    threads: int | None,
) -> Within | None:
    """The k nearest of each query; None if the scan is the better choice for all."""
    native = kernel()
    if native is None or tables is None or not tables.rows or not k or not plan.terms:
        return None
    words, count = queries.shape
    which = path()
    most = usable_cpus() if threads is None else threads
    workers = max(1, min(most, count // _QUERIES_A_THREAD))
    alone = scan_time(which, tables.rows, count, words, len(plan.terms)) * workers / most
    if alone * count < _WORTH_IT or (alone * count < _SURE and tables.misses.skip()):
        return None
    most_alone = scan_time(which, tables.rows, 1, words, len(plan.terms))
    costs = _ROWS
    if tables.copy_codes:
        costs = _COPIED_PORTABLE if which == "portable" else _COPIED
    taken, asked = arguments(parts, ordered), np.ascontiguousarray(queries.T)
    bound = plan.longest if radius is None else min(radius, plan.longest)

    total = sum(len(part.ids) for part in parts)
    rest = cut(parts, tables.rows, total) if tables.rows < total else []
    # The kernel scans at once for queries that give up, unless more threads can share that scan.
    scanned = workers == most and not rest

    def run(low: int, high: int) -> tuple[tuple[bytes, bytes, bytes], bytes]:
        answer: tuple[tuple[bytes, bytes, bytes], bytes] = native.tables_search(
            which, taken, asked[low:high], plan.masks, plan.factors, k, bound,
            cuts(tables.layout), tables.arguments, tables.copy_codes, scanned, ordered,
            (*costs, _TRIAL * alone, _BUDGET * alone, _BUDGET * most_alone),
        )  # fmt: skip
        return answer

    if workers == 1:
        answers = [run(0, count)]
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="tables") as pool:
            answers = list(pool.map(lambda share: run(*share), shares(count, workers)))
    gave_up = np.frombuffer(b"".join(flags for _, flags in answers), np.uint8)
    tables.misses.note(missed=2 * np.count_nonzero(gave_up) > count)
    left = np.flatnonzero(gave_up == 1)  # what is 2 was scanned by the kernel
    if len(left) == count:
        return None
    columns = zip(*(answer for answer, _ in answers), strict=True)
    found = [listed(parts, [b"".join(column) for column in columns])]
    if rest:
        tail = scan_lists(native, rest, queries, plan, k, ordered, radius, threads)
        found.append(tail._replace(rows=tail.rows + tables.rows))
    if len(left):
        head = cut(parts, 0, tables.rows)
        again = scan_lists(native, head, queries[:, left], plan, k, ordered, radius, threads)
        spread = np.zeros(count, dtype=np.int64)
        spread[left] = np.diff(again.offsets)
        found.append(again._replace(offsets=offsets_of(spread)))
    return found[0] if len(found) == 1 else merged(found, count, k)


def scan_time(which: str, rows: int, queries: int, words: int, terms: int) -> float:
    """Nanoseconds a scan takes for a query of a batch on one thread, rather too few than many."""
    pair = next(cost for least, cost in _SCAN if queries >= least)
    return rows * words * pair * (1 + _A_WEIGHT * (terms - 1)) * _PATHS.get(which, 1.0)
