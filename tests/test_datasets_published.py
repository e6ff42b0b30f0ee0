"""The benchmarks' own annotation lists, with placeholder photos; skipped where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_files import photos

from concepthash.datasets import Dataset, check_files, load_dataset

SHARED = Path(__file__).parents[2] / "shared" / "data"
ANNOTATIONS = SHARED / "annotations"
needs_annotations = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="no annotation files")


OFFICIAL = {
    "cub200_2011": ("cub", 200, 5994, 5794),
    "nabirds": ("nabirds", 555, 23929, 24633),
    "fgvc_aircraft": ("aircraft", 100, 6667, 3333),
    "stanford_cars": ("cars", 196, 8144, 8041),
}


@needs_annotations
@pytest.mark.parametrize("name", OFFICIAL)
def test_official__splits_and_files(tmp_path: Path, name: str) -> None:
    if name == "stanford_cars":
        pytest.importorskip("scipy.io")
    for file in (ANNOTATIONS / name).iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    data = load_dataset(tmp_path)
    read = data.layout, len(data.class_names), len(data.train), len(data.test)
    assert read == OFFICIAL[name]
    assert len(set(data.class_names)) == len(data.class_names)
    assert len(set(data.train.paths) | set(data.test.paths)) == sum(read[2:])
    for split in (data.train, data.test):
        assert len(np.unique(split.labels)) == len(data.class_names)
    some = data.test.select(range(3))
    photos(tmp_path, some.paths)
    assert not check_files(Dataset(tmp_path, data.layout, data.class_names, some, some))


@needs_annotations
def test_official__known_entries(tmp_path: Path) -> None:
    data = load_dataset(ANNOTATIONS / "cub200_2011")
    path = "images/200.Common_Yellowthroat/Common_Yellowthroat_0049_190708.jpg"
    label = data.train.labels[data.train.paths.index(path)]
    assert data.class_names[label] == "Common Yellowthroat"
    data = load_dataset(ANNOTATIONS / "nabirds")
    assert "Dark-eyed Junco (Red-backed/Gray-headed)" in data.class_names
    assert "Ducks, Geese, and Swans" not in data.class_names


@needs_annotations
def test_official__cars_development_kit(tmp_path: Path) -> None:
    pytest.importorskip("scipy.io")
    shutil.copytree(ANNOTATIONS / "stanford_cars", tmp_path / "devkit")
    (tmp_path / "cars_train").mkdir()
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == OFFICIAL["stanford_cars"][2:]
    assert data.train.paths[0] == "cars_train/00001.jpg"
    assert data.class_names[data.train.labels[0]] == "Audi TTS Coupe 2012"


@pytest.mark.skipif(not (SHARED / "cub20").is_dir(), reason="no cub20")
def test_cub20__with_and_without_flags() -> None:
    named = load_dataset(SHARED / "cub20", label_column="class", split_column="official_split")
    plain = load_dataset(SHARED / "cub20")
    assert (len(named.train), len(named.test), len(named.class_names)) == (600, 585, 20)
    assert plain.train.paths == named.train.paths
    assert plain.class_names == named.class_names
    assert "Groove billed Ani" in named.class_names
    assert not check_files(named)
    assert "column 'class' is read as label" in plain.notes
