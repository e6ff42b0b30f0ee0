"""Exact Hamming search on a device, with the answers of ``HammingIndex``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from concepthash.codes import CodeLayout
from concepthash.errors import BackendError, MismatchError, UsageError
from concepthash.gpu.device import memory_for_codes, memory_told, open_device
from concepthash.gpu.selection import (
    NEVER,
    ROW_BITS,
    Asked,
    Best,
    Stretch,
    Tile,
    TorchTile,
    popcount,
)
from concepthash.gpu.store import Host, Store, in_order
from concepthash.runtime.arguments import check_count, check_where, weights_asked
from concepthash.runtime.index import HammingIndex, Hits
from concepthash.runtime.planes import Part, Plan, concept_masks

Kernel = Literal["auto", "triton", "torch"]

# Rows of the first tile: they give the limits that keep nearly all others from being counted.
_FIRST = 1 << 16
# Numbers a group of queries may keep: 64 MB.
_STATE = 1 << 23


class TorchSearcher:
    """Codes on a device, searched exactly; a :class:`concepthash.runtime.searcher.Searcher`.

    It holds the codes that were there when it was made. Searches may run in several threads.

    Args:
        layout: of the codes.
        parts: where they lie; they are not needed any more once all codes are on the device.
        device: ``cuda``, ``cuda:N`` or ``cpu``.
        memory: bytes of the device that codes may take. What does not fit is streamed through it
            by every search. By default 0.7 of what is free, on the CPU as much as they need.
        kernel: ``triton`` for the kernels of Triton, ``torch`` for plain torch; ``auto`` takes
            Triton on CUDA where it can be imported.

    Raises:
        UsageError: for a device or kernel of another name, or too little memory.
        BackendError: if the device or the kernel is not to be had, or its memory does not do.
    """

    def __init__(
        self,
        layout: CodeLayout,
        parts: Sequence[Part],
        *,
        device: str = "cuda",
        memory: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        self.layout = layout
        self.device = open_device(device)
        self._tile, self._kernel = _tile(kernel, self.device)
        self._ids, rows, self._places = in_order(parts)
        words = -(-layout.bits // 64)
        if memory is None:
            memory = memory_for_codes(self.device)
        with memory_told(self.device):
            host = Host(parts, rows, words)
            self._store = Store(host, self.device, check_count(memory, "memory"))

    @classmethod
    def of(
        cls,
        index: HammingIndex,
        *,
        device: str = "cuda",
        memory: int | None = None,
        kernel: Kernel = "auto",
    ) -> TorchSearcher:
        """The codes an index holds now, without those removed; its later changes do not count.

        Args:
            index: in memory or mapped from a file.
            device, memory, kernel: see the class.

        Raises:
            UsageError, BackendError: see the class.
        """
        return cls(index.layout, index.parts(), device=device, memory=memory, kernel=kernel)

    @classmethod
    def of_codes(
        cls,
        codes: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
        *,
        bits: int = 64,
        concepts: int = 4,
        device: str = "cuda",
        memory: int | None = None,
        kernel: Kernel = "auto",
    ) -> TorchSearcher:
        """Codes ``(n, K / 8)`` uint8 with their ids, as :meth:`HammingIndex.add` takes them.

        Raises:
            MismatchError, UsageError, BackendError: see there and the class.
        """
        index = HammingIndex(bits, concepts)
        index.add(codes, ids)
        return cls.of(index, device=device, memory=memory, kernel=kernel)

    @property
    def bits(self) -> int:
        """K, bits of a code."""
        return self.layout.bits

    @property
    def concepts(self) -> int:
        """M, concepts of a code."""
        return self.layout.concepts

    @property
    def backend(self) -> str:
        """What computes, in one line: torch's version, kernel and device."""
        return f"torch {torch.__version__} {self._kernel}, {self.device}"

    @property
    def streamed(self) -> int:
        """Codes that do not fit on the device and are copied there by every search."""
        return self._store.streamed

    def __len__(self) -> int:
        return self._store.count

    def __repr__(self) -> str:
        held = self._store.held.numel() * 8 / 1e6
        parts = [f"{len(self):,} codes", f"{self.bits} bits", f"{self.concepts} concepts"]
        parts.append(f"{held:.1f} MB on {self.device}")
        if self.streamed:
            parts.append(f"{self.streamed:,} codes streamed")
        return f"TorchSearcher({', '.join(parts)}, {self._kernel})"

    def search(
        self,
        queries: npt.ArrayLike | Tensor,
        k: int = 10,
        *,
        concepts: Iterable[int] | None = None,
        weights: Sequence[int] | npt.ArrayLike | None = None,
        radius: int | None = None,
        where: npt.ArrayLike | None = None,
    ) -> Hits:
        """The k nearest codes of each query, equal to those of :meth:`HammingIndex.search`.

        Args:
            queries: ``(q, K / 8)`` uint8, or one code; a tensor on the device stays there.
            k, concepts, weights, radius: as there.
            where: booleans aligned with the ids of the index (or the codes) this was made of, or
                an array of ids.

        Raises:
            MismatchError: if the queries do not have this width.
            UsageError: if another argument is out of range.
            BackendError: if the memory of the device does not do.
        """
        with memory_told(self.device):
            words = self._words(queries)
            k = check_count(k, "k")
            radius = None if radius is None else check_count(radius, "radius")
            plan = Plan.of(self.layout, weights_asked(concepts, weights, self.concepts))
            bound = plan.longest if radius is None else min(radius, plan.longest)
            allowed = None if where is None else self._allowed(where)
            depth = min(k, len(self))
            group = max(1, _STATE // (2 * plan.longest + 4 * depth + 2))
            with torch.cuda.device_of(words):
                keys = [
                    self._keys(Asked.of(words[i : i + group], plan), depth, bound, allowed)
                    for i in range(0, len(words) if depth else 0, group)
                ]
                found = torch.cat(keys) if keys else words.new_empty((len(words), 0))
                return self._hits(words, found, k)

    def _words(self, queries: npt.ArrayLike | Tensor) -> Tensor:
        """Queries as words ``(q, W)`` int64 on the device."""
        if isinstance(queries, Tensor):
            codes = queries[None] if queries.ndim == 1 else queries
            if codes.dtype != torch.uint8 or codes.shape[1:] != (self.layout.nbytes,):
                raise MismatchError(
                    f"queries must be uint8 of shape (n, {self.layout.nbytes}) for {self.bits} "
                    f"bits, got {codes.dtype} {tuple(codes.shape)}",
                    hint="pack with concepthash.codes.pack",
                )
        else:
            codes = torch.tensor(self.layout.check(queries, "queries"))
        # Copied, as a view as words wants them aligned and padded.
        padded = torch.zeros(
            (len(codes), 8 * self._store.words), dtype=torch.uint8, device=self.device
        )
        padded[:, : self.layout.nbytes] = codes.to(self.device)
        return padded.view(torch.int64)

    def _allowed(self, where: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which codes may be hits ``(n,)``, in id order."""
        array = check_where(where, len(self))
        allowed = np.zeros(len(self), dtype=bool)
        if array.dtype == bool:
            allowed[:] = array if self._places is None else array[self._places]
        elif len(self):
            at = np.minimum(np.searchsorted(self._ids, array), len(self) - 1)
            allowed[at[self._ids[at] == array]] = True
        return allowed

    def _keys(
        self,
        asked: Asked,
        depth: int,
        bound: int,
        allowed: npt.NDArray[np.bool_] | None,
    ) -> Tensor:
        """The keys of the nearest, ``(q, depth)``, ascending."""
        best = Best(asked, depth, bound)
        step = max(1, self._tile.pairs(self.device) // len(asked.queries))
        for start, words in self._store.chunks():
            for low, high in _tiles(words.shape[1], min(step, _FIRST), step):
                inside = None
                if allowed is not None:
                    some = allowed[start + low : start + high]
                    if not some.any():
                        continue
                    inside = torch.from_numpy(some).to(self.device)
                rows = Stretch(words[:, low:high], start + low, inside)
                best.offer(self._tile(rows, asked, best.limits))
        return best.keys

    def _hits(self, queries: Tensor, keys: Tensor, k: int) -> Hits:
        count, depth = keys.shape
        missing = keys == NEVER
        places = torch.where(missing, 0, keys & ((1 << ROW_BITS) - 1))
        explained = np.full((count, k, self.concepts), -1, dtype=np.int32)
        ids = np.full((count, k), -1, dtype=np.int64)
        distances = np.full((count, k), -1, dtype=np.int32)
        if keys.numel():
            each = self._explained(queries, places).masked_fill_(missing[:, :, None], -1)
            explained[:, :depth] = each.cpu().numpy()
            none = missing.cpu().numpy()
            ids[:, :depth] = np.where(none, -1, self._ids[places.cpu().numpy()])
            distances[:, :depth] = np.where(none, -1, (keys >> ROW_BITS).cpu().numpy())
        return Hits(ids, distances, explained)

    def _explained(self, queries: Tensor, places: Tensor) -> Tensor:
        """Distance of each concept, ``(q, depth, M)`` int32."""
        count, depth = places.shape
        codes = self._store.take(places.ravel()).view(-1, count, depth)
        different = codes ^ queries.T[:, :, None]
        masks = concept_masks(self.layout)
        out = torch.zeros((count, depth, self.concepts), dtype=torch.int32, device=self.device)
        for m in range(self.concepts):
            for w in np.flatnonzero(masks[:, m]).tolist():
                out[:, :, m] += popcount(different[w] & int(masks[w, m].astype(np.int64)))
        return out


def _tiles(count: int, first: int, step: int) -> Iterable[tuple[int, int]]:
    """``0 .. count`` in stretches of ``step``, but for the first."""
    low, high = 0, min(first, count)
    while low < count:
        yield low, high
        low, high = high, min(high + step, count)


def _tile(kernel: Kernel, device: torch.device) -> tuple[type[Tile], str]:
    """The way to compute, and its name."""
    if kernel not in ("auto", "triton", "torch"):
        raise UsageError(
            f"no kernel is called '{kernel}'", where="kernel", hint="kernel='auto', or leave it out"
        )
    if kernel == "torch" or (kernel == "auto" and device.type != "cuda"):
        return TorchTile, "torch"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError(
            "Triton computes on CUDA only", where=f"device {device}", hint="kernel='torch'"
        )
    try:
        from concepthash.gpu.kernel import TritonTile
    except ImportError as error:
        if kernel == "auto":
            return TorchTile, "torch"
        raise BackendError(
            f"Triton cannot be imported: {error}",
            where="kernel 'triton'",
            hint="pip install triton, or kernel='torch'",
        ) from None
    return TritonTile, "triton"
