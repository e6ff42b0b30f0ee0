"""Exact Hamming scan: every live code is compared, by the native kernel or by numpy.

:func:`scan` is the whole boundary: nothing beyond it knows how distances are computed, how hits
are selected or how work is shared among threads, and its answer depends on none of these.
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
from concepthash.runtime import blocked
from concepthash.runtime.native import kernel, path
from concepthash.runtime.planes import Distances, Found, Ids, Part, Plan, Words, cut, ids_at

# Below this many code-query pairs a second thread costs more than it saves.
_PAIRS_A_THREAD = 1 << 19
# Queries a thread from which a batch is shared by queries, not by rows: each thread then slices all
# the codes, which must be little beside comparing them.
_QUERIES_A_THREAD = 256


class Within(NamedTuple):
    """All hits in a radius: those of query q are at ``offsets[q] : offsets[q + 1]``.

    In (distance, id) order within a query; ``rows`` count through all parts.
    """

    offsets: npt.NDArray[np.int64]
    rows: Ids
    ids: Ids
    distances: Distances


def scan(
    parts: Sequence[Part],
    queries: Words,
    plan: Plan,
    *,
    k: int,
    ordered: bool,
    radius: int | None = None,
    threads: int | None = None,
) -> Found:
    """The k live codes nearest to each query, in (distance, id) order.

    Args:
        parts: where the codes are; rows are numbered through them.
        queries: word planes ``(W, q)``.
        plan: how a distance is computed.
        k: hits a query, 0 or more.
        ordered: whether ids ascend with the rows, over all parts.
        radius: the largest distance of a hit; None for no bound.
        threads: at most; None for all cores. numpy uses one.
    """
    native = kernel()
    if native is None:
        return blocked.scan(parts, queries, plan, k=k, ordered=ordered, radius=radius)
    count = queries.shape[1]
    depth = min(k, sum(len(part.ids) for part in parts))
    if depth and count:
        hits = scan_lists(native, parts, queries, plan, depth, ordered, radius, threads)
    else:
        nothing = np.empty(0, np.int64)
        hits = Within(np.zeros(count + 1, np.int64), nothing, nothing, nothing.astype(np.int32))
    return padded(hits, k)


def padded(hits: Within, k: int) -> Found:
    """Lists of at most k hits as a rectangle."""
    shape = len(hits.offsets) - 1, k
    if len(hits.rows) == shape[0] * k:
        return Found(
            hits.rows.reshape(shape), hits.ids.reshape(shape), hits.distances.reshape(shape)
        )
    found = Found(
        np.full(shape, -1, dtype=np.int64),
        np.full(shape, -1, dtype=np.int64),
        np.full(shape, -1, dtype=np.int32),
    )
    lengths = np.diff(hits.offsets)
    query = np.repeat(np.arange(shape[0]), lengths)
    rank = np.arange(len(query)) - np.repeat(hits.offsets[:-1], lengths)
    found.rows[query, rank] = hits.rows
    found.ids[query, rank] = hits.ids
    found.distances[query, rank] = hits.distances
    return found


def within(
    parts: Sequence[Part],
    queries: Words,
    plan: Plan,
    *,
    radius: int,
    ordered: bool,
    threads: int | None = None,
) -> Within:
    """All live codes at ``radius`` or nearer; arguments as :func:`scan`."""
    native, total = kernel(), sum(len(part.ids) for part in parts)
    if native is not None and total and queries.shape[1]:
        return scan_lists(native, parts, queries, plan, total, ordered, radius, threads)
    each = [
        blocked.scan(parts, queries[:, [q]], plan, k=total, ordered=ordered, radius=radius)
        for q in range(queries.shape[1])
    ]
    lengths = [int(np.count_nonzero(found.rows >= 0)) for found in each]
    rows, ids, distances = (
        np.concatenate(
            [np.empty(0, dtype), *(found[i][0, :n] for found, n in zip(each, lengths, strict=True))]
        )
        for i, dtype in enumerate((np.int64, np.int64, np.int32))
    )
    return Within(offsets_of(lengths), rows, ids, distances)


def scan_lists(
    native: ModuleType,
    parts: Sequence[Part],
    queries: Words,
    plan: Plan,
    k: int,
    ordered: bool,
    radius: int | None,
    threads: int | None,
) -> Within:
    """The k nearest of each query, as lists of their own lengths."""
    count, rows = queries.shape[1], sum(len(part.ids) for part in parts)
    bound = plan.longest if radius is None else min(radius, plan.longest)
    most = usable_cpus() if threads is None else threads
    workers = max(1, min(most, count * rows // _PAIRS_A_THREAD))
    by_queries = count >= _QUERIES_A_THREAD * workers
    words = np.ascontiguousarray(queries.T)
    which = path()

    def piece(some: Sequence[Part], first: int, asked: Words) -> Within:
        answer = native.scan(
            which, arguments(some, ordered), asked, plan.masks, plan.factors, k, bound, ordered
        )
        found = listed(some, answer)
        return found._replace(rows=found.rows + first) if first else found

    if workers == 1:
        return piece(parts, 0, words)
    if by_queries:
        jobs = [(parts, 0, words[low:high]) for low, high in shares(count, workers)]
    else:
        jobs = [(cut(parts, low, high), low, words) for low, high in shares(rows, workers)]
    with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
        answers = list(pool.map(lambda job: piece(*job), jobs))
    return _chained(answers) if by_queries else merged(answers, count, k)


def shares(count: int, workers: int) -> list[tuple[int, int]]:
    """``0 .. count`` cut into about equal stretches, one a worker."""
    edges = [count * worker // workers for worker in range(workers + 1)]
    return list(pairwise(edges))


def arguments(parts: Sequence[Part], ordered: bool) -> list[tuple[object, ...]]:
    """The parts as the kernel takes them: (planes, ids or None, first id, dead or None).

    Where ids ascend with the rows their order is all that counts, and row numbers have it too.
    """
    taken: list[tuple[object, ...]] = []
    start = 0
    for planes, ids, dead in parts:
        if ordered:
            taken.append((planes, None, start, dead))
        elif isinstance(ids, range):
            taken.append((planes, None, ids.start, dead))
        else:
            taken.append((planes, np.ascontiguousarray(ids, dtype=np.int64), 0, dead))
        start += len(ids)
    return taken


def listed(parts: Sequence[Part], answer: Sequence[bytes]) -> Within:
    """What the kernel found: hits a query (int64), rows (int64) and distances (int32)."""
    rows = np.frombuffer(answer[1], dtype=np.int64)
    distances = np.frombuffer(answer[2], dtype=np.int32).copy()
    lengths = np.frombuffer(answer[0], dtype=np.int64)
    return Within(offsets_of(lengths), rows, _ids(parts, rows), distances)


def _ids(parts: Sequence[Part], rows: Ids) -> Ids:
    if len(parts) == 1:
        return ids_at(parts[0].ids, rows)
    ids, start = np.empty(len(rows), dtype=np.int64), 0
    for part in parts:
        here = (rows >= start) & (rows < start + len(part.ids))
        ids[here] = ids_at(part.ids, rows[here] - start)
        start += len(part.ids)
    return ids


def offsets_of(lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of some lists of these lengths begins, and the last ends."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _chained(answers: Sequence[Within]) -> Within:
    """Answers to queries that follow one another."""
    lengths = np.concatenate([np.diff(answer.offsets) for answer in answers])
    return Within(offsets_of(lengths), *_columns(answers))


def merged(answers: Sequence[Within], count: int, k: int) -> Within:
    """The k best of each query of answers from different rows."""
    query = np.concatenate(
        [np.repeat(np.arange(count), np.diff(answer.offsets)) for answer in answers]
    )
    rows, ids, distances = _columns(answers)
    order = np.lexsort((ids, distances, query))
    query = query[order]
    order = order[np.arange(len(query)) - np.searchsorted(query, query) < k]
    lengths = np.minimum(np.bincount(query, minlength=count), k)
    return Within(offsets_of(lengths), rows[order], ids[order], distances[order])


def _columns(answers: Sequence[Within]) -> tuple[Ids, Ids, Distances]:
    rows, ids, distances = (
        np.concatenate([answer[column] for answer in answers]) for column in (1, 2, 3)
    )
    return rows, ids, distances
