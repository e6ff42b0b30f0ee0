"""Writers that are made to be killed: a process that forks one for each line it is sent.

A line is: kind, gallery, argument and, for a writer that may end by itself, when to kill it.

What a writer must leave behind depends only on how many steps it committed, so that the test knows
it too. The step is kept in the gallery itself: the size of the image with id 1.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from concepthash.codes import CodeLayout, Codes
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hashed
from concepthash.runtime.indexing import index_images

LAYOUT = CodeLayout(16, 2)
MODEL = {"layout": LAYOUT, "fingerprint": "ab" * 32, "model": "tiny"}
SEGMENT_BYTES = 64


def codes(ids: Iterable[int]) -> Codes:
    """A code for each id, all different."""
    return np.array(list(ids), dtype=">u2").view(np.uint8).reshape(-1, 2)


def step(number: int, live: set[int], last_id: int) -> tuple[range, list[int]]:
    """The ids that a step adds and removes."""
    if number % 3:
        return range(last_id + 1, last_id + 8), []
    return range(0), [id for id in live if id > 1 and (id + number) % 4 == 0]


def after(steps: int) -> set[int]:
    """The ids there are after so many steps."""
    live, last_id = {1}, 1
    for number in range(1, steps + 1):
        added, removed = step(number, live, last_id)
        live = (live | set(added)) - set(removed)
        last_id = max(last_id, *added, 1)
    return live


def say(word: str, number: int) -> None:
    """One line in one write: print may need several, and a writer be killed between them."""
    os.write(sys.stdout.fileno(), f"{word} {number}\n".encode())


def churn(path: Path, steps: int) -> None:
    """Add, remove and compact."""
    with Gallery.open(path, write=True, segment_bytes=SEGMENT_BYTES) as gallery:
        first = gallery.entry(1)
        for number in range(first.size + 1, steps + 1):
            live = {entry.id for entry in gallery.entries()}
            added, removed = step(number, live, gallery.last_id())
            gallery.commit(
                add=[Entry(path.parent / f"{id}.jpg") for id in added],
                codes=codes(added),
                update=[Entry(first.path, size=number, id=1)],
                remove=removed,
            )
            say("done", number)
            if number % 5 == 4:
                gallery.compact()


class FakeHasher:
    """A fake: the code of a file are the first bytes of its digest, and of the model's name."""

    threads = 1
    layout = LAYOUT

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = hashlib.sha256(name.encode()).hexdigest()

    def code(self, path: Path) -> Codes:
        content = self.name.encode() + path.read_bytes()
        return np.frombuffer(hashlib.sha256(content).digest()[:2], dtype=np.uint8)

    def hash(self, paths: Iterable[Path], *, waits: object = None) -> Iterator[Hashed]:
        for path in paths:
            yield Hashed(path, self.code(path))


def index(path: Path, name: str, *, rebuild: bool = False, shards: int | None = None) -> None:
    """Index the folder ``photos`` beside the gallery."""
    index_images(
        path.parent / "photos",
        path,
        FakeHasher(name),
        commit_every=3,
        rebuild=rebuild,
        shards=shards,
    )


def main() -> None:
    assert "onnxruntime" not in sys.modules
    for line in sys.stdin:
        kind, path, argument, delay = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            if kind == "churn":
                churn(Path(path), int(argument))
            else:
                index(Path(path), argument, rebuild=kind == "rebuild")
            os._exit(0)
        say("pid", child)
        if delay:
            time.sleep(float(delay))
            os.kill(child, signal.SIGKILL)
        say("end", os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main()
