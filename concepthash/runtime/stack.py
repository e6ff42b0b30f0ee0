"""Segments one behind another: rows numbered through them, filters, their order, ids in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from concepthash.runtime.arguments import check_where
from concepthash.runtime.planes import Ids, Part, ids_at
from concepthash.runtime.segment import Rows, Segment

# A filter that leaves at most one row in this many is searched in a copy of those rows.
_SPARSE = 4
_STEP = 1 << 20


def starts(segments: Sequence[Segment]) -> Iterator[tuple[Segment, int]]:
    """Each segment with the number of its first row."""
    start = 0
    for segment in segments:
        yield segment, start
        start += segment.count


def rows_of(segments: Sequence[Segment]) -> int:
    """How many rows there are, removed ones too."""
    return sum(segment.count for segment in segments)


def find(segments: Sequence[Segment], ids: Ids) -> Rows:
    """The row of each id, -1 where no segment holds it."""
    rows = np.full(len(ids), -1, dtype=np.int64)
    for segment, start in starts(segments):
        local = segment.find(ids)
        rows = np.where(local >= 0, local + start, rows)
    return rows


def ordered(segments: Sequence[Segment]) -> bool:
    """Whether ids ascend over all rows."""
    filled = [segment for segment in segments if segment.count]
    return all(segment.ascending for segment in filled) and all(
        a.ids[-1] < b.ids[0] for a, b in pairwise(filled)
    )


def filtered(segments: Sequence[Segment], where: npt.ArrayLike) -> list[Part]:
    """The parts a search may look at under ``where``: booleans, one a live row, or ids.

    A sparse filter copies its rows, so that the parts have fewer.

    Raises:
        MismatchError, UsageError: if it is neither.
    """
    array = check_where(where, sum(s.count - s.removed for s in segments))
    allowed = np.zeros(rows_of(segments), dtype=bool)
    if array.dtype == bool:
        live = [segment.live for segment in segments]
        allowed[np.concatenate([np.empty(0, dtype=bool), *live])] = array
    else:
        rows = find(segments, array.astype(np.int64, copy=False))
        allowed[rows[rows >= 0]] = True
    sparse = np.count_nonzero(allowed) * _SPARSE <= len(allowed)
    parts = []
    for segment, start in starts(segments):
        inside = allowed[start : start + segment.count]
        if sparse:
            ids = ids_at(segment.ids, np.flatnonzero(inside))
            parts.append(Part(segment.planes[:, inside], ids))
        else:
            parts.append(Part(segment.planes, segment.ids, ~inside))
    return parts


def in_common(groups: Sequence[Sequence[Segment]]) -> Ids:
    """Ids that are live in two groups of segments: some of them, none if there are none.

    Only segments whose ids lie among each other are compared, and of them only the ids that do.
    """
    spans = sorted(
        (
            (*_span(segment), number, segment)
            for number, group in enumerate(groups)
            for segment in group
            if segment.count
        ),
        key=lambda span: span[:2],
    )
    reaching: list[tuple[int, int, int, Segment]] = []  # that end behind where the next one begins
    for first, last, number, segment in spans:
        reaching = [span for span in reaching if span[1] >= first]
        for _, end, other, held in reaching:
            if other != number:
                found = _shared(segment, held, first, min(last, end))
                if len(found):
                    return found
        reaching.append((first, last, number, segment))
    return np.empty(0, dtype=np.int64)


def _span(segment: Segment) -> tuple[int, int]:
    """The smallest and the largest id."""
    ids = segment.ids
    if segment.ascending:
        return int(ids[0]), int(ids[-1])
    assert not isinstance(ids, range)
    return int(ids.min()), int(ids.max())


def _shared(a: Segment, b: Segment, low: int, high: int) -> Ids:
    """Live ids of both from ``low`` to ``high``: those of the first million that has any."""
    few, many = sorted(
        ((segment, _between(segment, low, high)) for segment in (a, b)),
        key=lambda each: len(each[1]),
    )
    for start in range(0, len(few[1]), _STEP):
        rows = np.asarray(few[1][start : start + _STEP])
        if few[0].dead is not None:
            rows = rows[~few[0].dead[rows]]
        ids = ids_at(few[0].ids, rows)
        ids = ids[many[0].find(ids) >= 0]
        if len(ids):
            return ids
    return np.empty(0, dtype=np.int64)


def _between(segment: Segment, low: int, high: int) -> Rows | range:
    """The rows whose ids are from ``low`` to ``high``."""
    ids = segment.ids
    if isinstance(ids, range):
        return range(max(low - ids.start, 0), min(high - ids.start + 1, len(ids)))
    if segment.ascending:
        return range(int(np.searchsorted(ids, low)), int(np.searchsorted(ids, high, side="right")))
    return np.flatnonzero((ids >= low) & (ids <= high))
