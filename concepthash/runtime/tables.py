"""Multi-index hashing tables: rows by sub-code, so that a search looks only where hits can be.

A code is cut into sub-codes of at most 16 bits, one a concept where concepts have that size; wider
concepts are cut again, narrow ones joined. Each has a table that orders the rows by it. A search
looks up ever farther neighbours of the query's sub-codes: once table t was searched to radius s_t,
a code not seen yet has d_t > s_t in every table, so its distance is at least sum_t w_t (s_t + 1)
(Norouzi, Punjani, Fleet: Fast Exact Search in Hamming Space with Multi-Index Hashing, 2014).
:mod:`concepthash.runtime.planner` searches them; the native kernel does the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.errors import BackendError, UsageError
from concepthash.runtime.native import kernel
from concepthash.runtime.planes import Part, Words, to_words
from concepthash.runtime.tablefile import Run, checksum, damaged, read, write

WIDEST = 16
"""Bits of a sub-code at most."""

_ALIGNMENT = 64
_MOST_ROWS = 1 << 31  # of a run: row numbers are 32 bits


class Misses:
    """How searches have fared: after each that was better scanned, more calls are scanned at once.

    Only time depends on it. Threads may count past each other; nothing else happens then.
    """

    _MOST = 32

    def __init__(self) -> None:
        self._next = 1
        self._left = 0

    def skip(self) -> bool:
        """Whether this call is one of those that are scanned at once."""
        self._left -= self._left > 0
        return self._left > 0

    def note(self, *, missed: bool) -> None:
        """Tell how a search went."""
        self._next = min(2 * self._next, self._MOST) if missed else 1
        self._left = self._next if missed else 0


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables over rows of an index; they hold row numbers, never ids.

    Args:
        layout: of the codes.
        copy_codes: whether sub-codes are copied beside the row numbers: 10 instead of 4 bytes a
            table and code, for speed.
        runs: what was built at one time, in the order of their rows. Those built here cover the
            rows ``0 .. rows``, each at least twice the next; :func:`chained` ones may leave gaps.
    """

    layout: CodeLayout
    copy_codes: bool = False
    runs: tuple[Run, ...] = ()
    misses: Misses = field(default_factory=Misses, init=False)

    @classmethod
    def build(
        cls,
        parts: Sequence[Part],
        layout: CodeLayout,
        *,
        copy_codes: bool = False,
        threads: int = 1,
    ) -> Tables:
        """Tables of all rows of ``parts``; takes no more memory than they do.

        Raises:
            BackendError: without the native kernel.
        """
        return cls(layout, copy_codes).extend(parts, threads=threads)

    @cached_property
    def rows(self) -> int:
        """How many rows they cover."""
        return sum(run.rows for run in self.runs)

    @property
    def end(self) -> int:
        """The row behind the last they cover."""
        return self.runs[-1].first + self.runs[-1].rows if self.runs else 0

    @cached_property
    def arguments(self) -> list[tuple[npt.NDArray[np.uint8], int, int]]:
        """The runs as the kernel takes them."""
        return [(run.block, run.first, run.rows) for run in self.runs]

    @property
    def nbytes(self) -> int:
        """Bytes they take."""
        return sum(run.block.nbytes for run in self.runs)

    def extend(self, parts: Sequence[Part], *, threads: int = 1) -> Tables:
        """Tables that cover all rows of ``parts``, of which these cover some.

        Only what is new is sorted, with the runs before it that are less than twice as long: a row
        is sorted again at most log2(n) times, and there are at most log2(n) runs behind a gap.

        Raises:
            BackendError: without the native kernel.
            UsageError: if these tables cover more rows than there are.
        """
        native = kernel()
        if native is None:
            raise BackendError(
                "tables need the native kernel, which was not built or is switched off",
                where="CHASH_KERNEL",
                hint="chash doctor",
            )
        total = sum(len(part.ids) for part in parts)
        if total < self.end:
            raise UsageError(
                f"the tables cover {self.end} rows, the index has {total}",
                where="tables",
                hint="build them again: chash index --accelerate",
            )
        runs, first = list(self.runs), self.end
        while runs and first < total and runs[-1].rows < 2 * (total - first):
            first = runs.pop().first
        runs += [
            _run(
                native,
                parts,
                self.layout,
                low,
                min(_MOST_ROWS, high - low),
                self.copy_codes,
                threads,
            )
            for start, high in gaps(runs, total)
            for low in range(start, high, _MOST_ROWS)
        ]
        return Tables(self.layout, self.copy_codes, tuple(sorted(runs, key=lambda run: run.first)))

    @property
    def intact(self) -> bool:
        """Whether what was opened matches the checksums of its file; reads all of it.

        It looks at the file that was opened, whatever a writer has put in its place since.
        """
        return all(run.checksum in (None, checksum(run.block)) for run in self.runs)

    def save(self, path: Path, key: bytes | str) -> None:
        """Write a file; ``key`` says which codes they are of, and is needed to open them.

        Raises:
            GalleryError: if it cannot be written; an earlier file of that name is then intact.
        """
        write(path, key, self.layout, self.copy_codes, self.runs)

    @classmethod
    def open(cls, path: Path, *, key: bytes | str) -> Tables:
        """Map a file of tables. Its header is checked, its contents only by :attr:`intact`.

        Raises:
            GalleryError: if it is missing, truncated, damaged, from another version, or was saved
                under another key.
        """
        file = read(path, key)
        native, first = kernel(), 0
        for run in file.runs:
            fits = run.first == first and 0 < run.rows <= _MOST_ROWS
            if fits and native is not None:
                fits = len(run.block) == block_size(native, file.layout, run.rows, file.copied)
            if not fits:
                raise damaged(path)
            first += run.rows
        return cls(file.layout, file.copied, file.runs)


def chained(stretches: Iterable[tuple[int, Sequence[Tables]]]) -> tuple[Tables, ...]:
    """Tables of indexes that lie one behind another, as tables of all: at most one of each kind.

    Args:
        stretches: the row each index begins at, and its tables.
    """
    layouts: dict[bool, CodeLayout] = {}
    runs: dict[bool, list[Run]] = {}
    for first, some in stretches:
        for tables in some:
            layouts[tables.copy_codes] = tables.layout
            moved = [run._replace(first=first + run.first) for run in tables.runs]
            runs.setdefault(tables.copy_codes, []).extend(moved)
    return tuple(Tables(layouts[copied], copied, tuple(some)) for copied, some in runs.items())


def gaps(runs: Iterable[Run], total: int) -> list[tuple[int, int]]:
    """The stretches of the rows ``0 .. total`` that no run covers."""
    found, first = [], 0
    for run in sorted(runs, key=lambda run: run.first):
        if first < run.first:
            found.append((first, run.first))
        first = run.first + run.rows
    return [*found, (first, total)] if first < total else found


@lru_cache(maxsize=16)
def cuts(layout: CodeLayout) -> Words:
    """Which bits each table is over: masks ``(T, W)`` uint64, together all bits."""
    bits = np.zeros((0, layout.bits), dtype=bool)
    for start, stop in _ranges(layout):
        row = np.zeros((1, layout.bits), dtype=bool)
        row[0, start:stop] = True
        bits = np.concatenate((bits, row))
    return np.ascontiguousarray(to_words(np.packbits(bits, axis=1), layout).T)


def block_size(native: ModuleType, layout: CodeLayout, count: int, copy_codes: bool) -> int:
    """Bytes the tables of ``count`` rows take."""
    size: int = native.tables_size(cuts(layout), count, copy_codes)
    return size


def _ranges(layout: CodeLayout) -> Iterator[tuple[int, int]]:
    """The bits of each table as [start, stop): wide concepts are cut evenly, narrow ones joined."""
    width = layout.sub_bits
    if width > WIDEST:
        pieces = -(-width // WIDEST)
        for concept in range(layout.concepts):
            edges = [concept * width + width * i // pieces for i in range(pieces + 1)]
            yield from pairwise(edges)
    else:
        tables = -(-layout.concepts // (WIDEST // width))
        edges = [layout.concepts * i // tables * width for i in range(tables + 1)]
        yield from pairwise(edges)


def _run(
    native: ModuleType,
    parts: Sequence[Part],
    layout: CodeLayout,
    first: int,
    count: int,
    copy_codes: bool,
    threads: int,
) -> Run:
    tables = cuts(layout)
    room = np.zeros(block_size(native, layout, count, copy_codes) + _ALIGNMENT, dtype=np.uint8)
    block = room[-room.ctypes.data % _ALIGNMENT :][: len(room) - _ALIGNMENT]
    planes: list[tuple[object, ...]] = [(part.planes, None, 0, None) for part in parts]

    def build(table: int) -> None:
        native.tables_build(planes, tables, block, first, count, copy_codes, table)

    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="tables") as pool:
        list(pool.map(build, range(len(tables))))
    return Run(first, count, block)
