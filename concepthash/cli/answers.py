"""Queries and their hits, as a table, as lines and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concepthash.cli.asked import Asked
from concepthash.cli.extras import needs
from concepthash.cli.options import named
from concepthash.cli.output import printable, skipped_json
from concepthash.codes import to_hex
from concepthash.errors import BackendError, Skipped
from concepthash.names import numbered
from concepthash.runtime.answers import SCHEMA, Found, Query, most_hits, name_hits
from concepthash.runtime.galleries import AnyGallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.index import HammingIndex, Hits

if TYPE_CHECKING:
    from concepthash.gpu import TorchSearcher
    from concepthash.serve.held import AnyHeld

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
        missing: of each query, the shards that gave no answer.
    """

    queries: tuple[Query, ...]
    skipped: Skipped
    concept_names: tuple[str, ...]
    sub_bits: int
    backend: str
    gallery: str
    model: str
    search: str = "cpu"
    missing: tuple[tuple[str, ...], ...] = ()

    @property
    def missing_shards(self) -> list[str]:
        """Those that gave no answer to some query."""
        return sorted({name for names in self.missing for name in names})

    @property
    def found(self) -> int:
        """Hits of all queries."""
        return sum(len(query.hits) for query in self.queries)

    def to_json(self) -> dict[str, Any]:
        """Schema ``chash.query/1``."""
        return {
            "schema": SCHEMA,
            "queries": list(self._queries()),
            "backend": self.backend,
            "search": self.search,
            "gallery": self.gallery,
            "model": self.model,
            "concept_names": list(self.concept_names),
            "skipped": skipped_json(self.skipped),
            **_named(self.missing_shards),
        }

    def _queries(self) -> Iterator[dict[str, Any]]:
        missing = self.missing or ((),) * len(self.queries)
        for query, names in zip(self.queries, missing, strict=True):
            yield {**query.to_json(), **_named(names)}

    def lines(self, form: str, *, unicode: bool) -> Iterator[str]:
        """The answers line by line.

        Args:
            form: table, tsv (one line a hit), jsonl (one line a query) or paths. Names have
                their control characters escaped in a table and in tsv, not in paths.
            unicode: whether a table may draw its bars.
        """
        if form == "jsonl":
            yield from map(json.dumps, self._queries())
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


def _named(missing: Sequence[str]) -> dict[str, Any]:
    return {"missing_shards": list(missing)} if missing else {}


def answer(
    gallery: AnyGallery,
    hasher: Hasher,
    sources: Sequence[Path],
    asked: Asked,
    *,
    search_on: str = "cpu",
    held: AnyHeld | None = None,
    progress: Callable[[int], None],
) -> Answers:
    """Hash ``sources`` and search each in the gallery.

    Args:
        gallery: open to read, of the hasher's code space.
        hasher: of the bundle.
        sources: photos.
        asked: how many hits, by what.
        search_on: ``cpu``, ``cuda`` or ``cuda:N``; the answers are the same.
        held: what holds the gallery, where this process does not search it.
        progress: called with how many photos are hashed.

    Raises:
        GalleryError: if the gallery cannot be read.
        BackendError: if the device to search on, or torch, is not to be had.
    """
    import numpy as np

    index = gallery.index() if held is None else None
    searcher = None if search_on == "cpu" or index is None else _on_device(index, search_on)
    skipped = Skipped()
    read: list[Path] = []
    codes = [np.empty((0, hasher.layout.nbytes), np.uint8)]
    for done, (source, hashed) in enumerate(zip(sources, hasher.hash(sources), strict=True), 1):
        if hashed.code is None:
            skipped.add(source, hashed.error.what if hashed.error else "unreadable")
        else:
            read.append(source)
            codes.append(hashed.code[None])
        progress(done)
    hashed_codes = np.concatenate(codes)
    names = hasher.bundle.manifest.concept_names
    if held is not None:
        found = _ask(held, hashed_codes, asked)
    else:
        assert index is not None
        found = [
            Found(hits)
            for some in _search(index, hashed_codes, asked, hasher.threads, searcher)
            for hits in name_hits(gallery, some.ids, some.distances, some.per_concept)
        ]
    queries = [
        Query(str(source), to_hex(code), one.hits, names)
        for source, code, one in zip(read, hashed_codes, found, strict=True)
    ]
    return Answers(
        queries=tuple(queries),
        missing=tuple(one.missing for one in found),
        skipped=skipped,
        concept_names=names,
        sub_bits=gallery.layout.sub_bits,
        backend=hasher.backend,
        gallery=named(gallery.path),
        model=str(hasher.bundle.path),
        search="ray" if held is not None else "cpu" if searcher is None else searcher.backend,
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
) -> Iterator[Hits]:
    """The hits of every query, in bounded steps."""
    k = len(index) if asked.top is None else min(asked.top, len(index))
    step = max(1, _HITS_HELD // max(k, 1))
    by: Any = {"concepts": asked.concepts, "weights": asked.weights, "radius": asked.radius}
    for first in range(0, len(codes), step):
        some = codes[first : first + step]
        k = most_hits(index, some, asked.top, threads=threads, **by)
        if searcher is not None:
            yield searcher.search(some, k, **by)
        else:
            yield index.search(some, k, threads=threads, **by)


def _ask(held: AnyHeld, codes: Any, asked: Asked) -> list[Found]:
    """What shards elsewhere find for every query.

    Raises:
        BackendError: if none of them answers.
    """
    from concepthash.serve.held import Asked as Search

    concepts, weights = asked.concepts, asked.weights
    search = Search(
        asked.top,
        asked.radius,
        None if concepts is None else tuple(concepts),
        None if weights is None else tuple(weights),
    )
    found: dict[int, Found] = {}
    for places, answers in held.search([(code, search) for code in codes]):
        for place, one in zip(places, answers, strict=True):
            if isinstance(one, Exception):
                raise one
            found[place] = one
    return [found[place] for place in range(len(codes))]
