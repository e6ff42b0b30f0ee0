"""A flat map of codes: as near to each other as their Hamming distances allow (MDS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes, hamming, unpack

SAMPLE = 1500
"""Images that are placed: a second or two. Time and memory grow with the square."""

_STEPS, _PRECISION = 300, 1e-5

Places = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CodeMap:
    """Where codes lie on a flat map.

    Args:
        rows: ``(s,)`` the images that were placed, ascending.
        points: ``(s,)`` the point of each: images of equal codes share one.
        places: ``(p, 2)`` of the points, centred, in bits of distance.
        stress: how far distances on the map are from those of the codes, over all pairs of points:
            Kruskal's stress-1, 0 for a map without error. 0.2 counts as poor; a few dozen bits
            seldom fit a plane better than 0.3.
    """

    rows: npt.NDArray[np.intp]
    points: npt.NDArray[np.intp]
    places: Places
    stress: float


def map_codes(codes: Codes, *, sample: int = SAMPLE, seed: int = 0) -> CodeMap:
    """Place a random sample of images, or all if there are no more, by SMACOF on their distances.

    Args:
        codes: ``(n, K/8)`` uint8.
        sample: images at most.
        seed: of the sample.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    from sklearn.manifold import smacof

    rows = np.arange(len(codes))
    if len(codes) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(len(codes), sample, replace=False))
    distinct, points = np.unique(codes[rows], axis=0, return_inverse=True)
    points = points.reshape(-1)
    places = _principal(distinct)
    if len(distinct) < 2:
        return CodeMap(rows, points, places, 0.0)
    wanted = hamming(distinct, distinct).astype(float)
    places, _ = smacof(
        wanted, init=places, n_init=1, max_iter=_STEPS, eps=_PRECISION, random_state=seed
    )
    places = places - places.mean(axis=0)
    return CodeMap(rows, points, places, stress(wanted, places))


def stress(wanted: Places, places: Places) -> float:
    """Kruskal's stress-1 of ``(p, 2)`` places, for ``(p, p)`` wanted distances."""
    found = np.sqrt(sum(np.subtract.outer(axis, axis) ** 2 for axis in places.T))
    return float(np.sqrt(((found - wanted) ** 2).sum() / (found**2).sum()))


def _principal(distinct: Codes) -> Places:
    """Codes along the two directions in which they differ most, where SMACOF begins.

    That start is the same in every run; a random one would give another map each time.
    """
    bits = unpack(distinct).astype(float)
    bits -= bits.mean(axis=0)
    left, sizes, right = np.linalg.svd(bits, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    places = (left * sizes * signs)[:, :2]
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
