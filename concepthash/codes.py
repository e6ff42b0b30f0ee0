"""Packed binary codes: the layout, and the few operations everything else is built from.

A code is K bits in ``K / 8`` bytes. Bit ``j`` is bit ``7 - j % 8`` of byte ``j // 8``
(:func:`numpy.packbits` order). Concept ``m`` of M owns bits ``[m * K / M, (m + 1) * K / M)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.errors import MismatchError, UsageError

Codes = npt.NDArray[np.uint8]
"""Packed codes, ``(n, K / 8)`` uint8."""


@dataclass(frozen=True)
class CodeLayout:
    """How many bits a code has and how its concepts share them.

    Args:
        bits: K, a multiple of 8 in 8..512.
        concepts: M, a divisor of K.

    Raises:
        UsageError: if the two do not fit together.
    """

    bits: int
    concepts: int = 1

    def __post_init__(self) -> None:
        if self.bits % 8 or not 8 <= self.bits <= 512:
            raise UsageError(
                f"a code has a multiple of 8 bits, from 8 to 512, not {self.bits}",
                where="bits",
                hint="--bits 64",
            )
        if self.concepts < 1 or self.bits % self.concepts:
            fits = ", ".join(str(m) for m in range(1, self.bits + 1) if self.bits % m == 0)
            raise UsageError(
                f"{self.concepts} concepts cannot share {self.bits} bits evenly",
                where="concepts",
                hint=f"--concepts with one of {fits}",
            )

    @property
    def nbytes(self) -> int:
        """Bytes a packed code takes."""
        return self.bits // 8

    @property
    def sub_bits(self) -> int:
        """Bits of one sub-code."""
        return self.bits // self.concepts

    def concept_slice(self, concept: int) -> slice:
        """The bit positions concept ``concept`` owns."""
        return slice(concept * self.sub_bits, (concept + 1) * self.sub_bits)

    def masks(self) -> Codes:
        """Packed masks ``(M, K / 8)``: row m has the bits of concept m set."""
        bits = np.zeros((self.concepts, self.bits), dtype=bool)
        for m in range(self.concepts):
            bits[m, self.concept_slice(m)] = True
        return np.packbits(bits, axis=1)

    def check(self, codes: npt.ArrayLike, what: str = "codes") -> Codes:
        """Return ``codes`` as a contiguous ``(n, K / 8)`` uint8 array; one code may be 1-D.

        Raises:
            MismatchError: if dtype or width do not belong to this layout.
        """
        array = np.asarray(codes)
        if array.ndim == 1:
            array = array[None]
        if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != self.nbytes:
            raise MismatchError(
                f"{what} must be uint8 of shape (n, {self.nbytes}) for {self.bits} bits, "
                f"got {array.dtype} {array.shape}",
                hint="pack with concepthash.codes.pack",
            )
        return np.ascontiguousarray(array)


def pack(logits: npt.ArrayLike) -> Codes:
    """Binarise and pack: ``(n, K)`` numbers or booleans to ``(n, K / 8)`` uint8; bit = logit > 0.

    Raises:
        UsageError: if K is not a multiple of 8.
    """
    values = np.asarray(logits)
    if values.shape[-1] % 8:
        raise UsageError(f"{values.shape[-1]} bits cannot be packed", hint="use a multiple of 8")
    return np.packbits(values > 0, axis=-1)


def unpack(codes: Codes) -> npt.NDArray[np.bool_]:
    """Packed codes ``(n, K / 8)`` to booleans ``(n, K)``."""
    return np.unpackbits(codes, axis=-1).astype(bool)


def popcount(words: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.uint8]:
    """Number of set bits of each element, any unsigned dtype."""
    counts: npt.NDArray[np.uint8] = np.bitwise_count(words)
    return counts


def hamming(queries: Codes, codes: Codes, mask: Codes | None = None) -> npt.NDArray[np.int32]:
    """All pairwise Hamming distances: ``(q, b)`` and ``(n, b)`` uint8 to ``(q, n)`` int32.

    ``mask`` (b,) keeps only the set bits. Meant for small inputs and as a reference; large
    searches go through :class:`concepthash.runtime.HammingIndex`.
    """
    if mask is not None:
        queries, codes = queries & mask, codes & mask
    out = np.zeros((len(queries), len(codes)), dtype=np.int32)
    for column in range(codes.shape[1]):
        out += popcount(queries[:, None, column] ^ codes[None, :, column])
    return out


def per_concept(queries: Codes, codes: Codes, layout: CodeLayout) -> npt.NDArray[np.int32]:
    """Distance of each concept between aligned rows: ``(n, b)``, ``(n, b)`` to ``(n, M)`` int32."""
    different = np.unpackbits(queries ^ codes, axis=-1)
    shape = (*different.shape[:-1], layout.concepts, layout.sub_bits)
    counts: npt.NDArray[np.int32] = different.reshape(shape).sum(axis=-1, dtype=np.int32)
    return counts


def to_hex(code: Codes) -> str:
    """One code as lower-case hexadecimal text."""
    return code.tobytes().hex()


def sub_code_text(code: Codes, layout: CodeLayout, concept: int) -> str:
    """The sub-code of a concept as text of K / M characters, 0 and 1."""
    return "".join("01"[bit] for bit in unpack(code)[layout.concept_slice(concept)].tolist())
