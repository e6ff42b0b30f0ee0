"""Index files in every form: there and back, beside faiss, and broken in many ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concepthash.codes import CodeLayout
from concepthash.errors import (
    BackendError,
    ConceptHashError,
    GalleryError,
    MismatchError,
    UsageError,
)
from concepthash.runtime import interchange, parquetfile
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.interchange import load_index, save_gallery, save_index

FORMS = [".chx", ".npy", ".faiss", ".ibin", ".parquet"]
FOREIGN = FORMS[1:]


def index_of(
    count: int, bits: int = 64, concepts: int = 4, *, running: bool = False
) -> HammingIndex:
    rng = np.random.default_rng(count)
    index = HammingIndex(bits, concepts)
    codes = rng.integers(0, 256, size=(count, bits // 8), dtype=np.uint8)
    index.add(codes, None if running else rng.permutation(5 * count)[:count])
    return index


def same(a: HammingIndex, b: HammingIndex) -> bool:
    return a.ids.tolist() == b.ids.tolist() and all(np.array_equal(a[i], b[i]) for i in a)


def needed(suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(("count", "bits"), [(0, 64), (1, 8), (23, 24), (40, 64), (9, 512)])
def test_index__there_and_back_is_the_same(
    tmp_path: Path, suffix: str, running: bool, count: int, bits: int
) -> None:
    needed(suffix)
    index = index_of(count, bits, 4, running=running)
    path = save_index(index, tmp_path / f"codes{suffix}")
    again = load_index(path, concepts=4)
    assert same(again, index)
    assert again.layout == CodeLayout(bits, 4)
    assert load_index(path).concepts == (4 if suffix in (".chx", ".parquet") else 1)


@pytest.mark.parametrize("suffix", FORMS)
def test_save__leaves_removed_codes_out(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    index = index_of(12)
    index.remove(index.ids[:5])
    assert same(load_index(save_index(index, tmp_path / f"a{suffix}")), index)


@pytest.mark.parametrize("suffix", FORMS)
def test_save__replaces_only_by_force(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    path = save_index(index_of(5), tmp_path / f"a{suffix}")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        save_index(index_of(6), path)
    assert path.read_bytes() == before
    save_index(index_of(6), path, force=True)
    assert len(load_index(path)) == 6


def test_save__does_not_overwrite_ids_beside_an_array(tmp_path: Path) -> None:
    (tmp_path / "a.ids.npy").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        save_index(index_of(5), tmp_path / "a.npy")
    assert (tmp_path / "a.ids.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("suffix", FORMS)
def test_save__that_fails_names_the_file_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    with pytest.raises(GalleryError, match="cannot be written"):
        save_index(index_of(5), tmp_path / "no" / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["codes", "codes.bin", "codes.npz", ".parquet"])
def test_suffix__that_is_unknown_lists_those_that_are(tmp_path: Path, name: str) -> None:
    for verb in (load_index, lambda path: save_index(index_of(1), path)):
        with pytest.raises(UsageError, match=r"\.chx, \.npy, \.faiss, \.ibin, \.parquet"):
            verb(tmp_path / name)


@pytest.mark.parametrize("suffix", FORMS)
def test_load__of_what_is_not_there_says_so(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    with pytest.raises(GalleryError) as caught:
        load_index(tmp_path / f"gone{suffix}")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".chx", ".parquet"])
def test_load__with_other_concepts_than_recorded_is_refused(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    path = save_index(index_of(5), tmp_path / f"a{suffix}")
    with pytest.raises(MismatchError, match="4 concepts, not 2"):
        load_index(path, concepts=2)


def test_load__with_concepts_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = save_index(index_of(5), tmp_path / "a.npy")
    with pytest.raises(UsageError, match="evenly"):
        load_index(path, concepts=7)


def test_npy__without_ids_gets_running_numbers(tmp_path: Path) -> None:
    codes = np.arange(24, dtype=np.uint8).reshape(3, 8)
    np.save(tmp_path / "a.npy", codes)
    index = load_index(tmp_path / "a.npy")
    assert index.ids.tolist() == [0, 1, 2]
    assert np.array_equal(index[2], codes[2])


def test_npy__is_what_numpy_reads(tmp_path: Path) -> None:
    index = index_of(7)
    save_index(index, tmp_path / "a.npy")
    codes, ids = np.load(tmp_path / "a.npy"), np.load(tmp_path / "a.ids.npy")
    assert (codes.dtype, ids.dtype) == (np.uint8, np.int64)
    assert all(
        np.array_equal(index[id], code) for id, code in zip(ids.tolist(), codes, strict=True)
    )


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((3, 8), np.float32),
        np.zeros(24, np.uint8),
        np.zeros((3, 0), np.uint8),
        np.zeros((3, 65), np.uint8),
        np.array([{"a": 1}], dtype=object),
    ],
)
def test_npy__of_something_else_is_refused(tmp_path: Path, codes: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", codes, allow_pickle=True)
    with pytest.raises(GalleryError):
        load_index(tmp_path / "a.npy")


@pytest.mark.parametrize("ids", [[0.0, 1, 2], [0, 1], [[0], [1], [2]], [5, 5, 6], [-1, 0, 1]])
def test_npy__with_ids_that_do_not_fit_is_refused(tmp_path: Path, ids: list[object]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 8), np.uint8))
    np.save(tmp_path / "a.ids.npy", np.array(ids))
    with pytest.raises(GalleryError):
        load_index(tmp_path / "a.npy")


def test_npy__that_is_an_archive_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, codes=np.zeros((3, 8), np.uint8))
    with pytest.raises(GalleryError, match="archive"):
        load_index(tmp_path / "a.npy")


@pytest.mark.parametrize("running", [False, True])
def test_faiss__reads_what_we_write(tmp_path: Path, running: bool) -> None:
    faiss = pytest.importorskip("faiss")
    index = index_of(30, running=running)
    path = save_index(index, tmp_path / "a.faiss")
    theirs = faiss.read_index_binary(str(path))
    assert (theirs.d, theirs.ntotal) == (64, 30)
    codes = np.array([index[id] for id in index])
    distances, ids = theirs.search(codes, 1)
    assert ids[:, 0].tolist() == index.ids.tolist()
    assert not distances.any()
    assert type(faiss.downcast_IndexBinary(theirs)).__name__ == (
        "IndexBinaryFlat" if running else "IndexBinaryIDMap"
    )


@pytest.mark.parametrize("kind", ["IndexBinaryFlat", "IndexBinaryIDMap", "IndexBinaryIDMap2"])
def test_faiss__writes_what_we_read(tmp_path: Path, kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    codes = np.random.default_rng(0).integers(0, 256, size=(9, 16), dtype=np.uint8)
    ids = np.arange(9) if kind == "IndexBinaryFlat" else np.arange(40, 4, -4)
    flat = faiss.IndexBinaryFlat(128)
    if kind == "IndexBinaryFlat":
        flat.add(codes)
    else:
        theirs = getattr(faiss, kind)(flat)
        theirs.add_with_ids(codes, ids)
    faiss.write_index_binary(
        flat if kind == "IndexBinaryFlat" else theirs, str(tmp_path / "a.ibin")
    )
    index = load_index(tmp_path / "a.ibin", concepts=4)
    assert index.ids.tolist() == ids.tolist()
    assert all(
        np.array_equal(index[id], code) for id, code in zip(ids.tolist(), codes, strict=True)
    )


def test_faiss__of_another_kind_is_named(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    theirs = faiss.IndexBinaryHNSW(64, 4)
    theirs.add(np.zeros((3, 8), np.uint8))
    faiss.write_index_binary(theirs, str(tmp_path / "a.faiss"))
    with pytest.raises(GalleryError, match="IBHf"):
        load_index(tmp_path / "a.faiss")


def test_parquet__has_the_columns_and_metadata(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    index = index_of(6)
    table = parquet.read_table(save_index(index, tmp_path / "a.parquet"))
    assert table.column_names == ["id", "code"]
    assert str(table.schema.field("code").type) == "fixed_size_binary[8]"
    assert table.column("id").to_pylist() == index.ids.tolist()
    assert table.column("code").to_pylist() == [index[id].tobytes() for id in index]
    said = table.schema.metadata
    assert (said[b"bits"], said[b"concepts"]) == (b"64", b"4")
    assert b"fingerprint" not in said


def test_parquet__of_others_needs_only_the_codes(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column = arrow.array([b"ab", b"cd", b"ef"], arrow.binary(2))
    parquet.write_table(arrow.table({"code": column, "x": [1, 2, 3]}), tmp_path / "a.parquet")
    index = load_index(tmp_path / "a.parquet")
    assert [index[id].tobytes() for id in index] == [b"ab", b"cd", b"ef"]


def test_parquet__with_other_columns_is_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    fixed = arrow.binary(2)
    good = arrow.array([b"ab", b"cd"], fixed)
    for columns in (
        {"id": arrow.array([1, 2])},
        {"code": arrow.array([b"ab", b"cd"])},
        {"code": arrow.array([b"ab", None], fixed)},
        {"code": good, "id": arrow.array([1, None])},
        {"code": good, "id": arrow.array(["a", "b"])},
        {"code": good, "id": arrow.array([1.5, 2.5])},
        {"code": good, "id": arrow.array([4, 4])},
    ):
        parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
        with pytest.raises(GalleryError):
            load_index(tmp_path / "a.parquet")


def test_parquet__without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"concepthash\[parquet\]"):
        save_index(index_of(3), tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMS)
def test_gallery__exports_its_live_images(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    layout = CodeLayout(64, 4)
    codes = np.random.default_rng(1).integers(0, 256, size=(5, 8), dtype=np.uint8)
    with Gallery.create(
        tmp_path / "g.chg", layout=layout, fingerprint="f" * 64, model="m"
    ) as gallery:
        images = [Entry(tmp_path / f"{n}\udcff.jpg", label="x" if n else None) for n in range(5)]
        ids = list(gallery.add(images, codes))
        gallery.remove([ids[1]])
        path = save_gallery(gallery, tmp_path / f"out{suffix}")
    index = load_index(path, concepts=4)
    assert index.ids.tolist() == [ids[0], *ids[2:]]
    assert np.array_equal(index[ids[4]], codes[4])
    if suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        assert table.column("label").to_pylist() == [None, "x", "x", "x"]
        assert [Path(p).name for p in table.column("path").to_pylist()] == [
            f"{n}?.jpg" for n in (0, 2, 3, 4)
        ]
        assert table.schema.metadata[b"fingerprint"] == b"f" * 64


@settings(max_examples=80, deadline=None)
@given(
    suffix=st.sampled_from(FOREIGN),
    cut=st.integers(0, 400) | st.none(),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4),
    tail=st.binary(max_size=3),
)
def test_load__of_a_mutated_file_is_an_error_or_an_index(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    cut: int | None,
    flips: list[tuple[int, int]],
    tail: bytes,
) -> None:
    needed(suffix)
    path = save_index(index_of(12), tmp_path_factory.mktemp("mutated") / f"a{suffix}")
    data = bytearray(path.read_bytes()[:cut])
    for place, bits in flips:
        if data:
            data[place % len(data)] ^= bits
    path.write_bytes(bytes(data) + tail)
    refused: ConceptHashError | None = None
    try:
        count = len(load_index(path))
    except ConceptHashError as error:
        refused = error
    if refused is None:
        assert count <= 12
    else:
        assert str(path.parent) in str(refused.where)


@pytest.mark.parametrize("suffix", FOREIGN)
def test_load__of_every_truncation_fails(tmp_path: Path, suffix: str) -> None:
    needed(suffix)
    path = save_index(index_of(3), tmp_path / f"a{suffix}")
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(GalleryError):
            load_index(path)


def test_forms__are_all_tested() -> None:
    assert list(interchange.SUFFIXES) == FORMS
    assert parquetfile.__doc__ is not None
