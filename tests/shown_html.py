"""Reads pages as a strict browser would: tags that match, pictures decoded, nothing loaded."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

from PIL import Image

_VOID = {"meta", "img", "br"}


@dataclass
class Shown(HTMLParser):
    """What a page or a fragment is made of.

    Args:
        html: the whole of it.
        tags: names of elements, in order.
        pictures: each with its alternative text.
        links: where they lead.
        words: all text outside of style and title.
    """

    html: str
    tags: list[str] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._level = 0
        self.feed(self.html)
        self.close()
        assert self._open == [], "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        assert not any(name.startswith("on") for name in given)
        if tag not in _VOID:
            self._open.append(tag)
        if tag in ("h1", "h2", "h3"):
            assert int(tag[1]) <= self._level + 1, f"{tag} leaves out a level"
            self._level = int(tag[1])
        if tag == "th":
            assert given["scope"] in ("row", "col")
        if tag == "a":
            self.links.append(str(given["href"]))
        if tag == "img":
            kind, content = str(given["src"]).split(",", 1)
            assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
            image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
            self.pictures.append((str(given["alt"]), image.convert("RGB")))
        assert tag == "img" or "src" not in given

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self._open):
            self.words += data


class Page(HTMLParser):
    """What a page with a script has: elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_self_contained(page: str) -> Page:
    """Nothing is loaded, ids are unique, and every link within the page leads somewhere."""
    found = Page(page)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for _, attributes in found.elements:
        assert not {name for name in attributes if name.startswith("on")}
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            address = attributes.get(name)
            if address is not None:
                assert address.startswith("data:image/") or address[1:] in ids
    levels = [int(tag[1]) for tag, _ in found.elements if tag in ("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in pairwise([0, *levels]))
    assert "><" not in "".join(re.findall(r"<th[^>]*></th>", page)), "a head without words"
    assert len(found.of("script")) <= 1
    for image in found.of("img"):
        assert image["alt"]
        assert image["src"]
        Image.open(io.BytesIO(base64.b64decode(image["src"].partition("base64,")[2]))).load()
    for tag, attributes in found.elements:
        if tag == "label":
            assert attributes["for"] in ids
    return found
