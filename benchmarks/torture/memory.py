"""A million queries, and all else that is done over and over: memory, files and threads stay.

What is asked in a loop is warmed up for a tenth of it; from then on resident memory may not grow
by more than noise, nor along a line, and open files and threads not at all.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.load import load, request, server
from benchmarks.torture.report import ROOT, Clock, Part, say
from concepthash.codes import CodeLayout
from concepthash.demo import draw_bird, species
from concepthash.runtime import Entry, Gallery, HammingIndex, Hasher, index_images

BITS, CONCEPTS, SIDE = 64, 4, 32
CODES, BATCH, SAMPLES = 10_000, 100, 20
GROWN_MB, SLOPE_MB = 24.0, 2.0
"""What memory may grow by after the warm-up, and along a line in 100,000 queries."""
STRAIGHT = 50_000
"""Queries from which a line is drawn; before it, noise would make a slope of its own."""
CONNECTIONS = 8


@dataclass(frozen=True)
class Loop:
    """Something that is done over and over.

    Args:
        name: of the figures.
        share: of the budget.
        most: how often, if there is time.
        step: does it so many times at once.
        each: how many times that is.
    """

    name: str
    share: float
    most: int
    step: Callable[[], object]
    each: int


@dataclass(frozen=True)
class State:
    """What a process holds: resident memory in MB, open files, threads."""

    mb: float
    files: int
    threads: int

    @classmethod
    def of(cls, process: int | str = "self") -> State:
        """The state of a process, now."""
        place = Path("/proc") / str(process)
        fields = dict(
            line.split(":", 1)
            for line in (place / "status").read_text().splitlines()
            if ":" in line
        )
        return cls(
            int(fields["VmRSS"].split()[0]) / 1024,
            len(list((place / "fd").iterdir())),
            int(fields["Threads"]),
        )


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    """See the module; ``benchmarks.torture`` has the contract."""
    part = Part("memory")
    gallery, bundle, photos = _made(folder, rng)
    queries = 0
    for loop in _loops(gallery, bundle, photos, rng):
        done, seen = _repeat(loop, Clock(budget_seconds * loop.share))
        queries += done if loop.name.startswith("search") else 0
        _judge(part, loop.name, seen)
        if done < loop.most:
            part.skipped.append(f"{loop.name}: {loop.most - done} of {loop.most}, for want of time")
        say("memory", {loop.name: part.figures[loop.name]})
    part.figures["searches"] = queries
    _serve(part, gallery, bundle, budget_seconds * 0.2)
    return part


def _made(folder: Path, rng: random.Random) -> tuple[Path, Path, list[Path]]:
    """A gallery of random codes and a few photos, with tables."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_bundle import tiny_bundle

    bundle = tiny_bundle(folder, bits=BITS, concepts=CONCEPTS, crop=SIDE)
    photos = folder / "photos"
    photos.mkdir()
    for number, kind in enumerate(species(8)):
        draw_bird(kind, seed=number, size=64).image.save(photos / f"{number}.png")
    hasher = Hasher(bundle, threads=1)
    index_images(photos, folder / "birds.chg", hasher)
    hasher.close()
    with Gallery.open(folder / "birds.chg", write=True) as gallery:
        gallery.add(_entries(folder, CODES), _codes(rng, CODES))
        gallery.accelerate()
    return folder / "birds.chg", bundle.path, sorted(photos.iterdir())


def _entries(folder: Path, count: int, first: int = 0) -> list[Entry]:
    return [
        Entry(
            folder / "none" / f"{n}.jpg", f"class {n % 20}", size=1, mtime_ns=1, sha256=f"{n:064x}"
        )
        for n in range(first, first + count)
    ]


def _codes(rng: random.Random, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(rng.randbytes(count * BITS // 8), np.uint8).reshape(count, -1)


def _loops(gallery: Path, bundle: Path, photos: list[Path], rng: random.Random) -> Iterator[Loop]:
    """Each is set up when its turn comes, and let go of after it."""
    codes = _codes(rng, CODES)
    plain = HammingIndex(BITS, CONCEPTS)
    plain.add(codes)
    mask = np.arange(CODES) % 3 == 0
    some = np.arange(0, CODES, 7)
    yield Loop(
        "search", 0.15, 500_000, lambda: plain.search(_codes(rng, BATCH), k=10), BATCH
    )  # fmt: skip
    turns = [
        {"where": mask}, {"where": some}, {"weights": [2, 0, 1, 1]}, {"radius": 20},
        {"concepts": [0, 2]},
    ]  # fmt: skip
    yield Loop(
        "search_filtered", 0.15, 200_000,
        lambda: plain.search(_codes(rng, BATCH), k=10, **rng.choice(turns)), BATCH,
    )  # fmt: skip
    plain.accelerate()
    yield Loop("search_tables", 0.2, 200_000, lambda: plain.search(_codes(rng, 1), k=10), 1)
    yield from _sharded(rng)
    with Gallery.open(gallery) as opened:

        def one() -> None:
            hits = opened.index().search(_codes(rng, BATCH), k=5)
            opened.names_of(hits.ids[:3])

        yield Loop("search_gallery", 0.05, 50_000, one, BATCH)
    hasher = Hasher(bundle, threads=2)
    yield Loop("hash", 0.05, 20_000, lambda: list(hasher.hash(photos)), len(photos))
    hasher.close()
    yield Loop("hasher_opened", 0.05, 200, lambda: Hasher(bundle, threads=1).close(), 1)
    yield from _renewed(gallery, rng)


def _sharded(rng: random.Random) -> Iterator[Loop]:
    """Several indexes as one, where there is that."""
    if not hasattr(HammingIndex, "joined"):
        return
    parts = []
    for number in range(4):
        index = HammingIndex(BITS, CONCEPTS)
        index.add(_codes(rng, CODES // 4), np.arange(CODES // 4) + number * CODES)
        parts.append(index)
    whole = HammingIndex.joined(parts)
    yield Loop(
        "search_joined", 0.05, 50_000, lambda: whole.search(_codes(rng, BATCH), k=10), BATCH
    )  # fmt: skip


def _renewed(gallery: Path, rng: random.Random) -> Iterator[Loop]:
    """Commits, and readers and servers that take them up."""
    from concepthash.serve.held import Asked, Held

    number = 10 * CODES
    with Gallery.open(gallery, write=True) as writer, Gallery.open(gallery) as reader:

        def renew() -> None:
            nonlocal number
            number += 1
            ids = writer.add(_entries(gallery.parent, 1, number), _codes(rng, 1))
            reader.refresh()
            reader.index().search(_codes(rng, 1), k=3)
            writer.remove(ids)
            reader.refresh()

        yield Loop("refresh", 0.05, 300, renew, 1)

        def reload() -> None:
            held = Held(gallery, reader.fingerprint, threads=1)
            for _ in held.search([(_codes(rng, 1)[0], Asked(labels=("class 3",)))]):
                pass
            held.close()

        yield Loop("reload", 0.05, 200, reload, 1)


def _repeat(loop: Loop, clock: Clock) -> tuple[int, list[tuple[int, State]]]:
    """How often it was done, and what the process held after a tenth of it and later."""
    done, seen = 0, []
    loop.step()  # the first is slower than the others
    started = time.monotonic()
    loop.step()
    usual = max(time.monotonic() - started, 1e-6)
    count = int(min(loop.most, max(SAMPLES * loop.each, loop.each * clock.left / usual / 2)))
    for sample in range(SAMPLES):
        while done < count * (sample + 1) / SAMPLES:
            loop.step()
            done += loop.each
            if not clock and sample:
                break
        gc.collect()
        if sample >= SAMPLES // 10 - 1:
            seen.append((done, State.of()))
        if not clock and len(seen) > 2:
            break
    return done, seen


def _judge(part: Part, name: str, seen: list[tuple[int, State]], *, files: int = 0) -> None:
    """Compare what was held after the warm-up with the end.

    Args:
        files: that may be open more or less, as connections come and go.
    """
    (first, warm), (last, end) = seen[0], seen[-1]
    grown = end.mb - warm.mb
    part.figures[name] = {
        "done": last,
        "warm_mb": round(warm.mb, 1),
        "end_mb": round(end.mb, 1),
        "grown_mb": round(grown, 2),
        "files": end.files,
        "threads": end.threads,
    }
    part.check(grown < GROWN_MB, f"{name}: memory grew by {grown:.1f} MB in {last - first}")
    if last - first >= STRAIGHT:
        line = np.polyfit([done for done, _ in seen], [state.mb for _, state in seen], 1)
        slope = float(line[0]) * 1e5
        part.figures[name]["mb_per_100k"] = round(slope, 3)
        part.check(slope < SLOPE_MB, f"{name}: memory grows by {slope:.2f} MB in 100,000")
    part.check(
        end.files <= warm.files + files, f"{name}: open files from {warm.files} to {end.files}"
    )
    part.check(end.threads <= warm.threads, f"{name}: threads from {warm.threads} to {end.threads}")


def _serve(part: Part, gallery: Path, bundle: Path, seconds: float) -> None:
    """Queries by code over HTTP."""
    layout = CodeLayout(BITS, CONCEPTS)
    codes = np.random.default_rng(0).integers(0, 256, (200, layout.nbytes), np.uint8)
    asked = [
        request("POST", "/v1/query", json.dumps({"code": bytes(code).hex(), "k": 10}).encode())
        for code in codes
    ]
    seen: list[tuple[int, State]] = []
    done, statuses = 0, set()
    with server(gallery, "--model", bundle, "--threads", "1") as (url, process):
        for sample in range(SAMPLES):
            answered: dict[str, Any] = asyncio.run(
                load(url, asked, seconds=max(0.1, seconds / SAMPLES), connections=CONNECTIONS)
            )
            statuses |= set(answered["statuses"])
            done += sum(answered["statuses"].values())
            if sample >= SAMPLES // 10:
                seen.append((done, State.of(process)))
    _judge(part, "serve", seen, files=CONNECTIONS)
    part.check(statuses == {"200"}, f"serve: queries were answered with {sorted(statuses)}")
    part.figures["served_queries"] = done
