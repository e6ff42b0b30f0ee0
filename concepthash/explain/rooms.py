"""Rooms: the images that a concept sees alike, by the values of its sub-code.

Of a narrow sub-code each value is a room. A wide one has more values than a person can look at, and
most hold few images; there a room is a value and those a few bits from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes, popcount
from concepthash.errors import UsageError
from concepthash.explain.prototypes import (
    Values,
    distinct_values,
    entropy,
    mixture,
    purity,
    sub_codes,
)
from concepthash.runtime.entries import Labels

ROOMS = 12

_NEAR = 3
"""Rooms that a room points to."""
_CANDIDATES, _VALUES = 256, 1 << 16
"""The most frequent values: those a room may be built round, and those that are counted for that.
Bounds what is held of a gallery whose values are nearly all different: 16 MB."""

Counts = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Room:
    """The images of one value of a sub-code, or of near ones.

    Args:
        bits: the value in its middle, text of K/M characters.
        images: how many it holds.
        exact: how many of them have just this value.
        values: different values that they have.
        share: of all images.
        labels: how many of them each class has, the largest first; images without one left out.
        purity: share of the largest class among those with a label; None if none has.
        near: the nearest other rooms of the concept, each its place and the distance in bits.
    """

    bits: str
    images: int
    exact: int
    values: int
    share: float
    labels: Mapping[str, int]
    purity: float | None
    near: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Rooms:
    """The rooms of one concept, the fullest first.

    Args:
        concept: its number.
        sub_bits: K/M; 2^(K/M) values are possible.
        used: how many occur.
        entropy: of the value of a random image, bits.
        radius: an image is in a room if its value is at most this many bits from the middle.
        rooms: see :class:`Room`.
        of: ``(n,)`` int16, the room of each image; -1 in none.
        distances: ``(n,)`` int16, bits from its middle; those of images in no room mean nothing.
    """

    concept: int
    sub_bits: int
    used: int
    entropy: float
    radius: int
    rooms: tuple[Room, ...]
    of: npt.NDArray[np.int16]
    distances: npt.NDArray[np.int16]

    @property
    def elsewhere(self) -> int:
        """Images that are in no room."""
        return int((self.of < 0).sum())


def default_radius(sub_bits: int, limit: int) -> int:
    """How far from its middle a room reaches: 0 where every value can have one, else a fifth."""
    return 0 if _all_fit(sub_bits, limit) else sub_bits // 5


def find_rooms(
    codes: Codes,
    layout: CodeLayout,
    concept: int,
    *,
    labels: Labels,
    limit: int = ROOMS,
    radius: int | None = None,
) -> Rooms:
    """The rooms of a concept.

    The middle of the first is the value with most images within the radius, of the next that with
    most that are in none yet, ties to the more frequent value. Then every image goes to the nearest
    middle, of equals the first. Where every value can have a room of its own, those that do not
    occur are there too.

    Args:
        codes: ``(n, K/8)`` uint8.
        layout: of the codes.
        concept: its number.
        labels: of the same images, in the same order.
        limit: rooms at most.
        radius: see :class:`Rooms`; by default :func:`default_radius`.

    Raises:
        UsageError: if the radius or the limit cannot be.
    """
    check_rooms(limit, radius, layout)
    sub_bits = layout.sub_bits
    if radius is None:
        radius = default_radius(sub_bits, limit)
    values = sub_codes(codes, layout, concept)
    distinct, inverse, counts = distinct_values(values)
    middles = distinct[_middles(distinct, counts, radius, limit)]
    if not radius and _all_fit(sub_bits, limit):
        missing = np.setdiff1d(np.arange(2**sub_bits, dtype=np.uint64), distinct[:, 0])
        middles = np.concatenate([middles, missing[:, None]])
    nearest, distances = _assign(distinct, middles, radius)
    members = np.bincount(nearest[nearest >= 0], counts[nearest >= 0], len(middles)).astype(int)
    order = np.argsort(-members, kind="stable")
    place = np.full(len(middles) + 1, -1, np.int16)  # the last is of those in none
    place[order] = np.arange(len(order))
    rooms_of, middles = place[nearest], middles[order]
    of = rooms_of[inverse]
    exact = np.bincount(rooms_of[distances == 0], counts[distances == 0], len(middles)).astype(int)
    kinds = np.bincount(rooms_of[rooms_of >= 0], minlength=len(middles))
    rooms = []
    for number, middle in enumerate(middles):
        found = mixture(labels.numbers[of == number], labels.names)
        rooms.append(
            Room(
                bits=f"{int.from_bytes(middle.astype('>u8').tobytes()):0{sub_bits}b}",
                images=int(members[order[number]]),
                exact=int(exact[number]),
                values=int(kinds[number]),
                share=int(members[order[number]]) / max(len(codes), 1),
                labels=found,
                purity=purity(found),
            )
        )
    return Rooms(
        concept=concept,
        sub_bits=sub_bits,
        used=len(distinct),
        entropy=entropy(counts),
        radius=radius,
        rooms=tuple(replace(r, near=near) for r, near in zip(rooms, _near(middles), strict=True)),
        of=of,
        distances=distances[inverse].astype(np.int16),
    )


def check_rooms(limit: int, radius: int | None, layout: CodeLayout) -> None:
    """Refuse numbers that cannot be.

    Raises:
        UsageError: if there is to be no room, or one that reaches further than a sub-code is wide.
    """
    if limit < 1:
        raise UsageError(f"{limit} rooms cannot be shown", where="--rooms", hint="--rooms 12")
    if radius is not None and not 0 <= radius < layout.sub_bits:
        raise UsageError(
            f"a room of {radius} bits round a value, of a sub-code of {layout.sub_bits}",
            where="--radius",
            hint=f"--radius {layout.sub_bits // 5}, or 0 for exact values",
        )


def _all_fit(sub_bits: int, limit: int) -> bool:
    return sub_bits < limit.bit_length()


def _distances(values: Values, middle: Values) -> npt.NDArray[np.int32]:
    different: npt.NDArray[np.int32] = popcount(values ^ middle).sum(axis=1, dtype=np.int32)
    return different


def _middles(distinct: Values, counts: Counts, radius: int, limit: int) -> Counts:
    """Places of the values that rooms are built round."""
    order = np.argsort(-counts, kind="stable")
    if not radius:
        return order[:limit]
    candidates, seen = order[:_CANDIDATES], order[:_VALUES]
    left = counts[seen]
    within = np.empty((len(candidates), len(seen)), bool)
    for row, candidate in enumerate(candidates):
        within[row] = _distances(distinct[seen], distinct[candidate]) <= radius
    gains = np.array([left[row].sum() for row in within], np.int64)
    chosen: list[int] = []
    while len(chosen) < limit and gains.max(initial=0) > 0:
        best = int(gains.argmax())
        chosen.append(best)
        taken = np.flatnonzero(within[best] & (left > 0))
        gains -= within[:, taken] @ left[taken]
        left[taken] = 0
    return candidates[chosen]


def _assign(
    distinct: Values, middles: Values, radius: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The nearest middle of each value, -1 where none is within the radius, and its distance."""
    nearest = np.full(len(distinct), -1, np.int32)
    distances = np.full(len(distinct), radius + 1, np.int32)
    for number, middle in enumerate(middles):
        found = _distances(distinct, middle)
        better = found < distances
        nearest[better], distances[better] = number, found[better]
    return nearest, distances


def _near(middles: Values) -> list[tuple[tuple[int, int], ...]]:
    found = []
    for number, middle in enumerate(middles):
        distances = _distances(middles, middle)
        order = [n for n in np.argsort(distances, kind="stable").tolist() if n != number]
        found.append(tuple((n, int(distances[n])) for n in order[:_NEAR]))
    return found
