"""Why a search found what it found: a query and its hits, looked at concept by concept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from PIL import Image

from concepthash.codes import Codes, popcount, sub_code_text
from concepthash.errors import ImageError
from concepthash.explain.comparison import in_words
from concepthash.explain.explanation import Explanation, explanation
from concepthash.explain.photos import look
from concepthash.runtime.answers import Hit
from concepthash.runtime.galleries import AnyGallery
from concepthash.runtime.hasher import Hasher

SHOWN, _MAPS = 50, 800
"""Hits that a page shows at most, and their heat maps: of 64 concepts, a dozen hits."""

_KEPT = 256
"""Photos that are remembered, because several queries find them: 40 MB."""


@dataclass(frozen=True, eq=False)
class ExplainedHit:
    """One image that was found.

    Args:
        hit: as the search named it.
        code: of the gallery, ``(K / 8,)`` uint8, which the distances are of.
        photo: what the model says of the photo now; None if it cannot be shown.
        problem: why not; "" if it can.
    """

    hit: Hit
    code: Codes
    photo: Explanation | None
    problem: str = ""

    @property
    def changed(self) -> int:
        """Bits in which the photo's code differs from the one in the gallery."""
        return 0 if self.photo is None else int(popcount(self.photo.code ^ self.code).sum())


@dataclass(frozen=True, eq=False)
class ExplainedQuery:
    """A query and its hits. Notebooks show it.

    Args:
        query: the photo that was asked for.
        hits: nearest first, as many as are shown.
        found: hits there are.
        weights: what a bit of each concept counted in the search; 0 if it did not.
    """

    query: Explanation
    hits: tuple[ExplainedHit, ...]
    found: int
    weights: tuple[int, ...]

    def summary(self, hit: ExplainedHit) -> str:
        """In what a hit is like the query, of the concepts that counted."""
        counted = [m for m, weight in enumerate(self.weights) if weight]
        names = [self.query.concept_names[m] for m in counted]
        distances = [hit.hit.per_concept[m] for m in counted]
        if not any(distances):
            all_count = len(counted) == len(self.weights)
            return "alike in every concept" + ("" if all_count else " that counts")
        return in_words(distances, self.query.layout.sub_bits, names)

    def bits(self, hit: ExplainedHit, concept: int) -> tuple[str, tuple[int, ...]]:
        """The sub-code of a hit as the gallery has it, and which of its bits differ."""
        theirs = sub_code_text(hit.code, self.query.layout, concept)
        pairs = zip(theirs, self.query.bits(concept), strict=True)
        return theirs, tuple(n for n, (their, our) in enumerate(pairs) if their != our)

    def figure(self) -> Image.Image:
        """The query above its first hits, with heat maps and a distance bar a concept."""
        from concepthash.explain.sheet import contact_sheet

        return contact_sheet(self)

    def html(self) -> str:
        """One self-contained page, which needs no script."""
        from concepthash.explain.hitspage import hits_page

        return hits_page(self)

    def _repr_html_(self) -> str:
        from concepthash.explain.hitspage import hits_cell

        return hits_cell(self)


class HitExplainer:
    """Looks at the photos of hits again; what cannot be read is said so, never an error.

    Args:
        hasher: of the bundle that the gallery was made with.
        gallery: the one that was searched, at the same moment.
    """

    def __init__(self, hasher: Hasher, gallery: AnyGallery) -> None:
        self._hasher = hasher
        self._gallery = gallery
        self._photos: dict[int, Explanation | str] = {}

    def explain(
        self,
        query: Explanation,
        hits: Sequence[Hit],
        *,
        concepts: Iterable[int] | None = None,
        weights: Sequence[int] | None = None,
        shown: int = SHOWN,
    ) -> ExplainedQuery:
        """A query and its hits.

        Args:
            query: the photo that was asked for.
            hits: nearest first.
            concepts, weights: what counted in the search, as ``HammingIndex.search`` has them.
            shown: hits that are looked at, fewer of a model with more than 16 concepts; the others
                are only counted.

        Raises:
            GalleryError: if the gallery cannot be read.
            BackendError: if the graph cannot be computed.
        """
        count = query.layout.concepts
        first = hits[: min(shown, _MAPS // count)]
        self._look([hit for hit in first if hit.id not in self._photos])
        explained = []
        for hit in first:
            seen = self._photos[hit.id]
            code = self._gallery.code(hit.id)
            photo, problem = (None, seen) if isinstance(seen, str) else (seen, "")
            explained.append(ExplainedHit(hit, code, photo, problem))
        for id in list(self._photos)[:-_KEPT]:
            del self._photos[id]
        chosen = set(range(count) if concepts is None else concepts)
        given = [1] * count if weights is None else weights
        counted = tuple(weight if m in chosen else 0 for m, weight in enumerate(given))
        return ExplainedQuery(query, tuple(explained), len(hits), counted)

    def _look(self, hits: Sequence[Hit]) -> None:
        with closing(look(self._hasher, (hit.path for hit in hits))) as photos:
            for position, found in photos:
                hit = hits[position]
                if isinstance(found, ImageError):
                    self._photos[hit.id] = found.what
                else:
                    self._photos[hit.id] = explanation(
                        self._hasher, found.batch, found.encoded, found.row, hit.path
                    )
