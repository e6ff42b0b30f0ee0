"""A pulled plug: writers killed at random moments lose nothing that was committed.

CHASH_TEST_CRASHES sets how many are killed, 20 by default.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crash_writer import LAYOUT, MODEL, SEGMENT_BYTES, FakeHasher, after, codes, index

from concepthash.errors import GalleryError, GalleryLocked
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import is_gallery, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.repair import repair

HERE = Path(__file__).parent
CRASHES = int(os.environ.get("CHASH_TEST_CRASHES", "20"))

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked")

Writers = subprocess.Popen[str]


@pytest.fixture(scope="module")
def writers() -> Iterator[Writers]:
    """A process that forks a writer for each line it is sent."""
    with subprocess.Popen(
        [sys.executable, HERE / "crash_writer.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def run(
    writers: Writers, kind: str, path: Path, argument: object, chance: random.Random | None
) -> tuple[int, int]:
    """Steps acknowledged and exit status of one writer, killed if there is a ``chance``."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    delay = ""
    if chance and kind != "churn":
        delay, chance = str(chance.random() * 0.03), None
    print(kind, path, argument, delay, sep="\t", file=writers.stdin, flush=True)
    waits = chance.randrange(6) if chance else 0
    acknowledged, pid, status = 0, 0, -1
    while status < 0:
        word, number = writers.stdout.readline().split()
        if word == "pid":
            pid = int(number)
        elif word == "done":
            acknowledged = int(number)
        else:
            status = int(number)
        if pid and chance and (waits := waits - 1) < 0 and status < 0:
            time.sleep(chance.random() * 0.004)
            if chance.random() < 0.2:
                look(path, pid)
            os.kill(pid, signal.SIGKILL)
            chance = None
    return acknowledged, status


def look(path: Path, pid: int) -> None:
    """While the other process writes: a reader sees whole steps, a writer is refused."""
    with Gallery.open(path) as gallery:
        check(gallery)
    with pytest.raises(GalleryLocked, match=f"process {pid} is writing"):
        Gallery.open(path, write=True)


def check(gallery: Gallery) -> int:
    """Compare a gallery with what its step must have left; the step."""
    steps = gallery.entry(1).size
    ids, packed = gallery.codes()
    assert set(ids.tolist()) == after(steps)
    np.testing.assert_array_equal(packed, codes(ids.tolist()))
    assert [entry.id for entry in gallery.entries()] == ids.tolist()
    return steps


def test_crash__while_adding_removing_and_compacting(tmp_path: Path, writers: Writers) -> None:
    path, chance, committed = tmp_path / "a.chg", random.Random(0), 0
    with Gallery.create(path, **MODEL, segment_bytes=SEGMENT_BYTES) as gallery:
        gallery.add([Entry(tmp_path / "1.jpg")], codes([1]))
    for _ in range(CRASHES * 3 // 5):
        acknowledged, status = run(writers, "churn", path, 1_000_000, chance)
        assert status == signal.SIGKILL
        with Gallery.open(path) as gallery:
            now = check(gallery)
            gallery.verify()
        assert now >= max(acknowledged, committed)
        committed = now
    assert run(writers, "churn", path, committed + 4, None) == (committed + 4, 0)
    with Gallery.open(path, write=True) as gallery:
        assert check(gallery) == committed + 4
        gallery.compact()
        gallery.verify()
        kept = {extent.segment for extent in gallery._extents()}
    assert {int(file.stem) for file in (path / "segments").iterdir()} == kept


@pytest.mark.parametrize("shards", [None, 3])
def test_crash__while_indexing_and_rebuilding(
    tmp_path: Path, writers: Writers, shards: int | None
) -> None:
    path, photos, chance = tmp_path / "a.chg", tmp_path / "photos", random.Random(1)
    photos.mkdir()
    if shards is not None:
        index(path, "model 0", shards=shards)
    names = [f"{n}.jpg" for n in range(40)]
    name, killed, number = "model 0", 0, 0
    while killed < CRASHES - CRASHES * 3 // 5:
        number += 1
        for some in chance.sample(names, 12):
            (photos / some).write_text(f"content {chance.randrange(10**6)}")
        for some in chance.sample(names, 4):
            (photos / some).unlink(missing_ok=True)
        kind = chance.choice(["index", "index", "rebuild"]) if number > 1 else "index"
        if kind == "rebuild":
            name = f"model {number}"
        _, status = run(writers, kind, path, name, chance)
        assert status in (0, signal.SIGKILL)
        killed += status == signal.SIGKILL
        if not is_gallery(path):
            continue
        held = verified_model(path)
        if shards is None:
            assert held is not None
        if status == signal.SIGKILL and chance.random() < 0.5:
            continue
        index(path, name, rebuild=held != name)  # the next run finishes the work
        found = {}
        with open_gallery(path) as gallery:
            assert shards in (None, len(getattr(gallery, "shards", ())))
            gallery.verify()
            for entry in gallery.entries():
                found[entry.path.name] = gallery.code(entry.id).tobytes()
        hasher = FakeHasher(name)
        assert found == {file.name: hasher.code(file).tobytes() for file in photos.iterdir()}


def verified_model(path: Path) -> str | None:
    """The model of a whole gallery; None in the middle of a rebuild, of which shards differ."""
    try:
        with open_gallery(path) as gallery:
            gallery.verify()
            return gallery.model
    except GalleryError as error:
        if "is of model" not in error.what:
            raise
        return None


def test_crash__while_repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that stops at any of its writes can be done again."""

    class Crash(BaseException):
        pass

    def crashing(real, at: int):
        calls = iter(range(10**6))

        def call(*arguments, **options):
            if next(calls) == at:
                raise Crash
            return real(*arguments, **options)

        return call

    for number in range(60):
        path = tmp_path / f"{number}.chg"
        with Gallery.create(path, **MODEL, segment_bytes=32) as gallery:
            new = [Entry(tmp_path / f"{id}.jpg") for id in range(1, 61)]
            gallery.add(new, codes(range(1, 61)))
            gallery.remove(range(1, 60, 7))
        for name in ("000001", "000003"):
            with (path / "segments" / f"{name}.codes").open("r+b") as file:
                file.seek(70)
                file.write(b"\xff\xff")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", crashing(os.fsync, number))
            try:
                repair(path)
            except Crash:
                crashed = True
            except GalleryError as error:
                raise AssertionError from error
            else:
                crashed = False
        repair(path)
        with Gallery.open(path, write=True) as gallery:
            gallery.verify()
            ids, packed = gallery.codes()
            expected = set(range(33, 61)) | set(range(17, 33))
            assert set(ids.tolist()) == expected - set(range(1, 60, 7)) - set(range(33, 49))
            np.testing.assert_array_equal(packed, codes(ids.tolist()))
            assert gallery.layout == LAYOUT
        if not crashed:
            assert number > 3
            break
    else:
        raise AssertionError("the repair never ended")
