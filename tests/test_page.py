"""The gallery page in a real browser, served by a real ``chash serve``: finding, and seeing why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import page_server
import pytest
from page_server import MARKUP, Site, Visit

from concepthash.images import Preprocess
from concepthash.runtime.gallery import Gallery

browser, site, url = page_server.browser, page_server.site, page_server.url
visits, visit = page_server.visits, page_server.visit

HEAT = """canvas => {
  if (canvas.hidden) return null;
  const {width, height} = canvas;
  const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  copy.drawImage(canvas, 0, 0);
  const {data} = copy.getImageData(0, 0, width, height);
  let best = 0, at = 0;
  for (let i = 3; i < data.length; i += 4) if (data[i] > best) [best, at] = [data[i], (i - 3) / 4];
  return [best, (at % width) / width, Math.floor(at / width) / height];
}"""
"""Highest opacity of a canvas and its place in shares of the sides; null if nothing is shown."""


# ---- looking for


def test_start__shows_images_of_the_gallery(visit: Visit, site: Site) -> None:
    with Gallery.open(site.gallery) as gallery:
        ids = [entry.id for entry in gallery.entries()]
    assert visit.ids() == ids
    page = visit.page
    assert page.locator("#name").text_content() == "colours.chg"
    assert "19 images" in page.locator("#about").text_content()
    assert page.locator("#more").is_hidden()
    assert page.locator("#query").is_hidden()
    assert page.locator("li.card .bars").first.is_hidden()


def test_upload__ranks_as_the_index_does(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    code = site.code(site.query)
    assert visit.distances() == site.ranked(code)
    assert visit.page.locator("#query-code").text_content() == bytes(code).hex()
    shown = visit.page.locator("#concepts .bits").all_text_contents()
    bits = "".join(map(str, np.unpackbits(code)))
    assert [text.replace(" ", "") for text in shown] == [bits[i : i + 8] for i in (0, 8, 16)]


def test_upload__shows_the_square_that_the_model_sees(
    visit: Visit, site: Site, tmp_path: Path
) -> None:
    from PIL import Image

    wide = Image.open(site.query).resize((48, 32), Image.Resampling.NEAREST)
    wide.save(tmp_path / "wide.png")
    visit.send(tmp_path / "wide.png")
    drawn = visit.page.evaluate(
        """async () => {
          const image = document.querySelector("#query img");
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, canvas.height, [...data]];
        }"""
    )
    seen = Preprocess(resize=32, crop=32)(tmp_path / "wide.png")
    pixels = np.array(drawn[2], np.uint8).reshape(drawn[1], drawn[0], 4)[..., :3]
    assert pixels.shape == seen.shape
    assert np.abs(pixels.astype(int) - seen).mean() < 2


def test_drop_and_paste__take_a_photo(visit: Visit, site: Site) -> None:
    give = """async ([kind, bytes, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
      const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
      document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        visit.page.evaluate(give, [kind, list(site.query.read_bytes()), f"{kind}.png"])
        visit.page.wait_for_selector(f"#query-name:text-is('{kind}.png')")
        visit.settle()
        assert visit.distances() == site.ranked(site.code(site.query))


def test_click__finds_more_like_an_image(visit: Visit, site: Site) -> None:
    visit.page.locator("li.card .open").nth(3).click()
    visit.page.wait_for_selector("#query img")
    visit.settle()
    id = int(visit.page.evaluate("location.hash").removeprefix("#item="))
    with Gallery.open(site.gallery) as gallery:
        code = gallery.code(id)
    assert visit.ids() == [id for id, _ in site.ranked(code)]
    assert dict(visit.ranking())[id] == "this image"


def test_sliders__rank_as_the_index_does(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    code = site.code(site.query)
    plain = visit.ids()
    visit.slide(0, 3)
    visit.slide(2, 0)
    visit.settle()
    assert visit.distances() == site.ranked(code, weights=[3, 1, 0])
    assert all("weighted" in text for _, text in visit.ranking())
    visit.page.locator("#concepts .only").nth(1).click()
    visit.settle()
    assert visit.distances() == site.ranked(code, weights=[0, 1, 0])
    assert visit.ids() != plain
    visit.page.locator("#reset").click()
    visit.settle()
    assert visit.ids() == plain


def test_sliders__refuse_that_nothing_counts(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    visit.page.locator("#concepts .only").nth(1).click()
    visit.settle()
    before = visit.ranking()
    visit.slide(1, 0)
    visit.settle()
    told = visit.page.locator(".concept:has(#weight-1) .refusal")
    assert "At least one" in told.text_content()
    assert visit.page.locator("#weight-1").input_value() == "1"
    assert visit.ranking() == before
    visit.slide(0, 1)
    visit.settle()
    assert told.text_content() == ""


def test_sliders__late_answers_do_not_replace_newer_ones(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    held: list[Any] = []

    def slow_once(route: Any) -> None:
        if json.loads(route.request.post_data).get("weights") == [4, 1, 1]:
            held.append(route)  # answered after the newer one, if anybody still listens
        else:
            route.continue_()

    visit.page.route("**/v1/query", slow_once)
    visit.slide(0, 4)
    for _ in range(500):
        if held:
            break
        visit.page.wait_for_timeout(10)
    visit.slide(0, 2)
    visit.settle()
    assert len(held) == 1
    assert visit.distances() == site.ranked(site.code(site.query), weights=[2, 1, 1])
    held[0].abort()
    visit.page.unroute("**/v1/query")
    visit.settle()
    assert visit.distances() == site.ranked(site.code(site.query), weights=[2, 1, 1])
    assert visit.page.locator("#banner").is_hidden()


def test_cards__move_to_their_new_places(visits: Callable[..., Visit], url: str) -> None:
    visit = visits(url, reduced_motion="no-preference")
    visit.open("#item=1")
    visit.page.wait_for_selector("li.card")
    visit.settle()
    element = visit.page.locator("li.card[data-id='1']").element_handle()
    moving = visit.page.evaluate(
        """async () => {
          document.querySelectorAll(".only")[1].click();
          for (let n = 0; n < 500; n += 1) {
            await new Promise((done) => setTimeout(done, 10));
            const moving = document.getAnimations().filter(
              (one) => one.effect.getKeyframes()[0].transform);
            if (moving.length) return moving.length;
          }
          return 0;
        }"""
    )
    assert moving > 0
    visit.settle()
    assert element.evaluate("card => card.isConnected")


def test_radius_and_k__bound_the_hits(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    code = site.code(site.query)
    visit.page.select_option("#k", "20")
    visit.settle()
    assert visit.distances() == site.ranked(code, 20)
    near = site.ranked(code, 20)[5][1]
    visit.page.fill("#radius", str(near))
    visit.page.keyboard.press("Enter")
    visit.settle()
    assert visit.distances() == site.ranked(code, 20, radius=near)
    assert f"radius={near}" in visit.page.evaluate("location.hash")
    for wrong in ("-3", "0.5"):
        visit.page.fill("#radius", wrong)
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("#radius:user-invalid").count() == 1  # the browser says why
        assert f"radius={near}" in visit.page.evaluate("location.hash")


# ---- labels


def test_labels__filter_hits_and_images(visit: Visit, site: Site) -> None:
    with Gallery.open(site.gallery) as gallery:
        light = {entry.id for entry in gallery.entries() if entry.label == "light blue"}
        dark = {entry.id for entry in gallery.entries() if entry.label == "dark_green"}
    page = visit.page
    page.keyboard.press("/")
    page.keyboard.type("zzz")
    page.keyboard.press("Enter")
    told = page.locator("#labels .refusal")
    assert told.text_content() == "No image has such a label."
    page.locator("#results").focus()
    assert page.locator("#label").input_value() == ""  # what filters nothing does not stay
    assert told.text_content() == ""
    page.keyboard.press("/")
    page.keyboard.type("light")
    page.keyboard.press("Enter")
    visit.settle()
    assert set(visit.ids()) == light
    visit.send(site.query)
    code = site.code(site.query)
    assert visit.distances() == site.ranked(code, where=np.array(sorted(light)))
    page.fill("#label", "dark green")
    page.locator("#label-list [role=option]").first.click()
    visit.settle()
    assert visit.distances() == site.ranked(code, where=np.array(sorted(light | dark)))
    page.get_by_role("button", name="Remove light blue").click()
    visit.settle()
    assert set(visit.ids()) == dark


def test_labels__images_without_one_are_found(visit: Visit) -> None:
    visit.page.fill("#label", "no label")
    visit.page.keyboard.press("Enter")
    visit.settle()
    assert visit.page.locator("li.card .file").all_text_contents() == ["alone.png"]


def test_labels__ten_thousand_can_be_searched(visits: Callable[..., Visit], url: str) -> None:
    visit = visits(url)
    many = [{"label": f"kind_{n:05}", "images": 1} for n in range(10_000)]
    answer = json.dumps({"schema": "chash.labels/1", "labels": many})
    visit.page.route(
        "**/v1/labels", lambda route: route.fulfill(body=answer, content_type="application/json")
    )
    visit.open()
    visit.page.wait_for_selector("li.card")
    visit.settle()
    visit.page.fill("#label", "kind")
    assert visit.page.locator("#label-list [role=option]").count() == 50
    assert "9,950 more" in visit.page.locator("#label-list").text_content()
    visit.page.fill("#label", "09876")
    assert visit.page.locator("#label-list [role=option]").count() == 1


def test_labels__are_text_and_never_markup(visit: Visit, site: Site) -> None:
    visit.page.fill("#label", "onerror")
    visit.page.keyboard.press("Enter")
    visit.settle()
    visit.page.locator("li.card .open").first.click()
    visit.page.wait_for_selector("#query img")
    visit.settle()
    visit.page.locator("li.card .pin").first.click()
    visit.page.wait_for_selector(".pair")
    assert set(visit.page.locator("li.card .label").all_text_contents()) == {MARKUP}
    assert visit.page.locator("img[src='x']").count() == 0


# ---- seeing why


def test_bars__say_how_many_bits_differ(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    code = site.code(site.query)
    with Gallery.open(site.gallery) as gallery:
        hits = gallery.index().search(code[None], 10).per_concept[0].tolist()
    told = visit.page.locator("li.card .bar").evaluate_all(
        """bars => bars.map(
          (bar) => [bar.ariaLabel, bar.querySelector(".fill").style.width])"""
    )
    names = ("red", "green", "blue")
    for (label, width), (name, differing) in zip(
        told,
        [(name, hit[m]) for hit in hits for m, name in enumerate(names)],
        strict=True,
    ):
        assert label.startswith(f"{name}: {differing} bit" if differing else f"{name}: same")
        assert float(width.removesuffix("%")) == 100 * differing / 8


def test_heat__lies_where_the_concept_looks(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    card = visit.page.locator("li.card").first
    places = ((0, 0), (1, 2), (3, 1))  # of the painted squares: row and column of 4 x 4
    for concept, (row, column) in enumerate(places):
        card.locator(".bar").nth(concept).hover()
        for canvas in (visit.page.locator("#query canvas"), card.locator("canvas")):
            canvas.wait_for(state="visible")
            visit.page.wait_for_timeout(150)
            opacity, x, y = canvas.evaluate(HEAT)
            assert opacity > 150
            assert column / 4 <= x < (column + 1) / 4
            assert row / 4 <= y < (row + 1) / 4
    visit.page.mouse.move(2, 2)
    visit.page.locator("#query canvas").wait_for(state="hidden")
    assert len(visit.asked("v1/explain")) == 2  # asked for once each, and kept


def test_heat__stays_in_all_pictures_once_its_name_is_pressed(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    assert visit.asked("v1/explain") == []  # nothing is explained before somebody asks
    button = visit.page.locator("#concepts .show").nth(1)
    button.click()
    visit.page.mouse.move(2, 2)
    assert button.get_attribute("aria-pressed") == "true"
    for canvas in ("#query canvas", "li.card:nth-child(1) canvas", "li.card:nth-child(2) canvas"):
        visit.page.locator(canvas).wait_for(state="visible")
    visit.page.keyboard.press("Escape")
    visit.page.locator("#query canvas").wait_for(state="hidden")
    assert button.get_attribute("aria-pressed") == "false"


def test_compare__shows_the_bits_that_differ(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    visit.page.locator("li.card .pin").nth(4).click()
    visit.page.wait_for_selector(".pair canvas:not([hidden])")
    id = visit.ids()[4]
    with Gallery.open(site.gallery) as gallery:
        other = np.unpackbits(gallery.code(id))
    ours = np.unpackbits(site.code(site.query))
    for m in range(3):
        pair = visit.page.locator(".pair").nth(m)
        rows = [text.replace(" ", "") for text in pair.locator(".bits").all_text_contents()]
        part = slice(8 * m, 8 * m + 8)
        assert rows == ["".join(map(str, bits[part])) for bits in (ours, other)]
        differing = int((ours[part] != other[part]).sum())
        assert pair.locator(".bits b").count() == 2 * differing
        assert pair.locator("canvas:not([hidden])").count() == 2
    assert visit.page.locator("li.card.pinned").get_attribute("data-id") == str(id)
    visit.page.keyboard.press("Escape")
    assert visit.page.locator("#compare").is_hidden()
    assert visit.page.locator("li.card.pinned").count() == 0


def test_compare__keeps_sixteen_bits_on_a_line(visit: Visit) -> None:
    visit.page.locator("li.card .open").nth(3).click()
    visit.page.wait_for_selector("#query img")
    visit.settle()
    visit.page.locator("li.card .pin").nth(4).click()
    visit.page.wait_for_selector(".pair")
    bits = visit.page.locator(".code-row .bits").first
    for width in (320, 680, 1040, 1280, 1460):
        visit.page.set_viewport_size({"width": width, "height": 900})
        heights = [
            bits.evaluate("(bits, text) => (bits.textContent = text, bits.offsetHeight)", text)
            for text in ("0", "0101 0101 0101 0101")
        ]
        assert heights[0] == heights[1], width


# ---- addresses


def test_back__returns_to_the_photo_and_to_the_start(visit: Visit, site: Site) -> None:
    start = visit.ids()
    visit.send(site.query)
    found = visit.ids()
    visit.page.locator("li.card .open").nth(2).click()
    visit.page.wait_for_function("() => location.hash.startsWith('#item=')")
    visit.settle()
    visit.page.go_back()
    visit.settle()
    assert visit.ids() == found
    assert visit.page.locator("#query img").get_attribute("alt") == site.query.name
    visit.page.go_back()
    visit.settle()
    assert visit.ids() == start


def test_address__can_be_shared(visit: Visit, visits: Callable[..., Visit], site: Site) -> None:
    visit.send(site.query)
    visit.slide(0, 0)
    visit.slide(1, 2)
    visit.settle()
    visit.page.select_option("#k", "20")
    visit.settle()
    other = visits(visit.url)
    other.open(visit.page.evaluate("location.hash"))
    other.page.wait_for_selector("li.card .bars")
    other.settle()
    assert other.ranking() == visit.ranking()
    assert other.page.locator("#weight-1").input_value() == "2"
    assert "does not hold the photo" in other.page.locator("#query-name").text_content()


@pytest.mark.parametrize(
    "hash", ["#item=x&w=9,9&k=-4&radius=1e9", "#code=zz&w=0,0,0", "#%", "#id=7", "#k=7000"]
)
def test_address__of_nonsense_is_the_start_and_said(
    visits: Callable[..., Visit], url: str, hash: str
) -> None:
    visit = visits(url)
    visit.open(hash)
    visit.page.wait_for_selector("li.card")
    visit.settle()
    assert visit.page.locator("#query").is_hidden()
    for part in hash[1:].split("&"):
        assert part in visit.page.locator("#banner").text_content()
    visit.page.locator("li.card .open").first.click()
    visit.settle()
    assert visit.page.locator("#banner").is_hidden()
