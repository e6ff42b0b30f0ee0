"""Files that are whole or absent: what a killed process leaves beside them, and full disks."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from concepthash.files import (
    new_folder,
    replacing,
    scratch_folder,
    told_where,
    write_bytes,
)
from concepthash.locks import lock_now

locked = pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept there")


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """As the process that writes it holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        lock_now(descriptor)
        yield
    finally:
        os.close(descriptor)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@locked
def test_replacing__clears_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".a.npy.123.tmp").write_bytes(b"half")
    for other in (".a.npy.x.tmp", ".a.npy.123.bak", ".b.npy.123.tmp", ".a.npy.1.2.tmp"):
        (tmp_path / other).write_bytes(b"somebody's")
    write_bytes(tmp_path / "a.npy", b"whole")
    assert (tmp_path / "a.npy").read_bytes() == b"whole"
    kept = {".a.npy.x.tmp", ".a.npy.123.bak", ".b.npy.123.tmp", ".a.npy.1.2.tmp"}
    assert names(tmp_path) == {"a.npy", *kept}


@locked
def test_replacing__leaves_what_another_process_is_writing(tmp_path: Path) -> None:
    other = tmp_path / ".a.npy.123.tmp"
    other.write_bytes(b"half")
    with in_use(other):
        write_bytes(tmp_path / "a.npy", b"whole")
    assert names(tmp_path) == {"a.npy", other.name}
    with replacing(tmp_path / "a.npy") as file:
        file.write(b"mine")
        own = tmp_path / f".a.npy.{os.getpid()}.tmp"
        with pytest.raises(OSError, match="unavailable"), in_use(own):
            pass  # it is held
    assert names(tmp_path) == {"a.npy"}


@locked
def test_new_folder__clears_what_a_killed_process_left(tmp_path: Path) -> None:
    half = tmp_path / ".a.chg.123.tmp"
    (half / "segments").mkdir(parents=True)
    (half / "segments/1.codes").write_bytes(b"half")
    with in_use(half), new_folder(tmp_path / "a.chg"):
        pass
    assert names(tmp_path) == {"a.chg", half.name}
    with new_folder(tmp_path / "a.chg", replace=True) as folder:
        (folder / "new").touch()
    assert names(tmp_path) == {"a.chg"}
    assert names(tmp_path / "a.chg") == {"new"}


@locked
def test_new_folder__brings_back_what_was_being_replaced(tmp_path: Path) -> None:
    old = tmp_path / ".a.chb.123.old"  # killed between the two renames
    old.mkdir()
    (old / "model.onnx").touch()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "a.chb"):
        pass
    assert names(tmp_path / "a.chb") == {"model.onnx"}
    assert names(tmp_path) == {"a.chb"}
    old.mkdir()  # killed after them
    with new_folder(tmp_path / "a.chb", replace=True):
        pass
    assert names(tmp_path) == {"a.chb"}
    assert names(tmp_path / "a.chb") == set()


@locked
def test_scratch_folder__clears_what_a_killed_process_left(tmp_path: Path) -> None:
    half = tmp_path / ".export.123.tmp"
    half.mkdir()
    (half / "model.onnx").touch()
    with scratch_folder(tmp_path / "export") as folder:
        assert names(tmp_path) == {folder.name}
        (folder / "model.onnx").touch()
    assert names(tmp_path) == set()


def test_told_where__a_full_disk_has_a_name(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"a\.npy") as caught, replacing(tmp_path / "a.npy"):
        full()
    assert caught.value.filename == str(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"a\.chb"), new_folder(tmp_path / "a.chb"):
        full()
    with pytest.raises(OSError, match=r"x\.png") as caught, told_where(tmp_path / "a.npy"):
        raise OSError(errno.ENOSPC, "full", "x.png")
    assert caught.value.filename == "x.png"
    with pytest.raises(OSError, match="reading") as caught, told_where(tmp_path / "a.npy"):
        raise OSError(errno.EIO, "reading failed")
    assert caught.value.filename is None
    assert names(tmp_path) == set()
