"""The processes of a history: writers and readers of one gallery, each with a log of its own.

``python -m benchmarks.torture.writers writer|reader NAME GALLERY LOG SEED SECONDS``; what they log
is what :mod:`benchmarks.torture.checker` reads. The code of a photo is the first bytes of the
digest of its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.torture.checker import Row, digest, hit
from concepthash.codes import CodeLayout, Codes
from concepthash.errors import GalleryLocked
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import AnyGallery, open_gallery
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hashed
from concepthash.runtime.indexing import index_images
from concepthash.runtime.repair import repair

LAYOUT = CodeLayout(24, 3)
MARKER = "marker"
"""Begins the name of the image, one in each shard, whose label is the state's token."""
LARGE = 300
"""Images beyond which more are removed than added."""
PAUSE = 0.01
HOLD = 0.03


class Log:
    """Lines of JSON, each written at once: a writer is killed between two, not within."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}) + "\n"
        os.write(self._descriptor, line.encode())


def read_logs(folder: Path) -> Iterator[dict[str, Any]]:
    """All events of all logs in a folder."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def shards_of(gallery: AnyGallery) -> tuple[Gallery, ...]:
    """The ordinary galleries it consists of."""
    return (gallery,) if isinstance(gallery, Gallery) else gallery.shards


def marker_of(shard: Gallery) -> Entry:
    """The image whose label is the state's token."""
    marker = shard.find(shard.path / f"{MARKER}-{shard.path.stem}.jpg")
    assert marker is not None
    return marker


def rows_of(shard: Gallery) -> list[Row]:
    """What a shard's moment holds, its records and its codes together."""
    ids, codes = shard.codes()
    code = {id: code.tobytes().hex() for id, code in zip(ids.tolist(), codes, strict=True)}
    return [_row(entry, code.pop(entry.id, "none")) for entry in shard.entries()] + [
        (id, "", "", "", code) for id, code in code.items()
    ]


def _row(entry: Entry, code: str) -> Row:
    return entry.id, entry.path.name, entry.label or "", entry.sha256, code


def new_entry(path: Path, label: str, rng: random.Random) -> Entry:
    """An image of a photo that is nowhere."""
    return Entry(path, label, 1, 1, hashlib.sha256(rng.randbytes(8)).hexdigest())


def codes_of(entries: Sequence[Entry]) -> Codes:
    """Codes of images: the first bytes of their digests."""
    packed = b"".join(bytes.fromhex(entry.sha256)[: LAYOUT.nbytes] for entry in entries)
    return np.frombuffer(packed, np.uint8).reshape(len(entries), LAYOUT.nbytes)


class FakeHasher:
    """A fake: the code of a file is the first bytes of its digest."""

    threads = 1
    layout = LAYOUT
    name = "colour"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def hash(self, paths: Iterable[Path], *, waits: object = None) -> Iterator[Hashed]:
        for path in paths:
            content = hashlib.sha256(path.read_bytes()).digest()
            yield Hashed(path, np.frombuffer(content[: LAYOUT.nbytes], np.uint8))


def recorded(name: str, log: Log) -> None:
    """Make every commit of this process set the token of its shard, and say so in the log."""
    real: Callable[..., range] = Gallery.commit
    number = 0

    def commit(
        shard: Gallery,
        *,
        add: Sequence[Entry] = (),
        codes: Codes | None = None,
        update: Iterable[Entry] = (),
        remove: Iterable[int] = (),
    ) -> range:
        nonlocal number
        number += 1
        marker, first = marker_of(shard), shard.last_id() + 1
        token = f"{name}-{number}"
        changed, gone = [*update, replace(marker, label=token)], list(remove)
        added = [] if codes is None else list(zip(add, np.asarray(codes), strict=True))
        log(
            "intent",
            at=time.monotonic(),
            shard=shard.path.name,
            base=marker.label,
            token=token,
            remove=gone,
            update=[_row(entry, shard.code(entry.id).tobytes().hex()) for entry in changed],
            add=[
                _row(replace(entry, id=first + place), code.tobytes().hex())
                for place, (entry, code) in enumerate(added)
            ],
        )
        ids = real(shard, add=add, codes=codes, update=changed, remove=gone)
        log("done", at=time.monotonic(), shard=shard.path.name, token=token)
        return ids

    Gallery.commit = commit  # type: ignore[method-assign, assignment]


class WriterProcess:
    """Changes a gallery in every way there is, over and over, waiting for the lock each time."""

    def __init__(self, name: str, path: Path, log: Log, rng: random.Random) -> None:
        self._name, self._path, self._log, self._rng = name, path, log, rng
        self._number = 0
        self._photos = path.parent / name
        self._photos.mkdir(exist_ok=True)
        with open_gallery(path) as gallery:
            self._hasher = FakeHasher(gallery.fingerprint)

    def run(self, end: float) -> None:
        ways = [self.add, self.add, self.remove, self.relabel, self.index, self.index]
        ways += [self.compact, self.accelerate, self.repair]
        while time.monotonic() < end:
            with suppress(GalleryLocked):
                self._rng.choice(ways)()
            time.sleep(self._rng.random() * PAUSE)

    def _open(self) -> AnyGallery:
        gallery = open_gallery(self._path, write=True)
        for shard in shards_of(gallery):
            self._log(
                "opened",
                at=time.monotonic(),
                shard=shard.path.name,
                token=marker_of(shard).label,
            )
        return gallery

    def add(self) -> None:
        """Some images, twice in one holding of the lock."""
        with self._open() as gallery:
            for _ in range(2):
                new = []
                for _ in range(self._rng.randrange(1, 9)):
                    self._number += 1
                    path = self._path.parent / f"{self._name}-{os.getpid()}-{self._number}.jpg"
                    new.append(new_entry(path, "new", self._rng))
                gallery.add(new, codes_of(new))

    def remove(self) -> None:
        with self._open() as gallery:
            gallery.remove(self._some(gallery, 30 if len(gallery) > LARGE else 5))

    def relabel(self) -> None:
        with self._open() as gallery:
            some = self._some(gallery, 6)
            gallery.update(
                [replace(gallery.entry(id), label=f"label {self._rng.random()}") for id in some]
            )

    def _some(self, gallery: AnyGallery, most: int) -> list[int]:
        """Ids that a writer may change: of its own images, not those of photos there are."""
        ids = [
            entry.id
            for entry in gallery.entries()
            if not entry.path.name.startswith(MARKER) and entry.path.parent != self._photos
        ]
        return self._rng.sample(ids, min(len(ids), most))

    def index(self) -> None:
        """Change some photos of a folder, then index it, in several commits."""
        for _ in range(self._rng.randrange(1, 12)):
            photo = self._photos / f"{self._name}-photo-{self._rng.randrange(40)}.jpg"
            if self._rng.random() < 0.25:
                photo.unlink(missing_ok=True)
            else:
                photo.write_text(f"content {self._rng.randrange(10**9)}")
        (self._photos / f"{self._name}-photo.jpg").touch()
        index_images(self._photos, self._path, self._hasher, commit_every=4)  # type: ignore[arg-type]

    def compact(self) -> None:
        with self._open() as gallery:
            gallery.compact()

    def accelerate(self) -> None:
        with self._open() as gallery:
            gallery.accelerate()

    def repair(self) -> None:
        report = repair(self._path)
        if report.damage:
            raise RuntimeError(f"damage without a reason: {report}")


class Reader:
    """Takes moment after moment of a gallery, and compares all that can be asked of each."""

    def __init__(self, name: str, path: Path, log: Log, rng: random.Random) -> None:
        self._name, self._path, self._log, self._rng = name, path, log, rng

    def run(self, end: float) -> None:
        try:
            self._read(end)
        except Exception:
            self._log("broken", what=f"{self._name}: {traceback.format_exc(limit=-3)}")

    def _read(self, end: float) -> None:
        gallery: AnyGallery | None = None
        while time.monotonic() < end:
            begun = time.monotonic()
            if gallery is None:
                gallery = open_gallery(self._path)
            else:
                gallery.refresh()
            self._moment(gallery, begun, time.monotonic())
            if self._rng.random() < 0.2:
                gallery.close()
                gallery = None
        if gallery is not None:
            gallery.close()

    def _moment(self, gallery: AnyGallery, begun: float, taken: float) -> None:
        held = [(shard, rows_of(shard)) for shard in shards_of(gallery)]
        for shard, rows in held:
            marker = next(row for row in rows if row[1].startswith(MARKER))
            self._log(
                "read",
                **{"from": begun, "to": taken},
                reader=self._name,
                shard=shard.path.name,
                token=marker[2],
                digest=digest(rows),
                kind="rows",
                late=False,
            )
        whole = [row for _, rows in held for row in rows]
        self._searched(gallery, whole)
        if self._rng.random() < 0.15:  # a moment stays, whatever is written or deleted meanwhile
            time.sleep(self._rng.random() * HOLD)
            again = [row for shard in shards_of(gallery) for row in rows_of(shard)]
            self._same(digest(again), digest(whole), "its moment changed")
            self._same(list(gallery.damage()), [], "it is said to be damaged")
            self._same(gallery.stats().images, len(whole), "its figures differ")

    def _searched(self, gallery: AnyGallery, rows: list[Row]) -> None:
        """Search, and look up, and compare with the rows."""
        sought = self._rng.choice(rows)
        query = np.frombuffer(bytes.fromhex(sought[4]), np.uint8)
        hits = gallery.index().search(query[None], k=5)
        expected = sorted((hit(row, sought[4])[3], row[0]) for row in rows)
        found = zip(hits.distances[0].tolist(), hits.ids[0].tolist(), strict=True)
        self._same([pair for pair in found if pair[1] >= 0], expected[:5], "a search differs")
        self._same(len(gallery), len(rows), "its length differs")
        self._same(gallery.entry(sought[0]).sha256, sought[3], "an entry differs")
        self._same(gallery.code(sought[0]).tobytes().hex(), sought[4], "a code differs")
        wrong = [row for row in rows if row[3][: 2 * LAYOUT.nbytes] != row[4]]
        self._same(wrong, [], "codes are not those of their contents")

    def _same(self, found: object, expected: object, what: str) -> None:
        if found != expected:
            text = f"{self._name}: {what}: {str(found)[:300]} instead of {str(expected)[:300]}"
            self._log("broken", what=text)


def main(kind: str, name: str, path: Path, folder: Path, seed: str, seconds: float) -> None:
    rng, end = random.Random(seed), time.monotonic() + seconds
    log = Log(folder / f"{name}.jsonl")
    if kind == "writer":
        recorded(name, log)
        WriterProcess(name, path, log, rng).run(end)
        return
    readers = [Reader(f"{name}-{n}", path, log, random.Random(f"{seed} {n}")) for n in range(2)]
    threads = [threading.Thread(target=reader.run, args=(end,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], given[1], Path(given[2]), Path(given[3]), given[4], float(given[5]))
