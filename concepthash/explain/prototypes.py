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
from concepthash.runtime.galleries import AnyGallery

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
    gallery: AnyGallery, *, top: int = TOP, examples: int = EXAMPLES
) -> tuple[ConceptValues, ...]:
    """The prototypes of each concept in a gallery; see :func:`find_prototypes`.

    Raises:
        GalleryError: if the gallery cannot be read.
    """
    ids, codes = gallery.codes()
    known = gallery.labels()
    names = (*known.names, None)  # the last is that of number -1
    numbers = zip(known.ids.tolist(), known.numbers.tolist(), strict=True)
    labels = {id: names[number] for id, number in numbers}
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
    numbers, names = _classes(labels, len(codes))
    found = []
    for concept in range(layout.concepts):
        values = sub_codes(codes, layout, concept)
        distinct, _, counts = distinct_values(values)
        margins = None
        if logits is not None:
            margins = np.abs(logits[:, layout.concept_slice(concept)]).min(axis=1)
        prototypes = []
        for value in _most_frequent(distinct, counts, layout.sub_bits, top):
            rows = np.flatnonzero((values == _as_words(value, values.shape[1])).all(axis=1))
            typical = rows if margins is None else rows[np.argsort(-margins[rows], kind="stable")]
            images = tuple(map(path_of, typical[:examples].tolist()))
            share = len(rows) / max(len(codes), 1)
            bits = f"{value:0{layout.sub_bits}b}"
            own = mixture(numbers[rows], names)
            prototypes.append(
                Prototype(concept, value, bits, len(rows), share, own, purity(own), images)
            )
        found.append(
            ConceptValues(
                concept, layout.sub_bits, len(distinct), entropy(counts), tuple(prototypes)
            )
        )
    return tuple(found)


def sub_codes(codes: Codes, layout: CodeLayout, concept: int) -> Values:
    """The sub-codes of a concept as numbers: ``(n, K/8)`` uint8 to ``(n, w)`` uint64.

    The first word is the highest; K/M bits fill the lowest of them.
    """
    bits = layout.concept_slice(concept)
    first = bits.start // 8
    within = slice(bits.start - 8 * first, bits.stop - 8 * first)
    empty = -layout.sub_bits % _WORD
    values = np.empty((len(codes), (layout.sub_bits + empty) // _WORD), np.uint64)
    for start in range(0, len(codes), _ROWS):
        some = codes[start : start + _ROWS, first : -(-bits.stop // 8)]
        own = np.unpackbits(some, axis=1)[:, within]
        whole = np.packbits(np.pad(own, ((0, 0), (empty, 0))), axis=1)
        values[start : start + _ROWS] = whole.view(">u8")
    return values


def entropy(counts: npt.NDArray[np.integer]) -> float:
    """The entropy, in bits, of what was counted."""
    shares = counts / max(counts.sum(), 1)
    return float(np.abs(shares @ np.log2(shares)))  # not -0.0


def mixture(numbers: npt.NDArray[np.integer], names: Sequence[str]) -> dict[str, int]:
    """How often each name occurs, the largest count first, ties by name.

    Args:
        numbers: ``(n,)`` the place of each image's label in ``names``; -1 without one.
        names: the labels.
    """
    there, counts = np.unique(numbers[numbers >= 0], return_counts=True)
    pairs = [(names[n], count) for n, count in zip(there.tolist(), counts.tolist(), strict=True)]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def purity(labels: Mapping[str, int]) -> float | None:
    """The share of the largest of some counts; None if there is none."""
    return max(labels.values()) / sum(labels.values()) if labels else None


def distinct_values(
    values: Values,
) -> tuple[Values, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The distinct values ``(u, w)``, ascending, which one each image has, and their counts."""
    if values.shape[1] == 1:  # several times faster
        single, inverse, counts = np.unique(values[:, 0], return_inverse=True, return_counts=True)
        return single[:, None], inverse, counts
    distinct, inverse, counts = np.unique(values, axis=0, return_inverse=True, return_counts=True)
    return distinct, inverse.reshape(-1), counts


def _most_frequent(
    distinct: Values, counts: npt.NDArray[np.intp], sub_bits: int, top: int
) -> list[int]:
    chosen = np.argsort(-counts, kind="stable")[:top]
    values = [int.from_bytes(row.astype(">u8").tobytes(), "big") for row in distinct[chosen]]
    if sub_bits < top.bit_length():  # 2^sub_bits <= top: all there can be
        values += [value for value in range(2**sub_bits) if value not in values]
    return values


def _as_words(value: int, words: int) -> Values:
    return np.frombuffer(value.to_bytes(8 * words, "big"), ">u8").astype(np.uint64)


def _classes(labels: Sequence[Label] | None, count: int) -> tuple[npt.NDArray[np.intp], list[str]]:
    """The class of each image by number, -1 for none, and the names by number."""
    numbers: dict[Label, int] = {None: -1}
    given = [None] * count if labels is None else labels
    ids = [numbers.setdefault(label, len(numbers) - 1) for label in given]
    return np.array(ids, np.intp), [str(label) for label in numbers if label is not None]
