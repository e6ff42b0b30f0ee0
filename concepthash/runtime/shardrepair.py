"""Verify and repair a sharded gallery: each shard, the list of them, and what is between them.

A shard that cannot be saved, is missing or is another gallery's is put aside and begun anew, empty:
the next ``chash index`` hashes its photos again. Ids it may have given before are not given again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from concepthash.errors import GalleryDamaged, GalleryError, GalleryLost
from concepthash.runtime.entries import Damage
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import DATABASE, LOCK, new_aside
from concepthash.runtime.repair import RepairReport, check, repair
from concepthash.runtime.shardfile import (
    SPAN,
    Ids,
    Manifest,
    Shard,
    fresh_ids,
    new_shards,
    shard_name,
)
from concepthash.runtime.sharding import (
    between,
    make_shard,
    misfit,
    on_disk,
    repeated,
    require_shard,
    strange_ids,
    strays_among,
)
from concepthash.runtime.storage import SHARDS, storage_errors, writer_lock


def check_shards(folder: Path) -> list[Damage]:
    """Everything wrong with a sharded gallery; errors as :func:`concepthash.runtime.repair.check`.

    What is between the shards is looked at when each for itself is whole.
    """
    try:
        manifest = Manifest.read(folder)
    except GalleryDamaged as error:
        lost = [Damage(folder / SHARDS, error.what)]
        return lost + [found for name in on_disk(folder) for found in _damage(folder / name)]
    found = [each for shard in manifest.shards for each in _shard_damage(folder, shard, manifest)]
    if not found:
        with ExitStack() as stack:
            found += between(_opened(folder, manifest, stack, write=False), manifest)
    return found


def repair_shards(folder: Path) -> RepairReport:
    """Make a sharded gallery whole again; as :func:`concepthash.runtime.repair.repair`.

    Raises:
        GalleryError: as there, if no list of shards can be made of the shards there are, or if
            shards only have each other's names.
    """
    report = RepairReport(folder, check_shards(folder), strays=_strays(folder))
    if report.damage:
        with storage_errors(folder), writer_lock(folder / LOCK):
            report.damage = check_shards(folder)  # now that nobody replaces files meanwhile
            if report.damage:
                report.aside = new_aside(folder)
                try:
                    _mend(folder, report.aside, report)
                finally:
                    if not any(report.aside.iterdir()):
                        report.aside.rmdir()
                        report.aside = None
    manifest = Manifest.read(folder)
    with ExitStack() as stack:
        report.images = sum(map(len, _opened(folder, manifest, stack, write=False)))
    return report


def _shard_damage(folder: Path, shard: Shard, manifest: Manifest) -> list[Damage]:
    path = folder / shard.name
    try:
        require_shard(folder, shard.name)
        with Gallery.open(path) as gallery:
            why = misfit(gallery, shard, manifest)
            return list(gallery.damage()) if why is None else [Damage(path, f"{shard.name} {why}")]
    except (GalleryDamaged, GalleryLost) as error:
        return [Damage(path / DATABASE, error.what)]


def _damage(path: Path) -> list[Damage]:
    try:
        return check(path)
    except GalleryLost as error:
        return [Damage(path / DATABASE, error.what)]


def _mend(folder: Path, aside: Path, report: RepairReport) -> None:
    """Everything for the only writer."""
    try:
        manifest = Manifest.read(folder)
    except GalleryDamaged:
        manifest = _anew(folder, report)
        if (folder / SHARDS).exists():
            (folder / SHARDS).rename(aside / SHARDS)
        manifest.write(folder)
    _refuse_misplaced(folder, manifest)
    after = max(last for shard in manifest.shards for _, last in shard.ids)
    for number, shard in enumerate(manifest.shards, 1):
        if _saved(folder, shard, manifest, report):
            continue
        path = folder / shard.name
        if path.exists() or path.is_symlink():
            path.rename(aside / shard.name)
        report.replaced.append(shard.name)
        # It keeps its old ids too: the shard may come back from a backup.
        fresh = Shard(shard.name, (*shard.ids, fresh_ids(number, after)))
        shards = [fresh if other == shard else other for other in manifest.shards]
        manifest = replace(manifest, shards=tuple(shards))
        manifest.write(folder)
        make_shard(folder, fresh, manifest)
    with ExitStack() as stack:
        galleries = _opened(folder, manifest, stack, write=True)
        for gallery, shard in zip(galleries, manifest.shards, strict=True):
            report.removed += gallery.remove(list(strange_ids(gallery, shard)))
        for _, place, id in list(repeated(galleries)):
            report.removed += galleries[place].remove([id])


def _refuse_misplaced(folder: Path, manifest: Manifest) -> None:
    """Refuse to empty shards that only have each other's names.

    Raises:
        GalleryError: if a whole shard lies where another should, and that one is not there.
    """
    whole: dict[str, Gallery] = {}
    with ExitStack() as stack:
        for shard in manifest.shards:
            with suppress(GalleryDamaged, GalleryLost):
                require_shard(folder, shard.name)
                gallery = stack.enter_context(Gallery.open(folder / shard.name))
                if len(gallery):
                    whole[shard.name] = gallery
        lost = [
            shard
            for shard in manifest.shards
            if shard.name not in whole or misfit(whole[shard.name], shard, manifest) is not None
        ]
        for shard in lost:
            for other in lost:
                if other.name in whole and misfit(whole[other.name], shard, manifest) is None:
                    raise GalleryError(
                        f"{other.name} is {shard.name} by its ids: a folder was given another name",
                        where=folder / other.name,
                        hint=f"give it its own name back: mv {other.name} {shard.name}, "
                        "by way of a third name if that one is taken; then repair again",
                    )


def _saved(folder: Path, shard: Shard, manifest: Manifest, report: RepairReport) -> bool:
    """Repair a shard; whether it is whole now, and the one that is listed."""
    try:
        require_shard(folder, shard.name)
        _repair(folder / shard.name, report)
        with Gallery.open(folder / shard.name) as gallery:
            return misfit(gallery, shard, manifest) is None
    except (GalleryDamaged, GalleryLost):
        return False


def _repair(path: Path, report: RepairReport) -> None:
    done = repair(path)
    if done.damage:
        report.shards.append(done)
        report.removed += done.removed


def _anew(folder: Path, report: RepairReport) -> Manifest:
    """The manifest that the shards on disk make, with a new range of ids for each.

    Raises:
        GalleryLost: if none of them can be opened.
        GalleryError: if they are of several models.
    """
    held: dict[str, npt.NDArray[np.int64]] = {}
    after, model = 0, None
    names = on_disk(folder)
    for name in names:
        with suppress(GalleryDamaged, GalleryLost):
            _repair(folder / name, report)
            with Gallery.open(folder / name) as gallery:
                mine = gallery.layout, gallery.fingerprint, gallery.model
                if model is not None and mine[:2] != model[:2]:
                    raise GalleryError(
                        f"the shards are of several models: {name} of {mine[2]}, "
                        f"others of {model[2]}",
                        where=folder,
                        hint=f"move those of one away, then chash index repair {folder}",
                    )
                model, after = model or mine, max(after, gallery.last_id())
                held[name] = gallery.known_ids()
    if model is None:
        raise GalleryLost(
            "no shard can be opened, so nothing says what the gallery held",
            where=folder,
            hint=f"restore it from a backup, or chash index PHOTOS --out {folder} --rebuild",
        )
    count = int(names[-1][6:10])
    owned = _owned(held)
    old = [owned.get(shard_name(number), []) for number in range(1, count + 1)]
    return Manifest(*model, new_shards(count, old, after))


def _owned(held: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, list[Ids]]:
    """The ranges of ids of each shard; none of one that shares an id with a fuller one.

    Such a shard is a copy of the other, or an older state of it: an id has one owner.
    """
    owned: dict[str, list[Ids]] = {}
    taken: list[Ids] = []
    for name in sorted(held, key=lambda name: (-len(held[name]), name)):
        ranges = list(_stretches(held[name]))
        shared = any(a <= last and first <= b for a, b in ranges for first, last in taken)
        owned[name] = [] if shared else ranges
        taken += owned[name]
    return owned


def _stretches(ids: npt.NDArray[np.int64]) -> Iterator[Ids]:
    """Ranges that hold ascending ids of a shard, and those of no other."""
    _, first = np.unique((ids - 1) // SPAN, return_index=True)
    for some in np.split(ids, first[1:]):
        if len(some):
            yield int(some[0]), int(some[-1])


def _opened(folder: Path, manifest: Manifest, stack: ExitStack, *, write: bool) -> list[Gallery]:
    return [
        stack.enter_context(Gallery.open(folder / shard.name, write=write))
        for shard in manifest.shards
    ]


def _strays(folder: Path) -> list[Path]:
    """What lies in the folder and is not the gallery's, in name order."""
    names = on_disk(folder)
    with suppress(GalleryError):
        names = [shard.name for shard in Manifest.read(folder).shards]
    return strays_among(folder, names)
