"""Making an atlas of a gallery: codes as they are stored, and a few hundred photos seen again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice, zip_longest
from typing import TypeAlias

import numpy as np
from PIL import Image

from concepthash.codes import CodeLayout, Codes
from concepthash.errors import ImageError, Skipped, UsageError
from concepthash.explain.atlasdata import Atlas, ConceptAtlas, Crop
from concepthash.explain.bitstats import bit_statistics
from concepthash.explain.explanation import Explanation, explanation
from concepthash.explain.layout2d import SAMPLE, CodeMap, map_codes
from concepthash.explain.naming import window_corners, window_side
from concepthash.explain.partscores import PartScores
from concepthash.explain.photos import Maps, Progress, look
from concepthash.explain.rooms import ROOMS, Rooms, check_rooms, find_rooms
from concepthash.files import reason, sha256
from concepthash.images import Pixels, elsewhere
from concepthash.runtime.entries import Entry, changed_ns
from concepthash.runtime.galleries import AnyGallery
from concepthash.runtime.hasher import Hasher

EXAMPLES = 6

_CROPS = 1600
"""That a page holds: about 5 KB each as base64, so 8 MB."""
_PHOTOS, _OVERLAYS = 4, 64
"""Photos that are shown with every concept's map, as long as there are no more maps than this."""
_SHOWN = 112
"""Largest side of a crop, pixels: what half of a crop of 224 pixels has."""

Window: TypeAlias = "tuple[tuple[int, int], Pixels]"
"""The left top corner of a window in the crop, and what is in it."""


def atlas(
    gallery: AnyGallery,
    hasher: Hasher,
    *,
    rooms: int = ROOMS,
    examples: int = EXAMPLES,
    radius: int | None = None,
    sample: int = SAMPLE,
    title: str | None = None,
    parts: PartScores | None = None,
    skipped: Skipped | None = None,
    progress: Progress | None = None,
) -> Atlas:
    """What the concepts of a model sort the images of a gallery into.

    Only the photos that are shown are read and encoded; one that is gone, has changed since it was
    indexed or cannot be decoded is left out.

    Args:
        gallery: open.
        hasher: of the bundle that made it.
        rooms: a concept at most.
        examples: photos a room, fewer where there are so many rooms that a page would be too large.
        radius: how many bits from its middle a room reaches; see
            :func:`concepthash.explain.rooms.default_radius`.
        sample: images on the map.
        title: of the page; by default it names the gallery.
        parts: of :func:`concepthash.explain.parts.score_parts`, to be shown.
        skipped: photos that could not be used are added here.
        progress: called after every photo with how many are done, and of how many.

    Raises:
        MismatchError: if the gallery is of another model.
        UsageError: for numbers that cannot be, or more rooms than a page can show.
        GalleryError: if the gallery cannot be read.
        BackendError: if the graph cannot be computed.
    """
    gallery.check_model(hasher.fingerprint)
    layout = gallery.layout
    check_rooms(rooms, radius, layout)
    _check_sizes(layout, rooms, examples, sample)
    ids, codes = gallery.codes()
    labels = gallery.labels()
    found = [
        find_rooms(codes, layout, concept, labels=labels, limit=rooms, radius=radius)
        for concept in range(layout.concepts)
    ]
    total = sum(len(own.rooms) for own in found)
    examples = max(min(examples, _CROPS // max(total, 1)), 1)
    chosen = _choose(found, examples, len(ids))
    needed: dict[int, list[int]] = {}
    for concept, groups in enumerate(chosen):
        for row in (row for rows in groups for row in rows):
            needed.setdefault(int(ids[row]), []).append(concept)
    entries = gallery.entries_of(list(needed))
    in_turn = [row for rows in zip_longest(*chosen[0]) for row in rows if row is not None]
    shown = _shown(ids[in_turn].tolist(), entries, layout)
    windows, photos = _look(
        hasher, entries, needed, shown, Skipped() if skipped is None else skipped, progress
    )
    concepts = []
    names = hasher.bundle.manifest.concept_names
    for own, groups, bits in zip(found, chosen, bit_statistics(codes, layout), strict=True):
        crops = [
            tuple(
                Crop(
                    id=id,
                    path=str(entries[id].path),
                    label=entries[id].label,
                    distance=int(own.distances[row]),
                    corner=windows[id, own.concept][0],
                    side=window_side(hasher.preprocess.crop),
                    pixels=windows[id, own.concept][1],
                )
                for row, id in zip(rows, ids[rows].tolist(), strict=True)
                if (id, own.concept) in windows
            )
            for rows in groups
        ]
        lost = tuple(len(rows) - len(some) for rows, some in zip(groups, crops, strict=True))
        concepts.append(ConceptAtlas(names[own.concept], own, tuple(crops), lost, bits))
    return Atlas(
        title=f"Atlas of {gallery.path.name}" if title is None else title,
        gallery=str(gallery.path),
        model=gallery.model,
        fingerprint=gallery.fingerprint,
        layout=layout,
        labels=labels,
        concepts=tuple(concepts),
        photos=tuple(photos),
        map=_map(codes, sample),
        parts=parts,
        examples=examples,
    )


def _check_sizes(layout: CodeLayout, rooms: int, examples: int, sample: int) -> None:
    for option, number, least in (("--examples", examples, 1), ("--sample", sample, 2)):
        if number < least:
            raise UsageError(f"{number} cannot be shown", where=option, hint=f"{option} {least}")
    a_concept = min(rooms, 2**layout.sub_bits)
    if layout.concepts * a_concept > _CROPS:
        raise UsageError(
            f"{a_concept} rooms of each of {layout.concepts} concepts do not fit a page",
            where="--rooms",
            hint=f"--rooms {_CROPS // layout.concepts}",
        )


def _choose(found: Sequence[Rooms], count: int, images: int) -> list[list[list[int]]]:
    """For each concept and room the rows of photos to show.

    A room's images, in the order of their distance from its middle, are cut into as many stretches,
    and each gives one: a photo that another room shows already, so that fewer are encoded and eyes
    meet them again, or else that in the middle.
    """
    again = np.zeros(images, bool)
    chosen = []
    for own in found:
        groups = []
        for number, room in enumerate(own.rooms):
            rows = np.flatnonzero(own.of == number)
            ordered = rows[np.argsort(own.distances[rows], kind="stable")]
            some = []
            for stretch in np.array_split(ordered, min(count, room.images) or 1):
                if len(stretch):
                    known = stretch[again[stretch]]
                    some.append(int(known[0] if len(known) else stretch[len(stretch) // 2]))
            again[some] = True
            groups.append(some)
        chosen.append(groups)
    return chosen


def _shown(ids: Sequence[int], entries: Mapping[int, Entry], layout: CodeLayout) -> list[int]:
    """The photos that are shown with all maps: of different labels first."""
    count = max(min(_PHOTOS, _OVERLAYS // layout.concepts), 1)
    seen: set[str | None] = set()
    first: list[int] = []
    rest: list[int] = []
    for id in ids:
        (rest if entries[id].label in seen else first).append(id)
        seen.add(entries[id].label)
    usable = (id for id in (*first, *rest) if not _problem(entries[id]))
    return list(islice(usable, count))


def _problem(entry: Entry) -> str | None:
    """Why the file of an image is not what was indexed; None if it is."""
    far = elsewhere(entry.path)
    if far is not None:
        return far
    try:
        stat = entry.path.stat()
        if (stat.st_size, changed_ns(stat)) == (entry.size, entry.mtime_ns):
            return None
        same = sha256(entry.path) == entry.sha256
    except OSError as error:
        return f"cannot read: {reason(error)}"
    return (
        None if same else "changed since it was indexed; chash index brings the gallery up to date"
    )


def _look(
    hasher: Hasher,
    entries: Mapping[int, Entry],
    needed: Mapping[int, Sequence[int]],
    shown: Sequence[int],
    skipped: Skipped,
    progress: Progress | None,
) -> tuple[dict[tuple[int, int], Window], list[Explanation]]:
    """Windows by id and concept, and what the model says of the photos that are shown."""
    usable = []
    for id in sorted(needed):
        problem = _problem(entries[id])
        if problem is None:
            usable.append(id)
        else:
            skipped.add(entries[id].path, problem)
    windows: dict[tuple[int, int], Window] = {}
    explained: dict[int, Explanation] = {}
    with closing(look(hasher, (entries[id].path for id in usable))) as photos:
        for done, (position, found) in enumerate(photos, 1):
            id = usable[position]
            path = entries[id].path
            if isinstance(found, ImageError):
                skipped.add(path, found.what)
            else:
                for concept, window in _windows(found.pixels, found.maps, needed[id]):
                    windows[id, concept] = window
                if id in shown:
                    explained[id] = explanation(
                        hasher, found.batch, found.encoded, found.row, str(path)
                    )
            if progress is not None:
                progress(done, len(usable))
    return windows, [explained[id] for id in shown if id in explained]


def _windows(pixels: Pixels, maps: Maps, concepts: Sequence[int]) -> Iterator[tuple[int, Window]]:
    """What some concepts look at in one crop."""
    across = window_side(len(pixels))
    corners = window_corners(maps, len(pixels)).tolist()
    for concept in concepts:
        x, y = corners[concept]
        seen = pixels[y : y + across, x : x + across]
        if across > _SHOWN:
            image = Image.fromarray(seen).resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
            seen = np.asarray(image)
        yield concept, ((x, y), seen.copy())


def _map(codes: Codes, sample: int) -> CodeMap | None:
    """The map; None where there is nothing to place, or no library that does."""
    try:
        return map_codes(codes, sample=sample) if len(codes) else None
    except ImportError:
        return None
