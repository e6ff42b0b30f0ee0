"""The commands that are killed, and galleries as they are before."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.torture.forks import Forks
from benchmarks.torture.report import birds, bundle
from concepthash.codes import CodeLayout
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import create_gallery, open_gallery

LAYOUT = CodeLayout(64, 4)
GALLERY = "a.chg"
SHARDS = 3
FEW_SECONDS = 10.0
_FEW = ("index", "compact", "accelerate")
_PHOTOS, _ROWS = 600, 3_000


@dataclass(frozen=True)
class Campaign:
    """A command and the folder it runs in.

    Args:
        name: for the report.
        template: the folder as it is before.
        command: of ``chash``, run in that folder.
        result: the gallery the command writes.
        right: see :func:`benchmarks.torture.states.rows`.
        file: what the command writes beside it.
        replaces: it commits an empty gallery first.
        whole: the result appears whole or not at all.
        again: the exit code where all is done already.
        mends: the gallery is damaged before.
        allowed: see :func:`benchmarks.torture.states.leftovers`.
    """

    name: str
    template: Path
    command: tuple[str, ...]
    result: str = GALLERY
    right: Mapping[str, bytes] | None = None
    file: str | None = None
    replaces: bool = False
    whole: bool = False
    again: int = 0
    mends: bool = False
    allowed: tuple[str, ...] = ()


def campaigns(folder: Path, forks: Forks, rng: random.Random, budget: float) -> list[Campaign]:
    """All of them, with their folders made in ``folder``; a few for a budget of a few seconds."""
    made = []
    few = budget < FEW_SECONDS
    photos, images = (_PHOTOS // 10, _ROWS // 10) if few else (_PHOTOS, _ROWS)
    for shards in (None,) if few else (None, SHARDS):
        kind = "sharded " if shards else ""
        made += _indexing(folder / f"index {shards}", kind, shards, forks, rng, photos)
        made += _rewriting(folder / f"rewrite {shards}", kind, shards, rng, images)
    return [campaign for campaign in made if not few or campaign.name in _FEW]


def _indexing(
    folder: Path, kind: str, shards: int | None, forks: Forks, rng: random.Random, photos: int
) -> list[Campaign]:
    """Campaigns of real photos through a real model."""
    new = folder / "new"
    birds(new / "photos", photos, rng)
    model = bundle(new).name
    many = ("--shards", str(shards)) if shards else ()
    command = ("index", "photos", "--model", model, "--out", GALLERY, "--json")
    first = (*command, *many)

    changed = folder / "changed"
    shutil.copytree(new, changed, copy_function=os.link)
    held = sorted((changed / "photos").rglob("*.png"))
    rng.shuffle(held)
    late = held[: photos // 2]
    for photo in late:
        photo.rename(changed / photo.name)
    _must(forks, first, changed)
    for photo, moved in zip(late, held[photos // 2 :], strict=False):
        (changed / photo.name).rename(photo)
        fate = rng.choice(["stays", "goes", "moves", "changes"])
        if fate == "goes":
            moved.unlink()
        elif fate == "moves":
            moved.rename(moved.with_name(f"moved-{moved.name}"))
        elif fate == "changes":
            moved.unlink()
            photo.rename(moved)

    again = folder / "again"
    shutil.copytree(new, again, copy_function=os.link)
    _must(forks, first, again)
    with open_gallery(again / GALLERY) as gallery:
        right = {entry.sha256: gallery.code(entry.id).tobytes() for entry in gallery.entries()}
    return [
        Campaign(f"{kind}index", new, first, right=right),
        Campaign(f"{kind}index what changed", changed, command, right=right),
        Campaign(
            f"{kind}index --rebuild", again, (*first, "--rebuild"), right=right, replaces=True
        ),
    ]


def _rewriting(
    folder: Path, kind: str, shards: int | None, rng: random.Random, images: int
) -> list[Campaign]:
    """Campaigns of galleries whose photos are nowhere: the code is part of the digest."""
    holes, accelerated, damaged = folder / "holes", folder / "accelerated", folder / "damaged"
    ids = filled(holes / GALLERY, images, rng, removed=0.3, shards=shards)
    shutil.copytree(holes, accelerated)
    with open_gallery(accelerated / GALLERY, write=True) as gallery:
        gallery.accelerate()
        gallery.add(*digests(accelerated, images, images // 2, rng))
    shutil.copytree(holes, damaged)
    segments = sorted((damaged / GALLERY).rglob("*.codes"))
    with rng.choice(segments).open("r+b") as file:
        file.seek(rng.randrange(100, images))
        file.write(b"\xff" * 9)
    # Of one shard: a removal from several is not one commit, and an id that went is an error.
    removal = tuple(f"--id={id}" for id in rng.sample(ids[: len(ids) // SHARDS // 2], images // 60))
    found = [
        Campaign(f"{kind}compact", holes, ("index", "compact", GALLERY, "--json")),
        Campaign(f"{kind}remove", holes, ("index", "remove", GALLERY, *removal, "--json"), again=2),
        Campaign(f"{kind}accelerate", holes, ("index", "accelerate", GALLERY, "--json")),
        Campaign(
            f"{kind}accelerate --copy-codes",
            accelerated,
            ("index", "accelerate", GALLERY, "--copy-codes", "--json"),
        ),
        Campaign(
            f"{kind}repair",
            damaged,
            ("index", "repair", GALLERY, "--json"),
            mends=True,
            allowed=("damaged-",),
        ),
        Campaign(
            f"{kind}merge",
            holes,
            ("index", "merge", GALLERY, "--out", "b.chg", "--json"),
            result="b.chg",
            whole=True,
            again=1,
        ),
        Campaign(
            f"{kind}export",
            holes,
            ("index", "export", GALLERY, "codes.npy", "--force", "--json"),
            file="codes.npy",
        ),
    ]
    if not shards:
        found.append(
            Campaign(
                "split",
                holes,
                ("index", "split", GALLERY, "--shards", str(SHARDS), "--out", "b.chg", "--json"),
                result="b.chg",
                whole=True,
                again=1,
            )
        )
    return found


def _must(forks: Forks, command: tuple[str, ...], folder: Path) -> None:
    ended = forks.run(command, folder)
    if ended.code:
        raise RuntimeError(f"{' '.join(command)}: exit {ended.code}: {ended.err}")


def digests(
    folder: Path, first: int, count: int, rng: random.Random
) -> tuple[list[Entry], np.ndarray]:
    """Images ``first ..`` of photos that are nowhere; a code is the first bytes of the digest."""
    found = [hashlib.sha256(rng.randbytes(16)).hexdigest() for _ in range(count)]
    entries = [
        Entry(folder / f"gone/{number:06d}.png", "bird", 1000 + number, number, digest)
        for number, digest in enumerate(found, first)
    ]
    whole = np.frombuffer(bytes.fromhex("".join(found)), np.uint8).reshape(count, 32)
    return entries, whole[:, : LAYOUT.nbytes].copy()


def filled(
    path: Path, images: int, rng: random.Random, *, removed: float, shards: int | None
) -> list[int]:
    """A gallery of such images, some of them removed; the ids of those that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_gallery(
        path, layout=LAYOUT, fingerprint="ab" * 32, model="digest", shards=shards
    ) as gallery:
        for low in range(0, images, 2000):
            gallery.add(*digests(path.parent, low, min(2000, images - low), rng))
        ids = [entry.id for entry in gallery.entries()]
        gallery.remove(rng.sample(ids, int(removed * len(ids))))
        return [entry.id for entry in gallery.entries()]
