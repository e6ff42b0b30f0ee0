"""An atlas as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from concepthash.explain.atlasdata import Atlas, ConceptAtlas, Crop
from concepthash.explain.atlasmap import LABEL, map_section, shortened
from concepthash.explain.atlasstyle import SCRIPT, STYLE
from concepthash.explain.figure import tile
from concepthash.explain.markup import (
    MADE_BY,
    concept_heads,
    heat_cell,
    legend,
    looks_table,
    picture,
    scrolling,
    swatch,
)
from concepthash.explain.markup import STYLE as OF_EXPLANATIONS
from concepthash.explain.page import page, text
from concepthash.explain.partscores import PartScores
from concepthash.explain.rooms import Room
from concepthash.explain.tables import counted

_BARS, _LISTED = 4, 40
"""Labels of a room with a bar, and labels it lists at all."""
_PHOTO, _QUALITY = 160, 80
_OTHERS = 8
"""Concepts whose rooms a room is compared with."""
_BITS_IN_WORDS = 32
_GROUP = 8
_EVEN = 0.9
"""Entropy of a bit that is set in a third to two thirds of the images."""


def atlas_page(atlas: Atlas) -> str:
    """The whole page."""
    sections = [_empty(atlas)] if not len(atlas) else list(_sections(atlas))
    head = f'<main {MADE_BY} data-page="atlas">\n<h1>{text(atlas.title)}</h1>\n'
    body = f"{head}{''.join(sections)}</main>"
    return page(
        atlas.title, body, style=OF_EXPLANATIONS + STYLE, script=SCRIPT if len(atlas) else ""
    )


def _empty(atlas: Atlas) -> str:
    return (
        "<p>This gallery has no images yet, so there is nothing to show.</p>\n"
        f"<p>Next: <code>chash index FOLDER --out {text(atlas.gallery)}</code>, then "
        f"<code>chash atlas {text(atlas.gallery)}</code>.</p>\n"
    )


def _sections(atlas: Atlas) -> Iterator[str]:
    yield _facts(atlas)
    yield _navigation(atlas)
    if atlas.photos:
        yield _seen(atlas)
    yield _overview(atlas)
    also = _crossing(atlas)
    for concept in atlas.concepts:
        yield _concept(atlas, concept, also)
    yield f'<h2 id="map">Map of the codes</h2>\n{_map(atlas)}'
    if atlas.parts is not None:
        yield _parts(atlas.parts)


def _facts(atlas: Atlas) -> str:
    labelled = int((atlas.labels.numbers >= 0).sum())
    labels = f"{counted(len(atlas.labels.names), 'label')}" if labelled else "no labels"
    if 0 < labelled < len(atlas):
        labels += f" ({len(atlas) - labelled:,} images without one)"
    layout = atlas.layout
    return (
        f'<p class="muted">{counted(len(atlas), "image")}, {labels}. Codes of {layout.bits} bits: '
        f"{counted(layout.concepts, 'concept')} of {layout.sub_bits}. Model {text(atlas.model)}, "
        f"{text(atlas.fingerprint[:8])}.</p>\n"
        "<p>Each concept looks at places of its own in a photo and writes a few bits, its "
        "sub-code. Images with the same sub-code, or nearly the same, share a <em>room</em>: the "
        "concept sees them alike. The pictures in a room are what lies around the point where the "
        "concept looks most.</p>\n"
    )


def _navigation(atlas: Atlas) -> str:
    links = "".join(
        f'<a href="#c{concept.rooms.concept}">{swatch(concept.rooms.concept)}'
        f"{text(concept.name)}</a>"
        for concept in atlas.concepts
    )
    parts = '<a href="#parts">Parts</a>' if atlas.parts is not None else ""
    return (
        f'<nav class="top" aria-label="On this page"><a href="#sort">What they sort by</a>{links}'
        '<a href="#map">Map</a>'
        f"{parts}"
        '<form hidden><span id="said" class="muted" role="status"></span> '
        '<input id="filter" type="search" placeholder="Only rooms with label…" '
        'aria-label="Show only rooms with a label that contains"></form></nav>\n'
    )


def _seen(atlas: Atlas) -> str:
    """The same few photos as every concept sees them."""
    order = range(atlas.layout.concepts)
    rows = []
    for shown in atlas.photos:
        name = shortened(_beside(shown.name), LABEL)
        photo = picture(tile(shown.pixels, None, _PHOTO), name, quality=_QUALITY)
        cells = "".join(f"<td>{heat_cell(shown, m, _PHOTO, _QUALITY)}</td>" for m in order)
        rows.append(
            f'<tr><th scope="row" class="small">{text(name)}</th><td>{photo}</td>{cells}</tr>'
        )
    caption = "the same photos, and the map of each concept over them"
    table = looks_table(caption, concept_heads(atlas.photos[0], list(order)), rows)
    return f"<h2>Where each concept looks</h2>\n{table}\n{legend()}\n"


def _overview(atlas: Atlas) -> str:
    heads = ("concept", "values in use", "entropy", "redundant", "rooms", "images in them")
    rows = []
    for concept in atlas.concepts:
        own = concept.rooms
        inside = (len(atlas) - own.elsewhere) / len(atlas)
        part = ""
        if atlas.parts is not None:
            leading = atlas.parts.leading_parts[own.concept]
            share = atlas.parts.part_share[own.concept][leading]
            part = f'<small class="stack muted">mostly at: {text(leading)}, {share:.0%}</small>'
        cells = (
            f"{own.used:,} of {_possible(own.sub_bits)}",
            f"{own.entropy:.1f} of {own.sub_bits} bits",
            f"{concept.redundancy:.1f} bits",
            f"{sum(room.images > 0 for room in own.rooms)}",
            f"{inside:.0%}",
        )
        rows.append(
            f'<tr><th scope="row">{swatch(own.concept)}<a href="#c{own.concept}">'
            f"{text(concept.name)}</a>{part}</th>{_cells(cells)}</tr>"
        )
    table = _table("what the concepts sort by", heads, rows)
    return (
        f'<h2 id="sort">What they sort by</h2>\n{table}\n'
        '<p class="muted small">Entropy: how much the sub-code of a random image tells, in bits; '
        "more is better, for then it tells more kinds of images apart. Redundant: bits "
        "that only repeat what the others of the concept say; fewer is better. With few images "
        "entropy seems lower and redundancy higher than they are: a value that only one image "
        "has can be guessed from any of its bits.</p>\n"
    )


def _concept(atlas: Atlas, concept: ConceptAtlas, also: Mapping[tuple[int, int], str]) -> str:
    own = concept.rooms
    at = f"c{own.concept}"
    if not own.radius:
        rule = "A room is one value of the sub-code."
    else:
        rule = (
            f"A room is a value of the sub-code and those at most {counted(own.radius, 'bit')} "
            "from it."
        )
    if own.elsewhere:
        rule += (
            f" {counted(own.elsewhere, 'image')} ({own.elsewhere / len(atlas):.0%}) "
            f"{'is' if own.elsewhere == 1 else 'are'} in none of these rooms."
        )
    rooms = "".join(
        _room(at, number, room, concept, also.get((own.concept, number), ""))
        for number, room in enumerate(own.rooms)
    )
    return (
        f'<section aria-labelledby="{at}">\n<h2 id="{at}">{swatch(own.concept)}'
        f"{text(concept.name)}</h2>\n"
        f'<p class="muted">{own.used:,} of {_possible(own.sub_bits)} values in use. {rule}</p>\n'
        f'<div class="rooms">\n{rooms}</div>\n{_bits(concept)}</section>\n'
    )


def _room(at: str, number: int, room: Room, concept: ConceptAtlas, also: str) -> str:
    crops, lost = concept.crops[number], concept.lost[number]
    pictures = "".join(_crop(crop, concept.name) for crop in crops)
    gone = ""
    if lost:
        gone = f'<p class="small">{counted(lost, "photo")} it would show could not be read.</p>'
    words = []
    if room.values > 1:
        words.append(
            f"<p>{counted(room.values, 'value')}; {counted(room.exact, 'image')} "
            "with just this one</p>"
        )
    if concept.rooms.sub_bits > 1 and room.images:
        near = ", ".join(
            f'<a href="#{at}r{other}">room {other + 1}</a> ({counted(distance, "bit")})'
            for other, distance in room.near
            if concept.rooms.rooms[other].images
        )
        words.append(f"<p>Near: {near}</p>" if near else "")
    if also:
        words.append(f"<p>Also: {also}</p>")
    more = ""
    if words:
        more = (
            "<details class='small'><summary>Near rooms, and other concepts</summary>"
            f"{''.join(words)}</details>"
        )
    size = f"{counted(room.images, 'image')}, {room.share:.1%}" if room.images else "no image"
    return (
        f'<article class="card room" id="{at}r{number}"><h3>Room {number + 1}'
        f'<small class="muted">{size}</small></h3>\n'
        f'<div class="crops">{pictures}</div>{gone}\n{_labels(room)}\n'
        f'<p class="bits muted">{_grouped(room.bits)}</p>{more}</article>\n'
    )


def _crop(crop: Crop, concept: str) -> str:
    label = "" if crop.label is None else f"{shortened(crop.label, LABEL)}, "
    words = f"{label}{_file(crop.path)}: around the peak of {concept}"
    image = picture(crop.image, words, quality=_QUALITY)
    return f'<span title="{text(label + crop.path)}">{image}</span>'


def _labels(room: Room) -> str:
    """The mixture of a room: bars for the first labels, the others as text."""
    total = sum(room.labels.values())
    bars = "".join(
        f'<li title="{text(shortened(label, LABEL))}"><span>{text(shortened(label, LABEL))}'
        f"</span><span>{count:,}</span>{_bar(count / total)}</li>"
        for label, count in islice(room.labels.items(), _BARS)
    )
    rest = list(islice(room.labels.items(), _BARS, _LISTED))
    unlisted = len(room.labels) - _BARS - len(rest)
    more = ""
    if rest:
        words = [f"{shortened(label, LABEL)} {count:,}" for label, count in rest]
        words += [f"and {unlisted:,} more"] if unlisted > 0 else []
        more = (
            f"<details><summary>{counted(len(room.labels) - _BARS, 'more label')}</summary>"
            f"{text(', '.join(words))}</details>"
        )
    unlabelled = room.images - total
    without = f"<li><span>without label</span><span>{unlabelled:,}</span></li>"
    return (
        f'<div class="labels small"><ul class="labels">{bars}{without if unlabelled else ""}</ul>'
        f"{more}</div>"
    )


def _bits(concept: ConceptAtlas) -> str:
    heads = ("bit", "set in", "entropy", "goes most with", "correlation")
    rows = []
    for bit in concept.bits:
        cells = (
            f"{bit.ones:.1%} {_bar(bit.ones)}",
            f"{bit.entropy:.2f}",
            "" if bit.partner is None else f"bit {bit.partner}",
            "" if bit.correlation is None else f"{bit.correlation:+.2f}",
        )
        rows.append(f'<tr><th scope="row">{bit.bit}</th>{_cells(cells)}</tr>')
    even = sum(bit.entropy for bit in concept.bits) / len(concept.bits)
    return (
        f"<details><summary>Its {counted(len(concept.bits), 'bit')}: {_evenly(even)}, and "
        f"{concept.redundancy:.1f} of {len(concept.bits)} only repeat what the others say "
        "(fewer is better)</summary>"
        f"{_table(f'bits of {concept.name}', heads, rows)}</details>\n"
    )


def _evenly(entropy: float) -> str:
    """In words how evenly bits split the images, from their mean entropy."""
    how = "evenly" if entropy > _EVEN else "unevenly"
    return f"they split the images {how} (entropy {entropy:.2f} on average, 1 is best)"


def _map(atlas: Atlas) -> str:
    if atlas.map is None:
        return (
            "<p>The map needs scikit-learn, which is not installed here: "
            "<code>pip install 'concepthash[atlas]'</code>, then make this page again.</p>\n"
        )
    if len(atlas.map.places) == 1:
        return "<p>All images have the same code: there is no distance to show.</p>\n"
    placed, points = len(atlas.map.rows), len(atlas.map.places)
    which = (
        f"All {counted(placed, 'image')}"
        if placed == len(atlas)
        else f"A random sample of {placed:,} of {len(atlas):,} images"
    )
    return (
        f'<p class="muted">{which} at {counted(points, "point")}, one a code, its area by the '
        "number of images. Distances follow those of the codes as far as a plane allows: stress "
        f"{atlas.map.stress:.2f} (0 is exact, above 0.2 only the rough order counts). Rest the "
        "pointer on a dot to read its labels, or tap it; with the keyboard, arrows go from dot to "
        f"dot.</p>\n{map_section(atlas)}"
    )


def _parts(parts: PartScores) -> str:
    heads = ("concept", "leading part", *parts.groups, "peaks in the box")
    rows = [
        f'<tr><th scope="row">{swatch(m)}{text(name)}</th>'
        + _cells([text(leading), *(f"{shares[g]:.0%}" for g in parts.groups), _share(boxed)])
        + "</tr>"
        for m, (name, leading, shares, boxed) in enumerate(
            zip(
                parts.concept_names, parts.leading_parts, parts.part_share, parts.peaks_in_box,
                strict=True,
            )
        )
    ]  # fmt: skip
    chance = [*(f"{share:.0%}" for share in parts.group_share.values())]
    rows.append(
        '<tr class="muted"><th scope="row">by chance</th>'
        + _cells(["", *chance, _share(parts.random_in_box)])
        + "</tr>"
    )
    notes = "".join(f"<p>Note: {text(note)}.</p>" for note in parts.notes)
    return (
        f'<h2 id="parts">Agreement with annotated parts</h2>\n<p class="muted">Which part is the '
        f"nearest to where a concept looks most, over {counted(parts.images, 'photo')} with "
        f"{counted(parts.points, 'key point')}. NMI {parts.nmi:.3f}, ARI {parts.ari:.3f}.</p>\n"
        f"{_table('agreement with parts', tuple(map(text, heads)), rows)}\n{notes}"
    )


def _crossing(atlas: Atlas) -> dict[tuple[int, int], str]:
    """For each concept and room, in words: where most of its images are in other concepts."""
    found: dict[tuple[int, int], str] = {}
    shown = atlas.concepts[:_OTHERS]
    for concept in shown:
        own = concept.rooms
        for number, room in enumerate(own.rooms):
            rows = np.flatnonzero(own.of == number)
            words = []
            for other in shown:
                theirs = other.rooms.of[rows]
                theirs = theirs[theirs >= 0]
                if other is concept or not len(theirs):
                    continue
                counts = np.bincount(theirs)
                most, m = int(counts.argmax()), other.rooms.concept
                words.append(
                    f"{counts[most] / room.images:.0%} in "
                    f'<a href="#c{m}r{most}">{text(other.name)}, room {most + 1}</a>'
                )
            found[own.concept, number] = "; ".join(words)
    return found


def _table(words: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    table = (
        f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )
    return scrolling(words, table)


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _bar(share: float) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.3g}%"></i></span>'


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _possible(sub_bits: int) -> str:
    return f"{2**sub_bits:,}" if sub_bits <= _BITS_IN_WORDS else f"2^{sub_bits}"


def _grouped(bits: str) -> str:
    return " ".join(bits[n : n + _GROUP] for n in range(0, len(bits), _GROUP))


def _beside(path: str) -> str:
    """A photo by its file and the folder that it lies in: files of many folders are 001.jpg."""
    return "/".join(path.replace("\\", "/").rsplit("/", 2)[-2:])


def _file(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
