"""Hashing without labels: random hyperplanes, principal directions, and their rotation (ITQ).

All three are fitted on the database itself, as in their papers: on the plain view.
"""

from __future__ import annotations

import numpy as np

from concepthash.learn.baselines.method import Affine, Embedding, Training, Vectors

ITQ_ITERATIONS = 50
"""Those of the paper's experiments, and of its authors' code."""


def centred(training: Training) -> Embedding:
    """The features themselves, their mean taken off: what hyperplanes through 0 can divide."""
    dim = training.views.shape[-1]
    return Embedding(Affine(training.plain.mean(axis=0), np.eye(dim, dtype=np.float32)))


def lsh(training: Training, *, bits: int, seed: int) -> Affine:
    """Signs of K Gaussian random projections of the centred features.

    ``h_k(x) = sign(w_k . (x - mean))``, ``w_k ~ N(0, I)``; two vectors at angle t differ in a bit
    with probability ``t / pi`` (Charikar, STOC 2002, section 3).
    """
    mean = training.plain.mean(axis=0)
    planes = np.random.default_rng(seed).standard_normal((len(mean), bits))
    return Affine(mean, planes.astype(np.float32))


def pca_sign(training: Training, *, bits: int, seed: int) -> Affine:
    """Signs of the first K principal components (Gong and Lazebnik, CVPR 2011, section 2.1).

    There are no more directions than the centred data have rank: later bits stay 0 for every
    photo. Nothing is random, ``seed`` is not used.
    """
    mean, directions = principal_directions(training.plain, bits)
    return Affine(mean, _filled(directions, bits))


def itq(training: Training, *, bits: int, seed: int) -> Affine:
    """Iterative quantisation: PCA to K dimensions, then the rotation nearest to binary codes.

    ``min_{B, R} ||B - V R||_F^2``, V the projected data, R orthogonal (Gong and Lazebnik, CVPR
    2011, equation 2); see :func:`itq_rotation`. Where K exceeds the rank r of the data the first r
    bits are those of the method and the others stay 0: it has one bit for each direction at most.
    """
    mean, directions = principal_directions(training.plain, bits)
    projected: Vectors = ((training.plain - mean) @ directions).astype(np.float32)
    rotation = itq_rotation(projected, iterations=ITQ_ITERATIONS, seed=seed)
    return Affine(mean, _filled(directions @ rotation, bits))


def itq_rotation(projected: Vectors, *, iterations: int, seed: int) -> Vectors:
    """R ``(r, r)`` by alternation from a random orthogonal matrix (section 2.2, two steps).

    B for fixed R is ``sgn(V R)``; R for fixed B is ``T S'`` of ``B' V = S Omega T'`` (orthogonal
    Procrustes). Neither step can raise ``||B - V R||_F``.
    """
    width = projected.shape[1]
    start = np.random.default_rng(seed).standard_normal((width, width))
    rotation = np.linalg.qr(start)[0]
    for _ in range(iterations):
        binary = np.where(projected @ rotation > 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(binary.T @ projected)
        rotation = (left @ right).T
    return rotation.astype(np.float32)


def principal_directions(features: Vectors, count: int) -> tuple[Vectors, Vectors]:
    """The mean ``(D,)`` and up to ``count`` orthonormal directions ``(D, r)``, widest first."""
    mean = features.mean(axis=0)
    _, widths, directions = np.linalg.svd(features - mean, full_matrices=False)
    rank = int((widths > widths[0] * 1e-5).sum())  # what float32 can tell from rounding
    return mean, directions[: min(count, rank)].T


def _filled(weight: Vectors, bits: int) -> Vectors:
    """``(D, r)`` with zero columns up to ``(D, K)``."""
    return np.pad(weight, ((0, 0), (0, bits - weight.shape[1])))
