"""Codes in and out: our index files, numpy arrays, faiss binary indexes, Parquet.

The suffix says which:

    .chx              an index file of this package, memory-mapped
    .npy              codes (n, K / 8) uint8; their ids beside it in NAME.ids.npy, if they have some
    .faiss, .ibin     a faiss IndexBinaryFlat, or IndexBinaryIDMap over one; faiss is not needed
    .parquet          columns id and code, of a gallery also path and label; needs pyarrow
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, MismatchError, UsageError
from concepthash.runtime import faissfile, npyfile, parquetfile
from concepthash.runtime.foreign import Content, reading, writing
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.items import Items

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery

OURS = ".chx"
_READERS = {
    ".npy": npyfile.read,
    ".faiss": faissfile.read,
    ".ibin": faissfile.read,
    ".parquet": parquetfile.read,
}
SUFFIXES = (OURS, *_READERS)


def load_index(path: str | Path, *, concepts: int | None = None) -> HammingIndex:
    """The index that a file holds; what is not ours is copied into memory.

    Args:
        path: the file; its suffix says what it is.
        concepts: M, for files that do not say it; 1 if nobody does.

    Raises:
        UsageError: for an unknown suffix, or concepts that do not fit the bits.
        GalleryError: if the file is missing, damaged, truncated or something else.
        MismatchError: if the file says another number of concepts.
        BackendError: for Parquet without pyarrow.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix == OURS:
        index = HammingIndex.open(path)
        _agree(index.concepts, concepts, path)
        return index
    with reading(path):
        content = _READERS[suffix](path)
        _agree(content.concepts, concepts, path)
        layout = _layout(content, concepts, path)
        index = HammingIndex(layout.bits, layout.concepts)
        for codes, ids in content.blocks:
            try:
                index.add(codes, ids)
            except UsageError as error:
                raise GalleryError(error.what, where=path, hint="give every code one id") from None
    return index


def save_index(index: HammingIndex, path: str | Path, *, force: bool = False) -> Path:
    """Write an index in the form its suffix names, whole or not at all; removed codes are left out.

    Args:
        index: what to write.
        path: the file.
        force: replace what exists.

    Raises:
        UsageError: for an unknown suffix, or a file that exists.
        GalleryError: if it cannot be written.
        BackendError: for Parquet without pyarrow.
    """
    path = Path(path)
    suffix = _suffix(path)
    with _claimed(path, suffix, force=force):
        if suffix == OURS:
            index.save(path)
        elif suffix == ".npy":
            npyfile.write(path, index)
        elif suffix == ".parquet":
            parquetfile.write(path, Items.of_index(index, path.stem))
        else:
            faissfile.write(path, index)
    return path


def save_gallery(gallery: AnyGallery, path: str | Path, *, force: bool = False) -> Path:
    """Write the codes of a gallery; arguments and errors as :func:`save_index`.

    Parquet also takes the images' paths and labels, and the model's fingerprint.
    """
    path = Path(path)
    if _suffix(path) != ".parquet":
        return save_index(gallery.index(), path, force=force)
    with _claimed(path, ".parquet", force=force):
        parquetfile.write(path, Items.of_gallery(gallery, path.stem))
    return path


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"unknown kind of code file: {suffix or 'no suffix'}",
            where=path,
            hint=f"a name that ends in one of {', '.join(SUFFIXES)}",
        )
    return suffix


@contextmanager
def _claimed(path: Path, suffix: str, *, force: bool) -> Iterator[None]:
    files = [path, npyfile.ids_path(path)] if suffix == ".npy" else [path]
    for file in files:
        if file.exists() and not force:
            raise UsageError("the file exists", where=file, hint="another name, or --force")
    with writing(path):
        yield


def _agree(recorded: int | None, wanted: int | None, path: Path) -> None:
    if None not in (recorded, wanted) and recorded != wanted:
        raise MismatchError(
            f"the codes have {recorded} concepts, not {wanted}",
            where=path,
            hint=f"--concepts {recorded}, or leave it out",
        )


def _layout(content: Content, concepts: int | None, path: Path) -> CodeLayout:
    try:
        CodeLayout(content.bits)
    except UsageError as error:
        raise GalleryError(error.what, where=path, hint="codes of 8 to 512 bits") from None
    return CodeLayout(content.bits, concepts or content.concepts or 1)
