"""The k nearest of each query, tile by tile: histogram, threshold, gather of the survivors.

A tile is a stretch of rows beside all queries. Rows are in id order, so a hit is one number, its
key: ``distance << 46 | row`` (:data:`ROW_BITS`), and the order of keys is that of the answer.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from concepthash.runtime.planes import Plan

ROW_BITS = 46
"""Distances are below 2^17, so that a key fits an int64."""

NEVER = 2**63 - 1
"""The key of a place without a hit."""

_ALL = np.uint64(2**64 - 1)


class Asked(NamedTuple):
    """Queries and what their distance is, on the device.

    Args:
        queries: ``(q, W)`` int64.
        plan: how a distance is computed.
        masks, factors: its terms, ``(T, W)`` int64 and ``(T,)`` int32.
    """

    queries: Tensor
    plan: Plan
    masks: Tensor
    factors: Tensor

    @classmethod
    def of(cls, queries: Tensor, plan: Plan) -> Asked:
        """The terms copied to where the queries are."""
        masks = torch.from_numpy(plan.masks.astype(np.int64))
        factors = torch.from_numpy(plan.factors.astype(np.int32))
        return cls(queries, plan, masks.to(queries.device), factors.to(queries.device))


class Stretch(NamedTuple):
    """Rows that follow one another, on the device.

    Args:
        words: word planes ``(W, n)`` int64; the last axis is contiguous.
        first: the number of the first row.
        allowed: which rows may be hits ``(n,)`` bool; None for all.
    """

    words: Tensor
    first: int
    allowed: Tensor | None


class Tile(Protocol):
    """A way to compute a tile; it may count and take only what is not beyond the limits.

    Args:
        rows: where to look.
        asked: the queries.
        limits: ``(q,)`` int64, the largest distance that may be a hit.
    """

    counts: Tensor
    """Rows at each distance, ``(q, longest + 1)`` int64."""

    def __init__(self, rows: Stretch, asked: Asked, limits: Tensor) -> None: ...

    @staticmethod
    def pairs(device: torch.device) -> int:
        """Code-query pairs of a tile that suit the device."""

    def take(self, limits: Tensor, room: Tensor, depth: int) -> Tensor:
        """The keys of all rows nearer than the limits, and of the first ``room`` at them.

        Args:
            limits: ``(q,)`` int64, none above the earlier ones.
            room: ``(q,)`` int64.
            depth: hits of a query at most.

        Returns:
            ``(q, depth)`` int64, in any order, the rest :data:`NEVER`.
        """


class Best:
    """The best so far of each query, on the device; tiles are offered in the order of their rows.

    Args:
        asked: the queries.
        depth: hits a query.
        bound: the largest distance of a hit.
    """

    def __init__(self, asked: Asked, depth: int, bound: int) -> None:
        queries, new = len(asked.queries), asked.queries.new_full
        self._depth, self._bound = depth, bound
        self._counts = new((queries, asked.plan.longest + 1), 0)
        self.limits = new((queries,), bound)
        self.keys = new((queries, depth), NEVER)

    def offer(self, tile: Tile) -> None:
        """Take the survivors of a tile and lower the limits.

        Those nearer than a limit are fewer than ``depth``, and with the ties they are given room
        for no more, so a query takes ``depth`` rows of a tile at most.
        """
        self._counts += tile.counts
        within = self._counts[:, : self._bound + 1].cumsum(1)
        self.limits = (within < self._depth).sum(1).clamp(max=self._bound)
        at = self.limits[:, None]
        nearer = within.gather(1, at) - self._counts.gather(1, at)
        room = (self._depth - nearer)[:, 0]
        taken = tile.take(self.limits, room, self._depth)
        self.keys = torch.cat((self.keys, taken), dim=1).sort(1).values[:, : self._depth]


class TorchTile:
    """A :class:`Tile` in plain torch, on any device."""

    def __init__(self, rows: Stretch, asked: Asked, limits: Tensor) -> None:
        distances = _distances(rows.words, asked.queries, asked.plan)
        near = distances <= limits[:, None]
        if rows.allowed is not None:
            near &= rows.allowed
        self._queries = len(asked.queries)
        self._query, row = near.nonzero(as_tuple=True)
        self._distance = distances[self._query, row]
        self._keys = (self._distance << ROW_BITS) | (row + rows.first)
        bins = asked.plan.longest + 1
        flat = self._query * bins + self._distance
        self.counts = torch.bincount(flat, minlength=self._queries * bins).view(-1, bins)

    @staticmethod
    def pairs(device: torch.device) -> int:
        """As :meth:`Tile.pairs`: on a CPU what stays in its cache."""
        return 1 << (18 if device.type == "cpu" else 22)

    def take(self, limits: Tensor, room: Tensor, depth: int) -> Tensor:
        """As :meth:`Tile.take`."""
        limit = limits[self._query]
        tie = self._distance == limit
        keep = (self._distance < limit) | (tie & (self._rank(tie) < room[self._query]))
        out = torch.full((self._queries, depth), NEVER, dtype=torch.int64, device=limits.device)
        out[self._query[keep], self._rank(keep)[keep]] = self._keys[keep]
        return out

    def _rank(self, chosen: Tensor) -> Tensor:
        """How many of the same query are chosen before each."""
        before = chosen.cumsum(0) - chosen.long()
        count = torch.bincount(self._query[chosen], minlength=self._queries)
        return before - (count.cumsum(0) - count)[self._query]


def popcount(words: Tensor) -> Tensor:
    """Set bits of each int64, written over it: torch has no such operation."""
    half = (words >> 1).bitwise_and_(0x5555555555555555)
    words -= half
    half = (words >> 2).bitwise_and_(0x3333333333333333)
    words.bitwise_and_(0x3333333333333333).add_(half)
    words.add_(words >> 4).bitwise_and_(0x0F0F0F0F0F0F0F0F)
    return words.mul_(0x0101010101010101).bitwise_right_shift_(56)


def _distances(words: Tensor, queries: Tensor, plan: Plan) -> Tensor:
    """Weighted distances ``(q, n)`` int64 of word planes ``(W, n)`` to queries ``(q, W)``."""
    total: Tensor | None = None
    for weight, mask in plan.terms:
        for w in np.flatnonzero(mask).tolist():
            different = queries[:, w, None] ^ words[w]
            if mask[w] != _ALL:
                different &= int(mask[w].astype(np.int64))
            bits = popcount(different)
            if weight != 1:
                bits *= weight
            total = bits if total is None else total.add_(bits)
    if total is None:
        return torch.zeros((len(queries), words.shape[1]), dtype=torch.int64, device=words.device)
    return total
