"""The choice between the scan and the tables, made per call and again per query.

Both give the same hits in the same order; only the time differs, by a factor of hundreds either
way. A search of tables knows what each of its steps costs before it takes it. When what is left
would cost more than a scan, it stops there, and the query is scanned with the others of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.decode import usable_cpus
from concepthash.runtime.native import kernel, path
from concepthash.runtime.planes import Found, Part, Plan, Words
from concepthash.runtime.scan import (
    Within,
    _arguments,
    _hits,
    _ids,
    _merged,
    _offsets,
    _padded,
    scan,
    within,
)
from concepthash.runtime.tables import Tables, cuts


class Costs(NamedTuple):
    """Nanoseconds of the parts of a search in tables, measured on 10M codes in main memory."""

    entry: float  # a candidate
    bucket: float  # a bucket visited
    looked: float  # a bucket counted


# benchmarks/tables.py measures these on an AVX2 server core. They err on the side of the scan: what
# fits into a cache costs the tables less.
_ROWS = Costs(entry=6.0, bucket=40.0, looked=4.0)
_COPIED = Costs(entry=0.6, bucket=40.0, looked=4.0)
# The portable loops take candidates one by one.
_COPIED_PORTABLE = Costs(entry=2.5, bucket=40.0, looked=4.0)

# Nanoseconds a scan takes for a code and query of one word, by the smallest batch it holds for; and
# what each weight beyond the first adds, as a share.
_SCAN = ((64, 0.10), (16, 0.17), (1, 0.27))
_A_WEIGHT = 0.3
_PATHS = {"avx512": 0.4, "portable": 4.0}  # against AVX2

# Of the time of a scan: what a query may take before it is known that it will stay in its budget,
# and that budget. Together they keep the worst case within 1.1 of the scan.
_TRIAL = 0.04
_BUDGET = 0.6
# Below this a call is over before a choice pays, in nanoseconds of scan.
_WORTH_IT = 200_000
# Queries of a batch that are tried first; if most of them need the scan, all are scanned.
_SAMPLE = 4
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
    return _padded(hits, k)


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
    count = queries.shape[1]
    most = usable_cpus() if threads is None else threads
    workers = max(1, min(most, count // _QUERIES_A_THREAD))
    alone = scan_time(tables.rows, count, queries.shape[0], len(plan.terms)) * workers / most
    if alone * count < _WORTH_IT:
        return None
    call = _Call(native, parts, tables, plan, k, ordered, radius, alone)
    first = _SAMPLE if count > 2 * _SAMPLE else 0
    answers = [call.run(queries[:, :first])]
    if 2 * np.count_nonzero(answers[0][1]) > first:
        return None
    bounds = np.linspace(first, count, workers + 1).astype(int)
    pieces = [queries[:, low:high] for low, high in pairwise(bounds)]
    if workers == 1:
        answers += map(call.run, pieces)
    else:
        with ThreadPoolExecutor(workers, thread_name_prefix="tables") as pool:
            answers += pool.map(call.run, pieces)
    lengths = np.concatenate([answer.lengths for answer, _ in answers])
    rows = np.concatenate([answer.rows for answer, _ in answers])
    distances = np.concatenate([answer.distances for answer, _ in answers])
    found = [Within(_offsets(lengths), rows, _ids(parts, rows), distances)]
    left = np.flatnonzero(np.concatenate([gave_up for _, gave_up in answers]))
    if len(left) == count:
        return None
    rest = _from(parts, tables.rows)
    if rest:
        tail = _hits(native, rest, queries, plan, k, ordered, radius, threads)
        found.append(tail._replace(rows=tail.rows + tables.rows))
    if len(left):
        head = _until(parts, tables.rows)
        again = _hits(native, head, queries[:, left], plan, k, ordered, radius, threads)
        spread = np.zeros(count, dtype=np.int64)
        spread[left] = np.diff(again.offsets)
        found.append(again._replace(offsets=_offsets(spread)))
    return found[0] if len(found) == 1 else _merged(found, count, k)


class _Answer(NamedTuple):
    lengths: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]


class _Call(NamedTuple):
    """What all queries of a call share."""

    native: ModuleType
    parts: Sequence[Part]
    tables: Tables
    plan: Plan
    k: int
    ordered: bool
    radius: int | None
    alone: float  # nanoseconds a scan takes for a query

    def run(self, queries: Words) -> tuple[_Answer, npt.NDArray[np.bool_]]:
        """The hits of some queries, and which of them gave up; those have none."""
        tables, plan = self.tables, self.plan
        which = path()
        costs = _ROWS
        if tables.copy_codes:
            costs = _COPIED_PORTABLE if which == "portable" else _COPIED
        bound = plan.longest if self.radius is None else min(self.radius, plan.longest)
        (counts, rows, distances), gave_up = self.native.tables_search(
            which,
            _arguments(self.parts, self.ordered),
            np.ascontiguousarray(queries.T),
            plan.masks,
            plan.factors,
            self.k,
            bound,
            cuts(tables.layout),
            [(run.block, run.first, run.rows) for run in tables.runs],
            tables.copy_codes,
            (*costs, _TRIAL * self.alone, _BUDGET * self.alone),
        )
        answer = _Answer(
            np.frombuffer(counts, dtype=np.int64),
            np.frombuffer(rows, dtype=np.int64),
            np.frombuffer(distances, dtype=np.int32).copy(),
        )
        return answer, np.frombuffer(gave_up, dtype=np.bool_)


def scan_time(rows: int, queries: int, words: int, terms: int) -> float:
    """Nanoseconds a scan takes for a query of a batch on one thread, rather too few than many."""
    pair = next(cost for least, cost in _SCAN if queries >= least)
    return rows * words * pair * (1 + _A_WEIGHT * (terms - 1)) * _PATHS.get(path(), 1.0)


def _until(parts: Sequence[Part], rows: int) -> list[Part]:
    """The parts up to a row."""
    taken, start = [], 0
    for planes, ids, dead in parts:
        n = min(len(ids), rows - start)
        if n > 0:
            taken.append(Part(planes[:, :n], ids[:n], None if dead is None else dead[:n]))
        start += len(ids)
    return taken


def _from(parts: Sequence[Part], rows: int) -> list[Part]:
    """The parts from a row on."""
    taken, start = [], 0
    for planes, ids, dead in parts:
        n = max(0, rows - start)
        if n < len(ids):
            taken.append(Part(planes[:, n:], ids[n:], None if dead is None else dead[n:]))
        start += len(ids)
    return taken
