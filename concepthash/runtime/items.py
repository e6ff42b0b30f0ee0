"""What is exported: codes with their ids, paths and labels, some at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from concepthash.bundle import BIT_ORDER
from concepthash.codes import CodeLayout, Codes, to_hex
from concepthash.runtime.entries import valid_text
from concepthash.runtime.planes import Ids
from concepthash.runtime.resharding import pieces

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery
    from concepthash.runtime.index import HammingIndex

STEP = 1 << 16
"""Images a block at most: what bounds the memory."""


class Block(NamedTuple):
    """Images: ids ``(n,)`` int64, codes ``(n, K / 8)`` uint8, paths and labels, None if unknown."""

    ids: Ids
    codes: Codes
    paths: list[str | None]
    labels: list[str | None]


@dataclass
class Items:
    """All images of a gallery, or all codes of an index, and what the codes are.

    Args:
        name: of what is exported, for people.
        layout: of the codes.
        fingerprint: of the model that made them, if it is known.
        model: the bundle's name.
        source: the images; read once, through :meth:`blocks`.
        count: how many were taken.
        altered: of them, those with a path or label that no database takes as it is.
        first: the first code as hexadecimal text, an example of a query.
    """

    name: str
    layout: CodeLayout
    fingerprint: str | None
    model: str | None
    source: Iterator[Block] = field(repr=False)
    count: int = 0
    altered: int = 0
    first: str = ""

    @classmethod
    def of_index(cls, index: HammingIndex, name: str) -> Items:
        """The codes of an index, in its order."""
        blocks = (
            Block(ids, codes, [None] * len(ids), [None] * len(ids))
            for codes, ids in pieces(index, STEP)
        )
        return cls(name, index.layout, None, None, blocks)

    @classmethod
    def of_gallery(cls, gallery: AnyGallery, name: str) -> Items:
        """The images of a gallery, as its moment has them."""
        return cls(name, gallery.layout, gallery.fingerprint, gallery.model, _images(gallery))

    def blocks(self) -> Iterator[Block]:
        """The images, with text that every database takes."""
        for block in self.source:
            paths, labels = map(_clean, block.paths), map(_clean, block.labels)
            cleaned = Block(block.ids, block.codes, list(paths), list(labels))
            before = zip(block.paths, block.labels, strict=True)
            after = zip(cleaned.paths, cleaned.labels, strict=True)
            self.altered += sum(a != b for a, b in zip(before, after, strict=True))
            if not self.count and len(block.ids):
                self.first = to_hex(block.codes[0])
            self.count += len(block.ids)
            yield cleaned

    @property
    def table(self) -> str:
        """The name as one that every database takes: lower-case letters, digits and _."""
        plain = re.sub(r"[^a-z0-9]+", "_", self.name.lower()).strip("_")[:40]
        return plain if plain[:1].isalpha() else f"images_{plain}".rstrip("_")

    @property
    def example(self) -> str:
        """A code to try a query with, ``K / 4`` hexadecimal digits; zeros if there is none."""
        return self.first or "00" * self.layout.nbytes

    def facts(self) -> dict[str, Any]:
        """What has to be known to use the codes, as plain values."""
        return {
            "name": valid_text(self.name),
            "images": self.count,
            "bits": self.layout.bits,
            "concepts": self.layout.concepts,
            "bit_order": BIT_ORDER,
            "fingerprint": self.fingerprint,
            "model": self.model,
        }


def _images(gallery: AnyGallery) -> Iterator[Block]:
    for ids, codes in gallery.blocks():
        for low in range(0, len(ids), STEP):
            some = np.ascontiguousarray(ids[low : low + STEP])
            found = gallery.names_of(some)
            pairs = [found[id] for id in some.tolist()]
            yield Block(some, codes[low : low + STEP], [p for p, _ in pairs], [n for _, n in pairs])


def _clean(text: str | None) -> str | None:
    """Text without what is no Unicode, and without NUL, which PostgreSQL does not take."""
    return None if text is None else valid_text(text).replace("\0", "?")


def sub_code_words(codes: Codes, layout: CodeLayout) -> npt.NDArray[np.int64]:
    """Sub-codes as whole numbers ``(n, M, W)`` int64, W the words of 64 bits that one takes.

    The bits of a sub-code are the lowest of its words, the first word the most significant.
    """
    n, words = len(codes), -(-layout.sub_bits // 64)
    bits = np.unpackbits(codes, axis=1).reshape(n, layout.concepts, layout.sub_bits)
    padded = np.zeros((n, layout.concepts, 64 * words), np.uint8)
    padded[:, :, 64 * words - layout.sub_bits :] = bits
    return np.packbits(padded, axis=-1).view(">i8").astype(np.int64)
