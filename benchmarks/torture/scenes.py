"""Cases of hostile paths: each is laid out in a folder beside which the canary lies."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from benchmarks.torture.canary import CANARY, OUTSIDE, Scene, secrets, unopened
from benchmarks.torture.forked import Run
from benchmarks.torture.world import Note, World, query, reseal

# Names in manifests

NAMES = (
    f"../{OUTSIDE}/canary.txt", f"../{OUTSIDE}/weights.bin", "/etc/passwd", "..", ".", "", "/",
    "a/../../x", "C:\\windows\\win.ini", "C:canary.txt", "\\\\host\\share\\x", f"..\\{OUTSIDE}\\x",
    "model.onnx/", "./model.onnx", "~/x", "//x", "model.onnx\0", "\n", "x" * 5000, "%2e%2e/x",
    "file:///etc/passwd", "con", "model.onnx:stream",
)  # fmt: skip


def _bundle_names(name: str) -> Scene:
    def scene(world: World, place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chb", "birds.chg")
        manifest = place / "birds.chb" / "manifest.json"
        values = json.loads(manifest.read_bytes())
        digest = hashlib.sha256((place / OUTSIDE / "canary.txt").read_bytes()).hexdigest()
        values["files"][name] = digest
        manifest.write_text(json.dumps(values))
        with unopened(note, *secrets(place)):
            if run("inspect", "birds.chb", "--json").code == 0:
                note("accepted")
            values["files"].pop(name)
            values["artifacts"] = [{"format": "onnx", "precision": "fp32", "file": name}]
            manifest.write_text(json.dumps(values))
            if query(world, run).code == 0:
                note("accepted as the file of an artefact")

    return scene


def _shard_names(name: str) -> Scene:
    def scene(world: World, place: Path, run: Run, note: Note) -> None:
        world.take(place, "shards.chg", "birds.chb")
        manifest = place / "shards.chg" / "shards.json"
        values = json.loads(manifest.read_bytes())
        values["shards"][0]["name"] = name
        manifest.write_text(json.dumps(values))
        with unopened(note, *secrets(place)):
            for line in (("inspect", "shards.chg"), ("index", "verify", "shards.chg")):
                if run(*line).code == 0:
                    note("accepted")
            if query(world, run, "shards.chg").code == 0:
                note("accepted by query")
            run("index", "compact", "shards.chg")
            run("index", "repair", "shards.chg")

    return scene


def _published_names(name: str) -> Scene:
    def scene(world: World, place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chg", "birds.chb")
        os.environ["CHASH_CACHE"] = str(place / "cache")
        url = (place / "published").as_uri()
        if run("index", "push", "birds.chg", url).code:
            note("a gallery cannot be pushed into a folder")
            return
        (manifest,) = (place / "published").glob("published.json")
        values = json.loads(manifest.read_bytes())
        values["files"][0]["path"] = name
        manifest.write_text(json.dumps(values))
        listed = {path.name for path in place.iterdir()} | {"cache"}
        if run("inspect", url).code == 0:
            note("accepted")
        if made := {path.name for path in place.iterdir()} - listed:
            note(f"made outside the cache: {made}")

    return scene


# Data beside a graph

WEIGHTS = (
    f"../{OUTSIDE}/weights.bin", "link.bin", f"sub/../../{OUTSIDE}/weights.bin", "hard.bin",
    "/etc/passwd", "/dev/zero", "pipe", f"..\\{OUTSIDE}\\weights.bin", "weights.bin", "",
)  # fmt: skip


def _beside_graph(location: str, *, alone: bool) -> Scene:
    def scene(world: World, place: Path, run: Run, note: Note) -> None:
        import onnx

        world.take(place, "birds.chb", "birds.chg", "lone.onnx")
        folder = place if alone else place / "birds.chb"
        file = place / "lone.onnx" if alone else folder / "model.onnx"
        (folder / "sub").mkdir()
        outside = place / OUTSIDE / "weights.bin"
        (folder / "link.bin").symlink_to(outside)
        os.link(outside, folder / "hard.bin")
        shutil.copyfile(outside, folder / "weights.bin")
        os.mkfifo(folder / "pipe")
        model = onnx.load(file)
        weights = max(model.graph.initializer, key=lambda tensor: tensor.ByteSize())
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0")):
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
        file.write_bytes(model.SerializeToString())
        if not alone:
            reseal(folder)
        with unopened(note, *secrets(place)):
            verb = query(world, run, model=file.name if alone else "birds.chb")
        if verb.code == 0:
            note("weights were taken from a file that no checksum covers")
        (folder / "weights.bin").unlink()

    return scene


# Photos of galleries and of tables


def _photo_paths(world: World, place: Path, run: Run, note: Note) -> None:
    world.take(place, "birds.chb", "birds.chg")
    point_photos(place)
    (place / "why").mkdir()
    for line in (
        ("query", world.photo, "--gallery", "birds.chg", "--explain", "why"),
        ("atlas", "birds.chg", "--out", "atlas.html"),
        ("concepts", "birds.chb", "--gallery", "birds.chg", "--json"),
    ):
        more = () if line[0] == "concepts" else ("--model", "birds.chb", "--threads", "1")
        run(*line, *more)


def point_photos(place: Path) -> list[int]:
    """Let the images of a gallery be files that are no photos; their ids."""
    outside = place / OUTSIDE
    targets = [
        outside / "canary.txt", outside / "pipe", Path("/dev/zero"), Path("/etc/passwd"), outside,
        Path("/proc/self/environ"), place / "gone.png", Path("/dev/stdin"),
    ]  # fmt: skip
    link = place / "link.png"
    link.symlink_to(outside / "canary.txt")
    database = sqlite3.connect(place / "birds.chg" / "gallery.sqlite")
    ids = [id for (id,) in database.execute("SELECT id FROM images ORDER BY id")]
    pointed = ids[: len(targets) + 1]
    for id, target in zip(pointed, [*targets, link], strict=True):
        database.execute("UPDATE images SET path = ? WHERE id = ?", (str(target), id))
    database.commit()
    database.close()
    return pointed


def _table_paths(name: str) -> Scene:
    def scene(world: World, place: Path, run: Run, note: Note) -> None:
        world.take(place, "birds.chb")
        data = place / "data"
        shutil.copytree(world.folder / "photos", data / "photos")
        rows = [
            [str(path.relative_to(data)), path.parent.name]
            for path in sorted((data / "photos").rglob("*.png"))
        ]
        rows[3][0] = name
        with (data / "photos.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], *rows])
        with unopened(note, *secrets(place)):
            if run("eval", "birds.chb", "--data", "data/photos.csv", "--threads", "1").code == 0:
                note("accepted")

    return scene


# Links within galleries and bundles


def _gallery_links(world: World, place: Path, run: Run, note: Note) -> None:
    """Files of a gallery that are links to a file of someone else, and verbs that write."""
    for number, name in enumerate(
        ["lock", "gallery.sqlite-wal", "gallery.sqlite-shm", "gallery.sqlite-journal",
         "gallery.sqlite.new", "segments/000009.codes", "damaged-1", "tables/000000000099.mih"]
    ):  # fmt: skip
        for how in ("link", "hard"):
            if how == "hard" and name.startswith("gallery.sqlite-"):
                continue  # SQLite's own files, which a backup by hard links shares as well
            gallery = place / f"{number}-{how}.chg"
            shutil.copytree(world.folder / "birds.chg", gallery)
            target = place / OUTSIDE / "canary.txt"
            file = gallery / name
            file.unlink(missing_ok=True)
            if how == "link":
                file.symlink_to(target)
            else:
                os.link(target, file)
            for line in (
                ("index", "remove", gallery.name, "--id", "5"),
                ("index", "compact", gallery.name),
                ("index", "accelerate", gallery.name),
                ("index", "repair", gallery.name),
            ):
                run(*line)
            if target.read_bytes() != CANARY * 20:
                note(f"{name} ({how}) was written through")
                target.write_bytes(CANARY * 20)


def _tables_elsewhere(world: World, place: Path, run: Run, note: Note) -> None:
    """Tables on another disk: what else lies there stays."""
    world.take(place, "birds.chg")
    elsewhere = place / "elsewhere"
    shutil.move(place / "birds.chg" / "tables", elsewhere)
    (place / "birds.chg" / "tables").symlink_to(elsewhere)
    (elsewhere / "letter.txt").write_text("kept")
    run("index", "accelerate", "birds.chg")
    run("index", "compact", "birds.chg")
    run("index", "repair", "birds.chg")
    if not (elsewhere / "letter.txt").exists():
        note("a file beside the tables was deleted")


def _bundle_links(world: World, place: Path, run: Run, note: Note) -> None:
    """A manifest that is a link: naming concepts replaces the link, not what it leads to."""
    world.take(place, "birds.chb")
    shutil.move(place / "birds.chb" / "manifest.json", place / "kept.json")
    before = (place / "kept.json").read_bytes()
    (place / "birds.chb" / "manifest.json").symlink_to("../kept.json")
    run("concepts", "name", "birds.chb", "a,b,c,d")
    if (place / "kept.json").read_bytes() != before:
        note("the manifest was written through a link")


# Places to write to


def _outputs(world: World, place: Path, run: Run, note: Note) -> None:
    """Outputs whose name is a link to, or another name of, a file of someone else."""
    world.take(place, "birds.chb", "birds.chg", "codes.chx", "database.npz")
    model = ("--model", "birds.chb", "--threads", "1")
    target = place / OUTSIDE / "canary.txt"
    verbs: dict[str, tuple[object, ...]] = {
        "out.npy": ("index", "export", "birds.chg", "out.npy"),
        "out.parquet": ("index", "export", "birds.chg", "out.parquet"),
        "out.chx": ("index", "export", "birds.chg", "out.chx"),
        "in.chx": ("index", "import", "codes.chx", "in.chx"),
        "graph.npz": ("knn-graph", "birds.chg", "--out", "graph.npz", "--top", "2"),
        "merged.chx": ("index", "merge", "codes.chx", "--out", "merged.chx"),
        "page.html": ("atlas", "birds.chg", "--out", "page.html", *model),
        "new.chg": ("index", world.folder / "photos", "--out", "new.chg", *model),
        "merged.chg": ("index", "merge", "birds.chg", "--out", "merged.chg"),
        "halves": ("index", "split", "birds.chg", "--shards", "2", "--out", "halves"),
        "why/explanation.html": ("explain", world.photo, "--out", "why", *model),
        "why/explanation.png": ("explain", world.photo, "--out", "why", *model),
        "why/hits.html": (
            "query", world.photo, "--gallery", "birds.chg", "--explain", "why", *model,
        ),
        "table.csv": ("eval", "database.npz", "database.npz", "--csv", "table.csv"),
        "curve.png": ("eval", "database.npz", "database.npz", "--pr-curve", "curve.png"),
    }  # fmt: skip
    for name, line in verbs.items():
        for how in ("link", "hard", "dangling", "aside"):
            shutil.rmtree(place / "why", ignore_errors=True)
            (place / "why").mkdir()
            out = place / name
            if how == "dangling" and out.suffix in (".chg", ""):
                continue  # a link is where the user wants a folder
            planted = out
            if how == "aside":  # the name under which a file is written before it is whole
                planted = out.with_name(f".{out.name}.{os.getpid()}.tmp")
            if how == "dangling":
                planted.symlink_to(place / OUTSIDE / "new")
            elif how == "hard":
                os.link(target, planted)
            else:
                planted.symlink_to(target)
            for force in ((), ("--force",)):
                run(*line, *force)
                if target.read_bytes() != CANARY * 20 or (place / OUTSIDE / "new").exists():
                    note(f"{name} ({how}{' --force' * bool(force)}) was written through")
                    target.write_bytes(CANARY * 20)
                    (place / OUTSIDE / "new").unlink(missing_ok=True)
            for path in (out, planted):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


def _read_arguments(world: World, place: Path, run: Run, note: Note) -> None:
    """Files that are no photos, given as photos: the error does not quote them."""
    world.take(place, "birds.chb", "birds.chg")
    for name in ("canary.txt", "pipe"):
        for verb in ("query", "explain"):
            more = ("--gallery", "birds.chg") if verb == "query" else ()
            run(verb, f"{OUTSIDE}/{name}", "--model", "birds.chb", "--threads", "1", *more)


def all_scenes(world: World) -> Iterator[tuple[str, Scene]]:
    for name in NAMES:
        yield f"bundle manifest {name[:40]!r}", _bundle_names(name)
        if world.sharded:
            yield f"list of shards {name[:40]!r}", _shard_names(name)
        if world.remote:
            yield f"published manifest {name[:40]!r}", _published_names(name)
    if world.sharded:
        yield "list of shards, a gallery outside", _shard_names(f"../{OUTSIDE}/birds.chg")
    for location in WEIGHTS:
        for alone in (False, True):
            where = "lone graph" if alone else "graph"
            yield f"{where}, weights in {location!r}", _beside_graph(location, alone=alone)
    for name in (
        f"../{OUTSIDE}/canary.png",
        "/etc/passwd",
        "C:\\x.png",
        "..\\x.png",
        "x\0.png",
        "",
    ):
        yield f"table of photos {name!r}", _table_paths(name)
    yield "photos of a gallery that are none", _photo_paths
    yield "links in a gallery", _gallery_links
    yield "tables behind a link", _tables_elsewhere
    yield "a manifest that is a link", _bundle_links
    yield "outputs that are links", _outputs
    yield "arguments that are no photos", _read_arguments
