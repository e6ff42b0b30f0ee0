"""Files that are pipes, endless, links or lies: each reader ends with an error that helps."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_entry import Chash
from test_gallery import MODEL, codes, entries
from tiny_bundle import tiny_bundle

from concepthash.bundle import MANIFEST, Bundle
from concepthash.codes import CodeLayout
from concepthash.codesets import load_codes, save_codes
from concepthash.errors import (
    BundleError,
    CheckpointError,
    ConceptHashError,
    DataError,
    GalleryDamaged,
    GalleryError,
)
from concepthash.files import sha256
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.interchange import load_index
from concepthash.runtime.repair import repair
from concepthash.runtime.sharded import ShardedGallery
from concepthash.runtime.sites import FolderSite, Refused
from concepthash.runtime.tensorrt.provenance import read_provenance

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gallery of images 1 to 10 in two segments, the last of 4."""
    path = tmp_path / "birds.chg"
    with Gallery.create(path, **MODEL, segment_bytes=12) as gallery:
        gallery.add(entries(tmp_path, 0, 6), codes(0, 6))
        gallery.add(entries(tmp_path, 6, 4), codes(6, 4))
    return path


def edit(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path / "gallery.sqlite")) as database:
        database.executescript(statements)


# Bundles


def changed(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle.path / MANIFEST).read_text())
    change(values)
    (bundle.path / MANIFEST).write_text(json.dumps(values))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["preprocessing"].update(resize=40),
        lambda v: v.update(weights="1" * 64),
        lambda v: v.update(bits=8, concepts=2),
    ],
)
def test_bundle__what_makes_codes_is_what_the_fingerprint_says(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """One changed digit would give other codes, of a code space that says it is the same."""
    bundle = tiny_bundle(tmp_path)
    changed(bundle, change)
    with pytest.raises(BundleError, match="not those of its fingerprint"):
        Bundle.open(bundle.path)


def test_bundle__an_older_one_does_not_say_its_weights(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    changed(bundle, lambda v: v.pop("weights"))
    assert Bundle.open(bundle.path).manifest.weights is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 3), ("bits", "16"), ("bits", True), ("bits", 16.0), ("class_names", [1]),
        ("class_names", 7), ("files", 1.5), ("files", {"model.onnx": None}), ("files", ["x"]),
        ("fingerprint", "x"), ("metrics", []), ("training", "x"), ("backbone", None),
        ("artifacts", [1]), ("artifacts", {}), ("preprocessing", []), ("weights", 9),
        ("files", {"x" * 5000: "0"}),
    ],
)  # fmt: skip
def test_bundle__fields_of_another_kind(tmp_path: Path, field: str, value: object) -> None:
    bundle = tiny_bundle(tmp_path)
    changed(bundle, lambda v: v.update({field: value}))
    if field == "artifacts" and not value:
        assert Bundle.open(bundle.path).manifest.artifacts == ()
        return
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle.path)
    assert caught.value.where
    assert caught.value.hint


def test_bundle__a_manifest_too_deep_or_too_large(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    file = bundle.path / MANIFEST
    file.write_text("[" * 100_000)
    with pytest.raises(BundleError, match="damaged"):
        Bundle.open(bundle.path)
    os.truncate(file, 1 << 40)
    with pytest.raises(BundleError, match="larger than 64 MiB"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["model.onnx", "parity.json"])
def test_bundle__a_file_without_end_is_not_read(tmp_path: Path, name: str) -> None:
    bundle = tiny_bundle(tmp_path)
    (bundle.path / name).touch()
    changed(bundle, lambda v: v["files"].update({name: "0" * 64}))
    os.truncate(bundle.path / name, 1 << 40)
    with pytest.raises(BundleError, match="sha256 differs"):
        Bundle.open(bundle.path).verify()


# Pipes


@pipes
def test_pipes__are_not_waited_for(tmp_path: Path, path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    for name in ("codes.npz", "codes.chx", "codes.npy", "codes.faiss", "engine", "engine.json"):
        os.mkfifo(tmp_path / name)
    (bundle.path / MANIFEST).unlink()
    os.mkfifo(bundle.path / MANIFEST)
    for read in (
        lambda: load_codes(tmp_path / "codes.npz"),
        lambda: HammingIndex.open(tmp_path / "codes.chx"),
        lambda: load_index(tmp_path / "codes.npy"),
        lambda: load_index(tmp_path / "codes.faiss"),
        lambda: read_provenance(tmp_path / "engine"),
        lambda: Bundle.open(bundle.path),
    ):
        with pytest.raises(ConceptHashError, match="not a regular file"):
            read()
    with pytest.raises(OSError, match="not a regular file"):
        sha256(tmp_path / "engine")
    os.mkfifo(tmp_path / "published.json")
    with pytest.raises(Refused, match="not a regular file"):
        next(FolderSite(tmp_path).read("published.json"))


def test_code_file__every_refusal_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_codes(tmp_path / "none.npz")
    assert caught.value.hint
    file = save_codes(tmp_path / "a.npz", np.zeros((3, 8), np.uint8), [0, 1, 2], CodeLayout(64, 4))
    np.savez(file, codes=np.zeros((3, 9), np.uint8), labels=[0, 1, 2], bits=64, concepts=4)
    with pytest.raises(ConceptHashError) as refused:
        load_codes(file)
    assert refused.value.hint


# Galleries


def test_gallery__views_and_triggers_are_refused(path: Path) -> None:
    edit(
        path,
        "DROP TABLE tombstones; CREATE VIEW tombstones AS WITH RECURSIVE c(id) AS "
        "(SELECT 1 UNION ALL SELECT id + 1 FROM c) SELECT id FROM c",
    )
    for use in (Gallery.open, repair):
        with pytest.raises(GalleryError, match="views or triggers"):
            use(path)


def test_gallery__more_removed_than_there_are(path: Path) -> None:
    edit(path, "DELETE FROM batches; INSERT INTO tombstones VALUES (3)")
    with (
        Gallery.open(path) as gallery,
        pytest.raises(GalleryDamaged, match="1 images were removed"),
    ):
        len(gallery)


def test_gallery__an_id_that_no_gallery_reaches(path: Path) -> None:
    edit(path, "UPDATE sqlite_sequence SET seq = 9223372036854775807")
    with Gallery.open(path) as gallery, pytest.raises(GalleryDamaged, match="no gallery reaches"):
        gallery.last_id()


def test_gallery__an_id_without_a_record_says_what_to_run(path: Path) -> None:
    edit(path, "DELETE FROM images WHERE id = 5")
    with Gallery.open(path) as gallery:
        for look in (lambda: gallery.entry(5), lambda: gallery.names_of([4, 5])):
            with pytest.raises(GalleryError, match="no image has the id 5") as caught:
                look()
            assert "verify" in str(caught.value.hint)


@pytest.mark.parametrize("by", [1, -1])
def test_repair__drops_a_batch_whose_ids_are_shifted(path: Path, by: int) -> None:
    """No checksum covers the first id: its codes would be those of the images beside."""
    edit(path, f"UPDATE batches SET first_id = first_id + {by} WHERE first_id = 7")
    repair(path)
    with Gallery.open(path) as gallery:
        assert not list(gallery.damage())
        ids, packed = gallery.codes()
        assert set(ids.tolist()) <= set(range(1, 7))
        np.testing.assert_array_equal(packed, codes(0, 10)[ids - 1])


def test_repair__does_not_empty_a_gallery_that_is_wrong_of_its_bits(path: Path) -> None:
    edit(path, "UPDATE meta SET value = '24' WHERE key = 'bits'")
    with pytest.raises(GalleryError, match="of 24 bits in the database, of 16 in segments"):
        repair(path)
    edit(path, "UPDATE meta SET value = '16' WHERE key = 'bits'")
    with Gallery.open(path) as gallery:
        assert len(gallery) == 10
        assert not list(gallery.damage())


def test_lock__a_link_is_not_written_through(path: Path, tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("kept")
    (path / "lock").unlink()
    (path / "lock").symlink_to(letter)
    with pytest.raises(GalleryError, match="link is where the lock") as caught:
        Gallery.open(path, write=True)
    assert caught.value.hint
    (path / "lock").unlink()
    os.link(letter, path / "lock")
    with Gallery.open(path, write=True) as gallery:
        gallery.remove([1])
    assert letter.read_text() == "kept"


def test_tables__what_else_lies_in_their_folder_stays(path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letter.txt").write_text("kept")
    (path / "tables").symlink_to(elsewhere)
    with Gallery.open(path, write=True) as gallery:
        gallery.accelerate()
    assert (elsewhere / "letter.txt").read_text() == "kept"
    assert len(list(elsewhere.glob("*.mih"))) == 1


def test_shards__a_list_that_lacks_one_is_no_smaller_answer(tmp_path: Path) -> None:
    path = tmp_path / "birds.chg"
    with ShardedGallery.create(path, **MODEL, shards=3) as gallery:
        gallery.add(entries(tmp_path, 0, 30), codes(0, 30))
    listed = json.loads((path / "shards.json").read_text())
    removed = listed["shards"].pop(1)["name"]
    (path / "shards.json").write_text(json.dumps(listed))
    with pytest.raises(GalleryDamaged, match=f"{removed} lies there and is not listed"):
        ShardedGallery.open(path)
    repair(path)
    with ShardedGallery.open(path) as gallery:
        assert len(gallery) == 30


# Records of runs and engines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "null"), ("config.json", '{"model": 3, "data": [], "train": null}'),
        ("run.json", '{"guidance": 7, "class_names": 9}'), ("last.json", '{"epoch": NaN}'),
        ("eval.json", '{"map": "x"}'), ("run.json", "[" * 100_000), ("last.json", "\0"),
    ],
)  # fmt: skip
def test_inspect__a_damaged_run(chash: Chash, tmp_path: Path, name: str, text: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in ("config.json", "run.json", "last.json", "eval.json"):
        (run / file).write_text("{}")
    (run / name).write_text(text)
    done = chash("inspect", run, "--json")
    assert "CHASH_DEBUG" not in done.err
    assert done.code == 0 or "try: " in done.err


def test_provenance__a_record_too_deep(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text('{"schema": ' + "[" * 100_000)
    with pytest.raises(BundleError, match="damaged"):
        read_provenance(tmp_path / "engine")


def test_copies_of_a_gallery__are_still_whole(path: Path, tmp_path: Path) -> None:
    """What a backup by hard links makes is a gallery like any other."""
    copy = tmp_path / "copy.chg"
    shutil.copytree(path, copy, copy_function=os.link)
    with Gallery.open(copy) as gallery:
        assert len(gallery) == 10


@pytest.mark.parametrize(
    "change",
    [{"std": "x"}, {"mean": [1.0]}, {"class_names": [1]}, {"data_root": 3}, {"guidance": []},
     {"guidance": {}}, {"versions": None}],
)  # fmt: skip
def test_run__a_record_of_other_kinds(tmp_path: Path, change: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from concepthash.learn.checkpoint import Run

    whole = {
        "format_version": 2, "class_names": ["a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3,
        "data_root": "x", "guidance": {"source": "none"}, "versions": {},
    }  # fmt: skip
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps(whole))
    assert Run.open(tmp_path).class_names == ("a", "b")
    (tmp_path / "run.json").write_text(json.dumps({**whole, **change}))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        Run.open(tmp_path)
    assert caught.value.hint
