"""Concept-part agreement as it was measured: a table for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from concepthash.explain.groups import groups_of, part_group
from concepthash.explain.tables import aligned, share

SCHEMA = "chash.parts/1"

FEW = 20
"""With fewer photos than this the report says that they are few."""


@dataclass(frozen=True)
class MaskScores:
    """Agreement with known part masks.

    Args:
        nmi, ari: between the concept and the mask part of each cell of the object; a cell is of the
            concept with the highest normalised map, and of the part most of its pixels have.
        object_iou: mean over photos of the overlap of the object's cells with those where a
            normalised map exceeds one half: intersection over union.
        cells: how many cells of objects there are.
        images: photos with a mask.
    """

    nmi: float
    ari: float
    object_iou: float
    cells: int
    images: int


@dataclass(frozen=True)
class PartScores:
    """Concept-part agreement over a split. Rows of tables are concepts.

    Args:
        concept_names: of the bundle.
        part_names: of the key points, the columns of ``assigned`` and ``nearest``.
        nmi, ari: between the concept and the part name of every visible key point in the crops.
        assigned: how many key points of each part belong to each concept, by the highest
            normalised map.
        nearest: how often a key point of each part is the nearest to the concept's peak.
        peaks_in_box: share of each concept's peaks in the box of the object; None without boxes.
        images: photos that were used.
        boxes: those with a box.
        centre_in_box: share of photos whose centre lies in the box: what a peak that is always
            there would reach. None without boxes.
        random_in_box: the mean share of the crop that the box covers: what a random place would
            reach.
        outside: visible key points outside their photos, which do not count.
        masks: agreement with part masks, if it was asked for.
    """

    concept_names: tuple[str, ...]
    part_names: tuple[str, ...]
    nmi: float
    ari: float
    assigned: tuple[tuple[int, ...], ...]
    nearest: tuple[tuple[int, ...], ...]
    peaks_in_box: tuple[float | None, ...]
    images: int
    boxes: int
    centre_in_box: float | None = None
    random_in_box: float | None = None
    outside: int = 0
    masks: MaskScores | None = None

    @property
    def points(self) -> int:
        """Key points that were assigned."""
        return sum(map(sum, self.assigned))

    @property
    def groups(self) -> tuple[str, ...]:
        """The part groups of the key points."""
        return groups_of(self.part_names)

    @property
    def part_share(self) -> tuple[Mapping[str, float], ...]:
        """For each concept the share of each part group among the key points nearest to its peak.

        Photos without a visible key point in the crop do not count.
        """
        return tuple(self._shares(row) for row in self.nearest)

    @property
    def leading_parts(self) -> tuple[str, ...]:
        """The part group each concept's peak is nearest to most often, the first of equals."""
        return tuple(max(shares, key=lambda group: shares[group]) for shares in self.part_share)

    @property
    def leading_share(self) -> float:
        """The mean over concepts of the share of their leading part group."""
        return sum(max(shares.values()) for shares in self.part_share) / len(self.nearest)

    @property
    def group_share(self) -> Mapping[str, float]:
        """The share of each part group among all key points.

        The largest is about the leading share of a concept whose peaks are at random key points.
        """
        return self._shares(tuple(map(sum, zip(*self.assigned, strict=True))))

    @property
    def notes(self) -> tuple[str, ...]:
        """Why these figures may mean less than they seem to."""
        found = []
        if self.outside:
            found.append(
                f"{self.outside} visible key points lie outside their photos and do not count; "
                "coordinates are pixels of the stored files"
            )
        only = [group for group, part in self.group_share.items() if part]
        if len(only) == 1:
            found.append(f"all key points are of one part group, {only[0]}: it leads everywhere")
        if self.images < FEW:
            found.append(f"{self.images} photos are few: other photos may give other figures")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Schema ``chash.parts/1``."""
        return {
            "schema": SCHEMA,
            "nmi": self.nmi,
            "ari": self.ari,
            "peaks_in_box": list(self.peaks_in_box),
            "part_share": [dict(shares) for shares in self.part_share],
            "leading_parts": list(self.leading_parts),
            "leading_share": self.leading_share,
            "chance": {
                "centre_in_box": self.centre_in_box,
                "random_in_box": self.random_in_box,
                "group_share": dict(self.group_share),
                "leading_share": max(self.group_share.values()),
            },
            "points": self.points,
            "images": self.images,
            "boxes": self.boxes,
            "points_outside": self.outside,
            "notes": list(self.notes),
            "concept_names": list(self.concept_names),
            "part_names": list(self.part_names),
            "assigned": [list(row) for row in self.assigned],
            "nearest": [list(row) for row in self.nearest],
            "masks": None if self.masks is None else asdict(self.masks),
        }

    def __str__(self) -> str:
        rows = [["concept", "leading part", *self.groups, "in box"]]
        for name, leading, shares, boxed in zip(
            self.concept_names, self.leading_parts, self.part_share, self.peaks_in_box, strict=True
        ):
            cells = [share(shares[group]) for group in self.groups]
            rows.append([name, leading, *cells, share(boxed)])
        cells = [share(part) for part in self.group_share.values()]
        rows.append(["(chance)", "", *cells, share(self.random_in_box)])
        rows.append(["(centre)", "", *["" for _ in cells], share(self.centre_in_box)])
        lines = [
            f"{self.points} key points of {self.images} photos:"
            f" NMI {self.nmi:.3f}  ARI {self.ari:.3f}  leading share {self.leading_share:.2f}",
            "nearest part to the peak of each concept's map, and peaks in the box; "
            "(chance): of random points, (centre): of the photo's centre:",
            *aligned(rows, left=2),
        ]
        if self.masks is not None:
            masks = self.masks
            lines.append(
                f"{masks.cells} cells of {masks.images} masks:"
                f" NMI {masks.nmi:.3f}  ARI {masks.ari:.3f}  object IoU {masks.object_iou:.2f}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _shares(self, counts: tuple[int, ...]) -> dict[str, float]:
        found: Counter[str] = Counter()
        for part, count in zip(self.part_names, counts, strict=True):
            found[part_group(part)] += count
        return {group: found[group] / sum(counts) for group in self.groups}
