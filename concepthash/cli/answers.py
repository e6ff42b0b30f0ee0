"""Queries and their hits, as a table, as lines and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepthash.cli.asked import Asked
from concepthash.cli.extras import needs
from concepthash.cli.output import printable, skipped_json
from concepthash.codes import to_hex
from concepthash.errors import BackendError, Skipped
from concepthash.names import numbered
from concepthash.runtime.answers import SCHEMA, Query, name_hits
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.index import HammingIndex, Hits

if TYPE_CHECKING:
    from concepthash.gpu import TorchSearcher

# Hits of all queries of one step.
_HITS_HELD = 1 << 20
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Answers:
    """What a gallery answered.

    Args:
        queries: those that could be read.
        skipped: those that could not.
        concept_names: of the model.
        sub_bits: bits of a concept, the largest distance of one.
        backend: what hashed them.
        search: what searched them.
        gallery, model: what was asked.
    """

    queries: tuple[Query, ...]
    skipped: Skipped
    concept_names: tuple[str, ...]
    sub_bits: int
    backend: str
    gallery: str
    model: str
    search: str = "cpu"

    @property
    def found(self) -> int:
        """Hits of all queries."""
        return sum(len(query.hits) for query in self.queries)

    def to_json(self) -> dict[str, Any]:
        """Schema ``chash.query/1``."""
        return {
            "schema": SCHEMA,
            "queries": [query.to_json() for query in self.queries],
            "backend": self.backend,
            "search": self.search,
            "gallery": self.gallery,
            "model": self.model,
            "concept_names": list(self.concept_names),
            "skipped": skipped_json(self.skipped),
        }

    def lines(self, form: str, *, unicode: bool) -> Iterator[str]:
        """The answers line by line.

        Args:
            form: table, tsv (one line a hit), jsonl (one line a query) or paths. Names have
                their control characters escaped in a table and in tsv, not in paths.
            unicode: whether a table may draw its bars.
        """
        if form == "jsonl":
            yield from (json.dumps(query.to_json()) for query in self.queries)
        elif form == "paths":
            yield from (hit.path for query in self.queries for hit in query.hits)
        elif form == "tsv":
            yield from self._tsv()
        else:
            for number, query in enumerate(self.queries):
                yield from [""] * (number > 0)
                yield from self._table(query, unicode=unicode)

    def _tsv(self) -> Iterator[str]:
        heads = [
            f"concept_{m}" if numbered(name) else f"concept_{m}:{name}"
            for m, name in enumerate(self.concept_names)
        ]
        yield "\t".join(["query", "rank", "id", "distance", *heads, "label", "path"])
        for query in self.queries:
            for hit in query.hits:
                numbers = [hit.rank, hit.id, hit.distance, *hit.per_concept]
                cells = [str(query.path), *map(str, numbers), hit.label or "", hit.path]
                yield "\t".join(printable(cell) for cell in cells)

    def _table(self, query: Query, *, unicode: bool) -> Iterator[str]:
        yield f"{printable(query.path or '')}  {query.code}"
        if not query.hits:
            yield "  no hit"
            return
        rows = [["rank", "dist", *self._heads(), "label", "path"]]
        for hit in query.hits:
            parts = [self._cell(d, unicode=unicode) for d in hit.per_concept]
            label = "-" if hit.label is None else hit.label
            names = [printable(label), printable(hit.path)]
            rows.append([str(hit.rank), str(hit.distance), *parts, *names])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        numeric = 2 + len(self.concept_names)
        for row in rows:
            cells = [
                cell.rjust(width) if place < numeric else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield ("  " + "  ".join(cells)).rstrip()

    def _heads(self) -> list[str]:
        return [f"c{m}" if numbered(name) else name for m, name in enumerate(self.concept_names)]

    def _cell(self, distance: int, *, unicode: bool) -> str:
        if not unicode:
            return str(distance)
        height = -(-distance * (len(_BARS) - 1) // self.sub_bits)  # any difference is seen
        return f"{distance} {_BARS[height]}"


def answer(
    gallery: Gallery,
    hasher: Hasher,
    sources: Sequence[Path],
    asked: Asked,
    *,
    search_on: str = "cpu",
    progress: Callable[[int], None],
) -> Answers:
    """Hash ``sources`` and search each in the gallery.

    Args:
        gallery: open to read, of the hasher's code space.
        hasher: of the bundle.
        sources: photos.
        asked: how many hits, by what.
        search_on: ``cpu``, ``cuda`` or ``cuda:N``; the answers are the same.
        progress: called with how many photos are hashed.

    Raises:
        GalleryError: if the gallery cannot be read.
        BackendError: if the device to search on, or torch, is not to be had.
    """
    import numpy as np

    index = gallery.index()
    searcher = None if search_on == "cpu" else _on_device(index, search_on)
    skipped = Skipped()
    read: list[Path] = []
    codes = [np.empty((0, gallery.layout.nbytes), np.uint8)]
    for done, (source, hashed) in enumerate(zip(sources, hasher.hash(sources), strict=True), 1):
        if hashed.code is None:
            skipped.add(source, hashed.error.what if hashed.error else "unreadable")
        else:
            read.append(source)
            codes.append(hashed.code[None])
        progress(done)
    found = np.concatenate(codes)
    names = hasher.bundle.manifest.concept_names
    queries = []
    for start, hits in _search(index, found, asked, hasher.threads, searcher):
        named = name_hits(gallery, hits.ids, hits.distances, hits.per_concept)
        for row, own in enumerate(named, start):
            queries.append(Query(str(read[row]), to_hex(found[row]), own, names))
    return Answers(
        queries=tuple(queries),
        skipped=skipped,
        concept_names=names,
        sub_bits=gallery.layout.sub_bits,
        backend=hasher.backend,
        gallery=str(gallery.path),
        model=str(hasher.bundle.path),
        search="cpu" if searcher is None else searcher.backend,
    )


def _on_device(index: HammingIndex, device: str) -> TorchSearcher:
    """The index on a GPU.

    Raises:
        BackendError: without torch, or without the device.
    """
    with needs("train"):
        from concepthash.gpu import TorchSearcher
    try:
        return TorchSearcher.of(index, device=device)
    except BackendError as error:
        raise BackendError(
            error.what, where=f"--search-on {device}", hint="--search-on cpu, or: chash doctor"
        ) from None


def _search(
    index: HammingIndex,
    codes: Any,
    asked: Asked,
    threads: int,
    searcher: TorchSearcher | None,
) -> Iterator[tuple[int, Hits]]:
    """The hits of every query, in bounded steps: the first query of a step, and its hits."""
    k = len(index) if asked.top is None else min(asked.top, len(index))
    step = max(1, _HITS_HELD // max(k, 1))
    for first in range(0, len(codes), step):
        some = codes[first : first + step]
        if asked.top is None and asked.radius is not None:
            near = index.within(
                some,
                asked.radius,
                concepts=asked.concepts,
                weights=asked.weights,
                threads=threads,
            )
            k = int((near.offsets[1:] - near.offsets[:-1]).max())
        by: Any = {"concepts": asked.concepts, "weights": asked.weights, "radius": asked.radius}
        if searcher is not None:
            hits = searcher.search(some, k, **by)
        else:
            hits = index.search(some, k, threads=threads, **by)
        yield first, hits
