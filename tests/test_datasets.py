"""Names, hold-out, class folders and CSV files; what is recognised, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_files import pairs, photos, refused, table
from hypothesis import given
from hypothesis import strategies as st

from concepthash.datasets import (
    Split,
    check_files,
    find_duplicates,
    holdout,
    human_name,
    load_dataset,
)
from concepthash.errors import DataError, UsageError

# --- names and hold-out


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("004.Groove_billed_Ani", "Groove billed Ani"),
        ("Blue-winged Teal  (Female/juvenile)", "Blue-winged Teal (Female/juvenile)"),
        ("737-200", "737-200"),
        ("12.5mm_bolt", "12.5mm bolt"),
        ("7.", "7."),
        ("_", "_"),
    ],
)
def test_human_name__cleans_for_prompts(raw: str, name: str) -> None:
    assert human_name(raw) == name


def drawn_split(counts: list[int]) -> Split:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Split(tuple(f"{label}/{row}.jpg" for row, label in enumerate(labels)), labels)


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    share=st.floats(0, 0.95),
    seed=st.integers(0, 2**32),
    order=st.randoms(use_true_random=False),
)
def test_holdout__stratified_and_independent_of_order(counts, share, seed, order) -> None:
    split = drawn_split(counts)
    kept, held = holdout(split, share, seed)
    assert sorted(kept.paths + held.paths) == sorted(split.paths)
    for label, count in enumerate(counts):
        out = int((held.labels == label).sum())
        assert out <= max(count - 1, 0)
        if share and count >= 2:
            assert out >= 1
        if 1 <= share * count <= count - 1:
            assert abs(out - share * count) <= 0.5
    truth = dict(zip(split.paths, split.labels, strict=True))
    assert all(truth[p] == y for s in (kept, held) for p, y in zip(s.paths, s.labels, strict=True))
    rows = list(range(len(split)))
    order.shuffle(rows)
    assert set(holdout(split.select(rows), share, seed)[1].paths) == set(held.paths)


def test_holdout__larger_share_contains_smaller() -> None:
    split = drawn_split([30, 40])
    small, large = (set(holdout(split, share, 3)[1].paths) for share in (0.2, 0.5))
    assert small < large


def test_holdout__seed_matters_and_is_pinned() -> None:
    split = drawn_split([10, 10])
    assert holdout(split, 0.2, 0)[1].paths != holdout(split, 0.2, 1)[1].paths
    # A changed choice would silently change every score measured on a held-out split.
    assert holdout(split)[1].paths == ("0/3.jpg", "0/7.jpg", "1/15.jpg", "1/18.jpg")


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_holdout__share_out_of_range(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        holdout(drawn_split([3, 3]), share)


# --- class folders


def test_folder__holds_out_and_says_so(tmp_path: Path) -> None:
    photos(tmp_path, [f"{c}/{i}.jpg" for c in ("002.Crow", "001.Blue_Jay") for i in range(10)])
    photos(tmp_path, ["002.Crow/.hidden.jpg", ".cache/x.jpg", "__MACOSX/._x.jpg"])
    (tmp_path / "002.Crow" / "notes.txt").write_text("no image")
    data = load_dataset(tmp_path)
    assert data.layout == "folder"
    assert data.class_names == ("Blue Jay", "Crow")
    assert data.train.labels.dtype == np.int64
    assert (len(data.train), len(data.test)) == (16, 4)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert data.notes == ("no test split: 20 % of each class held out, seed 0",)
    assert set(data.test.paths) == set(load_dataset(str(tmp_path)).test.paths)


def test_folder__test_share_zero_trains_on_all(tmp_path: Path) -> None:
    photos(tmp_path, ["a/1.png", "b/1.png"])
    data = load_dataset(tmp_path, test_share=0.0)
    assert (len(data.train), len(data.test)) == (2, 0)
    assert data.notes == ("no test split: all images are used to train",)


def test_folder__numbers_as_classes_in_numeric_order(tmp_path: Path) -> None:
    photos(tmp_path, [f"{n}/1.png" for n in (10, 9, 1)])
    assert load_dataset(tmp_path).class_names == ("1", "9", "10")


def test_folder__train_and_test(tmp_path: Path) -> None:
    photos(tmp_path, ["Train/a/1.JPG", "Train/b/deep/2.png", "Train/b/3.png", "test/a/1.JPG"])
    photos(tmp_path, ["val/a/4.png", "extra/5.png", "Train/loose.png"])
    data = load_dataset(tmp_path)
    assert pairs(data.train, data) == {
        ("Train/a/1.JPG", "a"),
        ("Train/b/deep/2.png", "b"),
        ("Train/b/3.png", "b"),
    }
    assert pairs(data.test, data) == {("test/a/1.JPG", "a")}
    said = "\n".join(data.notes)
    assert "1 val images are left out" in said
    assert "beside Train/ are left out: extra" in said
    assert "1 images directly in Train/" in said
    assert "1 classes have no test image: b" in said


def test_folder__val_stands_for_test(tmp_path: Path) -> None:
    photos(tmp_path, ["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"])
    data = load_dataset(tmp_path)
    assert set(data.test.paths) == {"val/a/3.png", "val/b/4.png"}
    assert data.notes == ("no test split: the 2 val images are used as test",)


def test_folder__train_can_be_a_class(tmp_path: Path) -> None:
    photos(tmp_path, ["train/1.png", "bus/2.png"])
    assert load_dataset(tmp_path).class_names == ("bus", "train")


def test_folder__empty_class(tmp_path: Path) -> None:
    photos(tmp_path, ["a/1.png", "b/2.png"])
    (tmp_path / "ghost").mkdir()
    error = refused(DataError, tmp_path)
    assert "ghost" in error.what
    assert ".jpg" in str(error.hint)


def test_folder__one_class(tmp_path: Path) -> None:
    photos(tmp_path, ["only/1.png"])
    assert "only one class, 'only'" in refused(DataError, tmp_path).what


def test_folder__one_level_too_high(tmp_path: Path) -> None:
    photos(tmp_path, ["images/a/1.png", "images/b/2.png"])
    error = refused(DataError, tmp_path)
    assert error.hint is not None
    assert error.hint.endswith(f"chash train {tmp_path / 'images'}")


def test_folder__unknown_split_names_are_not_classes(tmp_path: Path) -> None:
    photos(tmp_path, ["train_images/a/1.png", "val_images/a/2.png"])
    assert "train_images, val_images" in refused(DataError, tmp_path).what


def test_folder__two_names_for_one_split(tmp_path: Path) -> None:
    photos(tmp_path, ["train/a/1.png", "training/a/2.png"])
    assert "train/ and training/" in refused(DataError, tmp_path).what


def test_folder__test_only_class(tmp_path: Path) -> None:
    photos(tmp_path, ["train/a/1.png", "train/b/2.png", "test/c/3.png"])
    assert refused(DataError, tmp_path).what.endswith("no train images: c")


def test_folder__class_names_differ_in_case(tmp_path: Path) -> None:
    photos(tmp_path, ["train/Ani/1.png", "train/b/2.png", "test/ani/3.png"])
    assert "'Ani' and 'ani'" in refused(DataError, tmp_path).what


def test_folder__colliding_clean_names_stay_as_written(tmp_path: Path) -> None:
    photos(tmp_path, ["1.Ani/1.png", "2.Ani/1.png", "3.Crow/1.png"])
    data = load_dataset(tmp_path)
    assert data.class_names == ("1.Ani", "2.Ani", "Crow")
    assert any("stay as written" in note for note in data.notes)


def test_folder__own_test_split_refuses_a_share(tmp_path: Path) -> None:
    photos(tmp_path, ["train/a/1.png", "train/b/2.png", "test/a/3.png"])
    assert "--test-share" in str(refused(UsageError, tmp_path, test_share=0.3).hint)


# --- CSV


def test_csv__default_columns(tmp_path: Path) -> None:
    table(tmp_path, "path,label,split\nx/1.jpg,a_b,train\n./x//2.jpg,c,Train\nx/3.jpg,c,TEST\n")
    data = load_dataset(tmp_path)
    assert data.layout == "csv"
    assert data.root == tmp_path
    assert pairs(data.train, data) == {("x/1.jpg", "a b"), ("x/2.jpg", "c")}
    assert pairs(data.test, data) == {("x/3.jpg", "c")}
    assert data.notes == ("read from images.csv", "1 classes have no test image: a b")


def test_csv__bom_crlf_semicolons_and_quotes(tmp_path: Path) -> None:
    file = table(
        tmp_path, '\ufeffPath;Label\r\na\\1.jpg;"x; y"\r\n\r\n2.jpg;"z\r\nz"\r\n3.jpg;z\r\n'
    )
    data = load_dataset(file, test_share=0)
    assert data.train.paths == ("a/1.jpg", "2.jpg", "3.jpg")
    assert data.class_names == ("x; y", "z", "z z")
    assert "column 'Path' is read as path" in data.notes


def test_csv__synonyms_are_recognised_and_named(tmp_path: Path) -> None:
    table(tmp_path, "Filename,class,official_split,w\n1.jpg,a,1,3\n2.jpg,b,1,3\n3.jpg,a,0,3\n")
    table(tmp_path, "id,x,y\n1,2,3\n", "part_locs.csv")
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 1)
    assert data.notes[:5] == (
        "read from images.csv",
        "column 'Filename' is read as path",
        "column 'class' is read as label",
        "column 'official_split' is read as split",
        "split 1 is train and 0 is test, as in CUB-200-2011",
    )


def test_csv__named_columns_win_over_defaults(tmp_path: Path) -> None:
    table(tmp_path, "path,label,maker\n1.jpg,x,a\n2.jpg,x,b\n")
    assert load_dataset(tmp_path, label_column="maker").class_names == ("a", "b")


def test_csv__exact_column_before_other_case(tmp_path: Path) -> None:
    table(tmp_path, "path,Label,label\n1.jpg,x,a\n2.jpg,x,b\n")
    assert load_dataset(tmp_path).class_names == ("a", "b")


def test_csv__val_as_test(tmp_path: Path) -> None:
    table(tmp_path, "path,label,split\n1.jpg,a,train\n2.jpg,b,train\n3.jpg,a,validation\n")
    assert load_dataset(tmp_path).test.paths == ("3.jpg",)


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("path,label\n1.jpg,a\n../2.jpg,b\n", "leads out", 3),
        ("path,label\n1.jpg,a\nx/../../2.jpg,b\n", "leads out", 3),
        ("path,label\n/1.jpg,a\n2.jpg,b\n", "leads out", 2),
        ("path,label\nC:\\1.jpg,a\n2.jpg,b\n", "leads out", 2),
        ("path,label\n1.jpg,a\n,b\n", "empty", 3),
        ("path,label\n1.jpg,a\n2.jpg, \n", "no label", 3),
        ("path,label\n1.jpg,a\n2.jpg,b,c\n", "3 values", 3),
        ("path,label\n1.jpg,a\n2.jpg\n", "1 values", 3),
        ('path,label\n1.jpg,a\n2.jpg,"b\n', "parsed", 3),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b,holdout\n", "unknown split 'holdout'", 3),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b,\n", "unknown split ''", 3),
        ("path,label,label\n1.jpg,a,b\n", "ambiguous", 1),
    ],
)
def test_csv__line_that_cannot_be_used(tmp_path: Path, text: str, message: str, line: int) -> None:
    error = refused(DataError, table(tmp_path, text))
    assert message in error.what
    assert str(error.where).endswith(f"line {line}")


@pytest.mark.parametrize("second", ["1.jpg,b", "./1.jpg,a"])
def test_csv__same_file_twice(tmp_path: Path, second: str) -> None:
    error = refused(DataError, table(tmp_path, f"path,label\n1.jpg,a\n2.jpg,b\n{second}\n"))
    assert "1.jpg is listed twice" in error.what
    assert "line 2 and " in str(error.where)
    assert str(error.where).endswith("line 4")


def test_csv__missing_columns_name_those_found(tmp_path: Path) -> None:
    file = table(tmp_path, "photo,kind\n1.jpg,a\n")
    error = refused(DataError, file)
    assert error.what == "no path column among photo, kind"
    assert "--path-column" in str(error.hint)
    error = refused(UsageError, file, path_column="photo", label_column="knd")
    assert error.what == "no column 'knd' among photo, kind"
    error = refused(DataError, tmp_path, label_column="kind")
    assert "photo, kind" in error.what


def test_csv__explicit_split_column_must_exist(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\n1.jpg,a\n2.jpg,b\n")
    assert "fold" in refused(UsageError, file, split_column="fold").what


def test_csv__several_fit(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        table(tmp_path, "path,label\n1.jpg,a\n2.jpg,b\n", name)
    error = refused(DataError, tmp_path)
    assert "test.csv, train.csv" in error.what


def test_csv__not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "images.csv"
    file.write_bytes("path,label\n1.jpg,Häher\n2.jpg,b\n".encode("latin1"))
    error = refused(DataError, file)
    assert "not UTF-8" in error.what
    assert str(error.where).endswith("line 2")
    file.write_bytes("path,label\n1.jpg,a\n".encode("utf-16"))
    assert "not UTF-8" in refused(DataError, tmp_path).what


@pytest.mark.parametrize("text", ["", "\n\n", "path,label\n"])
def test_csv__empty(tmp_path: Path, text: str) -> None:
    refused(DataError, table(tmp_path, text))


def test_csv__no_train_rows(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label,split\n1.jpg,a,test\n2.jpg,b,test\n")
    assert "no train images: a, b" in refused(DataError, file).what


# --- arguments and detection


def test_load_dataset__root_missing(tmp_path: Path) -> None:
    assert str(tmp_path / "gone") in str(refused(UsageError, tmp_path / "gone").where)


def test_load_dataset__nothing_recognised_lists_what_was_found(tmp_path: Path) -> None:
    assert "Found: nothing" in refused(DataError, tmp_path).what
    table(tmp_path, "x,y\n1,2\n", "points.csv")
    (tmp_path / "photo.jpg").touch()
    what = refused(DataError, tmp_path).what
    assert "Found: photo.jpg, points.csv" in what
    assert "points.csv: no path column among x, y" in what
    for layout in ("CUB-200-2011", "NABirds", "FGVC-Aircraft", "Stanford Cars", "class folders"):
        assert layout in what


def test_load_dataset__unknown_words(tmp_path: Path) -> None:
    assert "imagenet" in refused(UsageError, tmp_path, layout="imagenet").what
    assert "model" in refused(UsageError, tmp_path, level="model").what


def test_load_dataset__file_that_is_no_csv(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\n1.jpg,a\n2.jpg,b\n", "list.txt")
    refused(UsageError, file)
    refused(UsageError, file, layout="folder")
    assert load_dataset(file, layout="csv").class_names == ("a", "b")


def test_load_dataset__layout_overrides_detection(tmp_path: Path) -> None:
    table(tmp_path, "path,label\nx/1.png,a\ny/2.png,b\n")
    photos(tmp_path, ["x/1.png", "y/2.png"])
    assert load_dataset(tmp_path).class_names == ("a", "b")
    assert load_dataset(tmp_path, layout="folder").class_names == ("x", "y")


# --- checks of the files


def test_check_files__reasons(tmp_path: Path) -> None:
    listed = ["ok.png", "gone.png", "here.png", "empty.png", "dir.png", "no/1.png"]
    table(tmp_path, "path,label\n" + "".join(f"{p},{p[0]}\n" for p in listed))
    photos(tmp_path, ["ok.png", "Here.PNG"])
    (tmp_path / "empty.png").touch()
    (tmp_path / "dir.png").mkdir()
    skipped = check_files(load_dataset(tmp_path))
    reasons = {item.path: item.reason for item in skipped.items}
    if not (tmp_path / "HERE.PNG").exists():  # a file system that knows upper and lower case
        assert reasons.pop("here.png").startswith("no such file, but Here.PNG is there")
    assert reasons == {
        "gone.png": "no such file",
        "empty.png": "the file is empty",
        "dir.png": "a folder, not a file",
        "no/1.png": "no such folder: no",
    }


def test_find_duplicates__labels_and_splits(tmp_path: Path) -> None:
    photos(tmp_path, ["train/a/1.bmp", "train/a/2.bmp", "train/b/3.bmp", "test/b/4.bmp"])
    first = tmp_path / "train/a/1.bmp"
    for copy in ("train/a/same.bmp", "train/b/other.bmp", "test/a/leak.bmp"):
        (tmp_path / copy).parent.mkdir(exist_ok=True)
        shutil.copy(first, tmp_path / copy)
    for empty in ("train/a/0.bmp", "train/b/0.bmp"):
        (tmp_path / empty).touch()
    data = load_dataset(tmp_path)
    assert find_duplicates(data) == [("train/a/1.bmp", "train/b/other.bmp")]
    assert find_duplicates(data, across="splits") == [("train/a/1.bmp", "test/a/leak.bmp")]
    first.unlink()
    assert find_duplicates(data) == [("train/a/same.bmp", "train/b/other.bmp")]
