"""What tests of indexing on a cluster share: slow photos, and runs in processes to be killed.

As a program: index on the cluster at an address, and print a number for each photo settled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from concepthash.runtime.galleries import open_gallery

SIDE = 2000  # pixels: decoding takes a while
DRAWN, COPIES = 6, 6


def slow_photos(folder: Path) -> Path:
    """Photos of two classes, all of different content, and one that is none."""
    folder.mkdir()
    for number in range(DRAWN):
        blocks = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        file = folder / f"{number}.png"
        Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.NEAREST).save(file)
        data = file.read_bytes()
        file.unlink()
        for copy in range(COPIES):
            photo = folder / f"class{copy % 2}" / f"{number}-{copy}.png"
            photo.parent.mkdir(exist_ok=True)
            photo.write_bytes(data + bytes([copy]))  # what follows the image is not looked at
    (folder / "class0" / "broken.png").write_bytes(b"broken")
    return folder


@dataclass(frozen=True)
class Content:
    """What a gallery holds: path -> label, size, time, digest, code; and how many ids it has."""

    images: dict[str, tuple[object, ...]]
    ids: int

    @classmethod
    def of(cls, gallery: Path) -> Content:
        with open_gallery(gallery) as opened:
            opened.verify()
            entries = list(opened.entries())
            images = {
                str(e.path): (e.label, e.size, e.mtime_ns, e.sha256, opened.code(e.id).tobytes())
                for e in entries
            }
        return cls(images, len({entry.id for entry in entries}))


def processes(name: str) -> list[int]:
    """The processes that call themselves ``name``, which Ray's workers do."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """This module as a program, ``chash index`` with these arguments, leading its own group."""
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def main() -> None:
    from concepthash.cli.main import run
    from concepthash.cli.output import Output
    from concepthash.runtime import indexing

    def told(self: Output, stage: str, done: int, total: int) -> None:
        print(done, flush=True)

    Output.progress = told  # type: ignore[method-assign]
    assert indexing.index_images.__kwdefaults__ is not None
    indexing.index_images.__kwdefaults__["commit_every"] = 5
    sys.argv = ["chash", "index", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
