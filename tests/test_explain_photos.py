"""Explanations of one photo and of two: where maps lie, what figures, pages and JSON say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from colour_bundle import CELL, LAYOUT, SIDE, colour_bundle, colour_logits, colour_maps
from page_server import chromium
from PIL import Image, ImageFont
from shown_html import Shown

from concepthash.codes import CodeLayout, pack, unpack
from concepthash.encoder import Encoded
from concepthash.errors import ImageError, MismatchError
from concepthash.explain import Comparison, Explanation, compare, explain_image
from concepthash.explain import canvas as drawing
from concepthash.explain.canvas import SMALL, TITLE, broken, width_of, wrapped
from concepthash.explain.comparison import in_words, unbroken
from concepthash.explain.explanation import explanation
from concepthash.explain.figure import PAIR_TILE, TILE, mosaic, strip, tile
from concepthash.explain.heat import concept_colour, heat_colours
from concepthash.explain.hits import ExplainedHit, ExplainedQuery
from concepthash.runtime.answers import Hit
from concepthash.runtime.hasher import Hasher

DOCS = Path(__file__).parents[1] / "docs" / "explain.md"
HOSTILE = "<script>alert(1)</script>\x1b[2J\n\"'\u202e.jpg"


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(colour_bundle(tmp_path_factory.mktemp("colour")), device="cpu", threads=1)


def spotted(row: int, column: int, *, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A dark photo (height, width) with one red cell of its centre crop, blue outside of it."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 200
    top, left = (height - SIDE) // 2, (width - SIDE) // 2
    pixels[top : top + SIDE, left : left + SIDE] = 0
    y, x = top + row * CELL, left + column * CELL
    pixels[y : y + CELL, x : x + CELL, 0] = 255
    return pixels


def made(
    logits: object, maps: object, name: str = "photo", names: tuple[str, ...] = ("head", "wing")
) -> Explanation:
    """An explanation of given logits ``(K,)`` and maps, of a grey photo."""
    values = np.asarray(logits, np.float32)
    return Explanation(
        name=name,
        pixels=np.full((SIDE, SIDE, 3), 128, np.uint8),
        code=pack(values),
        logits=values,
        maps=np.asarray(maps, np.float32),
        background=None,
        layout=CodeLayout(len(values), len(names)),
        concept_names=names,
    )


def pair_of(names: tuple[str, ...] = ("head", "wing"), name: str = "photo") -> Comparison:
    """Two photos of 2 x 16 bits: the head is the same, 7 bits of the wing differ."""
    logits = np.where(np.arange(32) % 2, 1.0, -1.0)
    other = logits.copy()
    other[16:23] *= -1
    maps = np.zeros((2, 4, 4))
    maps[0, 0, 0] = maps[1, 3, 3] = 1
    return compare(made(logits, maps, name, names), made(other, maps, name, names))


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 2 * SIDE), (3 * SIDE, SIDE)])
def test_explain_image__has_its_maps_where_the_crop_has_the_part(
    hasher: Hasher, size: tuple[int, int]
) -> None:
    shown = explain_image(hasher, spotted(1, 2, size=size))
    assert np.array_equal(shown.pixels, spotted(1, 2))
    assert shown.maps.shape == (3, 4, 4)
    expected = np.zeros((4, 4))
    expected[1, 2] = 255
    assert np.array_equal(shown.maps[0], expected)
    assert shown.peak(0) == (2.5 / 4, 1.5 / 4)
    heat = np.asarray(shown.heat(0)).astype(int)
    y, x = 1 * CELL + CELL // 2, 2 * CELL + CELL // 2
    value = (1 - 0.5 / CELL) ** 2  # half a pixel beside the centre of the cell, both ways
    expected = (1 - 0.8 * value) * shown.pixels[y, x] + 0.8 * value * heat_colours(value)
    assert np.abs(heat[y, x] - expected).max() <= 1
    assert np.array_equal(heat[:, :8], shown.pixels[:, :8])  # nothing where the map is zero


@pytest.mark.parametrize(("turn", "quarters"), [(3, 2), (6, 1), (8, 3)])
def test_explain_image__turns_photos_upright_with_their_maps(
    hasher: Hasher, tmp_path: Path, turn: int, quarters: int
) -> None:
    upright = spotted(0, 3, size=(SIDE, 2 * SIDE))
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(np.rot90(upright, quarters)).save(tmp_path / "turned.png", exif=exif)
    shown = explain_image(hasher, tmp_path / "turned.png")
    assert np.array_equal(shown.pixels, spotted(0, 3))
    assert shown.peak(0) == (3.5 / 4, 0.5 / 4)


def test_explain_image__names_what_has_no_path_and_refuses_what_is_no_photo(
    hasher: Hasher, tmp_path: Path
) -> None:
    image = Image.fromarray(spotted(1, 1))
    assert explain_image(hasher, image).name == "photo"
    assert explain_image(hasher, image, name="mine").name == "mine"
    image.save(tmp_path / "a.png")
    assert explain_image(hasher, tmp_path / "a.png").name == str(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no photo")
    with pytest.raises(ImageError, match="not an image"):
        explain_image(hasher, tmp_path / "b.png")


def test_explanation__is_of_its_row_and_keeps_nothing_of_the_batch(hasher: Hasher) -> None:
    pixels = np.random.default_rng(0).integers(0, 12, (3, SIDE, SIDE, 3), np.uint8)
    encoded = hasher.encode(pixels)
    background = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    encoded = Encoded(encoded.codes, encoded.logits, encoded.attention, background)
    shown = explanation(hasher.bundle.manifest, pixels, encoded, 1, "one")
    logits = colour_logits(pixels)[1]
    np.testing.assert_allclose(shown.logits, logits, atol=1e-4)
    np.testing.assert_allclose(shown.maps, colour_maps(pixels)[1], atol=1e-4)
    assert shown.background is not None
    assert np.array_equal(shown.background, background[1])
    for concept in range(3):
        own = logits[LAYOUT.concept_slice(concept)]
        assert shown.bits(concept) == "".join("01"[int(value > 0)] for value in own)
        np.testing.assert_allclose(shown.margins(concept), np.abs(own), atol=1e-4)
    for array in (shown.pixels, shown.code, shown.logits, shown.maps, shown.background):
        assert array.base is None
    assert np.array_equal(unpack(shown.code), logits > 0)


def test_weak__are_the_bits_near_zero() -> None:
    logits = np.array([4.0, -4, 4, -4, 4, -4, 0.9, -0.9, 1.1, -4, 4, 0, 4, 4, 4, 4])
    shown = made(logits, np.zeros((2, 4, 4)))
    assert [np.flatnonzero(shown.weak(m)).tolist() for m in (0, 1)] == [[6, 7], [3]]
    assert shown.margin_shares(0).tolist() == pytest.approx([0.5] * 6 + [0.9 / 8] * 2)
    nothing = made(np.zeros(16), np.zeros((2, 4, 4)))
    assert not nothing.weak(0).any()
    assert nothing.margin_shares(0).tolist() == [0.0] * 8


def test_explanation__to_json_has_maps_by_their_maximum(hasher: Hasher) -> None:
    value = json.loads(json.dumps(explain_image(hasher, spotted(1, 2), name="x").to_json()))
    assert (value["name"], value["shape"], value["background"]) == ("x", [4, 4], None)
    red, green, _ = value["concepts"]
    assert red["map"][1] == [0, 0, 1, 0]
    assert (red["name"], red["peak"]) == ("red", [0.625, 0.375])
    assert np.sum(red["map"]) == 1
    assert np.sum(green["map"]) == 0  # a map of zeros stays one
    mean = 255 / 16
    assert red["margins"] == pytest.approx([mean - t for t in range(1, 17, 2)], abs=1e-4)
    assert green["bits"] == "0" * 8


def test_figure__has_the_maps_the_swatches_and_the_weak_bits_in_place(hasher: Hasher) -> None:
    shown = explain_image(hasher, spotted(1, 2), name="x")
    figure = np.asarray(shown.figure())
    step, top = TILE + 20, 80
    assert np.array_equal(figure[top : top + TILE, 20 : 20 + TILE], tile(shown.pixels, None, TILE))
    for concept in range(3):
        row, column = divmod(concept + 1, 3)
        ys, x = (
            np.flatnonzero(
                (figure[:, 20 + column * step + 6] == concept_colour(concept)).all(axis=-1)
            ),
            20 + column * step,
        )
        assert len(ys), f"no swatch of concept {concept}"
        y = ys[-1] - 15 - 6 - TILE  # the swatch is 3 pixels below the line of the name
        part = figure[y : y + TILE, x : x + TILE]
        assert np.array_equal(part, tile(shown.pixels, shown.maps[concept], TILE)), concept
        assert row * top <= y
    none = made(np.ones(16), np.zeros((2, 4, 4)))
    assert not (np.asarray(none.figure()) == drawing.WARN).all(axis=-1).any()
    weak = made([*[2.0] * 15, 0.01], np.zeros((2, 4, 4)))
    boxes = (np.asarray(weak.figure()) == drawing.WARN).all(axis=-1)
    lines, columns = np.nonzero(boxes)
    cell = TILE / 16
    x = 20 + 2 * step + 7 * cell  # the last bit of the second concept
    assert columns.min() >= x - 1
    assert columns.max() <= x + cell
    assert lines.min() > top + TILE


def test_figure__shows_where_no_concept_looks() -> None:
    maps, background = np.zeros((2, 4, 4)), np.zeros((4, 4), np.float32)
    background[0, 0] = 1
    shown = made(np.ones(16), maps)
    seen = Explanation(**{**vars(shown), "background": background})
    assert np.asarray(seen.figure()).shape[0] > np.asarray(shown.figure()).shape[0]
    expected = np.asarray(tile(seen.pixels, background, TILE))
    second_row = np.asarray(seen.figure())[:, 20 : 20 + TILE]
    assert any(np.array_equal(second_row[y : y + TILE], expected) for y in range(300, 460))
    assert "where no concept looks" in Shown(seen.html()).words
    assert seen.to_json()["background"][0] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("distances", "words"),
    [
        ((0, 7), "alike in head (0 of 16), differ in wing (7 of 16)"),
        ((9, 2), "alike in wing (2 of 16), differ in head (9 of 16)"),
        ((3, 0), "alike in wing (0 of 16), partly alike in head (3 of 16)"),
        ((4, 16), "differ in head (4 of 16) and wing (16 of 16)"),
        ((0, 0), "the same code: alike in every concept"),
    ],
)
def test_in_words__says_in_what(distances: tuple[int, int], words: str) -> None:
    assert in_words(distances, 16, ("head", "wing")) == words


def test_in_words__counts_what_it_does_not_list() -> None:
    words = in_words([8] * 20, 8, [f"n{m}" for m in range(20)])
    assert words.startswith("differ in n0 (8 of 8), ")
    assert words.endswith("n4 (8 of 8) and 15 more")
    assert in_words([1], 1, ["all"]) == "differ in all (1 of 1)"


def test_compare__finds_the_bits_that_differ() -> None:
    pair = pair_of()
    assert (pair.distance, pair.per_concept, pair.order) == (7, (0, 7), (0, 1))
    assert [pair.differing(m) for m in (0, 1)] == [(), tuple(range(7))]
    value = json.loads(json.dumps(pair.to_json()))
    assert value["per_concept"] == [0, 7]
    assert [c["agree"] for c in value["concepts"]] == [1.0, 0.5625]
    assert value["concepts"][1]["differing"] == list(range(7))
    assert [image["name"] for image in value["images"]] == ["photo", "photo"]
    assert compare(pair.b, pair.a).summary == pair.summary == repr(pair).split(": ", 1)[1][:-1]


def test_compare__refuses_another_layout() -> None:
    pair = pair_of()
    with pytest.raises(MismatchError, match="16 bits and 2 concepts"):
        compare(pair.a, made(np.ones(16), np.zeros((2, 4, 4))))


def test_comparison_figure__stands_in_order_and_inverts_what_differs() -> None:
    pair = pair_of()
    swapped = [
        made(np.roll(one.logits, 16), one.maps, names=one.concept_names) for one in (pair.a, pair.b)
    ]
    turned = compare(*swapped)
    assert turned.order == (1, 0)
    for shown, order in ((pair, (0, 1)), (turned, (1, 0))):
        figure = np.asarray(shown.figure())
        step = PAIR_TILE + 20
        for place, concept in enumerate(order, 1):
            x = 20 + place * step
            swatch = (figure[:, x + 6] == concept_colour(concept)).all(axis=-1)
            assert swatch.any()
            y = np.flatnonzero(swatch)[-1] - 15 + 46
            for nth, one in enumerate((shown.a, shown.b)):
                top = y + nth * (PAIR_TILE + 6)
                part = figure[top : top + PAIR_TILE, x : x + PAIR_TILE]
                assert np.array_equal(part, tile(one.pixels, one.maps[concept], PAIR_TILE))
            below = figure[y + 2 * (PAIR_TILE + 6) + 4 :, x : x + PAIR_TILE]
            black = (below[:, ::1] == drawing.TEXT).all(axis=-1).mean(axis=0)
            assert (black.max() > 0.3) == (place == 2)  # inverted digits


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("head", "head"),
        ("Grünspecht, née", "Grunspecht, nee"),
        ("头", "\\u5934"),
        ("a\x1b\n\u202eb", "a\\x1b\\n\\u202eb"),
    ],
)
def test_drawable__shows_only_what_the_font_has(text: str, shown: str) -> None:
    assert drawing.drawable(text) == shown
    assert drawing.concept_label(text, 3) == ("concept 3" if "\\" in shown else shown)


def test_figure__is_drawn_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    known = ImageFont.load_default_imagefont()

    def fake_load_default(size: float | None = None) -> ImageFont.ImageFont:
        """Fails as Pillow does without FreeType."""
        if size is not None:
            raise ImportError("The _imagingft C module is not installed")
        return known

    monkeypatch.setattr(ImageFont, "load_default", fake_load_default)
    drawing._font.cache_clear()
    try:
        assert pair_of(("tête", "头")).figure().width > 500
    finally:
        drawing._font.cache_clear()


def test_broken__keeps_every_letter_of_a_path_and_fits() -> None:
    path = "shop/long name of a folder/" + "x" * 60 + ".jpg"
    lines = broken(path, SMALL, 170)
    assert "".join(lines) == path
    assert len(lines) > 3
    assert lines[0] == "shop/long name of a folder/"
    assert all(width_of(line, SMALL) <= 170 for line in lines)
    assert broken("", SMALL, 170) == [""]


def test_wrapped__breaks_no_distance_and_fits() -> None:
    words = unbroken("alike in head (0 of 16), differ in left wing (12 of 16) and tail (16 of 16)")
    for width in range(160, 800, 20):
        lines = wrapped(words, TITLE, width)
        assert " ".join(lines) == words
        assert max(width_of(line, TITLE) for line in lines) <= width
    assert [line.count("(") for line in wrapped(words, TITLE, 160)].count(1) == 3
    assert wrapped("", TITLE, 160) == [""]


@pytest.mark.parametrize("length", [60, 300])
def test_figure__keeps_names_and_the_legend_within_its_edges(length: int) -> None:
    names = ("a name of a concept that is rather long",)
    logits = np.random.default_rng(0).normal(size=512)
    a, b = (made(sign * logits, np.ones((1, 2, 2)), "n" * length, names) for sign in (1, -1))
    for shown in (a, compare(a, b)):
        pixels = np.asarray(shown.figure())
        assert (pixels[:, -18:] == 255).all()
        dark = (pixels < 128).all(axis=2).any(axis=0)
        assert dark[: pixels.shape[1] // 2].any()


@pytest.mark.parametrize(("bits", "names"), [(512, 1), (512, 64), (8, 8), (8, 1)])
def test_figure__takes_any_layout(bits: int, names: int) -> None:
    logits = np.random.default_rng(0).normal(size=bits)
    names_of = tuple(f"n{m}" for m in range(names))
    a, b = (made(sign * logits, np.ones((names, 2, 3)), HOSTILE, names_of) for sign in (1, -1))
    pair = compare(a, b)
    for shown in (a, pair):
        assert shown.figure().height < 10_000
        page = Shown(shown.html())
        assert f"of {names} concept{'s' * (names > 1)}." in page.words or shown is pair
    hit = ExplainedHit(Hit(1, 7, "hit.png", None, bits, pair.per_concept), b.code, b)
    weights = (0,) * (names - 1) + (1,)
    found = ExplainedQuery(a, (hit,), 3, weights)
    assert found.figure().width < 2_100
    assert np.asarray(found.figure())[:, -13:].min() > 200  # numbers end with their maps
    Shown(found.html())
    swatch = np.asarray(found.figure())[18, :, :] == concept_colour(names - 1)
    assert swatch.all(axis=1).any()  # what counts is there


def test_comparison_page__has_the_bits_of_both_above_each_other() -> None:
    logits = np.where(np.arange(64) % 3, 1.0, -1.0)
    other = logits.copy()
    other[[0, 17, 40]] *= -1
    a, b = (made(given, np.ones((2, 2, 2))) for given in (logits, other))
    words = Shown(compare(a, b).html()).words
    for start in range(0, 32, 16):
        both = [one.bits(0)[start : start + 16] for one in (a, b)]
        assert "".join(both) in words
    assert a.bits(0) not in words


def test_page__of_long_names_fits_a_phone(tmp_path: Path) -> None:
    pair = pair_of(name=f"/shop/{'folder_' * 30}/photo.jpg")
    hit = ExplainedHit(Hit(1, 7, pair.b.name, None, 0, pair.per_concept), pair.b.code, pair.b)
    shown = (pair.a, pair, ExplainedQuery(pair.a, (hit,), 1, (1, 1)))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 375, "height": 700})
        for number, one in enumerate(shown):
            file = tmp_path / f"{number}.html"
            file.write_text(one.html())
            page.goto(file.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_page__is_whole_and_shows_hostile_names_as_text(hasher: Hasher) -> None:
    shown = explain_image(hasher, spotted(1, 2), name=HOSTILE)
    page = Shown(shown.html())
    assert "script" not in page.tags
    assert "\\x1b[2J\\n" in page.words
    assert "<script>alert(1)</script>" in page.words
    assert [image.size for _, image in page.pictures] == [(SIDE, SIDE)] * 4
    words, heat = page.pictures[1]
    assert words.startswith("red in ")
    assert "62% from the left, 38% from the top" in words
    seen = np.asarray(heat).astype(int)
    expected = np.asarray(shown.heat(0)).astype(int)
    assert np.abs(seen - expected).mean() < 12  # JPEG
    assert "http:" not in shown.html()
    assert "https:" not in shown.html()
    assert {"table", "h1", "main"} <= set(page.tags)
    pair = Shown(pair_of(("<b>", '"'), HOSTILE).html())
    assert "script" not in pair.tags
    assert 'Alike in <b> (0\xa0of\xa016), differ in " (7\xa0of\xa016)' in pair.words
    assert len(pair.pictures) == 6
    assert all(words for words, _ in pair.pictures)


def test_notebook__gets_no_script_and_no_style_of_its_own() -> None:
    pair = pair_of(name=HOSTILE)
    for shown in (pair.a, pair):
        cell = Shown(shown._repr_html_())
        assert not {"style", "script", "link", "html", "body"} & set(cell.tags)
        assert " class=" not in shown._repr_html_().replace('<code class="bits">', "")
        assert "code" in cell.tags
        assert "id=" not in shown._repr_html_()
        [(words, image)] = cell.pictures
        assert image.size == shown.figure().size
        assert "photo" in words or "alert" in words


def test_strip__has_a_row_a_photo_and_a_column_a_concept() -> None:
    pair = pair_of()
    image = strip((pair.a, pair.b), pair.order, 32)
    assert image.width == 3 * 38 - 6
    pixels = np.asarray(image)
    assert np.array_equal(pixels[38:70, 38:70], tile(pair.b.pixels, pair.b.maps[0], 32))
    grey = np.asarray(mosaic((pair.a,), (1, 0), 32, grey=True))
    assert grey.shape == (32, 98, 3)
    assert grey[31, 33 + 31].tolist() == [255] * 3  # the wing's corner, first in this order
    assert grey[0, 66].tolist() == [255] * 3


def test_docs__example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(colour_bundle(tmp_path).path, tmp_path / "birds.chb")
    for name, cell in (("first", 0), ("second", 3)):
        Image.fromarray(spotted(cell, cell)).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/explain.md", "exec"), names)
    assert isinstance(names["pair"], Comparison)
    with Image.open("heat.png") as heat:
        assert heat.size == (SIDE, SIDE)
    assert len(Shown(Path("pair.html").read_text(encoding="utf-8")).pictures) == 8
