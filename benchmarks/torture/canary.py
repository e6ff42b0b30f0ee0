"""What lies beside a hostile case and may not be touched, opened or told."""

from __future__ import annotations

import base64
import ctypes
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.torture.forked import Run, Work
from benchmarks.torture.world import Note, World

CANARY = b"canary-5d0c6f7e-nobody-may-read-this"
OUTSIDE = "outside"
_IN_OPEN = 0x20

Scene = Callable[[World, Path, Run, Note], None]
"""What a case does in its folder, where ``outside/`` lies."""


def case(world: World, scene: Scene) -> Work:
    def work(place: Path, run: Run, note: Note) -> None:
        outside = place / OUTSIDE
        lay_out(world, outside)
        before = seen(outside)
        scene(world, place, run, note)
        after = seen(outside)
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                note(f"{name} outside was changed, made or removed")
        said = (place / "said").read_bytes()
        for secret in (CANARY, base64.b64encode(CANARY)[:-4]):
            if secret in said:
                note("what the canary says is in an answer")
            for path in place.rglob("*"):
                if (
                    outside not in path.parents and path.is_file() and not path.is_symlink()
                    and path.stat().st_nlink == 1 and secret in path.read_bytes()
                ):  # fmt: skip
                    note(f"what the canary says is in {path.relative_to(place)}")

    return work


def lay_out(world: World, outside: Path) -> None:
    """What may not be touched: a text, a photo, weights, a gallery."""
    outside.mkdir()
    (outside / "canary.txt").write_bytes(CANARY * 20)
    (outside / "weights.bin").write_bytes(CANARY * 1_000_000)
    shutil.copyfile(world.photo, outside / "canary.png")
    shutil.copytree(world.folder / "birds.chg", outside / "birds.chg")
    os.mkfifo(outside / "pipe")


def seen(outside: Path) -> dict[str, tuple[int, ...] | str]:
    """Every file of the folder: when it was changed, and its content."""
    found: dict[str, tuple[int, ...] | str] = {}
    for path in outside.rglob("*"):
        state = path.lstat()
        key = str(path.relative_to(outside))
        if path.is_file():
            found[key] = (state.st_mtime_ns, state.st_ino, hash(path.read_bytes()))
        else:
            found[key] = str(state.st_mode)
    return found


@contextmanager
def unopened(note: Note, *files: Path) -> Iterator[None]:
    """Note it if one of the files is opened in the block, by whomever."""
    library = ctypes.CDLL(None, use_errno=True)
    watch = library.inotify_init1(os.O_NONBLOCK)
    names = {library.inotify_add_watch(watch, bytes(file), _IN_OPEN): file.name for file in files}
    try:
        yield
        try:
            events = os.read(watch, 1 << 16)
        except BlockingIOError:
            return
        while events:
            number, _, _, length = struct.unpack_from("iIII", events)
            note(f"{names.get(number, '?')} outside was opened")
            events = events[16 + length :]
    finally:
        os.close(watch)


def secrets(place: Path) -> list[Path]:
    """The files that may not even be opened."""
    outside = place / OUTSIDE
    return [
        *(outside / name for name in ("canary.txt", "weights.bin", "canary.png")),
        outside / "birds.chg" / "gallery.sqlite",
    ]
