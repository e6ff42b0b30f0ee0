"""Why a photo has the code it has: where each concept looks, its bits, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from concepthash.bundle import Manifest
from concepthash.codes import CodeLayout, Codes, sub_code_text, to_hex
from concepthash.encoder import Encoded
from concepthash.explain.heat import overlay
from concepthash.images import Pixels, Source

if TYPE_CHECKING:
    from concepthash.runtime.hasher import Hasher

Map = npt.NDArray[np.float32]

WEAK = 0.25
"""A bit is weak if its margin is below this share of the median margin of the photo's bits."""

_DIGITS = 3
"""Of the values of maps in JSON."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model says of one photo. Notebooks show it.

    Args:
        name: of the photo, to show; any text.
        pixels: the crop that the network sees, ``(S, S, 3)`` uint8.
        code: ``(K / 8,)`` uint8.
        logits: ``(K,)`` float32; a bit is set where its logit is above 0.
        maps: ``(M, h, w)`` float32, one a concept, not negative.
        background: ``(h, w)`` float32, where no concept looks; None if the model does not say.
        layout: how the code's bits are shared.
        concept_names: one a concept.
    """

    name: str
    pixels: Pixels
    code: Codes
    logits: npt.NDArray[np.float32]
    maps: Map
    background: Map | None
    layout: CodeLayout
    concept_names: tuple[str, ...]

    def bits(self, concept: int) -> str:
        """The sub-code of a concept as text of K/M characters, 0 and 1."""
        return sub_code_text(self.code, self.layout, concept)

    def margins(self, concept: int) -> npt.NDArray[np.float32]:
        """How far each bit of a concept is from being the other one, ``|logit|``: ``(K / M,)``."""
        return np.abs(self.logits[self.layout.concept_slice(concept)])

    def weak(self, concept: int) -> npt.NDArray[np.bool_]:
        """Which bits of a concept flip first, ``(K / M,)``: see :data:`WEAK`."""
        weak: npt.NDArray[np.bool_] = self.margins(concept) < WEAK * np.median(np.abs(self.logits))
        return weak

    def margin_shares(self, concept: int) -> npt.NDArray[np.float32]:
        """The margins of a concept from 0 to 1 to draw; 1 is twice the photo's median, or more."""
        unit = 2 * float(np.median(np.abs(self.logits))) or 1.0
        shares: npt.NDArray[np.float32] = np.minimum(self.margins(concept) / unit, 1.0)
        return shares

    def peak(self, concept: int) -> tuple[float, float]:
        """Where a concept looks most, x and y in shares of the crop: the centre of a cell."""
        map = self.maps[concept]
        row, column = np.unravel_index(map.argmax(), map.shape)
        return (float(column) + 0.5) / map.shape[1], (float(row) + 0.5) / map.shape[0]

    def heat(self, concept: int) -> Image.Image:
        """The crop with the map of a concept laid over it, ``S`` pixels a side."""
        return overlay(self.pixels, self.maps[concept])

    def figure(self) -> Image.Image:
        """The photo and one heat map a concept, with names, bits and margins."""
        from concepthash.explain.figure import explanation_figure

        return explanation_figure(self)

    def to_json(self) -> dict[str, Any]:
        """Names, bits, margins and maps as plain values; each map divided by its maximum."""
        return {
            "name": self.name,
            "code": to_hex(self.code),
            "shape": list(self.maps.shape[1:]),
            "concepts": [self._concept_json(concept) for concept in range(self.layout.concepts)],
            "background": None if self.background is None else _rounded(self.background),
        }

    def html(self) -> str:
        """One self-contained page, which needs no script."""
        from concepthash.explain.markup import explanation_page

        return explanation_page(self)

    def _repr_html_(self) -> str:
        from concepthash.explain.markup import explanation_cell

        return explanation_cell(self)

    def __repr__(self) -> str:
        layout = self.layout
        return f"Explanation({self.name!r}, {layout.bits} bits, {layout.concepts} concepts)"

    def _concept_json(self, concept: int) -> dict[str, Any]:
        x, y = self.peak(concept)
        return {
            "concept": concept,
            "name": self.concept_names[concept],
            "bits": self.bits(concept),
            "margins": [round(margin, 4) for margin in self.margins(concept).tolist()],
            "weak": np.flatnonzero(self.weak(concept)).tolist(),
            "peak": [round(x, 4), round(y, 4)],
            "map": _rounded(self.maps[concept]),
        }


def explain_image(hasher: Hasher, source: Source, *, name: str | None = None) -> Explanation:
    """Why a model gives a photo its code.

    Args:
        hasher: of the bundle.
        source: a path, encoded bytes, a Pillow image or an ``(H, W, 3)`` uint8 array.
        name: to show; by default the path, or "photo" for what has none.

    Raises:
        ImageError: if the photo cannot be decoded.
        BackendError: if the graph cannot be computed.
    """
    pixels = hasher.preprocess(source)[None]
    if name is None:
        name = str(source) if isinstance(source, str | Path) else "photo"
    return explanation(hasher, pixels, hasher.encode(pixels), 0, name)


def explanation(
    model: Hasher | Manifest, pixels: Pixels, encoded: Encoded, row: int, name: str
) -> Explanation:
    """The explanation of one photo of a batch; it does not hold on to the others.

    Args:
        model: whose layout and concept names count.
        pixels: the batch that was encoded, ``(B, S, S, 3)`` uint8.
        encoded: what the graph says of it.
        row: of the photo.
        name: of the photo.
    """
    manifest = model if isinstance(model, Manifest) else model.bundle.manifest
    background = None if encoded.background is None else encoded.background[row]
    return Explanation(
        name=name,
        pixels=pixels[row].copy(),
        code=encoded.codes[row].copy(),
        logits=encoded.logits[row].copy(),
        maps=encoded.attention[row].copy(),
        background=None if background is None else background.copy(),
        layout=manifest.layout,
        concept_names=manifest.concept_names,
    )


def _rounded(map: Map) -> list[list[float]]:
    highest = float(map.max())
    shares = map / highest if highest > 0 else np.zeros_like(map)
    return [[round(value, _DIGITS) for value in row] for row in shares.tolist()]
