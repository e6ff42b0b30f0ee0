"""In what two photos are alike, and in what they differ, concept by concept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from concepthash.codes import per_concept, unpack
from concepthash.errors import MismatchError
from concepthash.explain.explanation import Explanation

SCHEMA = "chash.explain/1"
"""Of explanations as JSON, on the command line and over HTTP."""

ALIKE, DIFFERENT = 1 / 8, 1 / 4
"""Shares of a sub-code's bits: up to the first two photos are alike, from the second on they differ
in a concept. By chance half of the bits differ."""

_DISTANCE = re.compile(r"\((\d+) of (\d+)\)")

_NAMED = 6
"""Concepts that a sentence lists of each kind."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two photos beside each other. Notebooks show it.

    Args:
        a, b: the photos, of one code layout.
        per_concept: bits that differ in each concept.
    """

    a: Explanation
    b: Explanation
    per_concept: tuple[int, ...]

    @property
    def distance(self) -> int:
        """Bits that differ in all."""
        return sum(self.per_concept)

    @property
    def summary(self) -> str:
        """One sentence: "alike in head (0 of 16), differ in wing (7 of 16)"."""
        return in_words(self.per_concept, self.a.layout.sub_bits, self.a.concept_names)

    @property
    def order(self) -> tuple[int, ...]:
        """The concepts from the most alike to the most different, ties by number."""
        return tuple(sorted(range(len(self.per_concept)), key=self.per_concept.__getitem__))

    def differing(self, concept: int) -> tuple[int, ...]:
        """Which bits of a concept's sub-code differ, counted from 0."""
        own = self.a.layout.concept_slice(concept)
        different = unpack(self.a.code)[own] != unpack(self.b.code)[own]
        return tuple(np.flatnonzero(different).tolist())

    def figure(self) -> Image.Image:
        """Both photos and their heat maps, one above the other, with the bits that differ."""
        from concepthash.explain.figure import comparison_figure

        return comparison_figure(self)

    def to_json(self) -> dict[str, Any]:
        """Distances and differing bits as plain values, with both photos."""
        sub_bits = self.a.layout.sub_bits
        return {
            "distance": self.distance,
            "per_concept": list(self.per_concept),
            "summary": self.summary,
            "concepts": [
                {
                    "concept": concept,
                    "name": self.a.concept_names[concept],
                    "distance": distance,
                    "agree": round(1 - distance / sub_bits, 4),
                    "differing": list(self.differing(concept)),
                }
                for concept, distance in enumerate(self.per_concept)
            ],
            "images": [self.a.to_json(), self.b.to_json()],
        }

    def html(self) -> str:
        """One self-contained page, which needs no script."""
        from concepthash.explain.markup import comparison_page

        return comparison_page(self)

    def _repr_html_(self) -> str:
        from concepthash.explain.markup import comparison_cell

        return comparison_cell(self)

    def __repr__(self) -> str:
        return f"Comparison({self.a.name!r}, {self.b.name!r}: {self.summary})"


def compare(a: Explanation, b: Explanation) -> Comparison:
    """In what two photos are alike.

    Raises:
        MismatchError: if they are of different code layouts.
    """
    if a.layout != b.layout:
        raise MismatchError(
            f"codes of {a.layout.bits} bits and {a.layout.concepts} concepts cannot be compared "
            f"with {b.layout.bits} bits and {b.layout.concepts} concepts",
            where=f"{a.name}, {b.name}",
            hint="explain both photos with one model",
        )
    return Comparison(a, b, tuple(per_concept(a.code, b.code, a.layout).tolist()))


def to_answer(shown: Explanation | Comparison) -> dict[str, Any]:
    """Schema ``chash.explain/1``: a photo, or two and their comparison, as plain values."""
    if isinstance(shown, Explanation):
        return {"schema": SCHEMA, "image": shown.to_json()}
    comparison = shown.to_json()
    image, other = comparison.pop("images")
    return {"schema": SCHEMA, "image": image, "other": other, "comparison": comparison}


def in_words(distances: Sequence[int], sub_bits: int, names: Sequence[str]) -> str:
    """One sentence on the distances of concepts, each kind from the most alike on.

    Args:
        distances: one a concept.
        sub_bits: K/M.
        names: one a concept.
    """
    if not any(distances):
        return "the same code: alike in every concept"
    order = sorted(range(len(distances)), key=distances.__getitem__)
    kinds: dict[str, list[int]] = {"alike": [], "partly alike": [], "differ": []}
    for concept in order:
        share = distances[concept] / sub_bits
        kind = "alike" if share <= ALIKE else "differ" if share >= DIFFERENT else "partly alike"
        kinds[kind].append(concept)
    return ", ".join(
        f"{kind} in {_listed([f'{names[m]} ({distances[m]} of {sub_bits})' for m in concepts])}"
        for kind, concepts in kinds.items()
        if concepts
    )


def unbroken(words: str, space: str = "\xa0") -> str:
    """Words in which no line ends within a "(2 of 8)"; ``space`` stands for those in there."""
    return _DISTANCE.sub(rf"(\1{space}of{space}\2)", words)


def _listed(things: list[str]) -> str:
    if len(things) > _NAMED:
        things = [*things[: _NAMED - 1], f"{len(things) - _NAMED + 1} more"]
    return things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
