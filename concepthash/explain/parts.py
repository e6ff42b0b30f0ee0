"""Concept-part agreement (design section 6): do a model's concepts follow the parts of the object?

The measures are those of the part-discovery field (SCOPS, Hung et al. 2019; Choudhury et al. 2021;
PDiscoNet, van der Klis et al. 2023), on the maps as they leave the bundle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from concepthash.errors import DataError, Skipped
from concepthash.explain.agreement import ari, contingency, nmi
from concepthash.explain.keypoints import Annotations
from concepthash.explain.partscores import MaskScores, PartScores
from concepthash.explain.photos import Maps, Progress, SeenPhoto, see
from concepthash.explain.placing import Labels, Placed, Points
from concepthash.runtime.hasher import Hasher

Assignment = npt.NDArray[np.intp]
"""``(n,)`` the concept each point or cell belongs to."""


def score_parts(
    hasher: Hasher,
    annotations: Annotations,
    *,
    split: str = "test",
    masks: bool = False,
    skipped: Skipped | None = None,
    progress: Progress | None = None,
) -> PartScores:
    """How far the concepts of a bundle agree with annotated parts.

    Args:
        hasher: of the bundle.
        annotations: see :func:`concepthash.explain.keypoints.read_annotations`.
        split: "test", "train" or "all".
        masks: measure agreement with part masks too.
        skipped: photos that could not be used are added here.
        progress: called with (done, total) after every batch.

    Raises:
        DataError: if no photo, visible key point or (with ``masks``) mask is to be had.
        BackendError: if the graph cannot be computed.
    """
    images = annotations.of_split(split)
    if masks and annotations.masks is None:
        raise DataError(
            "there are no part masks",
            where=annotations.source.parent,
            hint="leave out --masks, or put masks/ and parts.txt there, as chash demo does",
        )
    tally = PartTally(hasher.layout.concepts, annotations, masks=masks)
    for photo in see(
        hasher,
        annotations,
        images,
        masks=masks,
        skipped=Skipped() if skipped is None else skipped,
        progress=progress,
    ):
        tally.add(photo)
    return tally.scores(hasher.bundle.manifest.concept_names)


def normalised_maps(maps: Maps) -> Maps:
    """Each map divided by its maximum: ``(..., h, w)``, at most 1; a map of zeros stays as it is.

    Attention of a concept sums to the same over all cells, so a concept that looks everywhere is
    low everywhere, and would win no cell by its plain values. The maximum is taken in each image
    alone, so that what is assigned in it does not depend on the others.
    """
    highest = maps.max(axis=(-2, -1), keepdims=True)
    scaled: Maps = np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)
    return scaled


def values_at(maps: Maps, points: Points, side: int) -> Maps:
    """The values of maps at points of the crop: ``(M, h, w)`` and ``(n, 2)`` to ``(M, n)``.

    The value is that of the cell the point lies in. A cell is a patch, and nothing is known of what
    lies between two of them, so nothing is interpolated.

    Args:
        maps: over a crop of ``side`` pixels.
        points: within it, 0 <= x, y < side.
        side: of the crop.
    """
    height, width = maps.shape[-2:]
    columns = (points[:, 0] * width / side).astype(int)
    rows = (points[:, 1] * height / side).astype(int)
    return maps[:, rows, columns]


def assign(maps: Maps, points: Points, side: int) -> Assignment:
    """The concept each point belongs to: the highest normalised map there, the first of equals."""
    highest: Assignment = values_at(normalised_maps(maps), points, side).argmax(axis=0)
    return highest


def peaks(maps: Maps, side: int) -> Points:
    """The centre of each map's highest cell, the first of equals: ``(M, h, w)`` to ``(M, 2)``."""
    height, width = maps.shape[-2:]
    rows, columns = np.divmod(maps.reshape(len(maps), -1).argmax(axis=1), width)
    return np.stack([(columns + 0.5) * side / width, (rows + 0.5) * side / height], axis=1)


def in_box(points: Points, box: tuple[float, float, float, float]) -> npt.NDArray[np.bool_]:
    """Which points lie in a box (left, top, right, bottom), its edges included: ``(n,)`` bool."""
    left, top, right, bottom = box
    x, y = points[:, 0], points[:, 1]
    return (left <= x) & (x <= right) & (top <= y) & (y <= bottom)


def box_share(box: tuple[float, float, float, float], side: int) -> float:
    """The share of a crop of ``side`` pixels that a box (left, top, right, bottom) covers."""
    left, top, right, bottom = np.clip(box, 0, side) / side
    return float((right - left) * (bottom - top))


def nearest(points: Points, others: Points) -> npt.NDArray[np.intp]:
    """For each of ``(n, 2)`` points the nearest of ``(m, 2)`` others, the first of equals."""
    distances = ((points[:, None] - others[None]) ** 2).sum(axis=2)
    found: npt.NDArray[np.intp] = distances.argmin(axis=1)
    return found


def cell_labels(labels: Labels, shape: tuple[int, int]) -> npt.NDArray[np.intp]:
    """The most frequent mask value in each cell, the lowest of equals: ``(h, w)``."""
    cells = cells_of_pixels(len(labels), shape)
    values = int(labels.max()) + 1
    counts = np.bincount((cells * values + labels).ravel(), minlength=shape[0] * shape[1] * values)
    most: npt.NDArray[np.intp] = counts.reshape(*shape, values).argmax(axis=2)
    return most


def cells_of_pixels(side: int, shape: tuple[int, int]) -> npt.NDArray[np.intp]:
    """The number of the cell (row by row) that holds the centre of each pixel: ``(side, side)``."""
    rows, columns = (((2 * np.arange(side) + 1) * cells // (2 * side)) for cells in shape)
    cells: npt.NDArray[np.intp] = rows[:, None] * shape[1] + columns[None]
    return cells


class PartTally:
    """Counts of what maps agree with, gathered photo by photo.

    Args:
        concepts: M.
        annotations: whose parts are counted.
        masks: count cells of part masks too.
    """

    def __init__(self, concepts: int, annotations: Annotations, *, masks: bool = False) -> None:
        self._annotations = annotations
        self._assigned = np.zeros((concepts, len(annotations.parts)), np.int64)
        self._nearest = np.zeros_like(self._assigned)
        self._in_box = np.zeros(concepts, np.int64)
        self._images = self._boxes = self._outside = 0
        self._centre_in_box, self._box_shares = 0, 0.0
        known = annotations.masks.parts if masks and annotations.masks else ()
        self._cells = np.zeros((concepts, len(known)), np.int64)
        self._overlaps: list[float] = []

    def add(self, photo: SeenPhoto) -> None:
        """Count one photo."""
        placed, maps, side = photo.placed, photo.maps, len(photo.pixels)
        self._images += 1
        self._outside += placed.outside
        highest = peaks(maps, side)
        if placed.box is not None:
            self._boxes += 1
            self._in_box += in_box(highest, placed.box)
            self._centre_in_box += int(in_box(np.full((1, 2), side / 2), placed.box)[0])
            self._box_shares += box_share(placed.box, side)
        if len(placed.points):
            self._count_points(placed, maps, highest, side)
        if placed.labels is not None:
            self._count_cells(placed.labels, maps)

    def scores(self, concept_names: tuple[str, ...]) -> PartScores:
        """The measures over all photos.

        Raises:
            DataError: if no visible key point lies in any crop.
        """
        if not self._assigned.any():
            raise DataError(
                "no visible key point lies within the centre crop of any photo",
                where=self._annotations.source,
                hint="check that coordinates are pixels of the stored files",
            )
        boxes = self._boxes
        return PartScores(
            concept_names=concept_names,
            part_names=self._annotations.parts,
            nmi=nmi(self._assigned),
            ari=ari(self._assigned),
            assigned=_rows(self._assigned),
            nearest=_rows(self._nearest),
            peaks_in_box=tuple(n / boxes if boxes else None for n in self._in_box.tolist()),
            images=self._images,
            boxes=boxes,
            centre_in_box=self._centre_in_box / boxes if boxes else None,
            random_in_box=self._box_shares / boxes if boxes else None,
            outside=self._outside,
            masks=self._mask_scores(),
        )

    def _count_points(self, placed: Placed, maps: Maps, highest: Points, side: int) -> None:
        shape = (len(maps), len(self._annotations.parts))
        self._assigned += contingency(assign(maps, placed.points, side), placed.parts, shape)
        near = placed.parts[nearest(highest, placed.points)]
        self._nearest += contingency(np.arange(len(maps)), near, shape)

    def _count_cells(self, labels: Labels, maps: Maps) -> None:
        parts = cell_labels(labels, (maps.shape[1], maps.shape[2]))
        scaled = normalised_maps(maps)
        of_object = parts > 0
        self._cells += contingency(
            scaled.argmax(axis=0)[of_object], parts[of_object], self._cells.shape
        )
        claimed = scaled.max(axis=0) > 0.5
        either = int((claimed | of_object).sum())
        self._overlaps.append(int((claimed & of_object).sum()) / either if either else 1.0)

    def _mask_scores(self) -> MaskScores | None:
        if not self._cells.any():
            return None
        return MaskScores(
            nmi=nmi(self._cells),
            ari=ari(self._cells),
            object_iou=float(np.mean(self._overlaps)),
            cells=int(self._cells.sum()),
            images=len(self._overlaps),
        )


def _rows(table: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())
