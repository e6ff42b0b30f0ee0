"""Many writers and readers of one gallery at once, and a model checker over what they saw.

Writers add, remove, relabel, index, compact, accelerate and repair, each waiting for the lock;
some are killed on the way. Readers, and a ``chash serve`` that takes up what was committed, read
without end. Everything is logged (:mod:`benchmarks.torture.writers`), and the log must fit the
model (:mod:`benchmarks.torture.checker`): no torn read, no lost write, nothing that was never
committed, nothing older than what was acknowledged before.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.torture.campaigns import FEW_SECONDS
from benchmarks.torture.checker import Model, Row, Verdict, check, digest
from benchmarks.torture.report import Part, bundle, environment, say
from benchmarks.torture.writers import (
    LAYOUT,
    MARKER,
    Log,
    codes_of,
    marker_of,
    new_entry,
    read_logs,
    rows_of,
    shards_of,
)
from concepthash.bundle import Bundle
from concepthash.runtime.galleries import create_gallery, open_gallery
from concepthash.runtime.gallery import Gallery

WRITERS, READERS = 3, 2
KILL_SECONDS = 2.0
"""Between two kills of a writer, about."""
ASK_SECONDS = 0.1
CATCH_UP_SECONDS = 60.0
_SHARD_IDS = 10**9


class Stage:
    """One gallery, and the processes around it."""

    def __init__(self, part: Part, folder: Path, rng: random.Random, shards: int | None) -> None:
        self._part, self._rng = part, rng
        self._kind = f"{shards} shards" if shards else "ordinary"
        self._path, self._logs = folder / "a.chg", folder / "logs"
        self._logs.mkdir(parents=True)
        self._model = bundle(folder)
        self._number = 0
        fingerprint = Bundle.open(self._model).manifest.fingerprint
        create_gallery(
            self._path, layout=LAYOUT, fingerprint=fingerprint, model="colour", shards=shards
        ).close()
        with open_gallery(self._path) as gallery:
            places = [shard.path for shard in shards_of(gallery)]
        first = [_marked(place, rng) for place in places]
        self._sought, self._sought_id = first[0][4], first[0][0]
        self._models = {
            place.name: Model(place.name, [row], row[0], self._sought)
            for place, row in zip(places, first, strict=True)
        }
        self._names = {
            row[0] // _SHARD_IDS: place.name for place, row in zip(places, first, strict=True)
        }

    def run(self, seconds: float) -> None:
        """Everything at once for so long, then the check."""
        end = time.monotonic() + seconds
        writers = [self._process("writer", end) for _ in range(WRITERS)]
        readers = [self._process("reader", end) for _ in range(READERS)]
        with _server(self._path, self._model) as url:
            asking = threading.Thread(target=self._ask, args=(url, end))
            asking.start()
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, self._rng.expovariate(1 / KILL_SECONDS)))
                if time.monotonic() < end:
                    place = self._rng.randrange(WRITERS)
                    writers[place].kill()
                    self._ended(writers[place])
                    self._part.count("writers_killed")
                    writers[place] = self._process("writer", end)
            for process in (*writers, *readers):
                self._ended(process)
            asking.join()
            self._at_rest(url)
        self._tell(check(self._models, self._events()))

    def _process(self, kind: str, end: float) -> subprocess.Popen[str]:
        self._number += 1
        name = f"{kind}{self._number}"
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.torture.writers", kind, name, self._path),
                *(self._logs, str(self._rng.random()), str(end - time.monotonic())),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def _ended(self, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate()
        right = process.returncode in (0, -9)
        self._part.check(right, f"{self._kind}: a process of the history failed: {errors[-600:]}")

    def _ask(self, url: str, end: float) -> None:
        """Ask the server for everything, over and over."""
        log = Log(self._logs / "server.jsonl")
        try:
            while time.monotonic() < end:
                self._asked(url, log)
                time.sleep(ASK_SECONDS)
        except Exception as error:
            log("broken", what=f"server: {type(error).__name__}: {error}")

    def _asked(self, url: str, log: Log) -> dict[str, str]:
        """All hits for one image: a read of each shard. The tokens."""
        begun = time.monotonic()
        with urlopen(f"{url}v1/query?id={self._sought_id}&k=1000", timeout=60) as answer:
            hits = json.load(answer)["queries"][0]["hits"]
        taken, tokens = time.monotonic(), {}
        for number, shard in self._names.items():
            rows = [
                (hit["id"], Path(hit["path"]).name, hit["label"] or "", hit["distance"])
                for hit in hits
                if hit["id"] // _SHARD_IDS == number
            ]
            tokens[shard] = next((row[2] for row in rows if row[1].startswith(MARKER)), "none")
            log(
                "read",
                **{"from": begun, "to": taken},
                reader="server",
                shard=shard,
                token=tokens[shard],
                digest=digest(rows),
                kind="hits",
                late=True,
            )
        return tokens

    def _at_rest(self, url: str) -> None:
        """What is there in the end, for a new reader, and, soon, for the server."""
        log = Log(self._logs / "end.jsonl")
        with open_gallery(self._path) as gallery:
            gallery.verify()
            tokens = {}
            now = time.monotonic()
            for shard in shards_of(gallery):
                rows = rows_of(shard)
                tokens[shard.path.name] = marker_of(shard).label
                log(
                    "read",
                    **{"from": now, "to": now},
                    reader="end",
                    shard=shard.path.name,
                    token=tokens[shard.path.name],
                    digest=digest(rows),
                    kind="rows",
                    late=False,
                )
            names = [str(entry.path) for entry in gallery.entries()]
        self._part.check(len(set(names)) == len(names), f"{self._kind}: a path is there twice")
        end = time.monotonic() + CATCH_UP_SECONDS
        while (seen := self._asked(url, log)) != tokens and time.monotonic() < end:
            time.sleep(ASK_SECONDS)
        self._part.check(seen == tokens, f"{self._kind}: the server shows {seen}, not {tokens}")

    def _events(self) -> Iterator[dict[str, Any]]:
        for event in read_logs(self._logs):
            if event["event"] == "broken":
                self._part.check(False, f"{self._kind}: {event['what']}")
            else:
                yield event

    def _tell(self, verdict: Verdict) -> None:
        for wrong in verdict.wrong:
            self._part.check(False, f"{self._kind}: {wrong}")
        self._part.figures[self._kind] = {
            "commits": verdict.commits,
            "unacknowledged": verdict.unacknowledged,
            "reads": verdict.reads,
            "images_in_the_end": verdict.images,
        }
        say(self._part.name, self._part.figures)


def _marked(place: Path, rng: random.Random) -> Row:
    """Put the image whose label is the token into a shard."""
    with Gallery.open(place, write=True) as shard:
        entry = new_entry(place / f"{MARKER}-{place.stem}.jpg", "begin", rng)
        codes = codes_of([entry])
        (id,) = shard.add([entry], codes)
        return id, entry.path.name, "begin", entry.sha256, codes.tobytes().hex()


@contextmanager
def _server(gallery: Path, model: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "concepthash", "serve", str(gallery), "--model", str(model)]
    with subprocess.Popen(
        [*command, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            yield url if url.endswith("/") else f"{url}/"
        finally:
            process.terminate()
            process.wait(30)


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    part = Part("history")
    kinds = (None, 3) if budget_seconds >= FEW_SECONDS else (3,)
    for shards in kinds:
        Stage(part, folder / f"of-{shards}", rng, shards).run(budget_seconds / len(kinds))
    return part
