"""How well two labellings of the same things agree: NMI and ARI, exactly.

Both are symmetric and do not depend on what the labels are called.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
"""``(A, B)`` how many things have label a in one labelling and b in the other."""


def contingency(first: npt.ArrayLike, second: npt.ArrayLike, shape: tuple[int, int]) -> Counts:
    """Count pairs of labels: two ``(n,)`` arrays of whole numbers to a table of ``shape``."""
    table = np.zeros(shape, np.int64)
    np.add.at(table, (np.asarray(first, np.intp), np.asarray(second, np.intp)), 1)
    return table


def nmi(table: Counts) -> float:
    """Normalised mutual information, 0 to 1: ``I(A; B) / ((H(A) + H(B)) / 2)``.

    The arithmetic mean of the entropies is the norm of the part-discovery field. Two labellings
    that are both constant agree: 1.
    """
    total = table.sum()
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    entropies = _entropy(rows) + _entropy(columns)
    if entropies == 0:
        return 1.0
    a, b = np.nonzero(table)
    joint = table[a, b]
    ratio = joint / rows[a] * (total / columns[b])
    information = float((joint / total * np.log(ratio)).sum())
    return min(max(2 * information / entropies, 0.0), 1.0)


def ari(table: Counts) -> float:
    """The adjusted Rand index (Hubert & Arabie 1985): 1 for equal labellings, about 0 by chance.

    Pairs are counted in whole numbers, so nothing is rounded before the last division. Two
    labellings without a pair to tell apart agree: 1.
    """
    both = _pairs(table.ravel())
    in_first, in_second = _pairs(table.sum(axis=1)), _pairs(table.sum(axis=0))
    if in_first == in_second == both:
        return 1.0
    every = _pairs(table.sum()[None])
    # (both - expected) / (mean - expected), with expected = in_first * in_second / every
    chance = in_first * in_second
    return 2 * (both * every - chance) / ((in_first + in_second) * every - 2 * chance)


def _entropy(counts: Counts) -> float:
    shares = counts[counts > 0] / counts.sum()
    return abs(float((shares * np.log(shares)).sum()))


def _pairs(counts: Counts) -> int:
    return sum(n * (n - 1) // 2 for n in counts.tolist())
