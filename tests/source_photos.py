"""What tests of sources share: a bucket, Parquet files, and what came of them in a gallery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_bundle import tiny_bundle

from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher


@pytest.fixture(scope="module")
def hasher(tmp_path_factory: pytest.TempPathFactory) -> Hasher:
    return Hasher(tiny_bundle(tmp_path_factory.mktemp("bundle")), threads=1, batch_size=4)


@pytest.fixture
def memory() -> Iterator[object]:
    """The file system of ``memory://``, empty."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()


def content(gallery: Path) -> dict[str, tuple[str | None, bytes]]:
    """Path -> label and code, of a gallery that is sound."""
    with Gallery.open(gallery) as opened:
        opened.verify()
        return {str(e.path): (e.label, opened.code(e.id).tobytes()) for e in opened.entries()}


def codes_of(folder: Path, hasher: Hasher) -> dict[str, bytes]:
    """Name below the folder -> code."""
    files = sorted(folder.rglob("*.png"))
    codes = [record.code.tobytes() for record in hasher.hash(files) if record.code is not None]
    return {str(f.relative_to(folder)): code for f, code in zip(files, codes, strict=True)}


def write_parquet(path: Path, columns: dict[str, object], **options: object) -> Path:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(exist_ok=True)
    table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
    parquet.write_table(table, path, **options)
    return path
