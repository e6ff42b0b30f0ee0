"""The map of codes of an atlas as SVG, coloured by label or by the rooms of a concept.

Which of them is chosen by radio buttons that style sheets read, so that it needs no script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.explain.atlasdata import Atlas
from concepthash.explain.heat import CONCEPT_COLOURS
from concepthash.explain.layout2d import CodeMap
from concepthash.explain.page import text
from concepthash.explain.tables import counted

_WIDTH, _SIDES, _ENDS = 1000, 95, 30
"""Of the drawing, and what is left free for names beside the dots, and above and below them."""
_DOT, _LARGEST = 5.0, 22.0
"""Radius of a dot of one image, and of any."""
_CONCEPTS = 12
"""That the map can be coloured by."""
_TITLE_LABELS, _NAME = 3, 26
LABEL = 80
"""Characters of a label, wherever the page shows it."""
_SHADES = ((0, 0.0), (0, 0.4), (255, 0.45))
"""What the palette's colours are mixed with where there are more groups than colours: nothing,
then black, then white, and how much of it."""

COLOURS = tuple(
    "#" + "".join(f"{round(c + (tone - c) * share):02x}" for c in colour)
    for tone, share in _SHADES
    for colour in CONCEPT_COLOURS[:-1]
)
"""Of labels and rooms; what comes after them is grey."""


@dataclass(frozen=True)
class _View:
    """One way to colour the dots.

    Args:
        key: its class names begin with it; no style sheet knows one that begins with a digit.
        title: what the dots are coloured by.
        names: of the groups, each with its colour.
        groups: ``(p,)`` the group of each point; -1 for grey.
    """

    key: str
    title: str
    names: tuple[str, ...]
    groups: tuple[int, ...]


def map_section(atlas: Atlas) -> str:
    """The map with its buttons and legends; atlas.map is there."""
    assert atlas.map is not None
    views = list(_views(atlas, atlas.map))
    buttons = "".join(
        f'<input type="radio" name="view" id="by-{view.key}"{" checked" * (not number)}>'
        f'<label for="by-{view.key}">{text(view.title)}</label>'
        for number, view in enumerate(views)
    )
    legends = "".join(_legend(view) for view in views)
    rules = "".join(_rules(view) for view in views)
    return (
        f"<style>{rules}</style>\n"
        f'<div class="views" role="radiogroup" aria-label="Colour the map by">{buttons}\n'
        f"{_svg(atlas, atlas.map, views)}\n{legends}</div>\n"
    )


def _views(atlas: Atlas, codes: CodeMap) -> Iterator[_View]:
    labels = atlas.labels
    if labels.names:
        numbers = labels.numbers[codes.rows]
        frequent = [n for n, _ in Counter(numbers[numbers >= 0].tolist()).most_common(len(COLOURS))]
        yield _View(
            "l",
            "label",
            tuple(labels.names[n] for n in frequent),
            _most(codes, numbers, {n: place for place, n in enumerate(frequent)}),
        )
    for concept in atlas.concepts[:_CONCEPTS]:
        rooms = concept.rooms
        names = tuple(f"room {n + 1}" for n in range(min(len(rooms.rooms), len(COLOURS))))
        groups = _most(codes, rooms.of[codes.rows], {n: n for n in range(len(names))})
        yield _View(f"c{rooms.concept}", f"rooms of {concept.name}", names, groups)


def _most(
    codes: CodeMap, numbers: npt.NDArray[np.integer], places: dict[int, int]
) -> tuple[int, ...]:
    """The place of the most frequent number at each point."""
    return tuple(
        places.get(Counter(numbers[own].tolist()).most_common(1)[0][0], -1)
        for own in _members(codes)
    )


def _members(codes: CodeMap) -> list[npt.NDArray[np.intp]]:
    """Which images of the sample share each point."""
    order = np.argsort(codes.points, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes.points))[:-1])


def _svg(atlas: Atlas, codes: CodeMap, views: Sequence[_View]) -> str:
    low, high = codes.places.min(axis=0), codes.places.max(axis=0)
    scale = (_WIDTH - 2 * _SIDES) / max(float((high - low).max()), 1.0)
    margins = np.array([_SIDES, _ENDS])
    places = (codes.places - low) * scale + margins
    width, height = ((high - low) * scale + 2 * margins).tolist()
    members = _members(codes)
    numbers = atlas.labels.numbers[codes.rows]
    dots = []
    for point in sorted(range(len(members)), key=lambda p: (-len(members[p]), p)):
        own = members[point]
        marks = " ".join(f"{v.key}-{v.groups[point]}" for v in views if v.groups[point] >= 0)
        (x, y), radius = places[point].tolist(), min(_DOT * len(own) ** 0.5, _LARGEST)
        words = _words(numbers[own], atlas.labels.names)
        dots.append(
            f'<circle class="{marks}" cx="{x:.0f}" cy="{y:.0f}" r="{radius:.1f}">'
            f"<title>{text(words)}</title></circle>"
        )
    names = "".join(_names(view, places, members) for view in views)
    described = (
        f"Map of {len(codes.rows)} images at {len(members)} points; the rooms above tell the same "
        "in figures"
    )
    return (
        f'<svg class="map" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{described}">{"".join(dots)}{names}</svg>\n'
        '<p id="dot" class="small" role="status"></p>'
    )


def _words(numbers: npt.NDArray[np.int32], names: Sequence[str]) -> str:
    """What a dot stands for."""
    counts = Counter(numbers.tolist())
    found = [
        f"{shortened(names[n], LABEL) if n >= 0 else 'without label'} {count}"
        for n, count in counts.most_common(_TITLE_LABELS)
    ]
    if len(counts) > _TITLE_LABELS:
        found.append(f"and {len(counts) - _TITLE_LABELS} more labels")
    return f"{counted(len(numbers), 'image')}: {', '.join(found)}"


def _names(
    view: _View, places: npt.NDArray[np.float64], members: Sequence[npt.NDArray[np.intp]]
) -> str:
    """The name of each group at the point where most of its images are."""
    groups, sizes = np.array(view.groups), np.array([len(own) for own in members])
    found = []
    for number, name in enumerate(view.names):
        own = np.where(groups == number, sizes, 0)
        if own.any():
            x, y = places[own.argmax()].tolist()
            found.append(f'<text x="{x:.0f}" y="{y:.0f}">{text(shortened(name, _NAME))}</text>')
    return f'<g class="of {view.key}">{"".join(found)}</g>'


def _legend(view: _View) -> str:
    shown = "".join(
        f'<span><i class="swatch" style="background:{COLOURS[n]}"></i>'
        f"{text(shortened(name, LABEL))}</span>"
        for n, name in enumerate(view.names)
    )
    grey = '<span><i class="swatch grey"></i>other</span>' if -1 in view.groups else ""
    return f'<div class="of key {view.key}">{shown}{grey}</div>'


def _rules(view: _View) -> str:
    chosen = f"#by-{view.key}:checked~"
    fills = "".join(
        f"{chosen}.map .{view.key}-{n}{{fill:{COLOURS[n]}}}"
        for n in sorted(set(view.groups) - {-1})
    )
    return (
        f"{chosen}.map .of.{view.key},{chosen}.of.{view.key}{{display:revert}}"
        f"{chosen}.key.{view.key}{{display:flex}}{fills}"
    )


def shortened(words: str, length: int) -> str:
    """Text of at most ``length`` characters."""
    return words if len(words) <= length else f"{words[: length - 1]}…"
