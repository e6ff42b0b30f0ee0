"""Codes where a search reads them: as many as fit on the device, the rest streamed through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from concepthash.errors import UsageError
from concepthash.runtime.planes import Ids, Part, Words, cut, gather, ids_at
from concepthash.runtime.segment import Rows, is_ascending

# Long enough for a transfer at full speed, short enough that two buffers are little memory.
_CHUNK_BYTES = 64 << 20


class Host:
    """Codes in main memory or in a mapped file, in another order than they lie there.

    Args:
        parts: where they lie; none is copied.
        rows: the row of each code, numbered through ``parts``; None for all of them as they lie.
        words: W, words of a code.
    """

    def __init__(self, parts: Sequence[Part], rows: Rows | None, words: int) -> None:
        self._parts = parts
        self._rows = rows
        self.words = words

    def __len__(self) -> int:
        if self._rows is None:
            return sum(len(part.ids) for part in self._parts)
        return len(self._rows)

    def read(self, low: int, high: int, out: Words) -> None:
        """Write the word planes of the codes ``low .. high`` into ``out`` (W, high - low)."""
        if self._rows is not None:
            out[:] = gather(self._parts, self._rows[low:high], self.words)
            return
        at = 0
        for part in cut(self._parts, low, high):
            out[:, at : at + len(part.ids)] = part.planes
            at += len(part.ids)

    def take(self, places: Rows) -> Words:
        """Word planes ``(W, r)`` of some codes, once they are :meth:`settled`."""
        assert self._rows is None
        return gather(self._parts, places, self.words)

    def settled(self) -> Host:
        """The same codes, copied if they do not lie in order: to be read again and again."""
        if self._rows is None:
            return self
        planes = gather(self._parts, self._rows, self.words)
        return Host([Part(planes, range(len(self)))], None, self.words)


class Store:
    """Codes on a device, ``(W, n)`` int64 word planes.

    Args:
        host: where they come from; let go once all of them are on the device.
        device: that holds as many as ``memory`` allows.
        memory: bytes; of codes that do not fit, two buffers take a part of it.

    Raises:
        UsageError: if two codes do not fit into the memory and there are more.
    """

    def __init__(self, host: Host, device: torch.device, memory: int) -> None:
        self.device = device
        self.count, self.words = len(host), host.words
        fit = memory // (8 * host.words)
        all_fit = self.count <= fit
        if not all_fit and fit < 2:
            raise UsageError(
                f"{memory} bytes are too few for any search",
                where="memory",
                hint="memory=1_000_000_000, or leave it out",
            )
        self._step = max(1, _CHUNK_BYTES // (8 * host.words))
        if not all_fit:
            self._step = min(self._step, fit // 2)
        held = self.count if all_fit else fit - 2 * self._step
        self.held = torch.empty((self.words, held), dtype=torch.int64, device=device)
        for first, block in self._streamed(host, 0, held):
            self.held[:, first : first + block.shape[1]] = block
        self._host = None if all_fit else host.settled()

    @property
    def streamed(self) -> int:
        """Codes that every search copies to the device anew."""
        return self.count - self.held.shape[1]

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """All codes in order: the number of the first, and word planes ``(W, c)`` on the device.

        The work on a chunk must be queued on the current stream before the next is asked for.
        """
        if self.held.shape[1]:
            yield 0, self.held
        if self._host is not None:
            yield from self._streamed(self._host, self.held.shape[1], self.count)

    def take(self, places: Tensor) -> Tensor:
        """Word planes ``(W, r)`` of the codes at ``places`` (r,) int64, on the device."""
        if self._host is None:
            return self.held.index_select(1, places)
        words = self._host.take(places.cpu().numpy())
        return torch.from_numpy(words.view(np.int64)).to(self.device)

    def _streamed(self, host: Host, low: int, high: int) -> Iterator[tuple[int, Tensor]]:
        """The codes ``low .. high``, through two buffers in turn."""
        if low == high:
            return
        size = self.words * min(self._step, high - low)
        pair: list[_Buffer] | list[_Staged]
        if self.device.type == "cuda":
            stream = torch.cuda.Stream(self.device)
            pair = [_Staged(size, self.device, stream) for _ in range(2)]
        else:
            pair = [_Buffer(size) for _ in range(2)]
        for turn, first in enumerate(range(low, high, self._step)):
            buffer = pair[turn % 2]
            yield first, buffer.load(host, first, min(first + self._step, high))
            buffer.release()


def in_order(parts: Sequence[Part]) -> tuple[Ids, Rows | None, Rows | None]:
    """The ids that are not removed, ascending, and how they came to be so.

    Returns:
        The ids ``(n,)``; the row of each, numbered through all parts, None if they lie like that;
        the place of each among those that are not removed, None if these ascend.
    """
    live = [np.ones(len(part.ids), bool) if part.dead is None else ~part.dead for part in parts]
    kept = [ids_at(p.ids, np.flatnonzero(here)) for p, here in zip(parts, live, strict=True)]
    ids = np.concatenate([np.empty(0, np.int64), *kept])
    ascending = is_ascending(ids)
    if ascending and len(ids) == sum(len(part.ids) for part in parts):
        return ids, None, None
    rows = np.flatnonzero(np.concatenate(live))
    if ascending:
        return ids, rows, None
    places = np.argsort(ids)
    return ids[places], rows[places], places


class _Buffer:
    """Codes on their way, where the device is the CPU."""

    def __init__(self, size: int) -> None:
        self._memory = torch.empty(size, dtype=torch.int64)

    def load(self, host: Host, low: int, high: int) -> Tensor:
        """Word planes ``(W, high - low)``, good until the next load."""
        block = self._memory[: host.words * (high - low)].view(host.words, -1)
        host.read(low, high, block.numpy().view(np.uint64))
        return block

    def release(self) -> None:
        """The work on what was loaded is queued."""


class _Staged(_Buffer):
    """Codes on their way through pinned memory, copied on a stream beside the search's own.

    While one buffer is searched, the other is filled and copied. Not run on hardware.
    """

    def __init__(self, size: int, device: torch.device, stream: torch.cuda.Stream) -> None:
        self._memory = torch.empty(size, dtype=torch.int64, pin_memory=True)
        self._block = torch.empty(size, dtype=torch.int64, device=device)
        self._search = torch.cuda.current_stream(device)
        self._stream = stream
        self._copied, self._searched = torch.cuda.Event(), torch.cuda.Event()
        # The block may be memory that work queued earlier still reads.
        self._searched.record(self._search)

    def load(self, host: Host, low: int, high: int) -> Tensor:
        self._copied.synchronize()  # the host must not overwrite what is still being copied
        staged = super().load(host, low, high)
        block = self._block[: staged.numel()].view_as(staged)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._searched)
            block.copy_(staged, non_blocking=True)
            self._copied.record(self._stream)
        self._search.wait_event(self._copied)
        return block

    def release(self) -> None:
        self._searched.record(self._search)
