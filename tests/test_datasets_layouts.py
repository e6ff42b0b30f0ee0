"""The layouts of published benchmarks in a small drawn form, and damaged files of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_files import pairs, refused

from concepthash.datasets import (
    load_dataset,
)
from concepthash.errors import BackendError, DataError, UsageError

# --- CUB-200-2011 and NABirds


CUB = {
    "images.txt": "1 001.Ani/a.jpg\n2 001.Ani/b.jpg\n3 002.Sea_Gull/c.jpg\n4 002.Sea_Gull/d.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n4 2\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n4 0\n",
    "classes.txt": "1 001.Ani\n2 002.Sea_Gull\n",
}


def cub(root: Path, **changed: str) -> Path:
    for name, text in CUB.items():
        (root / name).write_text(changed.get(name.removesuffix(".txt"), text))
    return root


def test_cub__joined_by_id(tmp_path: Path) -> None:
    data = load_dataset(cub(tmp_path, image_class_labels="4 2\n3 2\n2 1\n1 1\n"))
    assert data.layout == "cub"
    assert data.class_names == ("Ani", "Sea Gull")
    assert data.train.paths == ("images/001.Ani/a.jpg", "images/002.Sea_Gull/c.jpg")
    assert data.test.labels.tolist() == [0, 1]
    assert data.notes == ()


def test_nabirds__only_nodes_with_images_become_classes(tmp_path: Path) -> None:
    root = cub(tmp_path, classes="0 Birds\n2 Sea Gull (Adult)\n1 Ani\n")
    (root / "hierarchy.txt").write_text("1 0\n2 0\n")
    data = load_dataset(root)
    assert data.layout == "nabirds"
    assert data.class_names == ("Sea Gull (Adult)", "Ani")
    assert data.train.labels.tolist() == [1, 0]
    assert data.notes == ("2 of the 3 listed classes have images",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image_class_labels": "1 1\n2 1\n3 2\n4 2\n5 2\n"}, "ids without an image"),
        ({"image_class_labels": "1 1\n2 1\n3 2\n"}, "images without a line"),
        ({"image_class_labels": "1 1\n2 1\n3 2\n4 9\n"}, "class '9'"),
        ({"train_test_split": "1 1\n2 0\n3 1\n4 7\n"}, "not '7'"),
        ({"train_test_split": "1 1\n2 0\n3 1\n4\n"}, "only '4'"),
        ({"images": CUB["images.txt"] + "4 x.jpg\n"}, "'4' is listed twice"),
        ({"images": CUB["images.txt"].replace("002.Sea_Gull/d", "../../d")}, "leads out"),
        ({"images": CUB["images.txt"].replace("a.jpg", "b.jpg")}, "001.Ani/b.jpg is listed twice"),
        ({"classes": "1 Ani\n2 ani\n"}, "'Ani' and 'ani'"),
    ],
)
def test_cub__damaged(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    assert message in refused(DataError, cub(tmp_path, **changed)).what


def test_cub__missing_file(tmp_path: Path) -> None:
    (cub(tmp_path) / "classes.txt").unlink()
    assert refused(DataError, tmp_path).what == "classes.txt is missing"


def test_cub__found_one_level_down(tmp_path: Path) -> None:
    (tmp_path / "CUB_200_2011").mkdir()
    cub(tmp_path / "CUB_200_2011")
    assert refused(DataError, tmp_path).hint == f"chash train {tmp_path / 'CUB_200_2011'}"


# --- FGVC-Aircraft


@pytest.mark.parametrize("below", ["", "data/"])
def test_aircraft__levels(tmp_path: Path, below: str) -> None:
    base = tmp_path / below
    base.mkdir(exist_ok=True)
    lists = {
        "variant_trainval": "001 F-16A/B\n002 Cessna 172\n",
        "variant_test": "003 Cessna 172\n",
        "family_trainval": "001 F-16\n002 Cessna\n",
        "family_test": "003 Cessna\n",
    }
    for name, text in lists.items():
        (base / f"images_{name}.txt").write_text(text)
    data = load_dataset(tmp_path)
    assert data.layout == "aircraft"
    assert pairs(data.train, data) == {
        (f"{below}images/001.jpg", "F-16A/B"),
        (f"{below}images/002.jpg", "Cessna 172"),
    }
    assert data.test.paths == (f"{below}images/003.jpg",)
    assert load_dataset(tmp_path, level="family").class_names == ("Cessna", "F-16")
    error = refused(DataError, tmp_path, layout="aircraft", level="manufacturer")
    assert error.what == "images_manufacturer_trainval.txt is missing"


def test_level__only_for_aircraft(tmp_path: Path) -> None:
    assert "level" in refused(UsageError, cub(tmp_path), level="family").what


# --- Stanford Cars


def write_mat(file: Path, rows: list[dict[str, object]] | None, names: list[str] | None) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    content: dict[str, object] = {}
    if rows is not None:
        records = np.empty((1, len(rows)), dtype=[(key, object) for key in rows[0]])
        for column, row in enumerate(rows):
            records[0, column] = tuple(row.values())
        content["annotations"] = records
    if names is not None:
        content["class_names"] = np.array(names, dtype=object)[None]
    savemat(file, content)


def joint_row(number: int, label: int, test: int) -> dict[str, object]:
    return {"relative_im_path": f"car_ims/{number:06}.jpg", "class": label, "test": test}


def test_cars__joint_file(tmp_path: Path) -> None:
    rows = [joint_row(1, 2, 0), joint_row(2, 1, 0), joint_row(3, 1, 1)]
    write_mat(tmp_path / "cars_annos.mat", rows, ["Acura RL Sedan 2012", "Ram C/V Cargo Van"])
    data = load_dataset(tmp_path)
    assert data.layout == "cars"
    assert data.class_names == ("Acura RL Sedan 2012", "Ram C/V Cargo Van")
    assert data.train.paths == ("car_ims/000001.jpg", "car_ims/000002.jpg")
    assert data.train.labels.tolist() == [1, 0]
    assert data.test.labels.tolist() == [0]


def test_cars__development_kit(tmp_path: Path) -> None:
    kit = tmp_path / "devkit"
    kit.mkdir()
    (tmp_path / "cars_train").mkdir()
    write_mat(
        kit / "cars_train_annos.mat",
        [{"class": 1, "fname": "1.jpg"}, {"class": 2, "fname": "2.jpg"}],
        None,
    )
    write_mat(kit / "cars_test_annos.mat", [{"fname": "1.jpg"}], None)
    write_mat(kit / "cars_meta.mat", None, ["A", "B"])
    assert "no class" in refused(DataError, tmp_path).what
    # A single record, which MATLAB files do not tell from a scalar.
    write_mat(tmp_path / "cars_test_annos_withlabels.mat", [{"class": 2, "fname": "1.jpg"}], None)
    data = load_dataset(tmp_path)
    assert pairs(data.train, data) == {("cars_train/1.jpg", "A"), ("cars_train/2.jpg", "B")}
    assert pairs(data.test, data) == {("cars_test/1.jpg", "B")}
    (kit / "cars_meta.mat").unlink()
    assert "cars_meta.mat is missing" in refused(DataError, tmp_path).what


def test_cars__class_without_a_name(tmp_path: Path) -> None:
    rows = [joint_row(1, 1, 0), joint_row(2, 3, 0)]
    write_mat(tmp_path / "cars_annos.mat", rows, ["A", "B"])
    error = refused(DataError, tmp_path)
    assert "class 3" in error.what
    assert str(error.where).endswith("entry 2")


def test_cars__damaged_file(tmp_path: Path) -> None:
    pytest.importorskip("scipy.io")
    (tmp_path / "cars_annos.mat").write_bytes(b"not a MATLAB file" * 20)
    assert "cannot be read" in refused(DataError, tmp_path).what


def test_cars__without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cars_annos.mat").touch()
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    error = refused(BackendError, tmp_path)
    assert error.hint == "pip install 'concepthash[train]'"
