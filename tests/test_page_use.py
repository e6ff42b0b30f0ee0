"""The gallery page in a real browser: when something is wrong, by keyboard, on a phone, for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_server
import pytest
from page_server import LABELS, REFUSED, Site, Visit, make_empty_site, make_site, serving

browser, site, url = page_server.browser, page_server.site, page_server.url
visits, visit = page_server.visits, page_server.visit

TOKEN = "sixteen-characters-or-more"


# ---- what can go wrong


def test_bad_file__is_told_and_the_results_stay(visit: Visit, site: Site, tmp_path: Path) -> None:
    visit.send(site.query)
    before, status = visit.ranking(), visit.page.locator("#status").text_content()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(site.query.read_bytes()[:60])
    visit.page.set_input_files("#file", broken)
    banner = visit.page.locator("#banner")
    banner.wait_for(state="visible")
    told = banner.locator("p").text_content()
    assert told.startswith("broken.jpg cannot be read as a photo. — Choose a JPEG, ")
    assert banner.locator("button").all_text_contents() == ["Dismiss"]  # it would fail again
    assert visit.page.locator("#status").text_content() == status
    assert visit.ranking() == before
    assert visit.page.locator("#query-name").text_content() == site.query.name
    (tmp_path / "notes.txt").write_text("no picture")
    visit.page.set_input_files("#file", tmp_path / "notes.txt")
    visit.page.wait_for_selector("#banner:has-text('notes.txt is not an image')")
    assert len(visit.asked("v1/hash")) == 2  # the text was not even sent
    assert [REFUSED in text for text in visit.complaints] == [True]
    visit.complaints.clear()


def test_unknown_image__is_told(visits: Callable[..., Visit], url: str) -> None:
    visit = visits(url)
    visit.open("#item=99999&w=2,1,1")
    visit.page.wait_for_selector("#banner:has-text('99999')")
    assert visit.page.locator("#weight-0").input_value() == "2"
    visit.page.locator("#leave").click()
    visit.page.wait_for_selector("li.card")
    visit.settle()
    assert visit.page.locator("#banner").is_hidden()
    assert [REFUSED in text for text in visit.complaints] == [True]
    visit.complaints.clear()


def test_large_file__is_not_sent(visits: Callable[..., Visit], site: Site, tmp_path: Path) -> None:
    with serving(site.gallery, "--max-upload", "1") as url:
        visit = visits(url)
        visit.open()
        visit.page.wait_for_selector("li.card")
        (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
        visit.page.set_input_files("#file", tmp_path / "large.png")
        visit.page.wait_for_selector("#banner:has-text('large.png is larger than the server')")
        most = "at most 1 MB and 50 million pixels"
        assert most in visit.page.locator("#banner").text_content()
        assert visit.asked("v1/hash") == []
        visit.page.close()


def test_busy_server__is_asked_again(visit: Visit, site: Site) -> None:
    refusals = []

    def busy(route: Any) -> None:
        if refusals:
            route.continue_()
            return
        refusals.append(route)
        body = json.dumps({"schema": "chash.error/1", "error": {"what": "busy", "try": "later"}})
        route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)

    visit.page.route("**/v1/hash", busy)
    visit.page.set_input_files("#file", site.query)
    visit.page.wait_for_selector("#status:has-text('busy; trying again in 1 s')")
    visit.page.wait_for_selector("#query img")
    visit.settle()
    assert visit.distances() == site.ranked(site.code(site.query))
    assert [REFUSED in text for text in visit.complaints] == [True]
    visit.complaints.clear()


def test_offline_server__is_said_and_can_be_tried_again(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    before = visit.ids()
    visit.page.context.set_offline(True)
    visit.page.locator("#concepts .only").nth(0).click()
    visit.page.wait_for_selector("#banner:has-text('does not answer')")
    assert visit.ids() == before
    visit.page.context.set_offline(False)
    visit.page.get_by_role("button", name="Try again").click()
    visit.settle()
    code = site.code(site.query)
    assert visit.distances() == site.ranked(code, weights=[1, 0, 0])
    assert visit.page.locator("#banner").is_hidden()
    visit.page.context.set_offline(True)
    visit.page.set_input_files("#file", site.query)
    visit.page.wait_for_selector("#banner:has-text('does not answer')")
    assert "nearest first" in visit.page.locator("#status").text_content()
    visit.page.context.set_offline(False)
    visit.page.get_by_role("button", name="Try again").click()
    visit.page.locator("#banner").wait_for(state="hidden")
    assert all(REFUSED in text for text in visit.complaints)
    visit.complaints.clear()


def test_lost_photo__is_shown_as_lost(visits: Callable[..., Visit], tmp_path: Path) -> None:
    site = make_site(tmp_path)
    (tmp_path / "photos" / "alone.png").unlink()
    with serving(site.gallery) as url:
        visit = visits(url)
        visit.open()
        visit.page.wait_for_selector(".gone:has-text('cannot be shown')")
        visit.page.close()
    assert visit.complaints
    assert all(REFUSED in text for text in visit.complaints)
    visit.complaints.clear()


def test_empty_gallery__says_the_command(visits: Callable[..., Visit], tmp_path: Path) -> None:
    site = make_empty_site(tmp_path)
    with serving(site.gallery) as url:
        visit = visits(url)
        visit.open()
        visit.page.wait_for_selector("#empty-view:visible")
        command = visit.page.locator("#empty-command").text_content()
        assert command == "chash index FOLDER --out empty.chg"
        assert visit.page.locator("#pickers").is_hidden()
        visit.page.close()


def test_token__is_asked_for_and_kept(visits: Callable[..., Visit], site: Site) -> None:
    with serving(site.gallery, token=TOKEN) as url:
        visit = visits(url)
        visit.open()
        visit.page.wait_for_selector("#token-view:visible")
        visit.page.fill("#token", "another")
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("#banner:has-text('does not take this token')")
        visit.page.fill("#token", f" {TOKEN} ")  # as it is pasted
        visit.page.keyboard.press("Enter")
        visit.page.wait_for_selector("li.card img[src^='blob:']")
        visit.page.wait_for_function("() => document.querySelector('li.card img').naturalWidth > 0")
        visit.send(site.query)
        assert visit.distances() == site.ranked(site.code(site.query))
        assert all(TOKEN not in request.url for request in visit.requests)
        visit.page.reload()
        visit.page.wait_for_selector("li.card .bars")  # this tab remembers it
        visit.settle()
        visit.page.close()
    assert all(REFUSED in text for text in visit.complaints)
    visit.complaints.clear()


# ---- keys, colours and small screens


def test_keyboard__does_everything(visit: Visit, site: Site) -> None:
    page = visit.page
    ids = visit.ids()
    focused = "document.activeElement.closest('li.card')?.dataset.id"
    page.keyboard.press("ArrowRight")  # nothing has the focus yet
    assert int(page.evaluate(focused)) == ids[0]
    page.locator("#skip").focus()
    page.keyboard.press("Enter")  # the link that skips to the images
    page.keyboard.press("ArrowDown")
    assert int(page.evaluate(focused)) == ids[0]
    page.keyboard.press("ArrowRight")
    assert int(page.evaluate(focused)) == ids[1]
    page.keyboard.press("ArrowDown")
    below = ids.index(int(page.evaluate(focused)))
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('#grid')).gridTemplateColumns.split(' ').length"
    )
    assert below == 1 + columns
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("#query img")
    visit.settle()
    assert page.evaluate("location.hash") == f"#item={ids[0]}"
    page.locator("li.card .open").nth(1).focus()
    page.keyboard.press("2")
    page.locator("#query canvas").wait_for(state="visible")
    page.keyboard.press("e")
    page.wait_for_selector(".pair")
    page.keyboard.press("Escape")
    assert page.locator("#compare").is_hidden()
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "label"
    page.keyboard.press("e")  # is typed
    assert page.locator("#label").input_value() == "e"


def test_focus__stays_on_the_card_that_moves(visit: Visit, site: Site) -> None:
    visit.send(site.query)
    id = visit.ids()[3]
    visit.page.locator(f"li.card[data-id='{id}'] .open").focus()
    visit.page.evaluate("document.querySelector('#weight-0').value = 2")
    visit.page.locator("#weight-0").dispatch_event("input")
    visit.settle()
    focused = visit.page.evaluate("document.activeElement.closest('li.card')?.dataset.id")
    assert int(focused) == id


def test_theme__follows_the_system_until_it_is_switched(
    visits: Callable[..., Visit], url: str
) -> None:
    visit = visits(url, color_scheme="dark")
    visit.open()
    visit.page.wait_for_selector("li.card")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(ground)
    button = visit.page.locator("#theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    light = visit.page.evaluate(ground)
    assert light != dark
    visit.page.reload()
    visit.page.wait_for_selector("li.card")
    assert visit.page.evaluate(ground) == light
    assert button.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("width", [320, 360, 768])
def test_phone__never_scrolls_sideways(
    visits: Callable[..., Visit], url: str, site: Site, width: int
) -> None:
    visit = visits(url, viewport={"width": width, "height": 740}, has_touch=True)
    visit.open()
    visit.page.wait_for_selector("li.card")
    visit.settle()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert visit.page.evaluate(overflow) == 0
    visit.send(site.query)
    for box in ("#weighing", "#filters"):
        visit.page.evaluate("box => { document.querySelector(box).open = true; }", box)
    visit.page.locator("li.card .bar").first.tap()
    visit.page.locator("li.card canvas").first.wait_for(state="visible")
    visit.page.locator("li.card .pin").first.tap()
    visit.page.wait_for_selector(".pair")
    assert visit.page.evaluate(overflow) == 0
    if width < 768:
        wide = "id => document.getElementById(id).getBoundingClientRect().width"
        widths = {visit.page.evaluate(wide, id) for id in ("filters", "weighing", "results")}
        assert len(widths) == 1
    cut = visit.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, label")].filter((one) => {
          const {left, right, width} = one.getBoundingClientRect();
          return width > 1 && (left < 0 || right > innerWidth);
        }).map((one) => one.outerHTML)"""
    )
    assert cut == []


CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !one.checkVisibility()) continue;
    if (one.closest(".unseen, script, noscript")) continue;
    const [a, b] = [light(channels(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${one.outerHTML.slice(0, 90)}`);
  }
  return [seen, weak];
}"""

UNNAMED = """() => {
  const named = (one) => (one.getAttribute("aria-label") || one.textContent
    || one.labels?.[0]?.textContent || one.querySelector("img")?.alt || "").trim();
  const wrong = [...document.querySelectorAll("button, a, input, select")]
    .filter((one) => one.type !== "hidden" && !named(one)).map((one) => one.outerHTML);
  wrong.push(...[...document.images].filter(({alt}) => !alt).map((one) => one.outerHTML));
  const ids = [...document.querySelectorAll("[id]")].map(({id}) => id);
  wrong.push(...ids.filter((id, n) => ids.indexOf(id) !== n));
  for (const one of document.querySelectorAll("[for], [aria-controls], [aria-labelledby]")) {
    for (const name of ["for", "aria-controls", "aria-labelledby"]) {
      const id = one.getAttribute(name);
      if (id && !document.getElementById(id)) wrong.push(`${name}=${id}`);
    }
  }
  return wrong;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_access__text_is_legible_and_everything_has_a_name(
    visits: Callable[..., Visit], url: str, site: Site, scheme: str, tmp_path: Path
) -> None:
    visit = visits(url, color_scheme=scheme)
    visit.open()
    visit.page.wait_for_selector("li.card")
    visit.settle()
    assert visit.page.evaluate(UNNAMED) == []
    visit.send(site.query)
    visit.page.locator("#concepts .show").nth(0).click()
    visit.page.locator("#concepts .only").nth(0).click()
    visit.settle()
    visit.page.locator("li.card .pin").nth(2).click()
    visit.page.wait_for_selector(".pair")
    visit.page.fill("#label", LABELS[1])
    (tmp_path / "notes.txt").write_text("no picture")
    visit.page.set_input_files("#file", tmp_path / "notes.txt")
    visit.page.wait_for_selector("#banner:visible")
    seen, weak = visit.page.evaluate(CONTRAST)
    assert seen > 100
    assert weak == []
    assert visit.page.evaluate(UNNAMED) == []
    assert visit.page.locator("html").get_attribute("lang") == "en"
    assert visit.page.locator("#status").get_attribute("role") == "status"
