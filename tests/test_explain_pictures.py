"""Heat maps and the frame of pages."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageColor

from concepthash.explain.heat import (
    CONCEPT_COLOURS,
    HEAT_STOPS,
    concept_colour,
    heat_colours,
    overlay,
    smooth,
)
from concepthash.explain.page import STYLE, data_uri, page, text


def luminance(colours: np.ndarray) -> np.ndarray:
    """Of sRGB, from 0 to 1."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    light = luminance(colours)
    return np.where(light > 0.008856, 116 * np.cbrt(light) - 16, 903.3 * light)


def test_heat_colours__get_lighter_evenly() -> None:
    steps = np.diff(lightness(heat_colours(np.linspace(0, 1, 33)).astype(float)))
    assert steps.min() > 0.5 * steps.mean()


def test_heat_colours__clip_and_take_nan_for_nothing() -> None:
    colours = heat_colours([-1.0, 0.0, 1.0, 7.0, np.nan])
    first, last = list(HEAT_STOPS[0]), list(HEAT_STOPS[-1])
    assert colours.tolist() == [first, first, last, last, first]


def test_smooth__keeps_the_centres_of_cells() -> None:
    cells = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    fine = smooth(cells, 15)  # odd cells of 5 pixels: each has a pixel in its centre
    assert fine.dtype == np.float32
    np.testing.assert_allclose(fine[2::5, 2::5], cells, atol=1e-6)
    assert fine.min() >= cells.min() - 1e-6
    assert fine.max() <= cells.max() + 1e-6


def test_overlay__shows_the_photo_where_the_map_is_zero() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    map = np.zeros((4, 4))
    assert np.array_equal(np.asarray(overlay(pixels, map)), pixels)
    map[0, 0] = 1e-9  # divided by its own maximum
    shown = np.asarray(overlay(pixels, map))
    assert np.array_equal(shown[16:], pixels[16:])
    expected = 0.2 * pixels[3, 3] + 0.8 * np.array(HEAT_STOPS[-1])
    assert np.abs(shown[3, 3] - expected).max() < 40  # beside the centre of the cell


def test_concept_colour__is_another_for_eight_concepts() -> None:
    assert len(set(CONCEPT_COLOURS)) == 8
    assert concept_colour(8) == concept_colour(0)


class Tags(HTMLParser):
    """Gathers what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x>', "a\x00b\u202ec", "\udcff.jpg"]
)
def test_page__shows_any_name_as_text(name: str) -> None:
    found = Tags()
    whole = page(name, f'<p title="{text(name)}">{text(name)}</p>')
    whole.encode()  # also a name that is no valid Unicode
    found.feed(whole)
    assert found.tags == ["html", "head", "meta", "meta", "meta", "title", "style", "body", "p"]
    assert name.replace("\x00", "\\x00").replace("\u202e", "\\u202e").replace(
        "\udcff", "\\udcff"
    ) in found.words  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
def test_style__has_the_contrast_of_level_aa(dark: bool) -> None:
    modes = re.findall(r":root {(.*?)}", STYLE, re.DOTALL)
    assert len(modes) == 2
    found = dict(re.findall(r"--(\w+): (#\w+)", modes[dark]))
    light = {name: luminance(np.array(ImageColor.getrgb(of))) for name, of in found.items()}
    for letters in ("text", "muted", "accent"):
        for ground in ("ground", "card"):
            high, low = max(light[letters], light[ground]), min(light[letters], light[ground])
            assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize(("quality", "kind"), [(0, "PNG"), (85, "JPEG")])
def test_data_uri__holds_the_picture(quality: int, kind: str) -> None:
    pixels = np.full((8, 6, 3), 200, np.uint8)
    uri = data_uri(Image.fromarray(pixels), quality=quality)
    head, _, content = uri.partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (image.format, image.size) == (kind, (6, 8))
    assert np.abs(np.asarray(image).astype(int) - 200).max() <= (0 if kind == "PNG" else 2)
