"""What figures are drawn with: text, bars, swatches and rows of bits on white, by Pillow alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import TypeAlias
from unicodedata import combining, normalize

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from concepthash.explain.heat import concept_colour, heat_colours

Colour = tuple[int, int, int]
Font: TypeAlias = "ImageFont.ImageFont | ImageFont.FreeTypeFont"

GROUND: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
TEXT: Colour = (28, 28, 26)
MUTED: Colour = (93, 93, 88)
TRACK: Colour = (224, 224, 218)
ACCENT: Colour = (11, 95, 148)
WARN: Colour = (213, 94, 0)

TITLE, NAME, SMALL = 22, 17, 13
"""Sizes of text, pixels."""

BIT_ROW, LONG_BIT_ROW = 16, 32
"""Bits on a line: of sub-codes of up to 64 bits, and of longer ones."""

_DIGIT_ROW, _MARGIN_ROW, _BIT_GAP = 19, 22, 6


def drawable(text: str) -> str:
    """A text as the built-in font can show it: without accents, other scripts as escapes."""
    plain = (c for c in normalize("NFKD", text) if not combining(c))
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in plain)


def concept_label(name: str, concept: int) -> str:
    """The name of a concept; its number where the built-in font has none of its letters."""
    shown = drawable(name)
    return f"concept {concept}" if "\\" in shown else shown


def width_of(text: str, size: int) -> float:
    """Pixels that a text is wide."""
    return _font(size).getlength(drawable(text))


def wrapped(text: str, size: int, width: float) -> list[str]:
    """The lines of a text that is broken at spaces to fit a width."""
    first, *rest = text.split(" ")
    lines = [first]
    for word in rest:
        longer = f"{lines[-1]} {word}"
        if width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def broken(text: str, size: int, width: float) -> list[str]:
    """The lines of a path that is broken after slashes where it can, else anywhere, to fit."""
    lines = [""]
    for part in re.findall(r"[^/]*/|[^/]+", drawable(text)):
        if lines[-1] and width_of(lines[-1] + part, size) > width:
            lines.append("")
        for letter in part:
            if width_of(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def bits_height(sub_bits: int, *, margins: bool) -> int:
    """Pixels that :meth:`Canvas.bits` takes; ``margins`` of one code, else two codes aligned."""
    row = _DIGIT_ROW + (_MARGIN_ROW if margins else _DIGIT_ROW) + _BIT_GAP
    return -(-sub_bits // _bits_a_row(sub_bits)) * row


def _bits_a_row(sub_bits: int) -> int:
    return min(sub_bits, BIT_ROW if sub_bits <= 4 * BIT_ROW else LONG_BIT_ROW)


@cache
def _font(size: int) -> Font:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow without FreeType has one small font
        return ImageFont.load_default()


def _cut(text: str, font: Font, width: float, *, keep_end: bool) -> str:
    """The longest start, or end, of a text that fits with three dots."""
    fits, beyond = 0, len(text)
    while beyond - fits > 1:
        length = (fits + beyond) // 2
        part = text[-length:] if keep_end else text[:length]
        fits, beyond = (length, beyond) if font.getlength(part + "...") <= width else (fits, length)
    return "..." + text[len(text) - fits :] if keep_end else text[:fits] + "..."


class Canvas:
    """A picture of one colour to draw on; places are pixels from its top left corner."""

    def __init__(self, width: int, height: int, ground: Colour = GROUND) -> None:
        self.image = Image.new("RGB", (width, height), ground)
        self._draw = ImageDraw.Draw(self.image)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: int = SMALL,
        *,
        colour: Colour = TEXT,
        width: float | None = None,
        keep_end: bool = False,
    ) -> None:
        """One line of text, cut to a width at its end, or at its start as fits paths."""
        shown = drawable(text)
        if width is not None and _font(size).getlength(shown) > width:
            shown = _cut(shown, _font(size), width, keep_end=keep_end)
        self._draw.text((x, y), shown, fill=colour, font=_font(size))

    def paste(self, image: Image.Image, x: int, y: int) -> None:
        """A picture."""
        self.image.paste(image, (x, y))

    def rule(self, x: int, y: int, width: int, colour: Colour) -> None:
        """A thin line across."""
        self._draw.line((x, y, x + width, y), fill=colour)

    def name(self, x: int, y: int, concept: int, name: str, width: int) -> None:
        """A concept's swatch and name."""
        box = (x, y + 3, x + 13, y + 16)
        self._draw.rectangle(box, fill=concept_colour(concept), outline=MUTED)
        self.write(x + 20, y, concept_label(name, concept), NAME, width=width - 20)

    def bar(self, x: int, y: int, width: int, share: float, *, faint: bool = False) -> None:
        """A bar that is filled to a share; any share above 0 is seen."""
        self._draw.rectangle((x, y, x + width - 1, y + 7), fill=TRACK)
        if share > 0:
            filled = max(round(width * share), 2)
            colour = MUTED if faint else ACCENT
            self._draw.rectangle((x, y, x + filled - 1, y + 7), fill=colour)

    def scale(self, x: int, y: int, width: int, height: int) -> None:
        """The scale of heat maps, low on the left."""
        colours = heat_colours(np.linspace(0, 1, width))[None].repeat(height, axis=0)
        self.paste(Image.fromarray(colours), x, y)

    def bits(
        self,
        x: int,
        y: int,
        width: int,
        bits: str,
        *,
        shares: Sequence[float] = (),
        weak: Collection[int] = (),
        other: str = "",
    ) -> None:
        """A sub-code, in lines of a width.

        Args:
            bits: the sub-code.
            shares: height of the bar of each margin below its bit, from 0 to 1.
            weak: bits that are boxed.
            other: a sub-code below it instead, with the bits that differ inverted.
        """
        a_row = _bits_a_row(len(bits))
        cell = width / max(a_row, BIT_ROW)
        size = 15 if a_row <= BIT_ROW else 10
        for first in range(0, len(bits), a_row):
            for bit in range(first, min(first + a_row, len(bits))):
                left = x + (bit - first) * cell
                if other:
                    apart = bits[bit] != other[bit]
                    self._digit(left, y, cell, bits[bit], size, inverted=apart)
                    self._digit(left, y + _DIGIT_ROW, cell, other[bit], size, inverted=apart)
                else:
                    self._digit(left, y, cell, bits[bit], size)
                    self._margin(left, y + _DIGIT_ROW, cell, shares[bit])
                    if bit in weak:
                        bottom = y + _DIGIT_ROW + _MARGIN_ROW - 2
                        self._draw.rectangle((left, y - 1, left + cell - 2, bottom), outline=WARN)
            y += _DIGIT_ROW + (_DIGIT_ROW if other else _MARGIN_ROW) + _BIT_GAP

    def _digit(
        self, x: float, y: int, cell: float, digit: str, size: int, *, inverted: bool = False
    ) -> None:
        if inverted:
            self._draw.rectangle((x, y - 1, x + cell - 2, y + _DIGIT_ROW - 3), fill=TEXT)
        inset = (cell - 1 - _font(size).getlength(digit)) / 2
        self.write(x + inset, y, digit, size, colour=GROUND if inverted else TEXT)

    def _margin(self, x: float, y: int, cell: float, share: float) -> None:
        bottom = y + _MARGIN_ROW - 4
        top = bottom - round((_MARGIN_ROW - 5) * share)
        self._draw.rectangle((x + cell / 4, top, x + 3 * cell / 4, bottom), fill=MUTED)
