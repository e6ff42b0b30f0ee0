"""Codes into new segments: what compaction, repair and sharding have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.runtime.codefiles import CodeFiles
from concepthash.runtime.records import Batch

Block: TypeAlias = tuple[npt.NDArray[np.int64], Codes]
"""Ids ``(n,)``, ascending, and their codes ``(n, K / 8)``."""


class Written(NamedTuple):
    """A new segment on disk: its number, its batches, and whether it has a file of ids."""

    segment: int
    batches: list[Batch]
    sparse: bool


def write_segments(
    files: CodeFiles, last_segment: int, blocks: Iterable[Block]
) -> Iterator[Written]:
    """Write ``blocks`` to segments from ``last_segment + 1`` on, each full but the last.

    Each is on disk when it is yielded. Memory is bounded by two segments and a block.

    Raises:
        GalleryError: if they cannot be written.
    """
    for number, (ids, codes) in enumerate(_full(blocks, files.capacity), last_segment + 1):
        batches, sparse = files.write(number, ids, codes)
        yield Written(number, batches, sparse)


def _full(blocks: Iterable[Block], capacity: int) -> Iterator[Block]:
    """The same rows in blocks of ``capacity``, the last of what remains."""
    held: list[Block] = []
    room = capacity
    for ids, codes in blocks:
        start = 0
        while start < len(ids):
            piece = slice(start, start + room)
            held.append((ids[piece], codes[piece]))
            start += len(held[-1][0])
            room -= len(held[-1][0])
            if not room:
                yield _joined(held)
                held, room = [], capacity
    if held:
        yield _joined(held)


def _joined(held: list[Block]) -> Block:
    return np.concatenate([ids for ids, _ in held]), np.concatenate([codes for _, codes in held])
