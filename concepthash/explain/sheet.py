"""The contact sheet of a query: its photo above those of its first hits, a column a concept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from concepthash.explain.canvas import GROUND, MUTED, NAME, SMALL, TRACK, Canvas, broken, width_of
from concepthash.explain.figure import tile
from concepthash.explain.tables import counted

if TYPE_CHECKING:
    from concepthash.explain.explanation import Explanation
    from concepthash.explain.hits import ExplainedQuery

ROWS, COLUMNS = 10, 12
"""Hits and concepts on a sheet, at most."""

_TILE, _PAD, _WORDS = 128, 14, 190
_ROW = _TILE + 34
_PATH = 4
"""Lines that a path may take."""
_FAINT = 0.6
"""What a map that does not count is mixed with the ground by, as on the page."""
_TOP = 60


def remarks(weights: tuple[int, ...]) -> list[str]:
    """What a bit of each concept counted: nothing to say where it is 1."""
    words = {0: "not counted", 1: ""}
    return [words.get(weight, f"counts {weight} times") for weight in weights]


def contact_sheet(shown: ExplainedQuery) -> Image.Image:
    """The query above its first hits, with heat maps and a distance bar a concept."""
    hits, query = shown.hits[:ROWS], shown.query
    concepts = _shown(shown.weights)
    width = _column(len(concepts) + 1)
    canvas = Canvas(width, _TOP + (len(hits) + 1) * _ROW + 24)
    said = remarks(shown.weights)
    for place, concept in enumerate(concepts, 1):
        canvas.name(_column(place), 12, concept, query.concept_names[concept], _TILE)
        canvas.write(_column(place), 36, said[concept], colour=MUTED, width=_TILE)
    faint = [not shown.weights[concept] for concept in concepts]
    _words(canvas, _TOP, ["query"], query.name)
    _photos(canvas, _TOP, query, concepts, faint)
    sub_bits = query.layout.sub_bits
    bar = _TILE - 8 - round(width_of(f"{sub_bits} of {sub_bits}", SMALL))
    for row, one in enumerate(hits, 1):
        y = _TOP + row * _ROW
        hit = one.hit
        label = "no label" if hit.label is None else hit.label
        _words(canvas, y, [f"{hit.rank}", f"distance {hit.distance}", label], hit.path)
        if one.photo is not None:
            _photos(canvas, y, one.photo, concepts, faint)
        else:
            canvas.write(_column(0), y + 8, "cannot be shown:", colour=MUTED)
            canvas.write(_column(0), y + 28, one.problem, colour=MUTED, width=2 * _TILE)
        for place, concept in enumerate(concepts, 1):
            x, below, distance = _column(place), y + _TILE + 5, hit.per_concept[concept]
            counts = shown.weights[concept] > 0
            canvas.bar(x, below + 4, bar, distance / sub_bits, faint=not counts)
            canvas.write(x + bar + 8, below - 1, f"{distance} of {sub_bits}")
    rest = {"hit": shown.found - len(hits), "concept": len(shown.weights) - len(concepts)}
    more = [counted(number, f"more {thing}") for thing, number in rest.items() if number]
    words = [f"and {' and '.join(more)}"] if more else []
    words.append("bars: bits that differ from the query")
    canvas.write(_PAD, canvas.image.height - 22, "; ".join(words), colour=MUTED)
    return canvas.image


def _column(place: int) -> int:
    return _PAD + _WORDS + place * (_TILE + _PAD)


def _words(canvas: Canvas, y: int, lines: list[str], path: str) -> None:
    """A line in large letters and others, and a path, of which only the first letters may lack."""
    room = _WORDS - 20
    canvas.rule(0, y - 6, canvas.image.width, TRACK)
    canvas.write(_PAD, y, lines[0], NAME)
    parts = broken(path, SMALL, room)
    if len(parts) > _PATH:
        parts = ["...", *parts[1 - _PATH :]]
    for line, words in enumerate([*lines[1:], *parts]):
        canvas.write(_PAD, y + 24 + 20 * line, words, width=room)


def _shown(weights: tuple[int, ...]) -> list[int]:
    """The concepts that have a column: of too many, those that count come first."""
    order = sorted(range(len(weights)), key=lambda concept: not weights[concept])
    return sorted(order[:COLUMNS])


def _photos(
    canvas: Canvas, y: int, photo: Explanation, concepts: list[int], faint: list[bool]
) -> None:
    maps = (None, *(photo.maps[concept] for concept in concepts))
    for place, (map, pale) in enumerate(zip(maps, (False, *faint), strict=True)):
        shown = tile(photo.pixels, map, _TILE)
        if pale:
            shown = Image.blend(shown, Image.new("RGB", shown.size, GROUND), _FAINT)
        canvas.paste(shown, _column(place), y)
