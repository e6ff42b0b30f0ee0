"""Which part does a sub-code depend on? Cover a part, encode again, and see which concepts change.

This is occlusion (Zeiler & Fergus 2014) by annotated parts. Discs that cover about as much,
at random places of the background of the same photo, are the control: what changes there has
nothing to do with a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.errors import DataError, Skipped, UsageError
from concepthash.explain.covering import background_discs, covered, part_regions
from concepthash.explain.groups import groups_of
from concepthash.explain.keypoints import Annotations
from concepthash.explain.photos import Progress, SeenPhoto, encode_all, see, spread
from concepthash.explain.tables import aligned, plain, share
from concepthash.runtime.hasher import Hasher

Table = npt.NDArray[np.float64]
RADIUS = 0.1
"""Of the discs, as a share of the longer side of the object's box."""


@dataclass(frozen=True, eq=False)
class Causality:
    """What changes in each concept when a part is covered. Rows are concepts, columns groups.

    Args:
        concept_names: of the bundle.
        groups: the part groups that were covered.
        leading_parts: each concept's own group, by its map.
        changed_bits: ``(M, G)`` mean number of bits of the sub-code that change.
        logit_shift: ``(M, G)`` mean absolute change of a logit of the concept, in units of the
            logit's standard deviation over the photos.
        control_bits, control_shift: the same with the background covered; NaN where no photo has
            room for it.
        effect: ``(M, G)`` mean over the photos with a control of the shift beyond its own; NaN
            where there is none.
        photos: ``(G,)`` photos in which the group is seen.
        controls: ``(G,)`` those of them with room for the control.
        radius: of the discs; 0 with masks.
    """

    concept_names: tuple[str, ...]
    groups: tuple[str, ...]
    leading_parts: tuple[str, ...]
    changed_bits: Table
    logit_shift: Table
    control_bits: Table
    control_shift: Table
    effect: Table
    photos: tuple[int, ...]
    controls: tuple[int, ...]
    radius: float

    @property
    def reacts_to(self) -> tuple[str, ...]:
        """The group with the largest effect on each concept; "" if none has any.

        Where no photo has room for a control, that with the largest shift.
        """
        table = self.logit_shift if np.isnan(self.effect).all() else self.effect
        known = np.where(np.isnan(table), -np.inf, table)
        return tuple(self.groups[row.argmax()] if row.max(initial=0.0) > 0 else "" for row in known)

    @property
    def own_part(self) -> tuple[bool, ...]:
        """Whether each concept reacts most to the part that its map leads to."""
        return tuple(a == b for a, b in zip(self.reacts_to, self.leading_parts, strict=True))

    @property
    def own_part_share(self) -> float:
        """The share of concepts that do."""
        return sum(self.own_part) / len(self.own_part)

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values; None where there are none."""
        tables = ("changed_bits", "logit_shift", "control_bits", "control_shift", "effect")
        return {
            "groups": list(self.groups),
            **{name: plain(getattr(self, name)) for name in tables},
            "reacts_to": list(self.reacts_to),
            "own_part": list(self.own_part),
            "own_part_share": self.own_part_share,
            "photos": list(self.photos),
            "controls": list(self.controls),
            "radius": self.radius,
        }

    def __str__(self) -> str:
        counts = (f"{a} ({b})" for a, b in zip(self.photos, self.controls, strict=True))
        return "\n".join(
            [
                f"parts covered: {sum(self.own_part)} of {len(self.own_part)} concepts react most"
                " to their leading part (by what exceeds the control of the same photo)",
                "shift of a logit, in its standard deviations (with background covered instead):",
                *aligned(
                    [
                        ["concept", "reacts to", *self.groups],
                        *self._rows(self.reacts_to, self.logit_shift, self.control_shift),
                        ["photos", "", *counts],
                    ],
                    left=2,
                ),
                "bits of the sub-code that change:",
                *aligned(
                    [
                        ["concept", "leading part", *self.groups],
                        *self._rows(self.leading_parts, self.changed_bits, self.control_bits),
                    ],
                    left=2,
                ),
            ]
        )

    def _rows(self, words: tuple[str, ...], table: Table, control: Table) -> Iterator[list[str]]:
        for name, word, row, others in zip(self.concept_names, words, table, control, strict=True):
            figures = zip(row.tolist(), others.tolist(), strict=True)
            yield [name, word, *(f"{share(a)} ({share(b)})" for a, b in figures)]


def cover_parts(
    hasher: Hasher,
    annotations: Annotations,
    leading_parts: Sequence[str],
    *,
    split: str = "test",
    sample: int = 100,
    radius: float = RADIUS,
    masks: bool = False,
    seed: int = 0,
    skipped: Skipped | None = None,
    progress: Progress | None = None,
) -> Causality:
    """What each concept loses when a part group is covered.

    Args:
        hasher: of the bundle.
        annotations: of the photos.
        leading_parts: the group of each concept, as :attr:`PartScores.leading_parts`.
        split: "test", "train" or "all".
        sample: photos to cover, evenly spread over the split.
        radius: of the discs round key points, as a share of the longer side of the object's box
            within the crop (of the crop without one).
        masks: cover the pixels of part masks, not discs.
        seed: of the places of the controls.
        skipped: photos that could not be used are added here.
        progress: called with (done, total) after every batch.

    Raises:
        UsageError: if ``sample`` is below 2, ``radius`` no share, or a concept has no group.
        DataError: if fewer than two photos can be used.
        BackendError: if the graph cannot be computed.
    """
    if sample < 2 or not 0 < radius < 1 or len(leading_parts) != hasher.layout.concepts:
        raise UsageError(
            "a sample has two photos at least, a radius is a share, and each concept has a group",
            where=f"sample {sample}, radius {radius}, leading_parts {list(leading_parts)}",
            hint="--sample 100",
        )
    masks = masks and annotations.masks is not None
    names = annotations.masks.parts if masks and annotations.masks else annotations.parts
    tally = _Tally(hasher, groups_of(names[1:] if masks else names))
    images = spread(annotations.of_split(split), sample)
    photos = see(
        hasher,
        annotations,
        images,
        masks=masks,
        skipped=Skipped() if skipped is None else skipped,
        progress=progress,
    )
    for number, photo in enumerate(photos):
        generator = np.random.default_rng([seed, number])
        regions = part_regions(photo, names, radius)
        tally.add(photo, regions, generator)
    return tally.result(tuple(leading_parts), 0.0 if masks else radius)


class _Tally:
    """Sums of changes, by kind, group and bit.

    Kinds: 0 a part, 1 its control, 2 a part in the photos that have a control.
    """

    def __init__(self, hasher: Hasher, groups: tuple[str, ...]) -> None:
        self._hasher = hasher
        self._groups = groups
        shape = (3, len(groups), hasher.layout.bits)
        self._shift, self._flips = np.zeros(shape), np.zeros(shape)
        self._count = np.zeros(shape[:2], int)
        self._logits: list[npt.NDArray[np.float32]] = []

    def add(
        self,
        photo: SeenPhoto,
        regions: dict[str, tuple[npt.NDArray[np.bool_], int, float]],
        generator: np.random.Generator,
    ) -> None:
        self._logits.append(photo.logits)
        side = len(photo.pixels)
        cases: list[tuple[tuple[int, ...], int]] = []  # the kinds that a covered photo counts for
        hidden = []
        for group, (region, count, radius) in regions.items():
            number = self._groups.index(group)
            control = background_discs(photo.placed, count, radius, side, generator)
            cases.append(((0,) if control is None else (0, 2), number))
            hidden.append(region)
            if control is not None:
                cases.append(((1,), number))
                hidden.append(control)
        if not cases:
            return
        logits = encode_all(self._hasher, covered(photo.pixels, hidden))
        for (kinds, number), changed in zip(cases, logits, strict=True):
            case = list(kinds), number
            self._shift[case] += np.abs(changed - photo.logits)
            self._flips[case] += (changed > 0) != (photo.logits > 0)
            self._count[case] += 1

    def result(self, leading_parts: tuple[str, ...], radius: float) -> Causality:
        if len(self._logits) < 2:
            raise DataError(
                "one photo has no spread to measure a shift of logits by",
                where="--causality",
                hint="annotations of more photos, or a larger --sample",
            )
        deviation = np.stack(self._logits).std(axis=0, dtype=float)
        # A logit that never changes has no unit to measure in, and does not count.
        alive = deviation > 0
        shift = np.divide(self._shift, deviation, out=np.zeros_like(self._shift), where=alive)
        moved, flipped = self._by_concept(shift), self._by_concept(self._flips)
        units = np.maximum(self._by_concept(np.broadcast_to(alive, shift.shape)), 1)
        count = np.where(self._count > 0, self._count, np.nan)[:, None]
        moved, flipped = moved / units / count, flipped / count
        return Causality(
            concept_names=self._hasher.bundle.manifest.concept_names,
            groups=self._groups,
            leading_parts=leading_parts,
            changed_bits=flipped[0],
            logit_shift=moved[0],
            control_bits=flipped[1],
            control_shift=moved[1],
            effect=moved[2] - moved[1],
            photos=tuple(self._count[0].tolist()),
            controls=tuple(self._count[1].tolist()),
            radius=radius,
        )

    def _by_concept(self, values: Table) -> Table:
        """Sums over the bits of each concept: ``(3, G, K)`` to ``(3, M, G)``."""
        layout = self._hasher.layout
        shape = (*values.shape[:2], layout.concepts, layout.sub_bits)
        sums: Table = values.reshape(shape).sum(axis=3).transpose(0, 2, 1)
        return sums
