"""Explanations as HTML: whole pages, and what notebooks show; nothing in them needs a script."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from PIL import Image

from concepthash.codes import to_hex
from concepthash.explain.canvas import BIT_ROW
from concepthash.explain.comparison import Comparison, unbroken
from concepthash.explain.explanation import Explanation, Map
from concepthash.explain.figure import tile
from concepthash.explain.heat import HEAT_STOPS, concept_colour
from concepthash.explain.page import data_uri, page, text
from concepthash.explain.tables import counted

MADE_BY = 'data-made-by="concepthash"'
"""Near the start of every page of ours, so that a later run knows what it may replace."""

STYLE = """
.digits { display: grid; margin: .4rem 0 0; }
.digits span { display: grid; justify-items: center; border: 1px solid transparent;
  max-width: 1.2rem; font: .75rem/1.3 ui-monospace, monospace; }
.digits span.weak { border-color: #d55e00; border-radius: .15rem; }
.digits i { display: flex; align-items: flex-end; height: 1rem; width: 50%;
  background: var(--track); }
.digits i b { width: 100%; background: var(--muted); }
.legend { margin-top: .75rem; }
.scale { display: inline-block; width: 10rem; max-width: 40vw; height: .7rem;
  margin: 0 .4rem; border-radius: .2rem; vertical-align: baseline; }
table.looks th, table.looks td { padding: .35rem .5rem .5rem 0; width: 11rem;
  min-width: 9rem; }
table.looks img { display: block; width: 100%; height: auto;
  border-radius: .25rem; }
table.looks th[scope=row] { width: 15rem; min-width: 8rem; overflow-wrap: anywhere;
  font-weight: normal; font-size: .9rem; line-height: 1.4; }
table.looks th.short { width: 8rem; min-width: 5rem; }
table.looks thead th:first-child { min-width: 0; }
table.looks td:nth-child(2) { min-width: 6rem; }
.off img, .off .bar { opacity: .4; } .stack { display: block; }
.bits.stack + .bits.stack { margin-top: .4rem; }
"""

_SIDE, _QUALITY, _FIGURE_QUALITY = 256, 85, 90


def explanation_page(shown: Explanation) -> str:
    """The page of one photo."""
    side = min(len(shown.pixels), _SIDE)
    cards = [_card(shown, None, side, "what the network sees")]
    for concept in range(shown.layout.concepts):
        cards.append(_concept_card(shown, concept, side))
    if shown.background is not None:
        cards.append(_card(shown, shown.background, side, "where no concept looks"))
    body = (
        f"<main {MADE_BY}>\n<h1>{text(shown.name)}</h1>\n{_facts(shown)}\n"
        f'<h2>Where the concepts look</h2>\n<div class="grid">\n{"".join(cards)}</div>\n'
        f"{legend()}\n"
        '<p class="muted">Bars below bits are their margins |logit|. Boxed bits are weak: they '
        "flip first.</p>\n<h2>In figures</h2>\n"
        f"{scrolling('bits and margins', _figures(shown))}\n</main>"
    )
    return page(f"Explanation of {shown.name}", body, style=STYLE)


def comparison_page(pair: Comparison) -> str:
    """The page of two photos."""
    a, b = pair.a, pair.b
    names = f"A: {text(a.name)}<br>B: {text(b.name)}"
    head = concept_heads(a, pair.order)
    body = (
        f"<main {MADE_BY}>\n<h1>{distances(sentence(pair.summary))}</h1>\n<p>{names}</p>\n"
        f'<p class="muted">Distance {pair.distance} of {a.layout.bits} bits. The concepts most '
        "alike come first. Bits are inverted where they differ.</p>\n"
        f"{looks_table('Where the concepts look, and their bits', head, _pair_rows(pair))}\n"
        f"{legend()}\n</main>"
    )
    return page(f"{a.name} and {b.name}", body, style=STYLE)


def explanation_cell(shown: Explanation) -> str:
    """The figure and a table, without a style sheet: a notebook keeps its own."""
    return _cell(shown.figure(), f"Where the concepts look in {shown.name}", _figures(shown))


def comparison_cell(pair: Comparison) -> str:
    """The same of two photos."""
    words = f"Heat maps of {pair.a.name} and {pair.b.name}: {pair.summary}"
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("concept", "distance", "A", "B"))
    rows = "".join(
        f'<tr><th scope="row">{text(pair.a.concept_names[m])}</th>'
        f"<td>{pair.per_concept[m]} of {pair.a.layout.sub_bits}</td>"
        f"<td><code>{marked(pair.a.bits(m), pair.differing(m))}</code></td>"
        f"<td><code>{marked(pair.b.bits(m), pair.differing(m))}</code></td></tr>"
        for m in pair.order
    )
    return _cell(pair.figure(), words, f"<table><tr>{heads}</tr>{rows}</table>")


def _cell(figure: Image.Image, words: str, table: str) -> str:
    uri = data_uri(figure, quality=_FIGURE_QUALITY)
    style = "max-width:100%;height:auto"
    return f'<div><img src="{uri}" alt="{text(words)}" style="{style}">{table}</div>'


def sentence(words: str) -> str:
    """Words with a capital at the start."""
    return words[:1].upper() + words[1:]


def distances(words: str) -> str:
    """Words as HTML that breaks no line within a "(2 of 8)"."""
    return unbroken(text(words), "&nbsp;")


def looks_table(caption: str, head: str, rows: Sequence[str]) -> str:
    """A table of photos and heat maps."""
    table = f'<table class="looks">\n{head}<tbody>{"".join(rows)}</tbody></table>'
    # Above what scrolls, and not a <caption>, which a narrow screen would cut.
    return f'<p class="muted">{text(caption)}</p>\n{scrolling(caption, table)}'


def concept_heads(shown: Explanation, order: Sequence[int], remarks: Sequence[str] = ()) -> str:
    """The head of a table: what a row is, its photo, and one column a concept with a remark."""
    cells = "".join(
        f'<th scope="col">{swatch(m)}{text(shown.concept_names[m])}{_remark(remarks, m)}</th>'
        for m in order
    )
    return f'<thead><tr><th scope="col">photo</th><td></td>{cells}</tr></thead>\n'


def _remark(remarks: Sequence[str], concept: int) -> str:
    if not remarks:
        return ""
    return f'<small class="stack muted">{text(remarks[concept])}</small>'


def heat_cell(shown: Explanation, concept: int, side: int, quality: int = _QUALITY) -> str:
    """A heat map, and in words where it is highest."""
    return picture(
        tile(shown.pixels, shown.maps[concept], side), _where(shown, concept), quality=quality
    )


def picture(image: Image.Image, words: str, *, quality: int = _QUALITY) -> str:
    """A picture within the page, and what is seen on it for those who do not see it."""
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="{data_uri(image, quality=quality)}" alt="{text(words)}" {size}>'


def distance_bar(distance: int, sub_bits: int) -> str:
    """A distance as a number and a bar."""
    share = 100 * distance / sub_bits
    bar = f'<span class="bar" aria-hidden="true"><i style="width:{share:.4g}%"></i></span>'
    return f"<small>{distance} of {sub_bits}</small>{bar}"


def marked(bits: str, positions: Collection[int]) -> str:
    """Bits, those at some positions marked."""
    return "".join(f"<b>{bit}</b>" if n in positions else bit for n, bit in enumerate(bits))


def scrolling(words: str, table: str) -> str:
    """A table that scrolls sideways on a narrow screen, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(words)}">{table}</div>'
    )


def swatch(concept: int) -> str:
    """The colour of a concept."""
    red, green, blue = concept_colour(concept)
    return f'<span class="swatch" style="background:rgb({red} {green} {blue})"></span>'


def legend() -> str:
    """The scale of heat maps."""
    stops = ",".join(f"rgb({red} {green} {blue})" for red, green, blue in HEAT_STOPS)
    bar = f'<span class="scale" style="background:linear-gradient(to right,{stops})"></span>'
    words = "where a concept looks, each map by its own maximum"
    return f'<p class="muted legend">low{bar}high: {words}.</p>'


def _facts(shown: Explanation) -> str:
    layout = shown.layout
    words = f"{layout.bits} bits of {counted(layout.concepts, 'concept')}"
    return f'<p class="muted">{words}. Code <span class="bits">{to_hex(shown.code)}</span>.</p>'


def _card(shown: Explanation, map: Map | None, side: int, words: str) -> str:
    image = picture(tile(shown.pixels, map, side), f"{shown.name}: {words}")
    return f'<figure class="card">{image}<figcaption>{words}</figcaption></figure>\n'


def _concept_card(shown: Explanation, concept: int, side: int) -> str:
    margins, weak = shown.margins(concept), shown.weak(concept).tolist()
    words = f"smallest margin {margins.min():.2g}" + (f", {sum(weak)} weak" if any(weak) else "")
    columns = f"grid-template-columns:repeat({min(len(weak), BIT_ROW)},1fr)"
    marks = ("", ' class="weak"')
    digits = "".join(
        f'<span{marks[flips]}>{bit}<i><b style="height:{share:.0%}"></b></i></span>'
        for bit, share, flips in zip(
            shown.bits(concept), shown.margin_shares(concept).tolist(), weak, strict=True
        )
    )
    return (
        f'<figure class="card">{heat_cell(shown, concept, side)}<figcaption>'
        f"<h3>{swatch(concept)}{text(shown.concept_names[concept])}</h3>{words}"
        f'<div class="digits" aria-hidden="true" style="{columns}">{digits}</div>'
        "</figcaption></figure>\n"
    )


def _where(shown: Explanation, concept: int) -> str:
    x, y = shown.peak(concept)
    return (
        f"{shown.concept_names[concept]} in {shown.name}: looks most at {x:.0%} from the left, "
        f"{y:.0%} from the top"
    )


def _figures(shown: Explanation) -> str:
    heads = ("concept", "bits", "smallest margin", "weak bits", "looks most at")
    rows = "".join(_figures_row(shown, concept) for concept in range(shown.layout.concepts))
    head = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _figures_row(shown: Explanation, concept: int) -> str:
    x, y = shown.peak(concept)
    weak = np.flatnonzero(shown.weak(concept)).tolist()
    cells = (
        f'<code class="bits">{shown.bits(concept)}</code>',
        f"{shown.margins(concept).min():.2g}",
        ", ".join(map(str, weak)) or "none",
        f"{x:.0%} from the left, {y:.0%} from the top",
    )
    name = f'<th scope="row">{text(shown.concept_names[concept])}</th>'
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _pair_rows(pair: Comparison) -> list[str]:
    a, b = pair.a, pair.b
    rows = [_row("distance", (distance_bar(pair.per_concept[m], a.layout.sub_bits)
                              for m in pair.order))]  # fmt: skip
    for letter, one in (("A", a), ("B", b)):
        photo = picture(tile(one.pixels, None, _SIDE), one.name)
        maps = (heat_cell(one, m, _SIDE) for m in pair.order)
        rows.append(_row(letter, maps, photo))
    rows.append(_row("bits of A above those of B", (_aligned(pair, m) for m in pair.order)))
    positions = (", ".join(map(str, pair.differing(m))) or "none" for m in pair.order)
    rows.append(_row("bits that differ", positions))
    return rows


def _aligned(pair: Comparison, concept: int) -> str:
    """The bits of both photos, line by line above each other."""
    differing = pair.differing(concept)
    ends = range(0, pair.a.layout.sub_bits, BIT_ROW)
    return "".join(
        '<span class="bits stack">'
        + "<br>".join(
            marked(
                one.bits(concept)[first : first + BIT_ROW],
                [bit - first for bit in differing if first <= bit < first + BIT_ROW],
            )
            for one in (pair.a, pair.b)
        )
        + "</span>"
        for first in ends
    )


def _row(head: str, cells: Iterator[str], photo: str = "") -> str:
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row" class="short">{head}</th><td>{photo}</td>{shown}</tr>\n'
