"""Binary codes given to classes in advance: far apart, and the same for every photo of a class."""

from __future__ import annotations

import numpy as np

from concepthash.learn.baselines.method import Vectors


def hash_centres(classes: int, bits: int, *, seed: int) -> Vectors:
    """``(C, K)`` of -1 and 1: rows of a Hadamard matrix where they suffice, else random bits.

    K a power of two and C <= K: any two centres differ in K/2 bits. C <= 2K: also negated rows,
    each at distance K of its own row and K/2 of all others. Otherwise Bernoulli(1/2) (Yuan et al.,
    CVPR 2020, section 3.2). Which rows a class gets is drawn by ``seed``: the first rows, which the
    authors' code takes, repeat whole columns where C <= K/2.
    """
    rng = np.random.default_rng(seed)
    if bits & (bits - 1) or classes > 2 * bits:
        return bernoulli_centres(classes, bits, seed=seed)
    rows = hadamard(bits)[rng.permutation(bits)]
    if classes > bits:
        rows = np.concatenate([rows, -rows[: classes - bits]])
    return rows[:classes][rng.permutation(classes)]


def bernoulli_centres(classes: int, bits: int, *, seed: int) -> Vectors:
    """``(C, K)`` of -1 and 1, each bit a fair coin."""
    coins = np.random.default_rng(seed).integers(0, 2, size=(classes, bits))
    return (2 * coins - 1).astype(np.float32)


def hadamard(size: int) -> Vectors:
    """Sylvester's ``(size, size)`` matrix of -1 and 1 with orthogonal rows; a power of two."""
    index = np.arange(size)
    shared = np.bitwise_count(index[:, None] & index)
    return np.where(shared % 2, -1.0, 1.0).astype(np.float32)
