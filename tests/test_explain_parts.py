"""Concept-part agreement: annotations, their place in the crop, and each measure by an oracle."""

from __future__ import annotations

import csv
import io
import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from colour_bundle import PARTS, colour_bundle, colour_maps, painted, write_csv
from PIL import Image

from concepthash.demo import write_dataset
from concepthash.demo.bird import KEY_POINTS
from concepthash.demo.bird import PARTS as MASK_PARTS
from concepthash.errors import DataError, ImageError, Skipped
from concepthash.explain import Annotations, read_annotations, score_parts
from concepthash.explain.agreement import ari, contingency, nmi
from concepthash.explain.groups import GROUPS, groups_of, part_group
from concepthash.explain.keypoints import AnnotatedImage, KeyPoint, Masks
from concepthash.explain.parts import (
    assign,
    cell_labels,
    cells_of_pixels,
    in_box,
    nearest,
    normalised_maps,
    peaks,
    values_at,
)
from concepthash.explain.placing import place
from concepthash.images import Preprocess
from concepthash.runtime.hasher import Hasher

SHARED = Path(__file__).parents[2] / "shared" / "data"
SPEC = Preprocess(resize=64, crop=48)


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(colour_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=3)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("birds")
    write_dataset(folder, species=3, images=4, size=48, seed=3)
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


def spot(size: tuple[int, int], x: float, y: float) -> Image.Image:
    """A black photo with a white square round a point."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4] = 255
    return Image.fromarray(pixels)


def centre_of_light(pixels: np.ndarray) -> np.ndarray:
    weights = pixels.sum(axis=2, dtype=float)
    steps = np.arange(len(weights)) + 0.5
    return np.array([weights.sum(axis=0) @ steps, weights.sum(axis=1) @ steps]) / weights.sum()


def saved(path: Path, image: Image.Image, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


# Where a point of a photo lies in the crop


@pytest.mark.parametrize("size", [(100, 70), (70, 100), (64, 64), (513, 67), (40, 30)])
def test_to_crop__follows_the_pixels(size: tuple[int, int]) -> None:
    x, y = size[0] // 2 + 5, size[1] // 2 - 4
    seen = centre_of_light(SPEC(spot(size, x, y)))
    np.testing.assert_allclose(SPEC.to_crop([[x, y]], size)[0], seen, atol=0.1)


def test_to_crop__takes_no_points_and_points_outside() -> None:
    assert SPEC.to_crop([], (64, 64)).shape == (0, 2)
    corners = SPEC.to_crop([[0, 0], [128, 64], [40, 8], [88, 56]], (128, 64))
    np.testing.assert_allclose(corners, [[-40, -8], [88, 56], [0, 0], [48, 48]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_place__turns_stored_points_as_the_photo_is_turned(
    tmp_path: Path, orientation: int
) -> None:
    saved(tmp_path / "a.png", spot((80, 100), 35, 60), orientation)
    image = AnnotatedImage("a.png", "test", (KeyPoint("beak", 35, 60),), (80, 100), (31, 56, 8, 8))
    placed = place(image, Annotations(tmp_path, tmp_path, ("beak",), (image,)), SPEC)
    seen = centre_of_light(SPEC(tmp_path / "a.png"))
    np.testing.assert_allclose(placed.points, [seen], atol=0.1)
    left, top, right, bottom = placed.box or (0, 0, 0, 0)
    np.testing.assert_allclose([(left + right) / 2, (top + bottom) / 2], seen, atol=0.1)
    np.testing.assert_allclose([right - left, bottom - top], [6.4, 6.4])


def test_place__leaves_out_points_outside_the_crop(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", spot((128, 64), 60, 30))
    points = tuple(
        KeyPoint(part, x, 30) for part, x in [("a", 39.9), ("b", 40), ("a", 87.9), ("c", 88)]
    )
    image = AnnotatedImage("a.png", "test", points)
    placed = place(image, Annotations(tmp_path, tmp_path, ("a", "b", "c"), (image,)), SPEC)
    assert placed.parts.tolist() == [1, 0]
    np.testing.assert_allclose(placed.points, [[0, 22], [47.9, 22]])
    assert placed.box is None


def test_place__refuses_a_photo_of_another_size(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", spot((80, 100), 35, 60))
    image = AnnotatedImage("a.png", "test", (), (100, 80))
    with pytest.raises(ImageError, match="80x100 pixels, its annotation is of 100x80"):
        place(image, Annotations(tmp_path, tmp_path, (), (image,)), SPEC)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_place__brings_masks_where_the_pixels_are(tmp_path: Path, orientation: int) -> None:
    saved(tmp_path / "a.png", spot((80, 100), 35, 60), orientation)
    mask = Image.fromarray(np.asarray(spot((80, 100), 35, 60))[..., 0] // 255 * 2)
    (tmp_path / "m").mkdir()
    mask.save(tmp_path / "m/a.png")
    image = AnnotatedImage("a.png", "test", ())
    known = Annotations(tmp_path, tmp_path, (), (image,), Masks(tmp_path / "m", ("none", "x", "y")))
    labels = place(image, known, SPEC, masks=True).labels
    assert labels is not None
    assert set(np.unique(labels)) == {0, 2}
    light = centre_of_light(SPEC(tmp_path / "a.png"))
    np.testing.assert_allclose(centre_of_light(labels[..., None]), light, atol=0.5)
    assert (labels == 2).sum() == pytest.approx(6.4**2, abs=7)
    known = Annotations(tmp_path, tmp_path, (), (image,), Masks(tmp_path / "m", ("none", "x")))
    with pytest.raises(DataError, match="the mask has the value 2"):
        place(image, known, SPEC, masks=True)


# Reading annotations


def test_read_annotations__of_drawn_birds_are_the_rows_of_the_files(birds: Path) -> None:
    read = read_annotations(birds)
    assert read.root == birds
    assert read.parts == KEY_POINTS
    assert read.masks is not None
    assert read.masks.parts == ("background", *MASK_PARTS)
    points = rows(birds / "annotations/part_locs.csv")
    listed = rows(birds / "annotations/images.csv")
    assert len(read.images) == len(listed) == 12
    for image, row in zip(read.images, listed, strict=True):
        assert (image.path, image.split) == (row["path"], row["official_split"])
        assert image.size == (48, 48)
        assert image.box == tuple(float(row[f"bbox_{side}"]) for side in "xywh")
        own = [p for p in points if p["cub_image_id"] == row["cub_image_id"]]
        expected = [(p["part"], float(p["x"]), float(p["y"])) for p in own if p["visible"] == "1"]
        assert [(p.part, p.x, p.y) for p in image.points] == expected
        assert read.masks.path(image).is_file()
    assert {image.split for image in read.of_split("test")} == {"test"}
    assert read.of_split("all") == read.images


@pytest.mark.skipif(not (SHARED / "cub20").is_dir(), reason="no CUB-20 beside the checkout")
def test_read_annotations__of_cub20_fit_its_photos() -> None:
    read = read_annotations(SHARED / "cub20" / "part_locs.csv")
    assert (len(read.images), len(read.of_split("test")), len(read.parts)) == (1185, 585, 15)
    spec = Preprocess()
    for image in read.images[::100]:
        placed = place(image, read, spec)
        assert placed.box is not None
        assert in_box(placed.points, placed.box).mean() > 0.9


def cub(folder: Path) -> Path:
    """Two photos in the text files of CUB-200-2011."""
    (folder / "parts").mkdir()
    (folder / "images/001.A b").mkdir(parents=True)
    saved(folder / "images/001.A b/x.png", spot((40, 30), 20, 15))
    for name, text in {
        "parts/parts.txt": "1 back\n2 left eye\n",
        "parts/part_locs.txt": "1 1 0.0 0.0 0\n1 2 20.5 15.0 1\n2 1 3.0 4.0 1\n2 2 0.0 0.0 0\n",
        "images.txt": "1 001.A b/x.png\n2 001.A b/y.png\n",
        "train_test_split.txt": "1 0\n2 1\n",
        "bounding_boxes.txt": "1 1.0 2.0 30.0 20.0\n2 0.0 0.0 9.0 9.0\n",
    }.items():
        (folder / name).write_text(text)
    return folder


def test_read_annotations__of_cub_200_2011_as_published(tmp_path: Path) -> None:
    read = read_annotations(cub(tmp_path))
    assert (read.parts, read.root) == (("back", "left eye"), tmp_path / "images")
    assert read.images == (
        AnnotatedImage(
            "001.A b/x.png", "test", (KeyPoint("left eye", 20.5, 15),), None, (1, 2, 30, 20)
        ),
        AnnotatedImage("001.A b/y.png", "train", (KeyPoint("back", 3, 4),), None, (0, 0, 9, 9)),
    )
    (tmp_path / "parts/part_locs.txt").write_text("1 3 1 1 1\n")
    with pytest.raises(DataError, match=r"part 3 is not in parts\.txt"):
        read_annotations(tmp_path)
    (tmp_path / "parts/part_locs.txt").write_text("1 2 1 1\n")
    with pytest.raises(DataError, match="needs 5 words, this one has 4"):
        read_annotations(tmp_path)


@pytest.mark.skipif(not (SHARED / "annotations").is_dir(), reason="no annotations here")
def test_read_annotations__of_the_real_cub_files_are_all_read(tmp_path: Path) -> None:
    source = SHARED / "annotations" / "cub200_2011"
    first = tmp_path / (source / "images.txt").read_text().split(maxsplit=2)[1]
    first.parent.mkdir()
    first.touch()
    read = read_annotations(source, data=tmp_path)
    assert (len(read.images), len(read.of_split("test")), len(read.parts)) == (11788, 5794, 15)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("images.csv", None, None, r"images\.csv is missing"),
        ("part_locs.csv", "x,y", "x,z", "no column y among"),
        ("images.csv", "official_split", "kind", "no column official_split"),
        ("part_locs.csv", "1,beak,4.0", "1,beak,four", "'four' is not a number"),
        ("part_locs.csv", "1,beak,4.0", "1,beak,nan", "'nan' is not a number"),
        ("part_locs.csv", "1,beak,4.0,12.0,1", "1,beak,,,1", "'' is not a number"),
        ("part_locs.csv", "1,beak,4.0,12.0,1", "1,beak,4.0,12.0,yes", "visible is 1 or 0"),
        ("part_locs.csv", "1,beak,4.0,12.0,1", "1,beak,4.0", "more or fewer values"),
        ("part_locs.csv", "1,beak,4.0", "77,beak,4.0", r"does not list: 77"),
        ("images.csv", "2,images/2.png", "1,images/2.png", "'1' is listed twice"),
        ("images.csv", "images/", "photos/", "not one of the annotated photos is there"),
        ("images.csv", "images/2", "images/\udcff", "cannot be read"),
    ],
)
def test_read_annotations__says_what_is_wrong(
    tmp_path: Path, file: str, old: str | None, new: str | None, words: str
) -> None:
    path = painted(tmp_path, 3) / file
    write_csv(
        tmp_path / "part_locs.csv",
        [["cub_image_id", "part", "x", "y", "visible"], ["1", "beak", "4.0", "12.0", "1"]],
    )
    read_annotations(tmp_path)
    if old is None or new is None:
        path.unlink()
    else:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new), errors="surrogateescape")
    with pytest.raises(DataError, match=words) as raised:
        read_annotations(tmp_path)
    assert raised.value.hint is not None


def test_of_split__names_the_splits_there_are(tmp_path: Path) -> None:
    read = read_annotations(painted(tmp_path, 2))
    with pytest.raises(DataError, match="'val'; there are: test, train"):
        read.of_split("val")
    write_csv(
        tmp_path / "part_locs.csv",
        [["cub_image_id", "part", "x", "y", "visible"], ["1", "beak", "", "", "0"]],
    )
    with pytest.raises(DataError, match="no visible key point"):
        read_annotations(tmp_path).of_split("test")
    with pytest.raises(DataError, match="no such file"):
        read_annotations(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no part_locs\.csv"):
        read_annotations(tmp_path / "images")


def test_groups__are_those_of_the_protocol() -> None:
    head = {"beak", "crown", "forehead", "left eye", "right eye", "nape", "throat"}
    assert {part for part in KEY_POINTS if part_group(part) == "head"} == head
    torso = {part for part in KEY_POINTS if part_group(part) == "torso"}
    assert torso == {"back", "belly", "breast"}
    assert groups_of(KEY_POINTS) == groups_of(MASK_PARTS) == tuple(GROUPS)
    assert part_group("left headlight") == part_group("right headlight") == "headlight"
    assert groups_of(["wheel", "tail", "left wheel", "beak"]) == ("head", "tail", "wheel")


# Agreement of labellings


def test_agreement__by_hand() -> None:
    equal, crossed = np.array([[0, 2], [2, 0]]), np.array([[1, 1], [1, 1]])
    assert (nmi(equal), ari(equal)) == (1.0, 1.0)
    assert (nmi(crossed), ari(crossed)) == (0.0, -0.5)
    one = np.array([[2, 2]])
    assert (nmi(one), ari(one)) == (0.0, 0.0)
    assert (nmi(np.array([[5]])), ari(np.array([[5]]))) == (1.0, 1.0)
    split = np.array([[2, 0], [1, 1]])
    information = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    entropies = math.log(2) - (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert nmi(split) == pytest.approx(2 * information / entropies)


@pytest.mark.parametrize("seed", range(20))
def test_agreement__is_that_of_counted_pairs_and_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size, a, b = (int(generator.integers(low, high)) for low, high in [(1, 60), (1, 6), (1, 9)])
    first, second = generator.integers(0, a, size), generator.integers(0, b, size)
    table = contingency(first, second, (a, b))
    assert table.sum() == size
    pairs = list(combinations(range(size), 2))
    same = [(first[i] == first[j], second[i] == second[j]) for i, j in pairs]
    both, one, other = (
        sum(p and q for p, q in same),
        sum(p for p, _ in same),
        sum(q for _, q in same),
    )
    expected = one * other / len(pairs) if pairs else 0
    highest = (one + other) / 2
    naive = 1.0 if highest == expected else (both - expected) / (highest - expected)
    assert ari(table) == pytest.approx(naive)
    metrics = pytest.importorskip("sklearn.metrics")
    assert ari(table) == pytest.approx(metrics.adjusted_rand_score(first, second), abs=1e-12)
    expected = metrics.normalized_mutual_info_score(first, second)
    assert nmi(table) == pytest.approx(expected, abs=1e-12)


# Maps


def test_assign__is_the_highest_normalised_cell_that_holds_the_point() -> None:
    generator = np.random.default_rng(0)
    maps = generator.random((5, 3, 4)).astype(np.float32)
    points = generator.random((50, 2)) * 24
    for (x, y), concept in zip(points, assign(maps, points, 24), strict=True):
        row, column = int(y // 8), int(x // 6)
        assert concept == np.argmax([m[row, column] / m.max() for m in maps])


def test_assign__does_not_depend_on_the_scale_of_a_map() -> None:
    generator = np.random.default_rng(1)
    maps = generator.random((4, 6, 6)).astype(np.float32)
    points = generator.random((40, 2)) * 12
    scaled = maps * np.array([1, 64, 0.125, 4], np.float32)[:, None, None]
    assert assign(maps, points, 12).tolist() == assign(scaled, points, 12).tolist()
    assert len(set(assign(maps, points, 12).tolist())) == 4


def test_values_at__a_point_on_an_edge_is_of_the_cell_after_it() -> None:
    maps = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    points = np.array([[0, 0], [3.999, 0], [4, 0], [0, 4], [7.999, 7.999]])
    assert values_at(maps, points, 8).tolist() == [[0, 0, 1, 2, 3]]


def test_normalised_maps__reach_1_in_each_image_or_stay_zero() -> None:
    maps = np.random.default_rng(2).random((3, 4, 5, 5)).astype(np.float32)
    maps[1, 2] = 0
    scaled = normalised_maps(maps)
    expected = np.ones((3, 4))
    expected[1, 2] = 0
    assert scaled.max(axis=(2, 3)).tolist() == expected.tolist()
    np.testing.assert_allclose(scaled[2, 3] * maps[2, 3].max(), maps[2, 3], rtol=1e-6)


def test_peaks__are_centres_of_the_highest_cells() -> None:
    maps = np.zeros((3, 2, 4), np.float32)
    maps[0, 1, 2] = maps[1, 0, 0] = 1
    maps[2] = 7  # all equal: the first
    assert peaks(maps, 16).tolist() == [[10, 12], [2, 4], [2, 4]]


def test_in_box_and_nearest__by_loops() -> None:
    generator = np.random.default_rng(3)
    points, others = (
        generator.integers(0, 10, (40, 2)) * 1.0,
        generator.integers(0, 10, (9, 2)) * 1.0,
    )
    found = in_box(points, (2, 3, 7, 8))
    assert found.tolist() == [2 <= x <= 7 and 3 <= y <= 8 for x, y in points]
    assert 0 < found.sum() < 40
    for point, chosen in zip(points, nearest(points, others), strict=True):
        distances = [math.dist(point, other) for other in others]
        assert chosen == distances.index(min(distances))


@pytest.mark.parametrize(("side", "shape"), [(12, (3, 4)), (10, (3, 3)), (7, (4, 2))])
def test_cell_labels__are_the_majority_of_a_cells_pixels(side: int, shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(side).integers(0, 4, (side, side)).astype(np.uint8)
    held: dict[tuple[int, int], list[int]] = {}
    for y in range(side):
        for x in range(side):
            cell = (int((y + 0.5) * shape[0] / side), int((x + 0.5) * shape[1] / side))
            held.setdefault(cell, []).append(int(labels[y, x]))
            assert cells_of_pixels(side, shape)[y, x] == cell[0] * shape[1] + cell[1]
    for cell, values in held.items():
        assert cell_labels(labels, shape)[cell] == np.bincount(values).argmax()


# Scores


def test_score_parts__of_concepts_that_are_parts_is_perfect(hasher: Hasher, tmp_path: Path) -> None:
    scores = score_parts(hasher, read_annotations(painted(tmp_path, masks=True)), masks=True)
    assert (scores.nmi, scores.ari, scores.leading_share) == (1.0, 1.0, 1.0)
    assert scores.assigned == scores.nearest == ((7, 0, 0), (0, 7, 0), (0, 0, 7))
    assert scores.leading_parts == ("head", "wing", "tail")
    assert scores.peaks_in_box == (1.0, 1.0, 1.0)
    assert (scores.points, scores.images, scores.boxes) == (21, 7, 7)
    assert scores.masks is not None
    assert (scores.masks.nmi, scores.masks.ari, scores.masks.object_iou) == (1.0, 1.0, 1.0)
    assert (scores.masks.cells, scores.masks.images) == (21, 7)
    assert len(score_parts(hasher, read_annotations(tmp_path), split="all").assigned) == 3


def test_score_parts__counts_key_points_of_drawn_birds_as_a_loop_does(
    hasher: Hasher, birds: Path
) -> None:
    scores = score_parts(hasher, read_annotations(birds), split="train", masks=True)
    listed = {row["cub_image_id"]: row for row in rows(birds / "annotations/images.csv")}
    pixels = {k: hasher.preprocess(birds / row["path"]) for k, row in listed.items()}
    maps = {k: colour_maps(p[None])[0] for k, p in pixels.items()}
    visible: dict[str, list[tuple[int, float, float]]] = {}
    assigned = np.zeros((3, 15), int)
    for point in rows(birds / "annotations/part_locs.csv"):
        key = point["cub_image_id"]
        if point["visible"] == "1" and listed[key]["official_split"] == "train":
            x, y = float(point["x"]) * 32 / 48, float(point["y"]) * 32 / 48
            part = KEY_POINTS.index(point["part"])
            visible.setdefault(key, []).append((part, x, y))
            here = [m[int(y // 8), int(x // 8)] / m.max() for m in maps[key]]
            assigned[int(np.argmax(here)), part] += 1
    assert np.array_equal(scores.assigned, assigned)
    boxed, close = np.zeros(3), np.zeros((3, 15), int)
    for key, points in visible.items():
        left, top, width, height = (float(listed[key][f"bbox_{s}"]) * 32 / 48 for s in "xywh")
        for m in range(3):
            row, column = np.unravel_index(maps[key][m].argmax(), (4, 4))
            x, y = column * 8 + 4, row * 8 + 4
            boxed[m] += left <= x <= left + width and top <= y <= top + height
            part = min(points, key=lambda p: math.dist((x, y), p[1:]))[0]
            close[m, part] += 1
    assert scores.images == len(visible) == 6
    np.testing.assert_allclose(scores.peaks_in_box, boxed / 6)
    assert np.array_equal(scores.nearest, close)
    for m, shares in enumerate(scores.part_share):
        for group, part_share in shares.items():
            own = [i for i, part in enumerate(KEY_POINTS) if part_group(part) == group]
            assert part_share == pytest.approx(close[m, own].sum() / close[m].sum())
        assert sum(shares.values()) == pytest.approx(1)
    assert scores.masks is not None
    assert 0 < scores.masks.object_iou < 1


def test_score_parts__lists_what_it_cannot_use(hasher: Hasher, tmp_path: Path) -> None:
    painted(tmp_path, 5)
    (tmp_path / "images/1.png").write_bytes(b"no photo")
    Image.new("RGB", (9, 9)).save(tmp_path / "images/2.png")
    (tmp_path / "images/3.png").unlink()
    skipped, seen = Skipped(), []
    scores = score_parts(
        hasher,
        read_annotations(tmp_path),
        skipped=skipped,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert scores.images == 1
    assert {Path(item.path).name: item.reason for item in skipped.items} == {
        "1.png": "not an image Pillow can read",
        "2.png": "the photo is 9x9 pixels, its annotation is of 32x32",
        "3.png": "no such file",
    }
    assert seen == [(3, 4), (4, 4)]
    (tmp_path / "images/4.png").unlink()
    with pytest.raises(DataError, match="not one photo could be used"):
        score_parts(hasher, read_annotations(tmp_path))
    with pytest.raises(DataError, match="no part masks"):
        score_parts(hasher, read_annotations(tmp_path), masks=True)


def test_score_parts__without_boxes_has_no_pointing_game(hasher: Hasher, tmp_path: Path) -> None:
    painted(tmp_path, 3)
    listing = tmp_path / "images.csv"
    listing.write_text(listing.read_text().replace(",0,8,16,16", ",,,,"))
    scores = score_parts(hasher, read_annotations(tmp_path))
    assert (scores.peaks_in_box, scores.boxes) == ((None, None, None), 0)
    assert scores.to_json()["peaks_in_box"] == [None] * 3


# The verb


@pytest.fixture
def painter(chash: Chash, tmp_path: Path) -> Chash:
    colour_bundle(tmp_path)
    painted(tmp_path / "set", 4, masks=True)
    return chash


def test_explain__prints_a_table_and_json(painter: Chash) -> None:
    result = painter("explain", "--parts", "set/part_locs.csv", "--masks")
    assert result.code == 0
    assert "model: colour.chb (the newest bundle here)" in result.err
    assert "9 key points of 3 photos: NMI 1.000  ARI 1.000" in result.out
    assert "9 cells of 3 masks" in result.out
    assert ["blue", "tail", "0.00", "0.00", "1.00", "1.00"] in map(
        str.split, result.out.split("\n")
    )
    value = painter("explain", "--parts", "set", "--split", "all", "--json").json("chash.parts/1")
    assert (value["nmi"], value["ari"], value["points"], value["images"]) == (1.0, 1.0, 12, 4)
    assert value["part_share"][1] == {"head": 0.0, "wing": 1.0, "tail": 0.0}
    assert value["peaks_in_box"] == [1.0] * 3
    assert value["part_names"] == list(PARTS)
    assert value["concept_names"] == ["red", "green", "blue"]
    assert (value["causality"], value["curves"], value["skipped"]) == (None, None, [])
    assert json.dumps(value).count("NaN") == 0


def test_explain__skips_broken_photos_with_exit_3(painter: Chash) -> None:
    Path("set/images/2.png").write_bytes(b"no photo")
    result = painter("explain", "--parts", "set", "--json")
    assert result.code == 3
    assert [item["path"] for item in result.json("chash.parts/1")["skipped"]] == [
        "set/images/2.png"
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give part annotations"),
        (["--parts", "set", "--split", "val"], 2, "unknown split 'val'"),
        (["--parts", "set", "--sample", "0"], 2, "no sample"),
        (["--parts", "set", "--threads", "0"], 2, "0 threads"),
        (["--parts", "gone"], 1, "no such file or folder"),
        (["--parts", "set", "--data", "gone"], 1, "not one of the annotated photos"),
        (["--parts", "set", "--model", "gone.chb"], 1, "no such bundle"),
    ],
)
def test_explain__refuses_what_cannot_be(
    painter: Chash, arguments: list[str], code: int, words: str
) -> None:
    result = painter("explain", *arguments)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert "try: " in result.err
