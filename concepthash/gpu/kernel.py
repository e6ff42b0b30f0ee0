"""The tile of :mod:`concepthash.gpu.selection` as three Triton kernels: near, tally, take.

A program is one query beside one block of rows. ``near`` finds the least distance of each block
and counts the near ones; the others look again only at blocks that have some. Where a program
writes follows from sums over the blocks before it, never from the order in which programs run.

Tested by Triton's interpreter, which has no popcount: so the arithmetic does it. Not run on
hardware.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton reads annotations as code of the kernel, so only constants have one.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from concepthash.gpu.selection import NEVER, ROW_BITS, Asked, Stretch

_BLOCK = 1024
# Beyond, a block has fewer rows than bins, and counts them one by one.
_HISTOGRAM = 1024
# Sizes that differ from tile to tile: a kernel compiled for each would cost more than it saves.
_SIZES = ("asked", "stride", "count", "terms", "never", "first", "depth")


@triton.jit
def _popcount(x):
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def _distances(
    rows,
    query,
    words,
    stride,
    count,
    allowed,
    queries,
    masks,
    factors,
    terms,
    never,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERED: tl.constexpr,
):
    """Distances of a block of rows; ``never`` for those that are none or not allowed."""
    inside = rows < count
    total = tl.zeros((BLOCK,), tl.int32)
    for term in range(terms):
        factor = tl.load(factors + term)
        plane = words + rows
        for w in tl.static_range(W):
            mask = tl.load(masks + term * W + w)
            if mask != 0:
                code = tl.load(plane, mask=inside, other=0)
                asked = tl.load(queries + query * W + w)
                total += factor * _popcount((code ^ asked) & mask)
            plane += stride
    if FILTERED:
        inside = inside & (tl.load(allowed + rows, mask=inside, other=0) != 0)
    return tl.where(inside, total, never)


@triton.jit(do_not_specialize=_SIZES)
def _near(
    least,
    counts,
    limits,
    asked,
    words,
    stride,
    count,
    allowed,
    queries,
    masks,
    factors,
    terms,
    never,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERED: tl.constexpr,
    BINS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The least distance of each block ``(blocks, q)``, and the counts ``(q, never)`` up to it."""
    program = tl.program_id(0)
    query = program % asked
    rows = (program // asked).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = _distances(
        rows, query, words, stride, count, allowed, queries, masks, factors, terms, never,
        W, BLOCK, FILTERED,
    )  # fmt: skip
    nearest = tl.min(d, 0)
    tl.store(least + program, nearest)
    limit = tl.load(limits + query)
    if nearest <= limit:
        into = counts + query.to(tl.int64) * never
        if WIDE:
            tl.atomic_add(into + d, 1, mask=d <= limit)
        else:
            bins = tl.arange(0, BINS)
            found = tl.histogram(tl.minimum(d, never), BINS)
            tl.atomic_add(into + bins, found, mask=(bins <= limit) & (found > 0))


@triton.jit(do_not_specialize=_SIZES)
def _tally(
    nearer,
    ties,
    least,
    limits,
    asked,
    words,
    stride,
    count,
    allowed,
    queries,
    masks,
    factors,
    terms,
    never,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERED: tl.constexpr,
):
    """How many rows of each block are below the limit, and at it, both ``(blocks, q)``."""
    program = tl.program_id(0)
    query = program % asked
    limit = tl.load(limits + query)
    if tl.load(least + program) <= limit:
        rows = (program // asked).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        d = _distances(
            rows, query, words, stride, count, allowed, queries, masks, factors, terms, never,
            W, BLOCK, FILTERED,
        )  # fmt: skip
        tl.store(nearer + program, tl.sum((d < limit).to(tl.int32), 0))
        tl.store(ties + program, tl.sum((d == limit).to(tl.int32), 0))


@triton.jit(do_not_specialize=_SIZES)
def _take(
    out,
    taken,
    starts,
    ties,
    room,
    first,
    depth,
    limits,
    asked,
    words,
    stride,
    count,
    allowed,
    queries,
    masks,
    factors,
    terms,
    never,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERED: tl.constexpr,
    ROW_BITS: tl.constexpr,
):
    """Write the keys of the survivors of each block to the places that are theirs."""
    program = tl.program_id(0)
    query = program % asked
    if tl.load(taken + program) > 0:
        limit = tl.load(limits + query)
        rows = (program // asked).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        d = _distances(
            rows, query, words, stride, count, allowed, queries, masks, factors, terms, never,
            W, BLOCK, FILTERED,
        )  # fmt: skip
        tie = d == limit
        rank = tl.load(ties + program) + tl.cumsum(tie.to(tl.int32), 0) - 1
        keep = (d < limit) | (tie & (rank < tl.load(room + query)))
        place = tl.load(starts + program) + tl.cumsum(keep.to(tl.int32), 0) - 1
        key = (d.to(tl.int64) << ROW_BITS) | (rows + first)
        tl.store(out + query.to(tl.int64) * depth + place, key, mask=keep)


class TritonTile:
    """A :class:`concepthash.gpu.selection.Tile` by kernels. Not run on hardware."""

    def __init__(self, rows: Stretch, asked: Asked, limits: Tensor) -> None:
        words, first, allowed = rows
        count, plan = words.shape[1], asked.plan
        queries, blocks = len(asked.queries), triton.cdiv(count, _BLOCK)
        device = words.device
        self._grid = (blocks * queries,)
        self._first = first
        self._common = (
            queries,
            words,
            words.stride(0),
            count,
            words if allowed is None else allowed.view(torch.uint8),
            asked.queries,
            asked.masks,
            asked.factors,
            len(plan.terms),
            plan.longest + 1,
            words.shape[0],
            _BLOCK,
            allowed is not None,
        )
        self._least = torch.empty((blocks, queries), dtype=torch.int32, device=device)
        counts = torch.zeros((queries, plan.longest + 1), dtype=torch.int32, device=device)
        bins = triton.next_power_of_2(plan.longest + 2)
        _near[self._grid](self._least, counts, limits.int(), *self._common, bins, bins > _HISTOGRAM)
        self.counts = counts.long()

    @staticmethod
    def pairs(device: torch.device) -> int:
        """As :meth:`concepthash.gpu.selection.Tile.pairs`: 36 bytes of work space a block."""
        return 1 << 31

    def take(self, limits: Tensor, room: Tensor, depth: int) -> Tensor:
        """As :meth:`concepthash.gpu.selection.Tile.take`."""
        limits = limits.int()
        nearer, ties = torch.zeros_like(self._least), torch.zeros_like(self._least)
        _tally[self._grid](nearer, ties, self._least, limits, *self._common)
        before = ties.cumsum(0) - ties
        taken = nearer + torch.minimum(ties, (room - before).clamp(min=0))
        starts = taken.cumsum(0) - taken
        out = torch.full((len(limits), depth), NEVER, dtype=torch.int64, device=self._least.device)
        _take[self._grid](
            out, taken, starts, before, room, self._first, depth, limits, *self._common, ROW_BITS
        )
        return out
