"""Damaged and hostile files of ours, read by the verbs that read them.

Each case damages a copy of one artefact and runs verbs on it, in a forked child of little memory
and time. A verb has to end with an error of three lines and its exit code, or with the answer it
gives for the undamaged artefact. What no checksum covers may change an answer, as the docs say:
then ``verify`` has to find it. A crash, a hang or a traceback is a failure.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.torture import mutations
from benchmarks.torture.forked import Ended, Run, Work, forked, preload
from benchmarks.torture.galleries import gallery, records, remote, sharded
from benchmarks.torture.models import alone, bundle, engine, resealed, trained
from benchmarks.torture.report import Clock, Part
from benchmarks.torture.world import (
    Make,
    Note,
    World,
    rows_of,
    undamaged,
    world_of,
)

HEAVY_SECONDS = 60.0
"""Of a budget, from which on PyTorch is loaded, which takes a while."""


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    """See the module; ``benchmarks.torture`` has the contract."""
    memory = Path("/dev/shm")  # thousands of copies: a disk would be waited for
    if not os.access(memory, os.W_OK):
        return _run(budget_seconds, rng, folder)
    with TemporaryDirectory(prefix="chash-", dir=memory, ignore_cleanup_errors=True) as place:
        return _run(budget_seconds, rng, Path(place))


def _run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    part, clock = Part("artefacts"), Clock(budget_seconds)
    heavy = budget_seconds >= HEAVY_SECONDS
    preload(*(["concepthash.learn.train"] if heavy else []))
    world = world_of(folder / "world", part, heavy=heavy)
    if not world.trained:
        part.skipped.append("runs: PyTorch takes seconds to load, or is not installed")
    (folder / "cases").mkdir()
    absent = {name: not getattr(world, name) for name in ("sharded", "trained", "remote")}
    makers = [make for make in MAKERS if not absent.get(make.__name__)]
    for ended in forked([("undamaged", undamaged(world))], folder / "cases", seconds=60):
        world.rows = rows_of(ended.verbs[0])
        for verb in ended.verbs:
            part.check(verb.code == 0, f"undamaged: {verb}: {verb.code} {verb.err[-300:]}")
        part.check(len(world.rows) > 3, f"undamaged: {ended}")
    counts: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    slowest = 0.0
    for ended in forked(_cases(makers, world, rng, clock), folder / "cases"):
        _judge(part, ended, counts, codes)
        slowest = max(slowest, ended.seconds)
    part.figures |= {
        "cases": counts["cases"],
        "verbs": counts["verbs"],
        "exit_codes": dict(sorted(codes.items())),
        "slowest_seconds": round(slowest, 1),
        **{name: number for name, number in sorted(counts.items()) if " " in name},
    }
    return part


def _cases(
    makers: list[Make], world: World, rng: random.Random, clock: Clock
) -> Iterator[tuple[str, Work]]:
    """Each kind once, then any until the time is over."""
    for make in makers:
        yield make.__name__, make(world, random.Random(rng.random()))
    while clock:
        make, seed = rng.choice(makers), rng.randrange(2**32)
        yield f"{make.__name__} {seed}", make(world, random.Random(seed))


def _judge(part: Part, ended: Ended, counts: Counter[str], codes: Counter[str]) -> None:
    counts["cases"] += 1
    counts["verbs"] += len(ended.verbs)
    told = [note for note in ended.notes if note.startswith("did ")]
    what = f"{ended.name} ({'; '.join(told)})"
    if ended.ended:
        last = ended.verbs[-1] if ended.verbs else "nothing"
        part.check(False, f"{what}: {ended.ended} (after {last})")
    for verb in ended.verbs:
        codes[str(verb.code)] += 1
        if verb.wrong:
            part.check(False, f"{what}: {verb}: {verb.wrong}")
    for note in ended.notes:
        if note.startswith("+ "):
            counts[note[2:]] += 1
        elif not note.startswith("did "):
            part.check(False, f"{what}: {note}")


# Code files


def index_file(world: World, rng: random.Random) -> Work:
    """An index file; half of the time its header's checksum is renewed."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "codes.chx")
        file = place / "codes.chx"
        before = file.read_bytes()
        if rng.random() < 0.4:
            data = bytearray(before)
            at = rng.randrange(8, 92)
            size = rng.choice([1, 4, 8])
            data[at : at + size] = rng.choice([b"\xff", b"\0", b"\x01", b"\x7f"]) * size
            data[124:128] = struct.pack("<I", zlib.crc32(bytes(data[:124])))
            file.write_bytes(bytes(data))
            note(f"did header byte {at}, resealed")
        else:
            note(f"did codes.chx: {rng.choice(mutations.FILE)(file, rng)}")
        verb = run("index", "verify", "codes.chx")
        whole = file.is_file() and file.stat().st_size < 1 << 30 and file.read_bytes() == before
        if verb.code == 0 and not whole:
            run("index", "export", "codes.chx", "codes.npy")
            same = (world.folder / "codes.npy").read_bytes() == (place / "codes.npy").read_bytes()
            note("+ index files changed where nothing matters" if same else "verify is silent")
        _ask_codes(run, rng, "codes.chx")

    return work


def code_file(world: World, rng: random.Random) -> Work:
    """Codes in a form of another program: no checksum, so only the form is checked."""

    def work(place: Path, run: Run, note: Note) -> None:
        names = [name for name in ("codes.npy", "codes.ids.npy", "codes.faiss", "codes.parquet")
                 if (world.folder / name).is_file()]  # fmt: skip
        world.take(place, *names)
        name = rng.choice(names)
        file = place / name
        note(f"did {name}: {rng.choice(mutations.FILE)(file, rng)}")
        _ask_codes(run, rng, name.replace(".ids", ""))

    return work


def labelled(world: World, rng: random.Random) -> Work:
    """Codes with labels, which an evaluation compares."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "database.npz", "queries.npz")
        name = rng.choice(["database.npz", "queries.npz"])
        note(f"did {name}: {rng.choice(mutations.FILE)(place / name, rng)}")
        run("inspect", name, "--json")
        run("eval", "database.npz", "queries.npz", "--json")

    return work


def _ask_codes(run: Run, rng: random.Random, name: str) -> None:
    for line in rng.sample(
        [
            ("inspect", name, "--json"),
            ("index", "import", name, "in.chx"),
            ("index", "export", name, "out.npy"),
            ("index", "export", name, "out.chx"),
            ("dedupe", name, "--json"),
            ("knn-graph", name, "--out", "graph.npz", "--top", "3"),
            ("index", "split", name, "--shards", "2", "--out", "halves"),
            ("index", "merge", name, "--out", "merged.chx"),
        ],
        2,
    ):
        run(*line)


MAKERS: tuple[Make, ...] = (
    bundle, bundle, bundle, resealed, alone, gallery, gallery, gallery, records, records, sharded,
    sharded, remote, index_file, code_file, labelled, trained, engine,
)  # fmt: skip
