"""Damaged galleries: of one, of several, behind a URL."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

from benchmarks.torture import mutations
from benchmarks.torture.forked import Run, Work
from benchmarks.torture.world import (
    Note,
    World,
    query,
    rows_of,
)


def gallery(world: World, rng: random.Random) -> Work:
    """A file of a gallery."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chg", "birds.chb")
        folder = place / "birds.chg"
        if rng.random() < 0.2:
            _leave_log(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        file = rng.choice(files)
        if file.name == "gallery.sqlite" and rng.random() < 0.5:
            change = mutations.page_changed
        else:
            change = rng.choice(mutations.FILE)
        note(f"did {file.relative_to(folder)}: {change(file, rng)}")
        _ask_gallery(world, run, note, rng, "birds.chg")

    return work


def records(world: World, rng: random.Random) -> Work:
    """A record in the database of a gallery, which SQLite takes for whole."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chg", "birds.chb")
        note(f"did {mutations.sql_changed(place / 'birds.chg' / 'gallery.sqlite', rng)}")
        _ask_gallery(world, run, note, rng, "birds.chg")

    return work


def sharded(world: World, rng: random.Random) -> Work:
    """A gallery of several: its list of shards, or a shard."""

    def work(place: Path, run: Run, note: Note) -> None:
        world.take(place, "shards.chg", "birds.chb")
        folder = place / "shards.chg"
        shards = sorted(folder.glob("*.chg"))
        how = rng.choice(["values", "values", "list", "swap", "copy", "shard", "other", "outside"])
        if how == "values":
            note(f"did shards.json: {mutations.json_changed(folder / 'shards.json', rng)}")
        elif how == "list":
            note(f"did shards.json: {rng.choice(mutations.FILE)(folder / 'shards.json', rng)}")
        elif how == "swap":
            first, second = rng.sample(shards, 2)
            first.rename(aside := folder / "aside")
            second.rename(first)
            aside.rename(second)
            note(f"did swap {first.name} and {second.name}")
        elif how == "copy":
            first, second = rng.sample(shards, 2)
            shutil.rmtree(second)
            shutil.copytree(first, second)
            note(f"did {first.name} for {second.name}")
        elif how == "shard":
            shard = rng.choice(shards)
            files = sorted(path for path in shard.rglob("*") if path.is_file())
            file = rng.choice(files)
            note(f"did {file.relative_to(folder)}: {rng.choice(mutations.FILE)(file, rng)}")
        elif how == "other":
            shard = rng.choice(shards)
            shutil.rmtree(shard)
            world.take(place, "birds.chg")
            (place / "birds.chg").rename(shard)
            note(f"did another gallery for {shard.name}")
        else:
            shard = rng.choice(shards)
            shard.rename(place / "outside.chg")
            shard.symlink_to("../outside.chg")
            note(f"did {shard.name} behind a link that leaves")
        _ask_gallery(world, run, note, rng, "shards.chg")

    return work


def remote(world: World, rng: random.Random) -> Work:
    """A gallery behind a URL: its manifest, a content, and the reader's own copy."""

    def work(place: Path, run: Run, note: Note) -> None:
        os.environ["CHASH_CACHE"] = str(place / "cache")
        world.take(place, "published", "birds.chb")
        url = (place / "published").as_uri()
        cached = rng.random() < 0.4
        if cached:
            run("inspect", url)
        folder = place / ("cache" if cached and rng.random() < 0.5 else "published")
        file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        if file.suffix == ".json" and rng.random() < 0.7:
            note(f"did {file.relative_to(place)}: {mutations.json_changed(file, rng)}")
        else:
            change = rng.choice(mutations.FILE)
            note(f"did {file.relative_to(place)}: {change(file, rng)}")
        verb = query(world, run, gallery=url)
        rows = rows_of(verb)
        if verb.code in (0, 3, 4) and [row[:3] for row in rows] != [row[:3] for row in world.rows]:
            if run("index", "verify", url).code:
                note("+ rows only verify knows to be wrong")
            else:
                note(f"wrong rows: {rows[:3]} instead of {world.rows[:3]}")

    return work


def _leave_log(folder: Path) -> None:
    """Leave a write-ahead log with a commit in it, as a killed writer does."""
    import sqlite3

    kept = folder.with_name("kept")
    database = sqlite3.connect(folder / "gallery.sqlite")
    database.execute("PRAGMA wal_autocheckpoint = 0")
    database.execute("UPDATE images SET label = label")
    database.commit()
    shutil.copytree(folder, kept)
    database.close()
    shutil.rmtree(folder)
    kept.rename(folder)


def _ask_gallery(world: World, run: Run, note: Note, rng: random.Random, name: str) -> None:
    """A query, two more verbs, and where the rows are others, ``verify``."""
    verb = query(world, run, gallery=name)
    rows = rows_of(verb)
    wrong = verb.code in (0, 3, 4) and rows != world.rows
    more = [
        ("inspect", name, "--json"),
        ("index", "verify", name),
        ("index", "export", name, "out.npy"),
        ("index", "export", name, "out.parquet"),
        ("dedupe", name, "--radius", "3", "--json"),
        ("knn-graph", name, "--out", "graph.npz", "--top", "3"),
        ("index", "split", name, "--shards", "2", "--out", "halves"),
        ("index", "merge", name, "--out", "merged.chg"),
    ]
    changing = [
        ("index", "compact", name),
        ("index", "accelerate", name),
        ("index", "remove", name, "--id", "5"),
        ("index", world.folder / "photos", "--model", "birds.chb", "--out", name, "--threads", "1"),
    ]
    run(*rng.choice(more))
    if wrong:
        found = run("index", "verify", name)
        if found.code:
            note("+ rows only verify knows to be wrong")
        elif [row[:3] for row in rows] == [row[:3] for row in world.rows]:
            note("+ other names that nothing covers")
        else:
            note(f"wrong rows, and verify is silent: {rows[:3]} instead of {world.rows[:3]}")
    if rng.random() < 0.3:
        run(*rng.choice(changing))
    elif rng.random() < 0.4:
        _mend(world, run, note, name)


def _mend(world: World, run: Run, note: Note, name: str) -> None:
    """Repair: afterwards it is whole, and what it still holds is right."""
    if run("index", "repair", name).code:
        return
    if (verified := run("index", "verify", name)).code:
        note(f"damaged after its repair: {verified.err[-300:]}")
    verb = query(world, run, gallery=name)
    known = {row[0]: row for row in world.rows}
    for row in rows_of(verb):
        if row[0] in known and known[row[0]][1:3] != row[1:3]:
            note(f"wrong after its repair: {row} instead of {known[row[0]]}")
