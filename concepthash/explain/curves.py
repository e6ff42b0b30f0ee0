"""Deletion and insertion curves: does a concept's map show what its sub-code depends on?

RISE (Petsiuk, Das & Saenko, BMVC 2018), with the margin of a sub-code in the place of a class
score. Cells are covered (deletion) or uncovered (insertion) in the order of the map, highest first.
A faithful map makes the deletion curve fall, and the insertion curve rise, faster than a random
order does, and faster than the maps of the other concepts do: any map of the object beats chance,
only a concept's own beats theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.errors import Skipped, UsageError
from concepthash.explain.covering import covered
from concepthash.explain.keypoints import Annotations
from concepthash.explain.parts import cells_of_pixels
from concepthash.explain.photos import Logits, Maps, Progress, SeenPhoto, encode_all, see, spread
from concepthash.explain.tables import aligned, plain, share
from concepthash.runtime.hasher import Hasher

Table = npt.NDArray[np.float64]

_ORDERS = ("", "other_", "random_")


@dataclass(frozen=True, eq=False)
class Curves:
    """Margins of the sub-codes while a photo is covered step by step. Rows are concepts.

    The margin is ``mean(sign * logit)`` over the bits of the concept, where sign is that of the bit
    of the whole photo. Curves are its mean over photos, divided by that of the whole photos.

    Args:
        concept_names: of the bundle.
        shares: ``(S + 1,)`` the share of cells that is covered, or uncovered: 0 to 1.
        deletion, insertion: ``(M, S + 1)`` in the order of the concept's own map.
        other_deletion, other_insertion: ``(M, S + 1)`` in the order of the other concepts' maps,
            their mean; NaN if there is no other.
        random_deletion, random_insertion: ``(M, S + 1)`` in a random order of each photo.
        photos: how many there were.
    """

    concept_names: tuple[str, ...]
    shares: Table
    deletion: Table
    insertion: Table
    other_deletion: Table
    other_insertion: Table
    random_deletion: Table
    random_insertion: Table
    photos: int

    @property
    def areas(self) -> dict[str, Table]:
        """The area under each kind of curve, ``(M,)``, by trapezoids."""
        kinds = [f"{order}{way}" for way in ("deletion", "insertion") for order in _ORDERS]
        return {kind: np.trapezoid(getattr(self, kind), self.shares, axis=1) for kind in kinds}

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values; None where a concept has no margin."""
        return {
            "shares": plain(self.shares),
            "deletion": plain(self.deletion),
            "insertion": plain(self.insertion),
            "other_deletion": plain(self.other_deletion),
            "other_insertion": plain(self.other_insertion),
            "random_deletion": plain(self.random_deletion),
            "random_insertion": plain(self.random_insertion),
            "areas": {kind: plain(area) for kind, area in self.areas.items()},
            "photos": self.photos,
        }

    def __str__(self) -> str:
        areas = self.areas
        controls = ["(other maps)", "(random)"]
        rows = [["concept", "deletion", *controls, "insertion", *controls]]
        for m, name in enumerate(self.concept_names):
            rows.append([name, *(share(float(area[m])) for area in areas.values())])
        return "\n".join(
            [
                f"cells covered and uncovered in the order of the map, {self.photos} photos",
                "area under the margin's curve; a faithful map has less deletion, more insertion:",
                *aligned(rows, left=1),
            ]
        )


def concept_curves(
    hasher: Hasher,
    annotations: Annotations,
    *,
    split: str = "test",
    sample: int = 100,
    steps: int = 10,
    seed: int = 0,
    skipped: Skipped | None = None,
    progress: Progress | None = None,
) -> Curves:
    """Deletion and insertion curves of every concept; 2 (M + 1) (steps - 1) + 1 encodings a photo.

    Args:
        hasher: of the bundle.
        annotations: whose photos are covered.
        split: "test", "train" or "all".
        sample: photos to cover, evenly spread over the split.
        steps: S, points of a curve after the first.
        seed: of the random orders.
        skipped: photos that could not be used are added here.
        progress: called with (done, total) after every batch.

    Raises:
        UsageError: if ``sample`` or ``steps`` is not positive.
        DataError: if no photo can be used.
        BackendError: if the graph cannot be computed.
    """
    if sample < 1 or steps < 1:
        raise UsageError(
            "curves have one photo and one step at least",
            where=f"sample {sample}, steps {steps}",
            hint="--sample 100",
        )
    photos = see(
        hasher,
        annotations,
        spread(annotations.of_split(split), sample),
        skipped=Skipped() if skipped is None else skipped,
        progress=progress,
    )
    shares = np.zeros(0)
    total = np.zeros((len(_ORDERS), 2, hasher.layout.concepts, steps + 1))
    count = 0
    for count, photo in enumerate(photos, start=1):
        cells = photo.maps[0].size
        counts = np.rint(np.linspace(0, cells, steps + 1)).astype(int)
        shares = counts / cells
        shuffled = np.random.default_rng([seed, count]).permutation(cells)
        total += photo_margins(hasher, photo, counts, shuffled)
    whole = total[:, 0, :, :1]  # nothing deleted
    known = np.abs(whole) > 0
    curves = np.divide(total, whole[:, None], out=np.full_like(total, np.nan), where=known[:, None])
    return Curves(
        concept_names=hasher.bundle.manifest.concept_names,
        shares=shares,
        deletion=curves[0, 0],
        insertion=curves[0, 1],
        other_deletion=curves[1, 0],
        other_insertion=curves[1, 1],
        random_deletion=curves[2, 0],
        random_insertion=curves[2, 1],
        photos=count,
    )


def photo_margins(
    hasher: Hasher, photo: SeenPhoto, counts: npt.NDArray[np.intp], shuffled: npt.NDArray[np.intp]
) -> Table:
    """The margins of one photo: ``(3, 2, M, S + 1)``: an order, deletion or insertion.

    The orders are that of the concept's own map, those of the other maps (their mean), and chance.

    Args:
        hasher: of the bundle.
        photo: as the network sees it.
        counts: ``(S + 1,)`` how many cells are covered or uncovered, from none to all.
        shuffled: the random order of the cells.
    """
    layout, steps = hasher.layout, len(counts) - 1
    ranks = np.stack([*map(_rank, map_orders(photo.maps)), _rank(shuffled)])
    of_pixels = ranks[:, cells_of_pixels(len(photo.pixels), photo.maps.shape[1:])]
    hidden = [np.ones_like(of_pixels[0], bool)]
    for rank in of_pixels:
        hidden += [rank < n for n in counts[1:-1]]
        hidden += [rank >= n for n in counts[1:-1]]
    logits = encode_all(hasher, covered(photo.pixels, hidden))
    margins = margin(logits, photo.logits, layout)  # (1 + (M + 1) 2 (S - 1), M)
    inner = margins[1:].reshape(layout.concepts + 1, 2, steps - 1, layout.concepts)
    own = inner[:-1].diagonal(axis1=0, axis2=3).transpose(0, 2, 1)  # (2, M, S - 1)
    each = inner[:-1].sum(axis=0).transpose(0, 2, 1)
    others = layout.concepts - 1
    other = (each - own) / others if others else np.full_like(own, np.nan)
    free = inner[-1].transpose(0, 2, 1)
    all_covered = margins[0][:, None]
    whole = margin(photo.logits[None], photo.logits, layout)[0][:, None]
    return np.stack(
        [
            [
                np.concatenate([whole, order[0], all_covered], axis=1),
                np.concatenate([all_covered, order[1], whole], axis=1),
            ]
            for order in (own, other, free)
        ]
    )


def map_orders(maps: Maps) -> npt.NDArray[np.intp]:
    """The cells of each map, highest first, the first of equals: ``(M, h, w)`` to ``(M, h w)``."""
    return np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")


def margin(logits: Logits, whole: Logits, layout: CodeLayout) -> Table:
    """``mean(sign * logit)`` over the bits of each concept: ``(n, K)`` to ``(n, M)``.

    Args:
        logits: of the covered photo.
        whole: ``(K,)`` of the photo; the sign is that of its bits.
        layout: how concepts share the bits.
    """
    signed = np.where(whole > 0, logits, -logits).astype(float)
    shape = (len(logits), layout.concepts, layout.sub_bits)
    means: Table = signed.reshape(shape).mean(axis=2)
    return means


def _rank(order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The place of each cell in an order of cells."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank
