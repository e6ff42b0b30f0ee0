"""Where the codes of an index live: segments of word planes, ids and tombstones.

A segment is either sealed (mapped from a file, never appended to) or grows in memory. Removing
only marks rows, so row numbers stay valid until the index is compacted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from concepthash.runtime.planes import Ids, Part, Words, ids_at

Rows = npt.NDArray[np.int64]
_Run = tuple[Ids, Rows]


class Segment:
    """Codes in append order, their ids, and which of them are removed.

    Args:
        planes: word planes ``(W, n)``; of a sealed segment also a strided view.
        ids: ``(n,)`` int64; an id may occur again only after its earlier row was removed. Of a
            sealed segment also a range.
        ascending: whether ``ids`` are strictly ascending (found out if not told).
        sealed: never append; the arrays may be a read-only memory map.
        dead: which rows are removed ``(n,)``; None when none is.
    """

    def __init__(
        self,
        planes: Words,
        ids: Ids | range,
        *,
        ascending: bool | None = None,
        sealed: bool = False,
        dead: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._planes = planes
        self._ids = ids
        self._dead = dead
        self._runs: tuple[list[_Run], int] = ([], 0)
        self.count = len(ids)
        self.removed = 0 if dead is None else int(np.count_nonzero(dead))
        self.sealed = sealed
        self.ascending = is_ascending(ids) if ascending is None else ascending

    @property
    def ids(self) -> Ids | range:
        """Ids of all rows ``(n,)``, removed ones too."""
        return self._ids[: self.count]

    @property
    def live_ids(self) -> Ids:
        """Ids of the rows that are not removed, as an array."""
        return ids_at(self.ids, np.flatnonzero(self.live))

    @property
    def planes(self) -> Words:
        """Word planes of all rows ``(W, n)``."""
        return self._planes[:, : self.count]

    @property
    def dead(self) -> npt.NDArray[np.bool_] | None:
        """Which rows are removed ``(n,)``; None when none is."""
        return None if self._dead is None else self._dead[: self.count]

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """Which rows are not removed ``(n,)``."""
        return np.ones(self.count, dtype=bool) if self.dead is None else ~self.dead

    @property
    def nbytes(self) -> int:
        """Bytes of codes, ids and tombstones, room for growth left out."""
        ids = 0 if isinstance(self._ids, range) else 8
        return (8 * len(self._planes) + ids + (self._dead is not None)) * self.count

    def part(self) -> Part:
        """What a scan reads."""
        return Part(self.planes, self.ids, self.dead)

    def frozen(self) -> Segment:
        """The rows as they are now, sealed; only the marks of removed ones are copied."""
        dead = None if self.dead is None else self.dead.copy()
        return Segment(self.planes, self.ids, ascending=self.ascending, sealed=True, dead=dead)

    def append(self, planes: Words, ids: Ids) -> None:
        """Add rows at the end; not of a sealed segment."""
        assert not isinstance(self._ids, range)
        end = self.count + len(ids)
        if end > len(self._ids):
            self._grow(max(end, 2 * self.count, 1024))
        self._planes[:, self.count : end] = planes
        self._ids[self.count : end] = ids
        follows = not self.count or not len(ids) or bool(self._ids[self.count - 1] < ids[0])
        self.ascending = self.ascending and follows and is_ascending(ids)
        self.count = end

    def _grow(self, capacity: int) -> None:
        assert not isinstance(self._ids, range)
        planes = np.empty((len(self._planes), capacity), dtype=self._planes.dtype)
        ids = np.empty(capacity, dtype=np.int64)
        planes[:, : self.count] = self.planes
        ids[: self.count] = self._ids[: self.count]
        if self._dead is not None:
            dead = np.zeros(capacity, dtype=bool)
            dead[: self.count] = self.dead
            self._dead = dead
        self._planes, self._ids = planes, ids

    def remove(self, rows: Rows) -> None:
        """Mark distinct live ``rows`` as removed."""
        if not len(rows):
            return
        if self._dead is None:
            self._dead = np.zeros(len(self._ids), dtype=bool)
        self._dead[rows] = True
        self.removed += len(rows)

    def find(self, wanted: Ids) -> Rows:
        """Row of each wanted id, -1 where it is absent or removed."""
        if isinstance(self._ids, range):
            rows = wanted - self._ids.start
            rows[(rows < 0) | (rows >= self.count)] = -1
        elif self.ascending:
            rows = _search(self._ids[: self.count], wanted)
        else:
            rows = np.full(len(wanted), -1, dtype=np.int64)
            for keys, places in self._table():
                at = _search(keys, wanted)
                rows = np.where(at >= 0, places[at], rows)
        if self.dead is not None:
            rows[(rows >= 0) & self.dead[rows]] = -1
        return rows

    def _table(self) -> list[_Run]:
        """Sorted runs of (ids, rows), older first.

        Runs at least halve in size, so that adding one id at a time stays cheap: a new run is
        merged into its elder only when it has grown half as long.
        """
        runs, covered = self._runs
        if covered < self.count:
            rows = np.arange(covered, self.count)
            runs = [*runs, _sorted(ids_at(self._ids, rows), rows)]
            while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
                (old_ids, old_rows), (new_ids, new_rows) = runs[-2:]
                ids, rows = np.concatenate((old_ids, new_ids)), np.concatenate((old_rows, new_rows))
                runs[-2:] = [_sorted(ids, rows)]
            self._runs = (runs, self.count)
        return runs


def is_ascending(ids: Ids | range) -> bool:
    """Whether every id is larger than the one before it."""
    if isinstance(ids, range):
        return ids.step > 0
    return bool(np.all(ids[1:] > ids[:-1]))


def _sorted(ids: Ids, rows: Rows) -> _Run:
    # Stable: of an id that was removed and added again, the newest row stays last.
    order = np.argsort(ids, kind="stable")
    return ids[order], rows[order]


def _search(keys: Ids, wanted: Ids) -> Rows:
    """Position of the last key equal to each wanted id, -1 where there is none."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.searchsorted(keys, wanted, side="right").astype(np.int64) - 1
    at[keys[at] != wanted] = -1
    return at
