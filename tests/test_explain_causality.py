"""Covering parts and cells, against loops and the exact oracle of the colour bundle."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from colour_bundle import CELL, LAYOUT, colour_bundle, colour_logits, colour_maps, painted
from PIL import Image

from concepthash.codes import CodeLayout
from concepthash.errors import Skipped, UsageError
from concepthash.explain import Annotations, concept_curves, cover_parts, read_annotations
from concepthash.explain.covering import (
    background_discs,
    border_colour,
    covered,
    discs,
    object_side,
    part_regions,
)
from concepthash.explain.curves import map_orders, margin, photo_margins
from concepthash.explain.photos import SeenPhoto, encode_all, see, spread
from concepthash.explain.placing import Placed
from concepthash.runtime.hasher import Hasher

LEADING = ("head", "wing", "tail")


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(colour_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=5)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    return read_annotations(painted(tmp_path_factory.mktemp("set"), 8, masks=True))


def seen(hasher: Hasher, annotations: Annotations, *, masks: bool = False) -> list[SeenPhoto]:
    images = annotations.of_split("test")
    return list(see(hasher, annotations, images, masks=masks, skipped=Skipped()))


def noise(seed: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def photo_of(pixels: np.ndarray, placed: Placed | None = None) -> SeenPhoto:
    """A photo as the colour bundle sees it."""
    nothing = Placed(np.zeros((0, 2)), np.zeros(0, np.intp))
    return SeenPhoto(
        nothing if placed is None else placed,
        pixels,
        colour_logits(pixels[None])[0].astype(np.float32),
        colour_maps(pixels[None])[0].astype(np.float32),
    )


# Covering


def test_see__gives_what_the_graph_says_of_each_photo(hasher: Hasher, colours: Annotations) -> None:
    photos = seen(hasher, colours)
    assert len(photos) == 7
    for photo, image in zip(photos, colours.of_split("test"), strict=True):
        pixels = np.asarray(Image.open(colours.root / image.path))
        assert np.array_equal(photo.pixels, pixels)
        assert np.array_equal(photo.logits, colour_logits(pixels[None])[0])
        assert np.array_equal(photo.maps, colour_maps(pixels[None])[0])
    many = np.stack([noise(n) for n in range(12)])
    assert np.array_equal(encode_all(hasher, many), colour_logits(many).astype(np.float32))


def test_spread__is_even_and_in_order(colours: Annotations) -> None:
    assert spread(colours.images, 4) == list(colours.images[::2])
    assert spread(colours.images, 100) == list(colours.images)


def test_covered__takes_the_mean_colour_of_the_border() -> None:
    pixels = noise(0)
    border = [
        pixels[y, x].astype(float)
        for y in range(32)
        for x in range(32)
        if min(x, y) < 2 or max(x, y) >= 30
    ]
    colour = np.rint(np.mean(border, axis=0))
    assert border_colour(pixels).tolist() == colour.tolist()
    regions = np.random.default_rng(1).random((3, 32, 32)) < 0.3
    result = covered(pixels, list(regions))
    assert result.dtype == np.uint8
    for hidden, region in zip(result, regions, strict=True):
        assert (hidden[region] == colour).all()
        assert np.array_equal(hidden[~region], pixels[~region])


def test_discs__are_the_pixels_near_a_centre() -> None:
    centres = np.array([[3.2, 5.0], [14.5, 14.5], [30.0, 2.0]])
    region = discs(centres, 3.5, 20)
    expected = [
        [any(math.dist((x + 0.5, y + 0.5), c) <= 3.5 for c in centres) for x in range(20)]
        for y in range(20)
    ]
    assert region.tolist() == expected


def test_object_side__is_that_of_the_box_within_the_crop() -> None:
    none = np.zeros((0, 2)), np.zeros(0, np.intp)
    assert object_side(Placed(*none), 32) == 32
    assert object_side(Placed(*none, (-10.0, 4.0, 12.0, 20.0)), 32) == 16
    assert object_side(Placed(*none, (-10.0, 4.0, 40.0, 20.0)), 32) == 32


def test_part_regions__are_discs_of_each_group_that_is_seen() -> None:
    names = ("beak", "nape", "tail", "left wing")
    points = np.array([[4.0, 5.0], [20.0, 8.0], [9.0, 25.0]])
    placed = Placed(points, np.array([0, 3, 1]), (0.0, 0.0, 20.0, 10.0))
    regions = part_regions(photo_of(noise(2), placed), names, 0.1)
    assert set(regions) == {"head", "wing"}
    head, count, radius = regions["head"]
    assert (count, radius) == (2, 2.0)
    assert np.array_equal(head, discs(points[[0, 2]], 2.0, 32))
    assert np.array_equal(regions["wing"][0], discs(points[[1]], 2.0, 32))


def test_part_regions__of_a_mask_are_its_pixels() -> None:
    labels = np.random.default_rng(3).integers(0, 4, (32, 32)).astype(np.uint8)
    placed = Placed(np.array([[4.0, 5.0]]), np.array([0]), None, labels)
    names = ("background", "beak", "tail", "eye")
    regions = part_regions(photo_of(noise(2), placed), names, 0.1)
    assert set(regions) == {"head", "tail"}
    head, count, radius = regions["head"]
    assert np.array_equal(head, (labels == 1) | (labels == 3))
    assert count == 1
    assert math.pi * radius**2 == pytest.approx(head.sum())


def test_background_discs__touch_neither_the_box_nor_the_edge() -> None:
    placed = Placed(np.zeros((0, 2)), np.zeros(0, np.intp), (0.0, 8.0, 16.0, 24.0))
    found = np.zeros((32, 32), bool)
    for seed in range(200):
        region = background_discs(placed, 2, 3.0, 32, np.random.default_rng(seed))
        assert region is not None
        assert 25 <= region.sum() <= 2 * 37
        found |= region
    assert not found[8:24, :16].any()
    assert found[8:24, 17:].any()
    assert found[:7, :16].any()
    assert found[0].any()
    alike = [background_discs(placed, 2, 3.0, 32, np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(*alike)


@pytest.mark.parametrize("box", [None, (1.0, 1.0, 31.0, 31.0)])
def test_background_discs__need_a_box_and_room(box: tuple[float, ...] | None) -> None:
    placed = Placed(np.zeros((0, 2)), np.zeros(0, np.intp), box)
    assert background_discs(placed, 1, 3.0, 32, np.random.default_rng(0)) is None


# Causality


def test_cover_parts__finds_the_part_each_concept_sees(
    hasher: Hasher, colours: Annotations
) -> None:
    found = cover_parts(hasher, colours, LEADING, radius=0.25)
    assert found.groups == ("head", "wing", "tail")
    assert (found.reacts_to, found.own_part_share) == (LEADING, 1.0)
    assert (found.photos, found.controls) == ((7, 7, 7), (7, 7, 7))
    # The background is black, as what covers it: nothing changes.
    assert not found.control_shift.any()
    assert not found.control_bits.any()
    own = np.eye(3, dtype=bool)
    assert (found.logit_shift[own] > 0.5).all()
    assert (found.changed_bits[own] > 0.5).all()
    assert not found.logit_shift[~own].any()
    assert not found.changed_bits[~own].any()
    wrong = cover_parts(hasher, colours, ("wing", "wing", "head"), radius=0.25)
    assert wrong.own_part == (False, True, False)


@pytest.mark.parametrize("masks", [False, True])
def test_cover_parts__is_the_mean_of_what_changes(
    hasher: Hasher, colours: Annotations, masks: bool
) -> None:
    found = cover_parts(hasher, colours, LEADING, radius=0.2, masks=masks, sample=5)
    photos = seen(hasher, colours, masks=masks)
    photos = [photos[int(place)] for place in np.arange(5) * 7 / 5]
    logits = np.stack([photo.logits for photo in photos]).astype(float)
    deviation = np.sqrt(((logits - logits.mean(axis=0)) ** 2).mean(axis=0))
    for g in range(3):
        shifts, bits = [], []
        for photo in photos:
            pixels = photo.pixels.copy()
            if masks:
                assert photo.placed.labels is not None
                pixels[photo.placed.labels == g + 1] = 0
            else:
                centre = photo.placed.points[photo.placed.parts == g]
                pixels[discs(centre, 0.2 * 16, 32)] = 0
            after = colour_logits(pixels[None])[0]
            shifts.append((np.abs(after - photo.logits) / deviation).reshape(3, 8).mean(axis=1))
            bits.append(((after > 0) != (photo.logits > 0)).reshape(3, 8).sum(axis=1))
        np.testing.assert_allclose(found.logit_shift[:, g], np.mean(shifts, axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.changed_bits[:, g], np.mean(bits, axis=0))
    assert found.radius == (0 if masks else 0.2)
    assert found.photos == (5, 5, 5)


def test_cover_parts__takes_off_what_covering_background_does(
    hasher: Hasher, tmp_path: Path
) -> None:
    """Red on the right of every photo, outside the box: its control moves the red concept."""
    painted(tmp_path, 6)
    for path in (tmp_path / "images").iterdir():
        pixels = np.asarray(Image.open(path)).copy()
        pixels[4:28, 16:28, 0] = 255
        Image.fromarray(pixels).save(path)
    found = cover_parts(hasher, read_annotations(tmp_path), LEADING, radius=0.25)
    assert (found.control_shift[0] > 0.1).all()
    assert not found.control_shift[1:].any()
    assert found.controls == found.photos
    np.testing.assert_allclose(found.effect, found.logit_shift - found.control_shift)


def test_cover_parts__compares_a_part_with_the_control_of_the_same_photo(
    hasher: Hasher, tmp_path: Path
) -> None:
    painted(tmp_path, 6)
    listing = tmp_path / "images.csv"
    lines = listing.read_text().splitlines()
    tests = [number for number, line in enumerate(lines) if ",test," in line]
    for number in tests[:2]:
        lines[number] = lines[number].replace(",0,8,16,16", ",0,0,32,32")
    listing.write_text("\n".join(lines) + "\n")
    annotations = read_annotations(tmp_path)
    found = cover_parts(hasher, annotations, LEADING, radius=0.25)
    assert 0 < found.controls[0] < found.photos[0]
    photos = seen(hasher, annotations)
    logits = np.stack([photo.logits for photo in photos]).astype(float)
    shifts = []
    for photo in photos:
        assert photo.placed.box is not None
        if photo.placed.box[3] - photo.placed.box[1] < 32:
            pixels = photo.pixels.copy()
            pixels[discs(photo.placed.points[photo.placed.parts == 0], 0.25 * 16, 32)] = 0
            moved = np.abs(colour_logits(pixels[None])[0] - photo.logits) / logits.std(axis=0)
            shifts.append(moved.reshape(3, 8).mean(axis=1))
    np.testing.assert_allclose(found.effect[:, 0], np.mean(shifts, axis=0), rtol=1e-5)


def test_cover_parts__without_room_has_no_control(hasher: Hasher, tmp_path: Path) -> None:
    painted(tmp_path, 4)
    listing = tmp_path / "images.csv"
    listing.write_text(listing.read_text().replace(",0,8,16,16", ",0,0,32,32"))
    found = cover_parts(hasher, read_annotations(tmp_path), LEADING)
    assert found.controls == (0, 0, 0)
    assert np.isnan(found.control_shift).all()
    assert found.reacts_to == LEADING
    assert found.to_json()["control_bits"] == [[None] * 3] * 3
    assert "(-)" in str(found)


def test_cover_parts__and_curves_refuse_what_cannot_be(
    hasher: Hasher, colours: Annotations
) -> None:
    with pytest.raises(UsageError):
        cover_parts(hasher, colours, LEADING[:2])
    with pytest.raises(UsageError):
        cover_parts(hasher, colours, LEADING, sample=1)
    with pytest.raises(UsageError):
        cover_parts(hasher, colours, LEADING, radius=1.0)
    with pytest.raises(UsageError):
        concept_curves(hasher, colours, steps=0)


# Curves


def test_margin__has_the_sign_of_the_whole_photos_bits() -> None:
    whole = np.array([2, -1, 0, 3, 0, 0, 0, -4], np.float32)
    other = np.array([[1, 1, 1, -1, 2, 2, 2, 2]], np.float32)
    layout = CodeLayout(8, 2)
    assert margin(whole[None], whole, layout).tolist() == [[6 / 4, 4 / 4]]
    assert margin(other, whole, layout).tolist() == [[(1 - 1 - 1 - 1) / 4, -8 / 4]]


def test_map_orders__go_down_and_keep_the_order_of_equals() -> None:
    maps = np.array([[[1, 3], [3, 0]], [[0, 0], [0, 0]]], np.float32)
    assert map_orders(maps).tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]


def naive_margin(pixels: np.ndarray, whole: np.ndarray, concept: int) -> float:
    own = LAYOUT.concept_slice(concept)
    logits, first = colour_logits(pixels[None])[0][own], colour_logits(whole[None])[0][own]
    return float(np.mean([a if b > 0 else -a for a, b in zip(logits, first, strict=True)]))


def test_photo_margins__cover_and_uncover_cell_by_cell(hasher: Hasher) -> None:
    pixels = noise(7) // np.array([1, 3, 20], np.uint8)
    photo = photo_of(pixels)
    counts = np.array([0, 1, 5, 16])
    shuffled = np.random.default_rng(9).permutation(16)
    found = photo_margins(hasher, photo, counts, shuffled)
    assert found.shape == (3, 2, 3, 4)
    colour = border_colour(pixels)
    down = [sorted(range(16), key=lambda cell: -photo.maps[m].flat[cell]) for m in range(3)]
    for kind, m, step in np.ndindex(3, 3, 4):
        orders = ([down[m]], [down[k] for k in range(3) if k != m], [shuffled])[kind]
        margins = []
        for order in orders:
            deleted, inserted = pixels.copy(), np.broadcast_to(colour, pixels.shape).copy()
            for cell in order[: counts[step]]:
                row, column = divmod(int(cell), 4)
                where = np.s_[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
                deleted[where], inserted[where] = colour, pixels[where]
            margins.append([naive_margin(image, pixels, m) for image in (deleted, inserted)])
        assert found[kind, :, m, step] == pytest.approx(np.mean(margins, axis=0), abs=1e-4)


def test_concept_curves__of_faithful_maps_beat_a_random_order(
    hasher: Hasher, colours: Annotations
) -> None:
    found = concept_curves(hasher, colours, steps=16)
    assert found.photos == 7
    assert found.shares.tolist() == [n / 16 for n in range(17)]
    for curve in (found.deletion, found.random_deletion):
        np.testing.assert_allclose(curve[:, 0], 1)
    for curve in (found.insertion, found.random_insertion):
        np.testing.assert_allclose(curve[:, -1], 1)
    # A concept's colour is in one cell: the first step takes all there is to take, or gives it.
    for curve, rest in ((found.deletion, found.deletion[:, -1:]), (found.insertion, 1)):
        np.testing.assert_allclose(curve[:, 1:], np.broadcast_to(rest, (3, 16)), atol=1e-6)
    areas = found.areas
    assert (areas["deletion"] < areas["random_deletion"]).all()
    assert (areas["insertion"] > areas["random_insertion"]).all()
    assert (areas["deletion"] < areas["other_deletion"]).all()
    assert (areas["insertion"] > areas["other_insertion"]).all()
    for area, curve in zip(areas["random_deletion"], found.random_deletion, strict=True):
        assert area == pytest.approx(sum((a + b) / 32 for a, b in pairwise(curve)))


def test_concept_curves__are_the_ratio_of_mean_margins(
    hasher: Hasher, colours: Annotations
) -> None:
    found = concept_curves(hasher, colours, steps=4, sample=3)
    photos = [seen(hasher, colours)[place] for place in (0, 2, 4)]
    counts = np.array([0, 4, 8, 12, 16])
    single = [photo_margins(hasher, photo, counts, np.arange(16))[0] for photo in photos]
    mean = np.mean(single, axis=0)
    np.testing.assert_allclose(found.deletion, mean[0] / mean[0][:, :1], rtol=1e-6)
    np.testing.assert_allclose(found.insertion, mean[1] / mean[1][:, -1:], rtol=1e-6)
    again = concept_curves(hasher, colours, steps=4, sample=3)
    assert np.array_equal(found.random_deletion, again.random_deletion)
    other = concept_curves(hasher, colours, steps=4, sample=3, seed=1)
    assert not np.array_equal(found.random_deletion, other.random_deletion)


# The verb


def test_explain__covers_parts_and_cells(chash: Chash, tmp_path: Path) -> None:
    colour_bundle(tmp_path)
    painted(tmp_path / "set", 6, masks=True)
    asked = ("explain", "--parts", "set", "--causality", "--curves", "--masks", "--sample", 4)
    value = chash(*asked, "--json").json("chash.parts/1")
    assert value["causality"]["own_part_share"] == 1.0
    assert value["causality"]["reacts_to"] == list(LEADING)
    assert value["causality"]["photos"] == [4, 4, 4]
    assert value["curves"]["photos"] == 4
    areas = value["curves"]["areas"]
    assert all(a < b for a, b in zip(areas["deletion"], areas["random_deletion"], strict=True))
    result = chash(*asked)
    assert result.code == 0
    assert "3 of 3 concepts react most to their leading part" in result.out
    assert "in the order of the map, 4 photos" in result.out
