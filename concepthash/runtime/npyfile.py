"""Codes as a numpy array file, their ids in a second one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.files import replacing
from concepthash.runtime.foreign import Content, in_blocks, unreadable
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.resharding import pieces


def ids_path(path: Path) -> Path:
    """Where the ids of ``NAME.npy`` are: ``NAME.ids.npy``."""
    return path.with_name(f"{path.stem}.ids.npy")


def read(path: Path) -> Content:
    """The codes of ``(n, K / 8)`` uint8, and the ids of ``(n,)`` integers if the file is there.

    Raises:
        GalleryError: if an array has another shape or type.
        OSError, ValueError: if a file is no array file; nothing in it is ever unpickled.
    """
    codes = _array(path)
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise unreadable(path, f"codes are uint8 (n, K / 8), not {codes.dtype} {codes.shape}")
    beside = ids_path(path)
    ids = _array(beside) if beside.exists() else None
    if ids is not None and (ids.dtype.kind not in "iu" or ids.shape != (len(codes),)):
        raise unreadable(beside, f"{len(codes)} ids are integers, not {ids.dtype} {ids.shape}")
    return Content(8 * codes.shape[1], None, in_blocks(codes, ids))


def write(path: Path, index: HammingIndex) -> None:
    """Write codes and ids, each whole or not at all, the ids first."""
    with replacing(ids_path(path)) as file:
        _head(file, "<i8", (len(index),))
        for _, ids in pieces(index):
            file.write(ids.astype("<i8", copy=False).tobytes())
    with replacing(path) as file:
        _head(file, "|u1", (len(index), index.layout.nbytes))
        for codes, _ in pieces(index):
            file.write(codes.tobytes())


def _head(file: Any, dtype: str, shape: tuple[int, ...]) -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy reads the header as Python source: any error of a parser
        raise unreadable(path, str(error) or type(error).__name__) from error
    if not isinstance(array, np.ndarray):
        raise unreadable(path, "an archive of arrays, not one array")
    return array
