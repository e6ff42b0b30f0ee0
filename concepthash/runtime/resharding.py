"""Indexes into one, and one into many; every code keeps its id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from concepthash.codes import Codes
from concepthash.errors import UsageError
from concepthash.runtime.arguments import check_count
from concepthash.runtime.index import HammingIndex, one_layout
from concepthash.runtime.planes import Ids, Words, ids_at, to_codes

_STEP = 1 << 20


def merge(indexes: Sequence[HammingIndex]) -> HammingIndex:
    """One index with the codes of all, in the order given.

    Raises:
        UsageError: if there is none, or an id is in two of them.
        MismatchError: if they do not have one layout.
    """
    merged = HammingIndex(*one_layout(indexes))
    for index in indexes:
        for codes, ids in pieces(index):
            merged.add(codes, ids)
    return merged


def split(index: HammingIndex, n: int) -> list[HammingIndex]:
    """An index cut into ``n`` of about equal size, in its order; some are empty if codes are few.

    Raises:
        UsageError: if ``n`` is no integer from 1 on.
    """
    if check_count(n, "n") < 1:
        raise UsageError("an index is split into one shard at least", where="n", hint="n=2")
    shards = [HammingIndex(index.bits, index.concepts) for _ in range(n)]
    cuts = [len(index) * shard // n for shard in range(n + 1)]
    start = 0
    for codes, ids in pieces(index):
        for shard, low, high in zip(shards, cuts[:-1], cuts[1:], strict=True):
            here = slice(max(low - start, 0), max(high - start, 0))
            if len(ids[here]):
                shard.add(codes[here], ids[here])
        start += len(ids)
    return shards


def pieces(index: HammingIndex, step: int = _STEP) -> Iterator[tuple[Codes, Ids]]:
    """The codes of an index with their ids, in its order, removed ones left out.

    Each piece is ``(n, K / 8)`` uint8 and ``(n,)`` int64, n from 1 to ``step``.
    """
    for planes, ids in _live(index, step):
        yield to_codes(planes, index.layout), ids


def live(index: HammingIndex) -> tuple[Words, Ids]:
    """All codes of an index as word planes ``(W, n)``, copied, and their ids ``(n,)``."""
    words = -(-index.bits // 64)
    planes, ids = np.empty((words, len(index)), np.uint64), np.empty(len(index), np.int64)
    start = 0
    for some, numbers in _live(index, _STEP):
        here = slice(start, start + len(numbers))
        planes[:, here], ids[here] = some, numbers
        start = here.stop
    return planes, ids


def _live(index: HammingIndex, step: int) -> Iterator[tuple[Words, Ids]]:
    for part in index.parts():
        for low in range(0, len(part.ids), step):
            rows = np.arange(low, min(low + step, len(part.ids)))
            if part.dead is not None:
                rows = rows[~part.dead[low : low + step]]
            if len(rows):
                yield part.planes[:, rows], ids_at(part.ids, rows)
