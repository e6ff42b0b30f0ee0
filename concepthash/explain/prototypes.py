"""Prototypes: what the values of each concept's sub-code stand for, by the images that have them.

A concept of K/M bits sorts images into at most 2^(K/M) values. Those it uses most, with the classes
and photos they hold, are what a person looks at to name it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import MismatchError
from concepthash.runtime.snapshot import Snapshot

Values: TypeAlias = npt.NDArray[np.uint64]
"""``(n, w)`` sub-codes as big-endian numbers of w words."""

Label: TypeAlias = "str | int | None"

TOP, EXAMPLES = 8, 3

_WORD = 64
_ROWS = 1 << 18
"""Codes that are unpacked at once: a few times 16 MB."""


@dataclass(frozen=True)
class Prototype:
    """One value of a concept's sub-code, and the images that have it.

    Args:
        concept: whose sub-code it is of.
        value: the sub-code as a number, its first bit the highest.
        bits: the same as text of K/M characters.
        count: images that have it.
        share: of all images.
        labels: how many of them each class has, the largest first; images without one left out.
        purity: share of the largest class among those with a label; None if none has.
        images: paths of typical ones, the most typical first.
    """

    concept: int
    value: int
    bits: str
    count: int
    share: float
    labels: Mapping[str, int]
    purity: float | None
    images: tuple[str, ...]


@dataclass(frozen=True)
class ConceptValues:
    """The values one concept takes.

    Args:
        concept: its number.
        sub_bits: K/M; 2^(K/M) values are possible.
        used: how many occur.
        entropy: of the value of a random image, bits, at most K/M.
        prototypes: the most frequent, ties by value.
    """

    concept: int
    sub_bits: int
    used: int
    entropy: float
    prototypes: tuple[Prototype, ...]

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def gallery_prototypes(
    gallery: Snapshot, *, top: int = TOP, examples: int = EXAMPLES
) -> tuple[ConceptValues, ...]:
    """The prototypes of each concept in a gallery; see :func:`find_prototypes`.

    Raises:
        GalleryError: if the gallery cannot be read.
    """
    ids, codes = gallery.codes()
    labels = {entry.id: entry.label for entry in gallery.entries()}
    return find_prototypes(
        codes,
        gallery.layout,
        labels=[labels.get(id) for id in ids.tolist()],
        path_of=lambda row: str(gallery.entry(int(ids[row])).path),
        top=top,
        examples=examples,
    )


def find_prototypes(
    codes: Codes,
    layout: CodeLayout,
    *,
    labels: Sequence[Label] | None = None,
    logits: npt.NDArray[np.float32] | None = None,
    path_of: Callable[[int], str] = str,
    top: int = TOP,
    examples: int = EXAMPLES,
) -> tuple[ConceptValues, ...]:
    """The most frequent values of each concept's sub-code, with their classes and typical images.

    Typical are the images whose sub-code is furthest from another one: those of the largest margin,
    the smallest ``|logit|`` of the sub-code's bits. Without logits they are the first rows.

    Args:
        codes: ``(n, K/8)`` uint8.
        layout: of the codes.
        labels: ``n`` classes, None where there is none.
        logits: ``(n, K)`` that gave the codes.
        path_of: what an image is called, by its row; by default its number.
        top: values a concept. Where that is all there can be, those that do not occur are listed
            too.
        examples: images a value.

    Raises:
        MismatchError: if codes, labels, logits and layout do not belong together.
    """
    codes = layout.check(codes)
    for what, given in (("labels", labels), ("logits", logits)):
        if given is not None and len(given) != len(codes):
            raise MismatchError(f"{len(given)} {what} for {len(codes)} codes", where=what)
    if logits is not None and logits.shape[1] != layout.bits:
        raise MismatchError(f"{logits.shape[1]} logits for {layout.bits} bits", where="logits")
    classes = _Classes(labels)
    found = []
    for concept in range(layout.concepts):
        values = sub_codes(codes, layout, concept)
        margins = None
        if logits is not None:
            margins = np.abs(logits[:, layout.concept_slice(concept)]).min(axis=1)
        distinct, counts = _count(values)
        listed = [
            _prototype(concept, layout.sub_bits, value, rows, len(codes), classes)
            for value, rows in _most_frequent(values, distinct, counts, layout.sub_bits, top)
        ]
        found.append(
            ConceptValues(
                concept=concept,
                sub_bits=layout.sub_bits,
                used=len(distinct),
                entropy=_entropy(counts),
                prototypes=tuple(
                    _with_images(prototype, rows, margins, path_of, examples)
                    for prototype, rows in listed
                ),
            )
        )
    return tuple(found)
