"""Renders ``docs/screenshots``: the gallery page, an atlas and an explanation of drawn birds.

    chash demo --out demo
    python docs/screenshots.py demo

Needs Chromium and playwright. The photo is a new drawing of one of the demo's species: of a few,
the one whose hits differ most in what concepts say, among those that are mostly found right.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from concepthash.demo import draw_bird, species

SPECIES, DRAWINGS = 12, 6
PHOTOS = ("photo.jpg", "hit.jpg")
LARGEST = 300_000
WIDE = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}
CHASH = (sys.executable, "-m", "concepthash")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars")


@contextmanager
def serving(demo: Path) -> Iterator[str]:
    """The address of ``chash serve`` on the gallery of a demo."""
    command = [*CHASH, "serve", "birds.chg", "--port", "0", "--json"]
    with subprocess.Popen(command, cwd=demo, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["url"]
        finally:
            server.terminate()


def hits_of(url: str, photo: Path) -> list[dict[str, Any]]:
    """What the server finds like a photo."""
    request = Request(f"{url}/v1/query", photo.read_bytes(), {"Content-Type": "image/jpeg"})
    with urlopen(request) as answer:
        hits: list[dict[str, Any]] = json.load(answer)["queries"][0]["hits"]
    return hits


def telling_photo(url: str, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A new photo, and its hits."""

    def spread(drawn: tuple[Path, list[dict[str, Any]]]) -> tuple[bool, int]:
        photo, hits = drawn
        right = sum(hit["label"] == photo.parent.name for hit in hits)
        return 6 <= right < len(hits), len({tuple(hit["per_concept"]) for hit in hits})

    drawn = []
    for kind in species(SPECIES, 0):
        for seed in range(DRAWINGS):
            photo = folder / str(seed) / kind.slug / "photo.jpg"
            photo.parent.mkdir(parents=True)
            draw_bird(kind, seed=10_000 + seed, size=128).image.save(photo, quality=92)
            drawn.append((photo, hits_of(url, photo)))
    return max(drawn, key=spread)


def save(target: Path, picture: bytes) -> None:
    """Write a screenshot with as many colours as fit its size."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (256, 128, 64):
        palette = image.quantize(colours, Image.Quantize.FASTOCTREE, kmeans=2)
        image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            target, optimize=True
        )
        if target.stat().st_size <= LARGEST:
            print(f"{target}: {target.stat().st_size:,} bytes, {colours} colours")
            return
    raise SystemExit(f"{target} has more than {LARGEST:,} bytes")


def settle(page: Page) -> None:
    """Wait until everything is there and stands still."""
    page.mouse.move(1, 1)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def open_page(browser: Browser, address: str, **options: Any) -> Page:
    """A page of a browser without history."""
    page = browser.new_context(viewport=options.pop("viewport", WIDE), **options).new_page()
    page.goto(address)
    settle(page)
    return page


def gallery_page(browser: Browser, url: str, photo: Path, out: Path) -> None:
    """The page in its states, light and dark."""
    page = open_page(browser, url)
    page.set_input_files("#file", photo)
    page.wait_for_selector("#query img")
    settle(page)
    page.locator("#concepts .show").nth(1).click()
    settle(page)
    save(out / "query.png", page.screenshot())
    page.emulate_media(color_scheme="dark")
    save(out / "dark.png", page.screenshot())
    page.emulate_media(color_scheme="light")
    page.keyboard.press("Escape")
    for concept, weight in enumerate((0, 4, 0, 1)):
        page.locator(f"#weight-{concept}").fill(str(weight))
    page.locator("#weight-3").blur()
    settle(page)
    save(out / "weights.png", page.screenshot())
    page.locator("#reset").click()
    settle(page)
    page.locator("li.card .pin").last.click()
    page.wait_for_selector(".pair canvas:not([hidden])")
    page.evaluate("scrollTo(0, 0)")
    settle(page)
    save(out / "compare.png", page.screenshot())
    phone = open_page(browser, url, viewport=PHONE, device_scale_factor=2, has_touch=True)
    phone.set_input_files("#file", photo)
    phone.wait_for_selector("#query img")
    settle(phone)
    save(out / "phone.png", phone.screenshot())


def reports(browser: Browser, demo: Path, work: Path, out: Path) -> None:
    """What ``chash atlas`` and ``chash explain`` write, of two photos in ``work``."""
    atlas: list[str | Path] = [
        "atlas",
        demo / "birds.chg",
        "--model",
        demo / "birds.chb",
        "--out",
        "atlas.html",
    ]
    explain: list[str | Path] = ["explain", *PHOTOS, "--model", demo / "birds.chb", "--out", "why"]
    for command in (atlas, [*explain, "--preview", "none"]):
        subprocess.run([*CHASH, *command], cwd=work, check=True, stdout=subprocess.DEVNULL)
    for name, file in (("atlas", "atlas.html"), ("explain", "why/explanation.html")):
        save(out / f"{name}.png", open_page(browser, (work / file).as_uri()).screenshot())


def main() -> None:
    """Render all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("demo", type=Path, help="the folder that chash demo wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "screenshots")
    arguments = parser.parse_args()
    demo, out = arguments.demo.resolve(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        serving(demo) as url,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        work = Path(folder)
        photo, hits = telling_photo(url, work)
        gallery_page(browser, url, photo, out)
        for source, name in zip((photo, demo / hits[-1]["path"]), PHOTOS, strict=True):
            shutil.copy(source, work / name)
        reports(browser, demo, work, out)
        browser.close()


if __name__ == "__main__":
    main()
