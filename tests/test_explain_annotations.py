"""Annotations of parts: reading them, and their place in the crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from colour_bundle import painted, write_csv
from dataset_files import rows
from PIL import Image

from concepthash.demo.bird import KEY_POINTS
from concepthash.demo.bird import PARTS as MASK_PARTS
from concepthash.errors import DataError, ImageError
from concepthash.explain import Annotations, read_annotations
from concepthash.explain.groups import GROUPS, groups_of, part_group
from concepthash.explain.keypoints import AnnotatedImage, KeyPoint, Masks
from concepthash.explain.parts import (
    in_box,
)
from concepthash.explain.placing import place
from concepthash.images import Preprocess

SHARED = Path(__file__).parents[2] / "shared" / "data"
SPEC = Preprocess(resize=64, crop=48)


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


def test_place__counts_points_outside_the_photo(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", spot((80, 100), 35, 60), orientation=6)
    places = [(0, 0), (80, 100), (40, 50), (80.1, 50), (40, 101), (-1, 5), (90, 70)]
    points = tuple(KeyPoint("a", x, y) for x, y in places)
    image = AnnotatedImage("a.png", "test", points)
    placed = place(image, Annotations(tmp_path, tmp_path, ("a",), (image,)), SPEC)
    assert (placed.outside, len(placed.points)) == (4, 1)


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


def test_read_annotations__of_drawn_birds_are_the_rows_of_the_files(annotated_birds: Path) -> None:
    read = read_annotations(annotated_birds)
    assert read.root == annotated_birds
    assert read.parts == KEY_POINTS
    assert read.masks is not None
    assert read.masks.parts == ("background", *MASK_PARTS)
    points = rows(annotated_birds / "annotations/part_locs.csv")
    listed = rows(annotated_birds / "annotations/images.csv")
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
    (tmp_path / "parts/part_locs.txt").write_text("1 2 1 1 1\n1 1 2 2 1\n1 2 3 3 0\n")
    with pytest.raises(DataError, match="left eye of image 1 is listed twice, first in line 1"):
        read_annotations(tmp_path)
    (tmp_path / "parts/part_locs.txt").write_text("1 2 1 1 1\n")
    for path, words in (("../x.png", "leads out"), ("001.A b/x.png", "listed twice, first in")):
        (tmp_path / "images.txt").write_text(f"1 001.A b/x.png\n2 {path}\n")
        with pytest.raises(DataError, match=words):
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
        (
            "part_locs.csv",
            "1,beak,4.0,12.0,1",
            "1,beak,4.0,12.0,1\n2,tail,1,1,1\n1,beak,4.0,13.0,0",
            "beak of image 1 is listed twice, first in line 2",
        ),
        ("images.csv", "images/2.png", "images/1.png", r"images/1\.png is listed twice, first in"),
        ("images.csv", "images/2.png", "../../2.png", r"'\.\./\.\./2\.png' leads out of"),
        ("images.csv", "images/2.png", "/images/2.png", "'/images/2.png' leads out of"),
        ("images.csv", "images/2.png", "", "the path of an image is empty"),
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


def test_read_annotations__says_what_a_text_file_should_be(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("1 1 2.0 3.0 1\n")
    with pytest.raises(
        DataError, match=r"no part annotations: those are a part_locs\.csv"
    ) as raised:
        read_annotations(notes)
    assert (raised.value.where, raised.value.hint) == (str(notes), "--parts FOLDER/part_locs.csv")
    for file in (notes, tmp_path / "part_locs.txt"):  # a renamed one, and one that lacks a part
        notes.with_name("parts.txt").write_text("1 beak\n")
        file.write_text("1 1 2.0 3.0 1\n")
        with pytest.raises(DataError, match=r"train_test_split\.txt is missing"):
            read_annotations(file)
