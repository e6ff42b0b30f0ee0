"""Explanations as figures: photos, heat maps, bits and a legend, drawn by Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from concepthash.codes import to_hex
from concepthash.explain.canvas import (
    BLACK,
    MUTED,
    NAME,
    SMALL,
    TITLE,
    Canvas,
    bits_height,
    concept_label,
    width_of,
    wrapped,
)
from concepthash.explain.comparison import Comparison, unbroken
from concepthash.explain.explanation import Explanation, Map
from concepthash.explain.heat import overlay, smooth
from concepthash.explain.tables import counted
from concepthash.images import Pixels

TILE, PAIR_TILE, STRIP_TILE = 256, 208, 128
"""Pixels of a side of a photo: of one that is explained, of two, and in a terminal."""

_PAD = 20
_COLUMNS, _PAIR_COLUMNS = 3, 5
_LINE = 20
_NARROWEST = 640
"""What the legend and a title need."""


def tile(pixels: Pixels, map: Map | None, side: int) -> Image.Image:
    """The crop at another size, with a map laid over it where one is given."""
    photo = Image.fromarray(pixels)
    if len(pixels) != side:
        photo = photo.resize((side, side), Image.Resampling.LANCZOS)
    return photo if map is None else overlay(np.asarray(photo), map)


def explanation_figure(shown: Explanation) -> Image.Image:
    """The photo and one heat map a concept, each with its bits and their margins."""
    layout = shown.layout
    maps: list[Map | None] = [None, *shown.maps]
    if shown.background is not None:
        maps.append(shown.background)
    height = TILE + 26 + _LINE + bits_height(layout.sub_bits, margins=True)
    columns = min(len(maps), _COLUMNS)
    rows = -(-len(maps) // columns)
    width = max(columns * (TILE + _PAD) + _PAD, _NARROWEST)
    room = width - 2 * _PAD
    top = 4 * _LINE
    canvas = Canvas(width, top + rows * (height + _PAD) + 3 * _LINE)
    size = TITLE if width_of(shown.name, TITLE) <= room else NAME
    canvas.write(_PAD, 14, shown.name, size, width=room, keep_end=True)
    concepts = counted(layout.concepts, "concept")
    facts = f"{layout.bits} bits of {concepts}, code {to_hex(shown.code)}"
    canvas.write(_PAD, 46, facts, colour=MUTED, width=room)
    for place, map in enumerate(maps):
        row, column = divmod(place, columns)
        x, y = _PAD + column * (TILE + _PAD), top + row * (height + _PAD)
        canvas.paste(tile(shown.pixels, map, TILE), x, y)
        if 0 < place <= layout.concepts:
            _concept(canvas, x, y + TILE + 6, shown, place - 1)
        else:
            words = "where no concept looks" if place else "what the network sees"
            canvas.write(x, y + TILE + 6, words, NAME, colour=MUTED)
    _legend(canvas, top + rows * (height + _PAD))
    canvas.write(
        _PAD, canvas.image.height - 2 * _LINE,
        "Bars below bits: their margins |logit|. Boxed bits are weak: they flip first.",
        colour=MUTED,
    )  # fmt: skip
    return canvas.image


def _concept(canvas: Canvas, x: int, y: int, shown: Explanation, concept: int) -> None:
    margins, weak = shown.margins(concept), np.flatnonzero(shown.weak(concept)).tolist()
    canvas.name(x, y, concept, shown.concept_names[concept], TILE)
    words = f"smallest margin {margins.min():.2g}"
    words += f", {len(weak)} weak" if weak else ""
    canvas.write(x, y + 24, words, colour=MUTED, width=TILE)
    shares = shown.margin_shares(concept).tolist()
    canvas.bits(x, y + 26 + _LINE, TILE, shown.bits(concept), shares=shares, weak=weak)


def comparison_figure(pair: Comparison) -> Image.Image:
    """Both photos, one above the other: the concepts from the most alike to the most different."""
    a, b = pair.a, pair.b
    layout = a.layout
    columns = min(layout.concepts + 1, _PAIR_COLUMNS)
    rows = -(-(layout.concepts + 1) // columns)
    width = max(columns * (PAIR_TILE + _PAD) + _PAD, _NARROWEST)
    room = width - 2 * _PAD
    summary = wrapped(unbroken(pair.summary), TITLE, room)
    named = 14 + 30 * len(summary)
    top = named + 3 * _LINE + 14
    head = 46
    height = head + 2 * (PAIR_TILE + 6) + 6 + bits_height(layout.sub_bits, margins=False)
    canvas = Canvas(width, top + rows * (height + _PAD) + 2 * _LINE)
    for line, words in enumerate(summary):
        canvas.write(_PAD, 14 + 30 * line, words, TITLE, width=room)
    for line, (letter, one) in enumerate((("A", a), ("B", b))):
        canvas.write(_PAD, named + _LINE * line, letter)
        canvas.write(
            _PAD + _LINE, named + _LINE * line, one.name, width=room - _LINE, keep_end=True
        )
    facts = f"distance {pair.distance} of {layout.bits} bits; the concepts most alike come first"
    canvas.write(_PAD, named + 2 * _LINE, facts, colour=MUTED)
    for place, concept in enumerate((None, *pair.order)):
        row, column = divmod(place, columns)
        x, y = _PAD + column * (PAIR_TILE + _PAD), top + row * (height + _PAD)
        for nth, one in enumerate((a, b)):
            below = y + head + nth * (PAIR_TILE + 6)
            map = None if concept is None else one.maps[concept]
            canvas.paste(tile(one.pixels, map, PAIR_TILE), x, below)
        below = y + head + 2 * (PAIR_TILE + 6) + 4
        if concept is None:
            canvas.write(x, y, "A above, B below", NAME)
            canvas.write(x, below, "bits of A above those of B,", colour=MUTED)
            canvas.write(x, below + _LINE, "inverted where they differ", colour=MUTED)
            continue
        _distance(canvas, x, y, pair, concept)
        canvas.bits(x, below, PAIR_TILE, a.bits(concept), other=b.bits(concept))
    _legend(canvas, top + rows * (height + _PAD))
    return canvas.image


def _distance(canvas: Canvas, x: int, y: int, pair: Comparison, concept: int) -> None:
    distance, sub_bits = pair.per_concept[concept], pair.a.layout.sub_bits
    words = f"{distance} of {sub_bits}"
    left = PAIR_TILE - width_of(words, SMALL)
    canvas.name(x, y, concept, pair.a.concept_names[concept], int(left) - 8)
    canvas.write(x + left, y + 3, words)
    canvas.bar(x, y + 28, PAIR_TILE, distance / sub_bits)


def _legend(canvas: Canvas, y: int) -> None:
    canvas.write(_PAD, y, "low", colour=MUTED)
    canvas.scale(_PAD + 32, y + 2, 160, 12)
    canvas.write(
        _PAD + 200, y, "high: where a concept looks, each map by its own maximum", colour=MUTED
    )


def strip(photos: Sequence[Explanation], order: Sequence[int], side: int) -> Image.Image:
    """A small preview: each photo in a row, with the heat maps of concepts and their names.

    Args:
        photos: of one model.
        order: of the concepts.
        side: of a tile, pixels.
    """
    step = side + 6
    columns, rows = len(order) + 1, len(photos)
    canvas = Canvas(columns * step - 6, rows * step + _LINE)
    for row, one in enumerate(photos):
        for column, map in enumerate((None, *(one.maps[m] for m in order))):
            canvas.paste(tile(one.pixels, map, side), column * step, row * step)
    for column, concept in enumerate(order, 1):
        name = concept_label(photos[0].concept_names[concept], concept)
        canvas.write(column * step, rows * step, name, width=side)
    return canvas.image


def mosaic(
    photos: Sequence[Explanation], order: Sequence[int], side: int, *, grey: bool = False
) -> Image.Image:
    """The same without names on black, a pixel between tiles, for pictures made of characters.

    Args:
        grey: maps alone, the highest white, for what shows no colour.
    """
    step = side + 1
    canvas = Canvas((len(order) + 1) * step - 1, len(photos) * step - 1, BLACK)
    for row, one in enumerate(photos):
        canvas.paste(tile(one.pixels, None, side), 0, row * step)
        for column, concept in enumerate(order, 1):
            map = one.maps[concept]
            values = smooth(map, side) * (255 / max(float(map.max()), 1e-9))
            alone = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
            shown = alone if grey else tile(one.pixels, map, side)
            canvas.paste(shown.convert("RGB"), column * step, row * step)
    return canvas.image
