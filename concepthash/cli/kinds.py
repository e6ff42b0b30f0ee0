"""What a path is, told from its marks on disk; nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from concepthash.errors import UsageError

Kind = Literal["run", "bundle", "model", "gallery", "index", "codes"]

_MARKS: dict[str, Kind] = {
    "manifest.json": "bundle",
    "gallery.sqlite": "gallery",
    "shards.json": "gallery",
    "run.json": "run",
}
_INDEX_MAGIC = b"\x89CHIDX\r\n"
_ZIP_MAGIC = b"PK\x03\x04"


def folder_kind(path: Path) -> Kind | None:
    """What a folder holds; None if it is none or has no mark of ours."""
    kind = next((kind for name, kind in _MARKS.items() if (path / name).is_file()), None)
    if kind is None and next(path.glob("shard-[0-9]*.chg/gallery.sqlite"), None):
        return "gallery"  # whose list of shards was lost: opening it says so
    return kind


def kind_of(path: Path) -> Kind:
    """What ``path`` holds.

    Raises:
        UsageError: if it does not exist or is nothing this project writes.
    """
    kind = folder_kind(path)
    if kind is not None:
        return kind
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(_INDEX_MAGIC))
        if head == _INDEX_MAGIC:
            return "index"
        if head.startswith(_ZIP_MAGIC) or path.suffix == ".npz":
            return "codes"
        if path.suffix == ".onnx":  # ONNX has no magic
            return "model"
    elif not path.is_dir():
        raise UsageError("no such file or folder", where=path, hint=f"ls {path.parent}")
    raise UsageError(
        "neither a run, a bundle, an ONNX model, a gallery, an index file nor codes",
        where=path,
        hint="runs are made by chash train, bundles by export, galleries by index",
    )
