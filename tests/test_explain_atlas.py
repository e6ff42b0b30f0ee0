"""The atlas of a gallery: crops where concepts look, figures, and a page that is safe to open."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import CELL, CELLS, LAYOUT, SIDE, colour_bundle, colour_maps, painted
from page_server import chromium
from PIL import Image
from shown_html import Page, check_self_contained
from tiny_bundle import tiny_bundle

from concepthash.codes import CodeLayout
from concepthash.errors import MismatchError, Skipped, UsageError
from concepthash.explain import atlas, atlasbuild, read_annotations, score_parts
from concepthash.explain.atlasdata import Atlas
from concepthash.explain.rooms import find_rooms
from concepthash.files import sha256
from concepthash.runtime.entries import Entry, Url
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher

HALF = SIDE // 2


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(colour_bundle(tmp_path_factory.mktemp("model")), threads=1)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    painted(tmp_path, 24)
    return sorted((tmp_path / "images").glob("*.png"), key=lambda path: int(path.stem))


def filled(
    path: Path, hasher: Hasher, photos: list[Path], labels: list[str | None] | None = None
) -> Path:
    """A gallery of some photos; their labels are "even" and "odd" unless they are given."""
    gallery = Gallery.create(
        path, layout=hasher.layout, fingerprint=hasher.fingerprint, model=hasher.name
    )
    codes = [hashed.code for hashed in hasher.hash(photos)]
    if labels is None:
        labels = [("even", "odd")[n % 2] for n in range(len(photos))]
    entries = []
    for photo, label in zip(photos, labels, strict=True):
        stat = photo.stat()
        entries.append(Entry(photo, label, stat.st_size, stat.st_mtime_ns, sha256(photo)))
    with gallery:
        if photos:
            gallery.add(entries, np.stack([code for code in codes if code is not None]))
    return path


def made(path: Path, hasher: Hasher, **options: object) -> Atlas:
    with Gallery.open(path) as gallery:
        return atlas(gallery, hasher, **options)  # type: ignore[arg-type]


def pixels_of(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# Figures and crops


def test_atlas__crops_are_the_windows_at_the_peaks(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    found = made(filled(tmp_path / "g.chg", hasher, photos), hasher, rooms=6, examples=4)
    assert len(found) == 24
    seen = 0
    for concept in found.concepts:
        for number, crops in enumerate(concept.crops):
            room = concept.rooms.rooms[number]
            assert len(crops) == min(4, room.images)
            for crop in crops:
                pixels = pixels_of(crop.path)
                cells = colour_maps(pixels[None])[0, concept.rooms.concept]
                row, column = np.unravel_index(cells.argmax(), (CELLS, CELLS))
                x = min(max(column * CELL + CELL // 2 - HALF // 2, 0), SIDE - HALF)
                y = min(max(row * CELL + CELL // 2 - HALF // 2, 0), SIDE - HALF)
                assert (crop.corner, crop.side) == ((x, y), HALF)
                assert np.array_equal(crop.pixels, pixels[y : y + HALF, x : x + HALF])
                assert crop.image.size == (HALF, HALF)
                place = int(Path(crop.path).stem)
                assert crop.label == ("even", "odd")[place % 2]
                assert crop.id == found.labels.ids[place]
                assert concept.rooms.of[place] == number
                assert concept.rooms.distances[place] == crop.distance
                seen += 1
    assert seen > 30


def test_atlas__rooms_are_those_of_the_stored_codes(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos)
    with Gallery.open(path) as gallery:
        _, codes = gallery.codes()
        labels = gallery.labels()
        found = atlas(gallery, hasher, rooms=5, radius=1)
    for concept in found.concepts:
        wanted = find_rooms(codes, LAYOUT, concept.rooms.concept, labels=labels, limit=5, radius=1)
        assert concept.rooms.rooms == wanted.rooms
        mixture = Counter()  # type: ignore[var-annotated]
        for room in concept.rooms.rooms:
            mixture.update(room.labels)
        assert sum(mixture.values()) == 24 - concept.rooms.elsewhere
        entropies = sum(bit.entropy for bit in concept.bits)
        assert concept.redundancy == pytest.approx(max(entropies - wanted.entropy, 0))


def test_atlas__shows_a_photo_again_rather_than_another(
    hasher: Hasher, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Image.open(photos[0])
    for photo in photos:
        one.save(photo)
    path = filled(tmp_path / "g.chg", hasher, photos)
    found = made(path, hasher, examples=3)
    shown = {crop.id for c in found.concepts for crops in c.crops for crop in crops}
    assert len(shown) == 3  # of three concepts with one room each
    assert [room.images for c in found.concepts for room in c.rooms.rooms] == [24] * 3


def test_atlas__photos_are_of_different_labels_and_have_all_maps(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    names: list[str | None] = ["a"] * 20 + ["b", "c", "d", None]
    found = made(filled(tmp_path / "g.chg", hasher, photos, names), hasher, rooms=24, radius=0)
    assert len(found.photos) == 4
    assert len({names[int(Path(photo.name).stem)] for photo in found.photos}) >= 3
    for photo in found.photos:
        assert np.array_equal(photo.maps, colour_maps(photo.pixels[None])[0])


@pytest.mark.parametrize(
    ("bits", "concepts"), [(8, 1), (8, 8), (16, 2), (64, 4), (512, 1), (512, 4), (512, 128)]
)
def test_atlas__of_every_layout(bits: int, concepts: int, tmp_path: Path) -> None:
    from cli_entry import photo

    hasher = Hasher(tiny_bundle(tmp_path, bits=bits, concepts=concepts), threads=1)
    photos = [photo(tmp_path / f"{n}.png", n) for n in range(7)]
    found = made(filled(tmp_path / "g.chg", hasher, photos), hasher)
    assert len(found.concepts) == concepts
    assert len(found.photos) == (1 if concepts > 64 else 4)
    check_self_contained(found.html())
    value = json.loads(json.dumps(found.to_json()))
    assert (value["bits"], value["sub_bits"]) == (bits, bits // concepts)
    assert len(value["concepts"]) == concepts
    if bits // concepts <= 3:
        assert {len(own["rooms"]) for own in value["concepts"]} == {2 ** (bits // concepts)}


def test_atlas__of_many_rooms_shows_fewer_photos_in_each(
    hasher: Hasher, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos)
    monkeypatch.setattr(atlasbuild, "_CROPS", 30)
    found = made(path, hasher, rooms=4, examples=6)
    rooms = sum(len(concept.rooms.rooms) for concept in found.concepts)
    assert found.examples == 30 // rooms < 6
    crops = [crops for concept in found.concepts for crops in concept.crops]
    assert max(map(len, crops)) == found.examples
    with pytest.raises(UsageError, match="do not fit a page") as refused:
        made(path, hasher, rooms=11)
    assert refused.value.hint == "--rooms 10"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"rooms": 0}, "--rooms"),
        ({"examples": 0}, "--examples"),
        ({"sample": 1}, "--sample"),
        ({"radius": 8}, "--radius"),
    ],
)
def test_atlas__refuses_what_cannot_be(
    options: dict[str, int], where: str, hasher: Hasher, tmp_path: Path
) -> None:
    path = filled(tmp_path / "g.chg", hasher, [])
    with pytest.raises(UsageError) as refused:
        made(path, hasher, **options)
    assert refused.value.where == where


def test_atlas__refuses_another_model(hasher: Hasher, photos: list[Path], tmp_path: Path) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos[:1])
    other = Hasher(tiny_bundle(tmp_path, bits=24, concepts=3), threads=1)
    with pytest.raises(MismatchError):
        made(path, other)


def test_atlas__leaves_out_what_is_gone_changed_or_broken(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos[:12])
    photos[0].unlink()
    Image.new("RGB", (SIDE, SIDE), "white").save(photos[1])
    photos[2].write_bytes(b"not a photo")
    data = photos[3].read_bytes()
    photos[3].write_bytes(data)  # another time, the same content
    skipped, calls = Skipped(), []
    found = made(
        path, hasher, rooms=24, examples=24, radius=0, skipped=skipped,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls[-1] == (9, 9)
    reasons = {item.path: item.reason for item in skipped.items}
    assert set(reasons) == {str(photo) for photo in photos[:3]}
    assert reasons[str(photos[0])].startswith("cannot read")
    assert reasons[str(photos[1])].startswith("changed since it was indexed")
    for concept in found.concepts:
        shown = {crop.path for crops in concept.crops for crop in crops}
        assert shown == {str(photo) for photo in photos[3:12]}
        assert sum(concept.lost) == 3
        assert sum(room.images for room in concept.rooms.rooms) == 12
    page = check_self_contained(found.html())
    assert "1 photo it would show could not be read." in page.text


def test_atlas__says_which_photos_have_no_file_of_their_own(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos[:6])
    far = [Url("http://127.0.0.1/a.jpg"), tmp_path / "t.parquet#0"]
    with Gallery.open(path, write=True) as gallery:
        first, second, *_ = gallery.entries()
        gallery.update([replace(first, path=far[0]), replace(second, path=far[1])])
    skipped = Skipped()
    made(path, hasher, rooms=24, examples=24, radius=0, skipped=skipped)
    assert {item.path: item.reason for item in skipped.items} == {
        str(far[0]): "behind a URL, which is not read here",
        str(far[1]): "a row of a Parquet file, which is not read here",
    }


def test_atlas__of_a_photo_that_cannot_be_decoded_any_more(
    hasher: Hasher, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "g.chg", hasher, photos[:3])
    monkeypatch.setattr(atlasbuild, "_problem", lambda entry: None)
    photos[1].write_bytes(b"not a photo")
    skipped = Skipped()
    found = made(path, hasher, skipped=skipped)
    assert [item.path for item in skipped.items] == [str(photos[1])]
    assert {sum(concept.lost) for concept in found.concepts} == {1}
    for photo in photos[:3]:
        photo.unlink()
    skipped = Skipped()
    found = made(path, hasher, skipped=skipped)
    assert (len(skipped), found.photos) == (3, ())
    check_self_contained(found.html())


# The page


def test_page__says_what_the_figures_say(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    path = filled(tmp_path / "g.chg", hasher, photos)
    scores = score_parts(hasher, read_annotations(tmp_path), split="all")
    found = made(path, hasher, rooms=5, radius=1, parts=scores, title="What birds have")
    page = check_self_contained(found.html())
    assert page.text.startswith("What birds have What birds have 24 images, 2 labels.")
    for concept in found.concepts:
        rooms = concept.rooms
        assert f"{rooms.used} of 256 values in use" in page.text
        there = f"at most 1 bit from it. {rooms.elsewhere} image" in page.text
        assert there == (rooms.elsewhere > 0)
        for number, room in enumerate(rooms.rooms):
            assert f"Room {number + 1} {room.images} image" in page.text
            assert room.bits in page.text
    crops = sum(len(crops) for concept in found.concepts for crops in concept.crops)
    assert len(page.of("img")) == crops + 4 * (1 + 3)
    assert found.map is not None
    assert len(page.of("circle")) == len(found.map.places)
    assert f"stress {found.map.stress:.2f}" in page.text
    assert [a["id"] for a in page.of("input") if a["type"] == "radio"] == [
        "by-l",
        "by-c0",
        "by-c1",
        "by-c2",
    ]
    assert "the rooms above tell the same" in str(page.of("svg")[0]["aria-label"])
    [choice] = [div for div in page.of("div") if div.get("role") == "radiogroup"]
    assert choice["aria-label"]
    for dot in page.of("circle"):
        assert re.fullmatch(r"l-\d( c\d-\d)+", dot["class"] or "")
    assert "Agreement with annotated parts" in page.text
    assert f"NMI {scores.nmi:.3f}" in page.text
    assert found.to_json()["parts"] == scores.to_json()


def test_map__tells_a_dot_that_is_tapped_or_reached_by_keys(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    file = tmp_path / "atlas.html"
    file.write_text(made(filled(tmp_path / "g.chg", hasher, photos), hasher).html())
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(file.as_uri())
        dots, said = page.locator("circle"), page.locator("#dot")
        page.locator(".map").focus()
        for key, dot in (("ArrowRight", 0), ("ArrowDown", 1), ("ArrowLeft", 0), ("ArrowUp", -1)):
            page.keyboard.press(key)
            assert said.text_content() == dots.nth(dot).text_content()
        dots.nth(2).dispatch_event("click", {"bubbles": True})
        assert said.text_content() == dots.nth(2).text_content()
        assert page.locator("circle.at").count() == 1


def test_page__tells_files_of_many_folders_apart_and_links_its_sections(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    found = made(filled(tmp_path / "g.chg", hasher, photos), hasher)
    page = check_self_contained(found.html())
    assert found.photos
    for shown in found.photos:
        assert "/".join(Path(shown.name).parts[-2:]) in page.text
    links = {a["href"] for a in page.of("a")}
    assert {"#sort", "#map"} <= links
    assert {str(link)[1:] for link in links} <= {a["id"] for _, a in page.elements if "id" in a}


def test_page__without_its_script_has_all_of_it(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    page = made(filled(tmp_path / "g.chg", hasher, photos), hasher).html()
    script = re.search(r"<script>(.*?)</script>", page, re.S)
    assert script is not None
    for writes in ("innerHTML", "createElement", "eval", "fetch"):
        assert writes not in script[1]
    hidden = [(tag, a) for tag, a in Page(page).elements if "hidden" in a]
    assert [tag for tag, _ in hidden] == ["form"]  # the one that needs the script


HOSTILE = (
    "</script><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "<img src=x onerror=alert(1)>",
    "</style><b>",
    "a\nb\u202ec\x00d",
    "&amp;&lt;",
    "x" * 5000,
    "'; --",
)


def test_page__of_hostile_names_is_text(hasher: Hasher, photos: list[Path], tmp_path: Path) -> None:
    names = [name.replace("\x00", "") for name in HOSTILE]
    moved = []
    for number, (photo, name) in enumerate(zip(photos, names, strict=False)):
        folder = tmp_path / f"{number}{name[:60].replace('/', '|')}"
        folder.mkdir()
        moved.append(photo.rename(folder / f"<i>{number}.png"))
    path = filled(tmp_path / "g.chg", hasher, moved, list(names))
    found = made(path, hasher, title=HOSTILE[0] + "\ud800")
    page = found.html()
    page.encode()
    read = check_self_contained(page)
    kinds = Counter(tag for tag, _ in read.elements)
    assert kinds["script"] == kinds["style"] - 1 == 1
    assert kinds["b"] == 0
    assert "<img src=x onerror=alert(1)>" in read.text
    assert "x" * 81 not in page
    assert "a\\nb\\u202ec" in page
    assert "\u202e" not in page
    json.dumps(found.to_json())


def test_page__of_an_empty_gallery_says_so(hasher: Hasher, tmp_path: Path) -> None:
    found = made(filled(tmp_path / "<g>.chg", hasher, []), hasher)
    page = check_self_contained(found.html())
    assert "no images yet" in page.text
    assert f"chash index FOLDER --out {tmp_path}/<g>.chg" in page.text
    assert found.map is None
    value = json.loads(json.dumps(found.to_json()))
    assert (value["images"], value["map"]) == (0, None)
    assert [own["rooms"] for own in value["concepts"]] == [[]] * 3


@pytest.mark.parametrize("labels", [[None], ["only"]])
def test_page__of_one_image(
    labels: list[str | None], hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    found = made(filled(tmp_path / "g.chg", hasher, photos[:1], labels), hasher)
    page = check_self_contained(found.html())
    words = "no labels" if labels == [None] else "1 label."
    assert f"1 image, {words}" in page.text
    assert page.text.count("Room 1 1 image, 100.0%") == 3
    assert not page.of("svg")
    assert "All images have the same code" in page.text
    assert repr(found).endswith(", 1 image, 3 rooms)")
    assert ("without label" in page.text) == (labels == [None])


def test_page__of_some_images_without_label(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    names: list[str | None] = [None, "a"] * 12
    found = made(filled(tmp_path / "g.chg", hasher, photos, names), hasher)
    page = check_self_contained(found.html())
    assert "24 images, 1 label (12 images without one)" in page.text
    assert found.to_json()["labelled"] == 12


def test_page__without_scikit_learn_says_what_adds_the_map(
    hasher: Hasher, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    found = made(filled(tmp_path / "g.chg", hasher, photos), hasher)
    assert found.map is None
    page = check_self_contained(found.html())
    assert "pip install 'concepthash[atlas]'" in page.text
    assert not page.of("svg")
    assert "Room 1" in page.text


def test_page__of_a_sample_says_so(hasher: Hasher, photos: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    found = made(filled(tmp_path / "g.chg", hasher, photos), hasher, sample=9)
    assert "A random sample of 9 of 24 images" in check_self_contained(found.html()).text
    assert found.to_json()["map"]["images"] == 9


def test_page__of_more_labels_than_colours(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("sklearn")
    names: list[str | None] = [f"label {n}" for n in range(24)]
    found = made(filled(tmp_path / "g.chg", hasher, photos, names), hasher, radius=7, rooms=1)
    page = check_self_contained(found.html())
    assert "other" in page.words
    assert "20 more labels" in page.text
    assert all(name in page.text for name in names if name)


def test_notebook__shows_the_page_in_a_frame(
    hasher: Hasher, photos: list[Path], tmp_path: Path
) -> None:
    found = made(filled(tmp_path / "g.chg", hasher, photos[:2]), hasher, title='a "b"')
    frame = Page(found._repr_html_())
    ((tag, attributes),) = frame.elements
    assert tag == "iframe"
    assert attributes["srcdoc"] == found.html()
    assert attributes["sandbox"] == "allow-scripts"
    assert repr(found).startswith("Atlas(")


def test_atlas__of_a_sub_code_of_two_bits_has_all_four_rooms(tmp_path: Path) -> None:
    from cli_entry import photo

    hasher = Hasher(tiny_bundle(tmp_path, bits=8, concepts=4), threads=1)
    path = filled(tmp_path / "g.chg", hasher, [photo(tmp_path / "0.png", 0)])
    found = made(path, hasher)
    assert CodeLayout(8, 4) == found.layout
    for concept in found.concepts:
        assert sorted(room.bits for room in concept.rooms.rooms) == ["00", "01", "10", "11"]
        assert [len(crops) for crops in concept.crops] == [1, 0, 0, 0]
    page = check_self_contained(found.html())
    assert page.text.count("no image") == 12
