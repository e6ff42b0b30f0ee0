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
from test_gallery import MODEL, codes

from concepthash.errors import GalleryLocked
from concepthash.runtime.gallery import Gallery

ROOT = Path(__file__).parents[1]

WRITER = """
import os, sys
from pathlib import Path
import numpy as np
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery

def work(path, batches):
    with Gallery.open(path, write=True, segment_bytes=64) as gallery:
        for batch in range(len(gallery) // 7, batches):
            first = batch * 7
            codes = np.arange(first, first + 7, dtype=">u2").view(np.uint8).reshape(7, 2)
            entries = [Entry(path.parent / f"{first + n}.jpg") for n in range(7)]
            gallery.add(entries, codes)
            print("done", batch + 1, flush=True)

assert "onnxruntime" not in sys.modules
for line in sys.stdin:
    path, batches = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        work(Path(path), int(batches))
        os._exit(0)
    print("pid", child, flush=True)
    print("end", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def writers() -> Iterator[subprocess.Popen[str]]:
    """A process that forks a writer for each line it is sent."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked")
def test_crash__writers_killed_at_random_moments(
    tmp_path: Path, writers: subprocess.Popen[str]
) -> None:
    rounds = int(os.environ.get("CHASH_TEST_CRASHES", "20"))
    path = tmp_path / "a.chg"
    Gallery.create(path, **MODEL).close()
    chance = random.Random(0)
    committed = 0
    for _ in range(rounds):
        acknowledged, status = run_writer(writers, path, 1_000_000, chance)
        assert status == signal.SIGKILL
        with Gallery.open(path) as gallery:
            assert len(gallery) % 7 == 0
            now = len(gallery) // 7
            assert now >= max(acknowledged, committed)
            committed = now
            ids, packed = gallery.codes()
            np.testing.assert_array_equal(ids, np.arange(1, 7 * committed + 1))
            np.testing.assert_array_equal(packed, codes(0, 7 * committed))
            names = [entry.path.name for entry in gallery.entries()]
            assert names == [f"{n}.jpg" for n in range(7 * committed)]
            gallery.verify()
    acknowledged, status = run_writer(writers, path, committed + 3, None)
    assert (acknowledged, status) == (committed + 3, 0)
    with Gallery.open(path, write=True) as gallery:
        assert len(gallery) == 7 * (committed + 3)
        gallery.verify()


def run_writer(
    writers: subprocess.Popen[str], path: Path, batches: int, chance: random.Random | None
) -> tuple[int, int]:
    """Batches acknowledged and exit status of one writer, killed if there is a ``chance``."""
    assert writers.stdin is not None
    assert writers.stdout is not None
    print(path, batches, sep="\t", file=writers.stdin, flush=True)
    after = chance.randrange(4) if chance else batches
    acknowledged, pid, status = 0, 0, -1
    while status < 0:
        word, number = writers.stdout.readline().split()
        if word == "pid":
            pid = int(number)
        elif word == "done":
            acknowledged = int(number)
        else:
            status = int(number)
        if pid and chance and (after := after - 1) < 0 and status < 0:
            time.sleep(chance.random() * 0.004)
            if chance.random() < 0.2:
                look(path, pid)
            os.kill(pid, signal.SIGKILL)
            chance = None
    return acknowledged, status


def look(path: Path, pid: int) -> None:
    """While the other process writes: a reader sees whole batches, a writer is refused."""
    with Gallery.open(path) as gallery:
        ids, packed = gallery.codes()
        assert len(ids) % 7 == 0
        np.testing.assert_array_equal(packed, codes(0, len(ids)))
    with pytest.raises(GalleryLocked, match=f"process {pid} is writing"):
        Gallery.open(path, write=True)
