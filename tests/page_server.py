"""A gallery of painted photos, `chash serve` as a process, and Chromium to look at its page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_bundle import CELL, LAYOUT, SIDE, colour_bundle
from PIL import Image

from concepthash.bundle import Bundle
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.indexing import index_images

MARKUP = "<img src=x onerror=alert(1)>"
"""A label that would be an image if it were taken for HTML."""
LABELS = ("dark_green", "light blue", MARKUP)
EACH = 6
REFUSED = "Failed to load resource"
"""What the browser says of an answer that is an error."""
_ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def paint(path: Path, red: int, green: int, blue: int) -> Path:
    """A photo with one square for each concept of the colour bundle, each in a place of its own.

    The sub-code of a concept has as many bits as half its brightness / 16 (see `colour_bundle`).
    """
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for channel, value in enumerate((red, green, blue)):
        row, column = ((0, 0), (1, 2), (3, 1))[channel]
        pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, channel] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@dataclass(frozen=True)
class Site:
    """What is served: a gallery, its model, and a photo that is not in it."""

    folder: Path
    gallery: Path
    bundle: Bundle
    query: Path

    def code(self, photo: Path) -> Any:
        """The code of a photo, ``(K / 8,)`` uint8."""
        return next(Hasher(self.bundle, threads=1).hash([photo])).code

    def ranked(self, code: Any, k: int = 10, **how: Any) -> list[tuple[int, int]]:
        """Ids and distances as the index itself ranks them."""
        with Gallery.open(self.gallery) as gallery:
            hits = gallery.index().search(code[None], k, **how)
        pairs = zip(hits.ids[0].tolist(), hits.distances[0].tolist(), strict=True)
        return [(id, distance) for id, distance in pairs if id >= 0]


def make_site(folder: Path) -> Site:
    """A gallery of 18 painted photos of three labels and one without, all of different codes."""
    bundle = colour_bundle(folder)
    levels = np.random.default_rng(5).integers(0, 256, (len(LABELS) * EACH + 1, 3)).tolist()
    for number, colours in enumerate(levels[:-1]):
        paint(folder / "photos" / LABELS[number // EACH] / f"{number}.png", *colours)
    paint(folder / "photos" / "alone.png", *levels[-1])
    gallery = folder / "colours.chg"
    index_images([folder / "photos"], gallery, Hasher(bundle, threads=1))
    return Site(folder, gallery, bundle, paint(folder / "query.png", 200, 90, 30))


def make_empty_site(folder: Path) -> Site:
    """The same with a gallery that has no images."""
    bundle = colour_bundle(folder)
    gallery = folder / "empty.chg"
    identity: Any = {"fingerprint": bundle.manifest.fingerprint, "model": bundle.manifest.name}
    Gallery.create(gallery, layout=LAYOUT, **identity).close()
    return Site(folder, gallery, bundle, paint(folder / "query.png", 200, 90, 30))


@contextmanager
def serving(gallery: Path, *options: str, token: str | None = None) -> Iterator[str]:
    """The address of `chash serve` on a gallery, as a process that ends with the block."""
    for needed in ("uvicorn", "msgspec", "python_multipart"):
        pytest.importorskip(needed)
    environment = {n: value for n, value in os.environ.items() if not n.startswith("CHASH_")}
    if token is not None:
        environment["CHASH_TOKEN"] = token
    command = [sys.executable, "-m", "concepthash", "serve", gallery.name, "--json", "--port", "0"]
    with subprocess.Popen(
        [*command, "--threads", "1", *options],
        cwd=gallery.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            assert line, server.communicate(timeout=10)[1]
            yield json.loads(line)["url"] + "/"
        finally:
            server.terminate()
            server.communicate(timeout=20)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of this machine through playwright; the test is skipped if there is none.

    With CHASH_REQUIRE_BROWSER=1 it fails instead.
    """
    required = os.environ.get("CHASH_REQUIRE_BROWSER") == "1"
    found = shutil.which("chromium")
    if not required:
        pytest.importorskip("playwright")
        if found is None:
            pytest.skip("no chromium here")
    from playwright.sync_api import sync_playwright

    assert found is not None, "CHASH_REQUIRE_BROWSER=1, and no chromium here"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page and everything it did: console messages, errors and requests."""

    page: Any
    url: str
    requests: list[Any] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(10_000)
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, fragment: str = "") -> None:
        """Go to the page, or to what a fragment of its address names."""
        self.page.goto(self.url + fragment)

    def send(self, photo: Path) -> None:
        """Choose a photo, and wait for what is like it."""
        self.page.set_input_files("#file", photo)
        self.page.wait_for_function(
            "name => document.querySelector('#query-name').textContent === name", arg=photo.name
        )
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is asked for any more and cards stand still."""
        self.page.wait_for_timeout(60)
        self.page.wait_for_function(
            "() => !document.body.matches('.busy') && !document.getAnimations().length"
        )

    def ranking(self) -> list[tuple[int, str]]:
        """Id and distance text of the cards, in the order they have on the page."""
        cards = "cards => cards.map(c => [+c.dataset.id, c.querySelector('.distance').textContent])"
        return [tuple(pair) for pair in self.page.eval_on_selector_all("li.card", cards)]

    def distances(self) -> list[tuple[int, int]]:
        """Id and distance of the cards, in the order they have on the page."""
        return [(id, int(text.split()[-1])) for id, text in self.ranking()]

    def slide(self, concept: int, weight: int) -> None:
        """Move the slider of a concept."""
        self.page.locator(f"#weight-{concept}").fill(str(weight))

    def ids(self) -> list[int]:
        """Ids of the cards, in the order they have on the page."""
        return [id for id, _ in self.ranking()]

    def asked(self, path: str) -> list[Any]:
        """The requests for a path so far."""
        return [r for r in self.requests if r.url.removeprefix(self.url).startswith(path)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with serving(site.gallery) as url:
        yield url


@pytest.fixture
def visits(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens pages; at the end none may have complained or asked another host."""
    opened: list[Visit] = []

    def visit(url: str, **options: Any) -> Visit:
        options = {
            "viewport": {"width": 1280, "height": 900},
            "reduced_motion": "reduce",
            **options,
        }
        opened.append(Visit(browser.new_context(**options).new_page(), url))
        return opened[-1]

    yield visit
    for one in opened:
        one.page.context.close()
        assert one.complaints == []
        foreign = [r.url for r in one.requests if not r.url.startswith((one.url, "blob:", "data:"))]
        assert foreign == []


@pytest.fixture
def visit(visits: Callable[..., Visit], url: str) -> Visit:
    """The start view."""
    visit = visits(url)
    visit.open()
    visit.page.wait_for_selector("li.card")
    visit.settle()
    return visit
