"""The drawn data set: species, drawings and the folder written from them."""

import csv
import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from concepthash.demo import (
    KEY_POINTS,
    LOOKS,
    MAX_SPECIES,
    PARTS,
    Drawing,
    Species,
    draw_bird,
    species,
    write_dataset,
)
from concepthash.errors import UsageError

CUB20 = Path(__file__).parents[2] / "shared" / "data" / "cub20"
ON_PART = {
    "back": {"body", "wing"},
    "beak": {"beak"},
    "belly": {"body"},
    "breast": {"breast"},
    "crown": {"head", "crest"},
    "forehead": {"head", "crest"},
    "left eye": {"eye"},
    "left leg": {"legs"},
    "left wing": {"wing"},
    "nape": {"head", "body", "crest"},
    "right eye": {"eye"},
    "right leg": {"legs"},
    "right wing": {"wing"},
    "tail": {"tail"},
    "throat": {"head", "body", "breast"},
}
BIRD = species(1)[0]
any_species = st.builds(Species, **{part: st.sampled_from(looks) for part, looks in LOOKS.items()})
any_seed = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default twelve species, smaller."""
    folder = tmp_path_factory.mktemp("demo") / "birds"
    write_dataset(folder, images=20, size=64, queries=3)
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def nearest_label(train: np.ndarray, names: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The name of the nearest training row of each test row, by Euclidean distance."""
    squares = (train**2).sum(axis=1) - 2 * test @ train.T
    return names[squares.argmin(axis=1)]


def test_species__names_are_unique_and_say_every_look() -> None:
    kinds = species(500)
    assert len({kind.name for kind in kinds}) == len({kind.slug for kind in kinds}) == 500
    for kind in kinds:
        assert all(look in kind.name.split() for look in kind.attributes.values())
        assert " " not in kind.slug


@pytest.mark.parametrize(("count", "seed"), [(2, 0), (12, 0), (12, 7), (300, 1), (MAX_SPECIES, 0)])
def test_species__look_alikes_differ_in_two_or_three_parts(count: int, seed: int) -> None:
    kinds = species(count, seed)
    looks = np.array(
        [[LOOKS[p].index(look) for p, look in kind.attributes.items()] for kind in kinds]
    )
    distance = (looks[:, None] != looks[None]).sum(axis=2)
    np.fill_diagonal(distance, len(LOOKS) + 1)
    nearest = distance.min(axis=1)
    assert nearest.min() >= 2
    assert nearest.max() <= 3


def test_species__longer_list_starts_with_the_shorter() -> None:
    assert species(40, 3)[:12] == species(12, 3)
    assert species(12, 3) != species(12, 4)


def test_species__twelve_show_nearly_every_look() -> None:
    shown = {look for kind in species(12) for look in kind.attributes.values()}
    assert len(shown) >= 0.9 * sum(map(len, LOOKS.values()))


def test_species__differences_names_the_parts() -> None:
    other = dataclasses.replace(BIRD, wing="blue-winged", tail="fan-tailed")
    assert BIRD.differences(other) == ("wing", "tail")
    assert BIRD.differences(BIRD) == ()


def test_species__wrong_arguments_are_refused() -> None:
    for count in (0, MAX_SPECIES + 1):
        with pytest.raises(UsageError, match="species can be drawn"):
            species(count)
    with pytest.raises(UsageError, match="seed"):
        species(3, -1)
    with pytest.raises(UsageError, match="no bird here has a wing") as caught:
        dataclasses.replace(BIRD, wing="gold-winged")
    assert caught.value.hint is not None
    assert "barred-winged" in caught.value.hint


@settings(max_examples=60, deadline=None)
@given(any_species, any_seed, st.sampled_from([48, 64, 97, 128]))
def test_draw_bird__truth_holds_for_any_bird(kind: Species, seed: int, size: int) -> None:
    drawing = draw_bird(kind, seed=seed, size=size)
    assert drawing.image.mode == "RGB"
    assert drawing.image.size == (size, size)
    assert list(drawing.masks) == list(PARTS)
    stack = np.stack(list(drawing.masks.values()))
    assert stack.shape == (len(PARTS), size, size)
    assert stack.sum(axis=0).max() == 1
    x, y, w, h = drawing.box
    assert stack[:, y : y + h, x : x + w].sum() == stack.sum()
    seen = stack.any(axis=0)[y : y + h, x : x + w]
    assert seen[0].any()
    assert seen[-1].any()
    assert seen[:, 0].any()
    assert seen[:, -1].any()
    assert tuple(drawing.key_points) == KEY_POINTS
    for name, (px, py, visible) in drawing.key_points.items():
        if visible:
            assert PARTS[drawing.labels[int(py), int(px)] - 1] in ON_PART[name], name
    if kind.crest == "crestless":
        assert not drawing.masks["crest"].any()


def test_draw_bird__same_arguments_same_drawing() -> None:
    one, two = (draw_bird(BIRD, seed=11) for _ in range(2))
    assert one.image.tobytes() == two.image.tobytes()
    assert one.key_points == two.key_points
    assert draw_bird(BIRD, seed=12).image.tobytes() != one.image.tobytes()


@pytest.mark.parametrize(
    ("part", "look"), [("wing", "barred-winged"), ("breast", "striped-breasted")]
)
def test_draw_bird__another_look_changes_that_part_only(part: str, look: str) -> None:
    plain = dataclasses.replace(BIRD, wing="plain-winged", breast="plain-breasted")
    for seed in range(8):
        before = draw_bird(plain, seed=seed)
        after = draw_bird(dataclasses.replace(plain, **{part: look}), seed=seed)
        assert (before.labels == after.labels).all()
        change = np.abs(np.asarray(before.image, int) - np.asarray(after.image, int)).max(axis=2)
        mask = Image.fromarray(before.masks[part].astype(np.uint8) * 255)
        around = np.asarray(mask.filter(ImageFilter.MaxFilter(5))) > 0
        assert change[~around].max() == 0
        assert (change > 25).sum() > 0.1 * before.masks[part].sum()


def test_draw_bird__poses_vary_and_sides_follow_them() -> None:
    drawings = [draw_bird(BIRD, seed=seed) for seed in range(60)]

    def share(test: list[bool]) -> float:
        return sum(test) / len(test)

    both = [
        d.key_points["left wing"].visible and d.key_points["right wing"].visible for d in drawings
    ]
    assert 0.05 < share(both) < 0.6  # wings raised
    for side in ("left", "right"):
        assert 0.3 < share([d.key_points[f"{side} eye"].visible for d in drawings]) < 0.9
    assert 0.3 < share([faces_left(d) for d in drawings]) < 0.7
    for drawing in drawings:
        folded = drawing.key_points["left wing"][:2] == drawing.key_points["right wing"][:2]
        hidden = "right wing" if faces_left(drawing) else "left wing"
        if folded:
            assert not drawing.key_points[hidden].visible


def faces_left(drawing: Drawing) -> bool:
    return drawing.key_points["breast"].x < drawing.key_points["tail"].x


def test_draw_bird__a_leaf_may_cover_parts() -> None:
    hidden = [
        name
        for seed in range(40)
        for name, point in draw_bird(BIRD, seed=seed).key_points.items()
        if name in ("breast", "belly") and not point.visible
    ]
    assert 1 <= len(hidden) <= 40


def test_draw_bird__parts_are_large_enough_to_see() -> None:
    birds = [draw_bird(kind, seed=i, size=96) for i, kind in enumerate(species(36))]
    for part, pixels in (("wing", 200), ("tail", 60), ("breast", 100), ("beak", 25), ("head", 100)):
        assert np.median([d.masks[part].sum() for d in birds]) > pixels, part
    crested = [d.masks["crest"].sum() for d in birds if d.masks["crest"].any()]
    assert np.median(crested) > 60


def test_draw_bird__wrong_arguments_are_refused() -> None:
    for size in (31, 1025):
        with pytest.raises(UsageError, match="pixels a side"):
            draw_bird(BIRD, seed=0, size=size)
    with pytest.raises(UsageError, match="seed"):
        draw_bird(BIRD, seed=-1)


def test_write_dataset__layout(demo_set: Path) -> None:
    names = sorted(kind.slug for kind in species(12))
    for split, count in (("train", 12), ("test", 8)):
        assert sorted(p.name for p in (demo_set / split).iterdir()) == names
        for folder in (demo_set / split).iterdir():
            assert len(list(folder.glob("*.jpg"))) == count
    assert len(list((demo_set / "queries").glob("*.jpg"))) == 3
    hashes = [digest for name, digest in digests(demo_set).items() if Path(name).suffix == ".jpg"]
    assert len(set(hashes)) == 12 * 20 + 3


def test_write_dataset__annotations_tell_the_truth(demo_set: Path) -> None:
    images = read_csv(demo_set / "annotations" / "images.csv")
    parts = read_csv(demo_set / "annotations" / "part_locs.csv")
    names = (demo_set / "annotations" / "parts.txt").read_text().splitlines()
    assert names == [f"{i} {part}" for i, part in enumerate(["background", *PARTS])]
    assert len(images) == 12 * 20
    assert len(parts) == len(images) * len(KEY_POINTS)
    by_image: dict[str, list[dict[str, str]]] = {}
    for row in parts:
        by_image.setdefault(row["cub_image_id"], []).append(row)
    for row in images:
        split, folder, _ = row["path"].split("/")
        assert (split, folder) == (row["official_split"], row["class"])
        with Image.open(demo_set / row["path"]) as image:
            assert image.size == (int(row["width"]), int(row["height"])) == (64, 64)
        mask_path = demo_set / "annotations" / "masks" / row["path"]
        with Image.open(mask_path.with_suffix(".png")) as mask:
            assert mask.mode == "P"
            labels = np.asarray(mask)
        assert labels.max() <= len(PARTS)
        rows, columns = np.nonzero(labels)
        box = [float(row[f"bbox_{side}"]) for side in "xywh"]
        assert box[:2] == [columns.min(), rows.min()]
        assert box[2:] == [np.ptp(columns) + 1, np.ptp(rows) + 1]
        points = by_image[row["cub_image_id"]]
        assert tuple(point["part"] for point in points) == KEY_POINTS
        for point in points:
            if point["visible"] == "1":
                # two decimals may round a point across the edge of its pixel
                x, y = (min(int(float(point[axis]) - 0.005), 63) for axis in "xy")
                near = labels[y : y + 2, x : x + 2]
                assert {PARTS[i - 1] for i in near.ravel() if i} & ON_PART[point["part"]]
            else:
                assert point["x"] == point["y"] == ""


@pytest.mark.skipif(not CUB20.is_dir(), reason="no CUB-20 beside the checkout")
@pytest.mark.parametrize("name", ["images.csv", "part_locs.csv"])
def test_write_dataset__columns_are_those_of_real_annotations(demo_set: Path, name: str) -> None:
    real, drawn = ((p / name).read_bytes() for p in (CUB20, demo_set / "annotations"))
    assert real.splitlines(keepends=True)[0] == drawn.splitlines(keepends=True)[0]
    if name == "part_locs.csv":
        numbered = [
            {(row["part_id"], row["part"]) for row in read_csv(p / name)}
            for p in (CUB20, demo_set / "annotations")
        ]
        assert numbered[0] == numbered[1]


@pytest.mark.parametrize("side", [8, 16, 32])
def test_write_dataset__nearest_neighbour_on_pixels_fails(demo_set: Path, side: int) -> None:
    pixels: dict[str, np.ndarray] = {}
    names: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        paths = sorted((demo_set / split).glob("*/*.jpg"))
        small = [Image.open(p).resize((side, side), Image.Resampling.BOX) for p in paths]
        pixels[split] = np.stack([np.asarray(image, float).ravel() for image in small])
        names[split] = np.array([p.parent.name for p in paths])
    found = nearest_label(pixels["train"], names["train"], pixels["test"])
    assert (found == names["test"]).mean() < 2.5 / 12


def test_write_dataset__nearest_neighbour_on_parts_succeeds(demo_set: Path) -> None:
    telling = [PARTS.index(part) + 1 for part in LOOKS]

    def look(path: Path) -> np.ndarray:
        image = np.asarray(Image.open(path), float)
        inside = path.relative_to(demo_set).with_suffix(".png")
        labels = np.asarray(Image.open(demo_set / "annotations" / "masks" / inside))
        row = []
        for part in telling:
            pixels = image[labels == part] if (labels == part).sum() > 3 else np.full((1, 3), 128.0)
            row += [*pixels.mean(axis=0), *pixels.std(axis=0), 5 * np.sqrt(len(pixels))]
        return np.array(row)

    train, test = (sorted((demo_set / split).glob("*/*.jpg")) for split in ("train", "test"))
    found = nearest_label(
        np.stack([look(p) for p in train]),
        np.array([p.parent.name for p in train]),
        np.stack([look(p) for p in test]),
    )
    assert (found == [p.parent.name for p in test]).mean() > 0.9


def test_write_dataset__same_arguments_same_bytes(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "a", species=3, images=4, size=48, queries=2, seed=5)
    write_dataset(tmp_path / "b", species=3, images=4, size=48, queries=2, seed=5)
    before = digests(tmp_path / "a")
    assert before == digests(tmp_path / "b")
    again = write_dataset(tmp_path / "a", species=3, images=4, size=48, queries=2, seed=5)
    assert digests(tmp_path / "a") == before
    assert again == first
    write_dataset(tmp_path / "b", species=3, images=4, size=48, queries=2, seed=6)
    assert digests(tmp_path / "b") != before


def test_write_dataset__summary_counts_what_is_there(tmp_path: Path) -> None:
    summary = write_dataset(tmp_path / "a", species=3, images=5, size=48, queries=4)
    assert summary.classes == tuple(kind.name for kind in species(3))
    assert summary.train == len(list((tmp_path / "a" / "train").rglob("*.jpg"))) == 9
    assert summary.test == len(list((tmp_path / "a" / "test").rglob("*.jpg"))) == 6
    assert len(summary.queries) == 4
    assert all(path.is_file() for path in summary.queries)
    assert str(summary).startswith("3 species, 9 train + 6 test images")
    everything = {str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*.jpg")}
    record = json.loads((summary.annotations / "demo.json").read_text())
    assert {name for name in record["files"] if name.endswith(".jpg")} == everything


def test_write_dataset__writing_again_drops_old_files_and_keeps_others(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    write_dataset(folder, species=4, images=3, size=48, queries=1)
    own = folder / "train" / species(4)[3].slug / "my_own.jpg"
    own.write_bytes(b"mine")
    write_dataset(folder, species=3, images=2, test_share=0, size=48)
    kept = {str(p.relative_to(folder)) for p in folder.rglob("*.jpg")}
    assert own.read_bytes() == b"mine"
    assert len(kept) == 3 * 2 + 1
    assert sorted(p.name for p in folder.iterdir()) == ["annotations", "train"]
    assert len(list((folder / "annotations").rglob("*.png"))) == 3 * 2


@pytest.mark.parametrize("content", [None, "{}", '{"schema": "chash.demo-set/1", "files": 3}'])
def test_write_dataset__strange_folder_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    if content is not None:
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "demo.json").write_text(content)
    before = digests(tmp_path)
    with pytest.raises(UsageError, match="neither an empty folder nor a drawn") as caught:
        write_dataset(tmp_path, species=2, images=2, size=48)
    assert caught.value.where == str(tmp_path)
    assert caught.value.hint
    assert digests(tmp_path) == before


@pytest.mark.parametrize("name", ["../photo.jpg", "/photo.jpg", "train/../../photo.jpg", "me.jpg"])
def test_write_dataset__record_cannot_name_files_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "birds"
    write_dataset(folder, species=2, images=1, size=48)
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    marker = folder / "annotations" / "demo.json"
    record = json.loads(marker.read_text())
    marker.write_text(json.dumps({**record, "files": [name]}))
    with pytest.raises(UsageError):
        write_dataset(folder, species=2, images=1, size=48)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


def test_write_dataset__empty_folder_is_welcome_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert write_dataset(tmp_path / "empty", species=2, images=1, size=48).train == 2
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError):
        write_dataset(tmp_path / "file", species=2, images=1, size=48)


def test_write_dataset__wrong_arguments_leave_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    for change in (
        {"images": 0},
        {"test_share": 1.0},
        {"test_share": -0.1},
        {"queries": -1},
        {"size": 8},
        {"species": 0},
        {"seed": -2},
    ):
        with pytest.raises(UsageError):
            write_dataset(folder, **change)
    assert not folder.exists()
