"""Concept-part agreement: each measure by an oracle, and the verb."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from cli_entry import Chash
from colour_bundle import PARTS, colour_bundle, colour_maps, painted
from dataset_files import rows
from PIL import Image

from concepthash.demo.bird import KEY_POINTS
from concepthash.errors import DataError, Skipped
from concepthash.explain import read_annotations, score_parts
from concepthash.explain.agreement import ari, contingency, nmi
from concepthash.explain.groups import part_group
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
from concepthash.runtime.hasher import Hasher


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(colour_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=3)


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
    hasher: Hasher, annotated_birds: Path
) -> None:
    scores = score_parts(hasher, read_annotations(annotated_birds), split="train", masks=True)
    listed = {row["cub_image_id"]: row for row in rows(annotated_birds / "annotations/images.csv")}
    pixels = {k: hasher.preprocess(annotated_birds / row["path"]) for k, row in listed.items()}
    maps = {k: colour_maps(p[None])[0] for k, p in pixels.items()}
    visible: dict[str, list[tuple[int, float, float]]] = {}
    assigned = np.zeros((3, 15), int)
    for point in rows(annotated_birds / "annotations/part_locs.csv"):
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


def test_score_parts__says_what_chance_reaches(hasher: Hasher, tmp_path: Path) -> None:
    painted(tmp_path, 5)  # 32 pixels, the box is the left half of the middle rows
    chance = score_parts(hasher, read_annotations(tmp_path)).to_json()["chance"]
    assert chance["random_in_box"] == 0.25
    assert chance["centre_in_box"] == 1.0  # on its edge
    assert chance["group_share"] == dict.fromkeys(("head", "wing", "tail"), pytest.approx(1 / 3))
    assert chance["leading_share"] == pytest.approx(1 / 3)
    listing = tmp_path / "images.csv"
    listing.write_text(listing.read_text().replace(",0,8,16,16", ",-8,8,16,40"))
    boxed = score_parts(hasher, read_annotations(tmp_path))
    assert (boxed.random_in_box, boxed.centre_in_box) == (8 * 24 / 32**2, 0.0)


def test_score_parts__notes_what_makes_its_figures_weak(hasher: Hasher, tmp_path: Path) -> None:
    painted(tmp_path, 21)
    assert score_parts(hasher, read_annotations(tmp_path)).notes == ()
    lines = (tmp_path / "part_locs.csv").read_text().splitlines()
    (tmp_path / "part_locs.csv").write_text("\n".join([*lines[:-1], "20,tail,400,12,1"]))
    scores = score_parts(hasher, read_annotations(tmp_path))
    (note,) = scores.notes
    assert note.startswith("1 visible key points lie outside their photos")
    assert (scores.points, scores.to_json()["points_outside"]) == (59, 1)
    beaks = [lines[0], *(line for line in lines if ",beak," in line)]
    (tmp_path / "part_locs.csv").write_text("\n".join(beaks))
    (note,) = score_parts(hasher, read_annotations(tmp_path)).notes
    assert note == "all key points are of one part group, head: it leads everywhere"
    painted(tmp_path, 20)  # 19 of the test split
    scores = score_parts(hasher, read_annotations(tmp_path))
    (note,) = scores.to_json()["notes"]
    assert note.startswith("19 photos are few")
    assert str(scores).endswith(f"\nnote: {note}")


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
    assert seen == [(done, 4) for done in range(1, 5)]
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
    rows = [line.split() for line in result.out.split("\n")]
    assert ["(chance)", "0.33", "0.33", "0.33", "0.25"] in rows
    assert ["(centre)", "1.00"] in rows
    assert "note: 3 photos are few" in result.out
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
        ([], 2, "give a photo, or part annotations"),
        (["--parts", "set", "--split", "val"], 2, "unknown split 'val'"),
        (["--parts", "set", "--sample", "0"], 2, "too few"),
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
