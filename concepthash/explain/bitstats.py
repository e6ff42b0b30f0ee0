"""What the bits of each concept do: how often each is set, and what it shares with the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout, Codes, unpack

_ROWS = 1 << 14
"""Codes that are unpacked at once; sums of so many ones are exact in float32."""


@dataclass(frozen=True)
class Bit:
    """One bit of a concept.

    Args:
        bit: its place in the code.
        ones: share of images in which it is set.
        entropy: of it, bits: 1 if it is set in half of the images, 0 if it tells nothing.
        partner: the bit of the same concept it goes with most, or against; None if there is none.
        correlation: with the partner, -1 to 1; None without one.
    """

    bit: int
    ones: float
    entropy: float
    partner: int | None
    correlation: float | None


def bit_statistics(codes: Codes, layout: CodeLayout) -> tuple[tuple[Bit, ...], ...]:
    """The bits of each concept; of no codes, all zeros.

    Args:
        codes: ``(n, K/8)`` uint8.
        layout: of the codes.
    """
    width = layout.sub_bits
    both = np.zeros((layout.concepts, width, width), np.int64)
    for start in range(0, len(codes), _ROWS):
        bits = unpack(codes[start : start + _ROWS]).astype(np.float32)
        own = bits.reshape(len(bits), layout.concepts, width).transpose(1, 0, 2)
        both += (own.transpose(0, 2, 1) @ own).astype(np.int64)
    return tuple(
        _bits(together, len(codes), concept * width) for concept, together in enumerate(both)
    )


def _bits(together: npt.NDArray[np.int64], count: int, first: int) -> tuple[Bit, ...]:
    """The bits of one concept, from how often each two are set together."""
    ones = np.diagonal(together) / max(count, 1)
    spread = np.sqrt(ones * (1 - ones))
    scale = np.outer(spread, spread)
    covariance = together / max(count, 1) - np.outer(ones, ones)
    related = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    strength = np.abs(related)
    np.fill_diagonal(strength, -1.0)
    found = []
    for bit, row in enumerate(related):
        partner = int(strength[bit].argmax())
        known = bool(scale[bit, partner] > 0) and partner != bit
        found.append(
            Bit(
                bit=first + bit,
                ones=float(ones[bit]),
                entropy=_entropy(float(ones[bit])),
                partner=first + partner if known else None,
                correlation=float(np.clip(row[partner], -1, 1)) if known else None,
            )
        )
    return tuple(found)


def _entropy(share: float) -> float:
    return -sum(p * float(np.log2(p)) for p in (share, 1 - share) if p > 0) or 0.0
