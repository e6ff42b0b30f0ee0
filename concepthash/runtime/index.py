"""Exact Hamming search over packed codes, concept by concept."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.decode import usable_cpus
from concepthash.errors import MismatchError, UsageError
from concepthash.runtime import stack
from concepthash.runtime.arguments import (
    LARGEST_ID,
    check_count,
    check_ids,
    some,
    weights_asked,
)
from concepthash.runtime.indexfile import IndexFile, read, write
from concepthash.runtime.planes import (
    Found,
    Ids,
    Part,
    Plan,
    Words,
    concept_distances,
    gather,
    to_codes,
    to_words,
)
from concepthash.runtime.planner import find, find_within
from concepthash.runtime.segment import Segment
from concepthash.runtime.tables import Tables, chained


@dataclass(frozen=True, eq=False)
class Hits:
    """Answers of a search, nearest first; ties in id order; missing = -1.

    Args:
        ids: ``(q, k)`` int64.
        distances: ``(q, k)`` int32, weighted and masked as the search was.
        per_concept: ``(q, k, M)`` int32, the plain Hamming distance of every concept, also of
            those the search left out.
    """

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]
    per_concept: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class RangeHits:
    """All hits in a radius: those of query q are ``offsets[q] : offsets[q + 1]`` of the others.

    Args:
        offsets: ``(q + 1,)`` int64.
        ids: int64, in (distance, id) order within a query.
        distances: int32, weighted and masked as the search was.
    """

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]


class HammingIndex:
    """Packed codes by id, searched exactly in (distance, id) order.

    Args:
        bits: K, a multiple of 8 in 8..512.
        concepts: M, a divisor of K.

    Searches may run in several threads at once; a change needs the index for itself.

    Raises:
        UsageError: if bits and concepts do not fit together.
    """

    def __init__(self, bits: int = 64, concepts: int = 4) -> None:
        self.layout = CodeLayout(bits, concepts)
        self._segments: list[Segment] = []
        self._largest = -1
        self._files: tuple[IndexFile, ...] = ()
        self._tables: tuple[Tables, ...] = ()

    @classmethod
    def of(cls, layout: CodeLayout, segments: Sequence[Segment], largest: int) -> HammingIndex:
        """An index over sealed segments, none of them copied.

        Args:
            layout: of their codes.
            segments: none shares a live id with another.
            largest: the largest id ever given; -1 for none.
        """
        index = cls(layout.bits, layout.concepts)
        index._segments = list(segments)
        index._largest = largest
        return index

    @classmethod
    def joined(cls, indexes: Sequence[HammingIndex]) -> HammingIndex:
        """One index over several, none of them copied; each one's tables keep serving its part.

        It holds what they hold now, one after another. What is added to or removed from it later
        does not show in them, nor the other way round.

        Args:
            indexes: one or more, of one layout, that share no id.

        Raises:
            UsageError: if there is none, or an id is in two of them.
            MismatchError: if they do not have one layout.
        """
        index = cls(*one_layout(indexes))
        twice = stack.in_common([each._segments for each in indexes])
        if len(twice):
            raise UsageError(
                f"ids in two of the indexes: {some(twice)}",
                where="indexes",
                hint="an id names one code; give each index ids of its own",
            )
        index._segments = [segment.frozen() for each in indexes for segment in each._segments]
        index._largest = max(each._largest for each in indexes)
        index._files = tuple(file for each in indexes for file in each._files)
        lengths = [stack.rows_of(each._segments) for each in indexes]
        first = [sum(lengths[:number]) for number in range(len(lengths))]
        index._tables = chained(zip(first, (each._tables for each in indexes), strict=True))
        return index

    @property
    def bits(self) -> int:
        """K, bits of a code."""
        return self.layout.bits

    @property
    def concepts(self) -> int:
        """M, concepts of a code."""
        return self.layout.concepts

    @property
    def ids(self) -> Ids:
        """A copy of the ids in the index, ``(n,)`` int64, in the order they were added."""
        kept = [segment.live_ids for segment in self._segments]
        return np.concatenate([np.empty(0, dtype=np.int64), *kept])

    def __len__(self) -> int:
        return sum(segment.count - segment.removed for segment in self._segments)

    def __contains__(self, id: object) -> bool:
        try:
            number = operator.index(id)  # type: ignore[arg-type]
        except TypeError:
            return False
        if not 0 <= number <= LARGEST_ID:
            return False
        return bool(stack.find(self._segments, np.array([number], dtype=np.int64))[0] >= 0)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids.tolist())

    def __getitem__(self, id: int) -> Codes:
        """The code of one id, ``(K / 8,)`` uint8.

        Raises:
            UsageError: if the index does not hold the id.
        """
        rows = self._known(check_ids(id))
        if len(rows) != 1:
            raise UsageError("one id is looked up at a time", where="id", hint="index[id]")
        parts = self.parts()
        code: Codes = to_codes(gather(parts, rows, len(parts[0].planes)), self.layout)[0]
        return code

    def __delitem__(self, id: int) -> None:
        """Remove one id."""
        self.remove(id)

    def __repr__(self) -> str:
        mapped = sum(s.nbytes for s in self._segments if s.sealed)
        memory = sum(s.nbytes for s in self._segments if not s.sealed)
        where = "on file" if any(file.mapped for file in self._files) else "copied"
        parts = [f"{len(self):,} codes", f"{self.bits} bits", f"{self.concepts} concepts"]
        parts.append(f"{memory / 1e6:.1f} MB in memory")
        if mapped:
            parts.append(f"{mapped / 1e6:.1f} MB {where}")
        return f"HammingIndex({', '.join(parts)})"

    def add(self, codes: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> Ids:
        """Add codes and return their ids; on an error nothing is added.

        Args:
            codes: ``(n, K / 8)`` uint8, or one code.
            ids: ``(n,)`` integers from 0 on, in any order; by default running numbers that
                continue after the largest id ever given. A removed id may be given again.

        Raises:
            MismatchError: if the codes do not have this index's width.
            UsageError: if ids are not as many as codes, not integers, negative, or duplicates.
        """
        packed = self.layout.check(codes)
        if ids is None:
            first = self._largest + 1
            if first + len(packed) - 1 > LARGEST_ID:
                raise UsageError("running ids would overflow", where="ids", hint="give ids")
            numbers = np.arange(first, first + len(packed), dtype=np.int64)
        else:
            numbers = check_ids(ids)
            self._refuse_duplicates(numbers, len(packed))
        if not len(packed):
            return numbers
        planes = to_words(packed, self.layout)
        if np.may_share_memory(planes, packed):
            planes = planes.copy()
        if not self._segments or self._segments[-1].sealed:
            self._segments.append(Segment(planes, numbers.copy()))
        else:
            self._segments[-1].append(planes, numbers)
        self._largest = max(self._largest, int(numbers.max()))
        return numbers

    def _refuse_duplicates(self, numbers: Ids, codes: int) -> None:
        if len(numbers) != codes:
            raise UsageError(
                f"{codes} codes need as many ids, got {len(numbers)}",
                where="ids",
                hint="one id a code, or ids=None for running numbers",
            )
        unique, counts = np.unique(numbers, return_counts=True)
        if len(unique) < len(numbers):
            raise UsageError(
                f"ids given twice: {some(unique[counts > 1])}", where="ids", hint="make ids unique"
            )
        known = numbers[stack.find(self._segments, numbers) >= 0]
        if len(known):
            raise UsageError(
                f"ids already in the index: {some(known)}",
                where="ids",
                hint="index.remove(ids) first to replace them",
            )

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove ids and return how many; on an error nothing is removed.

        Rows are only marked; :meth:`compact` or :meth:`save` leaves them out.

        Raises:
            UsageError: if the index does not hold one of them; the message lists them.
        """
        rows = self._known(np.unique(check_ids(ids)))
        for segment, start in stack.starts(self._segments):
            local = rows[(rows >= start) & (rows < start + segment.count)] - start
            segment.remove(local)
        return len(rows)

    def compact(self) -> int:
        """Free the memory of removed codes and return how many there were; order stays.

        A memory-mapped file is copied into memory only if codes were removed from it.
        """
        freed = sum(segment.removed for segment in self._segments)
        if freed:
            self._tables = ()  # of rows that have moved
            self._segments = [
                Segment(s.planes[:, s.live], s.live_ids) if s.removed else s
                for s in self._segments
                if s.count > s.removed
            ]
        if not any(segment.sealed for segment in self._segments):
            self._files = ()
        return freed

    def search(
        self,
        queries: npt.ArrayLike,
        k: int = 10,
        *,
        concepts: Iterable[int] | None = None,
        weights: Sequence[int] | npt.ArrayLike | None = None,
        radius: int | None = None,
        where: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> Hits:
        """The k nearest codes of each query, exactly, in (distance, id) order.

        The distance is ``sum_m w_m * d_m``: d_m the Hamming distance of sub-code m, w_m its weight
        (1 by default), 0 for a concept that does not count.

        Args:
            queries: ``(q, K / 8)`` uint8, or one code.
            k: hits a query; places beyond the codes there are hold -1.
            concepts: the concepts that count, by number; all by default.
            weights: M integers 0..255; those of concepts that do not count are ignored.
            radius: keep only hits at this distance or nearer.
            where: search only here: booleans aligned with :attr:`ids`, or an array of ids (those
                the index does not hold are no hits).
            threads: at most; all cores by default. The answer does not depend on it.

        Raises:
            MismatchError: if the queries do not have this index's width.
            UsageError: if another argument is out of range; the message says which.
        """
        words = to_words(self.layout.check(queries, "queries"), self.layout)
        k = check_count(k, "k")
        radius = None if radius is None else check_count(radius, "radius")
        plan = Plan.of(self.layout, weights_asked(concepts, weights, self.concepts))
        parts = self.parts() if where is None else stack.filtered(self._segments, where)
        found = find(
            parts, self._usable(parts), words, plan, k=k, radius=radius,
            ordered=stack.ordered(self._segments), threads=_threads(threads),
        )  # fmt: skip
        return Hits(found.ids, found.distances, self._explained(words, parts, found))

    def within(
        self,
        queries: npt.ArrayLike,
        radius: int,
        *,
        concepts: Iterable[int] | None = None,
        weights: Sequence[int] | npt.ArrayLike | None = None,
        where: npt.ArrayLike | None = None,
        threads: int | None = None,
    ) -> RangeHits:
        """All codes at ``radius`` or nearer to each query; arguments as :meth:`search`.

        Raises:
            MismatchError, UsageError: as :meth:`search`.
        """
        words = to_words(self.layout.check(queries, "queries"), self.layout)
        radius = check_count(radius, "radius")
        plan = Plan.of(self.layout, weights_asked(concepts, weights, self.concepts))
        parts = self.parts() if where is None else stack.filtered(self._segments, where)
        found = find_within(
            parts, self._usable(parts), words, plan, radius=radius,
            ordered=stack.ordered(self._segments), threads=_threads(threads),
        )  # fmt: skip
        return RangeHits(found.offsets, found.ids, found.distances)

    def accelerate(self, *, copy_codes: bool = False, threads: int | None = None) -> None:
        """Build multi-index hashing tables, or extend them to the codes added since.

        Searches then use them where they are faster than a scan, with the same answers. Codes
        added later are scanned until this is called again.

        Args:
            copy_codes: spend about three times the memory of the tables for speed.
            threads: at most; all cores by default.

        Raises:
            BackendError: without the native kernel.
        """
        like = [tables for tables in self._tables if tables.copy_codes == copy_codes]
        tables = like[0] if like else Tables(self.layout, copy_codes)
        count = _threads(threads) or usable_cpus()
        self._tables = (tables.extend(self.parts(), threads=count),)

    def attach(self, tables: Tables) -> None:
        """Use tables that were built over the first rows of this index.

        Raises:
            MismatchError: if they are of another layout, or of more rows than there are.
        """
        rows = stack.rows_of(self._segments)
        if tables.layout != self.layout or tables.end > rows:
            raise MismatchError(
                f"tables of {tables.rows} codes of {tables.layout} do not fit an index of {rows} "
                f"codes of {self.layout}",
                where="tables",
                hint="index.accelerate() builds them anew",
            )
        self._tables = (tables,)

    @property
    def tables(self) -> Tables | None:
        """The tables searches may use; None if there are none.

        Those of most rows, if some of the indexes that were joined have copied codes and some not.
        """
        return max(self._tables, key=lambda tables: tables.rows, default=None)

    def parts(self) -> list[Part]:
        """Where the codes lie, as other back ends read them: not copied, removed rows marked."""
        return [segment.part() for segment in self._segments]

    def save(self, path: str | Path) -> None:
        """Write the index without its removed codes: temporary name, fsync, rename.

        Raises:
            GalleryError: if the file cannot be written; an earlier one is then intact.
        """
        write(Path(path), self.layout, self._largest, self._segments)

    @classmethod
    def open(cls, path: str | Path, *, mmap: bool = True) -> HammingIndex:
        """A saved index, memory-mapped; ``mmap=False`` copies it into memory.

        Adding and removing afterwards happen in memory; the file changes with :meth:`save` only.

        Raises:
            GalleryError: if the file is missing, no index, truncated, damaged or too new.
        """
        file = read(Path(path), mmap=mmap)
        index = cls(file.layout.bits, file.layout.concepts)
        index._segments = [file.segment]
        index._largest = file.largest
        index._files = (file,)
        return index

    def verify(self) -> None:
        """Compare what was opened with the checksum of its file; reads all of it.

        An index that was never saved has nothing to compare.

        Raises:
            GalleryError: if a byte differs.
        """
        for file in self._files:
            file.verify()

    def _usable(self, parts: Sequence[Part]) -> tuple[Tables, ...]:
        """The tables, if the rows of ``parts`` are theirs: a sparse filter copies its rows."""
        same = sum(len(part.ids) for part in parts) == stack.rows_of(self._segments)
        return self._tables if same else ()

    def _explained(self, queries: Words, parts: list[Part], found: Found) -> npt.NDArray[np.int32]:
        """Distance of each concept for the hits only, ``(q, k, M)``."""
        count, k = found.rows.shape
        if not found.rows.size or found.rows[:, -1].min() >= 0:  # every place is filled
            codes = gather(parts, found.rows.ravel(), len(queries))
            each = concept_distances(np.repeat(queries, k, axis=1), codes, self.layout)
            return each.reshape(count, k, self.concepts)
        out = np.full((*found.ids.shape, self.concepts), -1, dtype=np.int32)
        query, rank = np.nonzero(found.rows >= 0)
        codes = gather(parts, found.rows[query, rank], len(queries))
        out[query, rank] = concept_distances(queries[:, query], codes, self.layout)
        return out

    def _known(self, ids: Ids) -> npt.NDArray[np.int64]:
        rows = stack.find(self._segments, ids)
        if (rows < 0).any():
            raise UsageError(
                f"ids not in the index: {some(ids[rows < 0])}",
                where="ids",
                hint="index.ids lists what it holds",
            )
        return rows


def _threads(value: int | None) -> int | None:
    if value is not None and check_count(value, "threads") < 1:
        raise UsageError("a search needs a thread", where="threads", hint="threads=1")
    return value


def one_layout(indexes: Sequence[HammingIndex]) -> tuple[int, int]:
    """Bits and concepts that indexes have in common.

    Raises:
        UsageError: if there is no index.
        MismatchError: if they do not have one layout.
    """
    if not indexes:
        raise UsageError("no index to put together", where="indexes", hint="give one or more")
    layout = indexes[0].layout
    for number, index in enumerate(indexes):
        if index.layout != layout:
            raise MismatchError(
                f"{index.bits} bits of {index.concepts} concepts do not go together with "
                f"{layout.bits} bits of {layout.concepts}",
                where=f"index {number}",
                hint="put together indexes of one model",
            )
    return layout.bits, layout.concepts
