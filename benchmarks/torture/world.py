"""The undamaged artefacts that are damaged in copies, made by the verbs themselves."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.torture.forked import Run, Verb, Work, forked
from benchmarks.torture.report import Part
from concepthash.demo import draw_bird, species

BITS, CONCEPTS, SIDE = 64, 4, 32
SHARDS = 3
Note = Callable[[str], None]


@dataclass
class World:
    """The undamaged artefacts, and what the verbs say of them."""

    folder: Path
    rows: list[Any] = field(default_factory=list)
    sharded: bool = False
    remote: bool = False
    trained: bool = False

    def take(self, place: Path, *names: str) -> None:
        """Copies of artefacts in a case's folder; links stay links."""
        for name in names:
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, place / name, symlinks=True)
            else:
                shutil.copyfile(source, place / name)

    @property
    def photo(self) -> Path:
        """A photo of the gallery."""
        return self.folder / "photos" / "bird-1" / "0.png"


Make = Callable[[World, random.Random], Work]


def world_of(folder: Path, part: Part, *, heavy: bool = False) -> World:
    """A bundle, photos, galleries and code files, made by the verbs themselves.

    Args:
        folder: is made.
        part: told what is wrong with the undamaged artefacts, and what is left out.
        heavy: make a training run too.
    """
    world = World(folder)
    folder.mkdir()
    for number, kind in enumerate(species(3), 1):
        place = folder / "photos" / f"bird-{number}"
        place.mkdir(parents=True)
        for seed in range(8):
            draw_bird(kind, seed=seed, size=64).image.save(place / f"{seed}.png")
    from colour_bundle import lone_file
    from tiny_bundle import tiny_bundle

    bundle = tiny_bundle(folder, bits=BITS, concepts=CONCEPTS, crop=SIDE)
    bundle.path.rename(folder / "birds.chb")
    other = tiny_bundle(folder, bits=BITS, concepts=CONCEPTS, crop=SIDE, seed=1)
    other.path.rename(folder / "other.chb")
    from concepthash.bundle import Bundle

    lone_file(Bundle.open(folder / "birds.chb"), folder / "lone.onnx")
    _labelled(folder)
    world.remote = find_spec("concepthash.runtime.remote") is not None
    work = [("world", _made(world)), *([("run", _train(world))] if heavy else [])]
    for ended in forked(work, folder, seconds=120):
        for verb in ended.verbs:
            part.check(verb.code == 0, f"undamaged: {verb}: {verb.code} {verb.err[-300:]}")
        part.check(not ended.ended, f"undamaged: {ended.ended} {ended.notes}")
    world.sharded = (folder / "shards.chg" / "shards.json").is_file()
    world.trained = (folder / "run" / "run.json").is_file()
    if not world.sharded:
        part.skipped.append("sharded galleries: split makes none yet")
    return world


def _made(world: World) -> Work:
    """What the verbs make of the photos: removed images, a compacted segment, tables."""
    folder = world.folder
    model = ("--model", folder / "birds.chb", "--threads", "1")
    gallery = folder / "birds.chg"

    def work(place: Path, run: Run, note: Note) -> None:
        run("index", folder / "photos" / "bird-1", *model, "--out", gallery)
        run("index", folder / "photos", *model, "--out", gallery)
        run("index", "remove", gallery, "--id", "3", "--id", "12")
        run("index", "compact", gallery)
        run("index", folder / "photos", *model, "--out", gallery, "--accelerate")
        run("index", "remove", gallery, "--id", "7")
        for end in (".chx", ".npy", ".faiss", ".parquet"):
            run("index", "export", gallery, folder / f"codes{end}")
        run("index", "split", gallery, "--shards", str(SHARDS), "--out", folder / "shards.chg")
        if world.remote:
            run("index", "push", gallery, (folder / "published").as_uri())

    return work


def _labelled(folder: Path) -> None:
    import numpy as np

    from concepthash.codes import CodeLayout
    from concepthash.codesets import save_codes

    draw = np.random.default_rng(0)
    for name in ("database.npz", "queries.npz"):
        codes = draw.integers(0, 256, (60, BITS // 8), np.uint8)
        save_codes(folder / name, codes, draw.integers(0, 5, 60), CodeLayout(BITS, CONCEPTS))


def _train(world: World) -> Work:
    """A training of two epochs on drawn birds, in a child: the parent must have no threads."""

    def work(place: Path, run: Run, note: Note) -> None:
        from tiny_run import drawn_birds, tiny_config

        from concepthash.learn.train import train

        data = drawn_birds(world.folder / "data")
        train(tiny_config(data), world.folder / "run")

    return work


def undamaged(world: World) -> Work:
    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chb", "birds.chg", "codes.chx")
        query(world, run)
        run("index", "verify", "birds.chg")
        run("index", "verify", "codes.chx")
        run("inspect", "birds.chb", "--json")
        if world.sharded:
            world.take(place, "shards.chg")
            run("index", "verify", "shards.chg")
            if rows_of(query(world, run, "shards.chg")) != rows_of(query(world, run)):
                note("the shards of a gallery answer otherwise than the gallery")

    return work


def query(world: World, run: Run, gallery: str = "birds.chg", model: str = "birds.chb") -> Verb:
    return run(
        "query", world.photo, "--gallery", gallery, "--model", model, "--top", "9",
        "--threads", "1", "--json",
    )  # fmt: skip


def rows_of(verb: Verb) -> list[Any]:
    """What a query answered: ids, distances, paths and labels."""
    answer = verb.json()
    if verb.code != 0 or not answer:
        return []
    return [
        (hit["id"], hit["distance"], hit["per_concept"], Path(hit["path"]).name, hit["label"])
        for query in answer["queries"]
        for hit in query["hits"]
    ]


def reseal(folder: Path) -> None:
    """Give a bundle the checksums of its files as they are."""
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_bytes())
    for name in values["files"]:
        file = folder / name
        if file.is_file() and file.stat().st_size < 1 << 30:
            values["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(values))
