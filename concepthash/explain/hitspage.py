"""Queries and their hits as HTML: a table of heat maps and distances, and an index of many."""

from __future__ import annotations

from collections.abc import Sequence

from concepthash.codes import to_hex
from concepthash.explain.figure import tile
from concepthash.explain.hits import ExplainedHit, ExplainedQuery
from concepthash.explain.markup import (
    MADE_BY,
    STYLE,
    concept_heads,
    distance_bar,
    distances,
    heat_cell,
    legend,
    looks_table,
    marked,
    picture,
    scrolling,
    sentence,
)
from concepthash.explain.page import data_uri, page, text
from concepthash.explain.sheet import remarks
from concepthash.explain.tables import counted

_PHOTO_SIDE, _HEAT_SIDE, _QUALITY = 176, 128, 75
_OFF = ("", ' class="off"')


def hits_page(shown: ExplainedQuery) -> str:
    """The page of one query."""
    query = shown.query
    head = concept_heads(query, range(query.layout.concepts), remarks(shown.weights))
    code = f'<p class="muted">Code <span class="bits">{to_hex(query.code)}</span>.'
    limits = ""
    if shown.found > len(shown.hits):
        limits = f" The nearest {len(shown.hits)} of {shown.found:,} hits are shown."
    rows = [_query_row(shown), *(_hit_row(shown, hit) for hit in shown.hits)]
    body = (
        f"<main {MADE_BY}>\n<h1>{text(query.name)}</h1>\n{code}{limits}</p>\n"
        '<p class="muted">A distance is how many bits of a hit are not those of the query: the '
        "fewer, the more alike. Light digits on dark are these bits.</p>\n"
        f"{looks_table('What was found, and where each concept looks', head, rows)}\n"
        f"{legend()}\n</main>"
    )
    return page(f"Hits of {query.name}", body, style=STYLE)


def hits_cell(shown: ExplainedQuery) -> str:
    """The contact sheet and a table of distances, without a style sheet: for notebooks."""
    words = f"{shown.query.name} and its hits: "
    words += "; ".join(f"{one.hit.rank}: {shown.summary(one)}" for one in shown.hits)
    heads = ["rank", "distance", *shown.query.concept_names, "label", "path"]
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in heads)
    rows = []
    for hit in (one.hit for one in shown.hits):
        cells = [hit.rank, hit.distance, *hit.per_concept, hit.label or "", hit.path]
        rows.append(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>")
    image = f'<img src="{data_uri(shown.figure())}" alt="{text(words)}" style="max-width:100%">'
    return f"<div>{image}<table><tr>{head}</tr>{''.join(rows)}</table></div>"


def index_page(title: str, queries: Sequence[tuple[str, str, int]]) -> str:
    """A list of the pages of many queries.

    Args:
        title: of the page.
        queries: the photo, the name of its page beside this one, and its hits.
    """
    items = "".join(
        f'<tr><th scope="row"><a href="{text(file)}">{text(name)}</a></th><td>{hits}</td></tr>\n'
        for name, file, hits in queries
    )
    head = '<thead><tr><th scope="col">query</th><th scope="col">hits</th></tr></thead>'
    body = (
        f"<main {MADE_BY}>\n<h1>{text(title)}</h1>\n"
        f"{scrolling(title, f'<table>{head}<tbody>{items}</tbody></table>')}\n</main>"
    )
    return page(title, body)


def _query_row(shown: ExplainedQuery) -> str:
    query = shown.query
    photo = picture(tile(query.pixels, None, _PHOTO_SIDE), query.name, quality=_QUALITY)
    cells = []
    for concept, weight in enumerate(shown.weights):
        bits = f'<span class="bits">{query.bits(concept)}</span>'
        heat = heat_cell(query, concept, _HEAT_SIDE, _QUALITY)
        cells.append(f"<td{_OFF[not weight]}>{heat}{bits}</td>")
    head = '<th scope="row"><strong>query</strong></th>'
    return f"<tr>{head}<td>{photo}</td>{''.join(cells)}</tr>\n"


def _hit_row(shown: ExplainedQuery, one: ExplainedHit) -> str:
    hit, photo = one.hit, one.photo
    label = "no label" if hit.label is None else hit.label
    words = [
        f"<strong>{hit.rank}</strong>, distance {hit.distance}",
        distances(f"{sentence(shown.summary(one))}."),
        text(label),
        f'<small class="muted">{text(hit.path)}</small>',
    ]
    if one.changed:
        words.append(
            '<small class="muted">Its code now differs from the gallery\'s in '
            f"{counted(one.changed, 'bit')}: the photo "
            "has changed, or other software hashed it.</small>"
        )
    seen = f'<span class="muted">cannot be shown: {text(one.problem)}</span>'
    if photo is not None:
        seen = picture(tile(photo.pixels, None, _PHOTO_SIDE), hit.path, quality=_QUALITY)
    cells = []
    for concept, weight in enumerate(shown.weights):
        heat = "" if photo is None else heat_cell(photo, concept, _HEAT_SIDE, _QUALITY)
        bits = f'<span class="bits">{marked(*shown.bits(one, concept))}</span>'
        bar = distance_bar(hit.per_concept[concept], shown.query.layout.sub_bits)
        cells.append(f"<td{_OFF[not weight]}>{heat}{bar}{bits}</td>")
    lines = "".join(f'<span class="stack">{line}</span>' for line in words)
    return f'<tr><th scope="row">{lines}</th><td>{seen}</td>{"".join(cells)}</tr>\n'
