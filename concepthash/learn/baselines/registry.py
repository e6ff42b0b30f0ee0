"""The baselines by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from concepthash.learn.baselines.centres import bernoulli_centres, hash_centres
from concepthash.learn.baselines.classifiers import probe, ridge
from concepthash.learn.baselines.hashlayer import HashLayerFit
from concepthash.learn.baselines.losses import (
    CentralSimilarity,
    GreedyHash,
    HashLoss,
    OrthoHash,
    Polarisation,
    WeightedPairs,
)
from concepthash.learn.baselines.method import Baseline, Training
from concepthash.learn.baselines.unsupervised import centred, itq, lsh, pca_sign


def _csq(training: Training, bits: int, seed: int) -> HashLoss:
    return CentralSimilarity(hash_centres(training.classes, bits, seed=seed))


def _dpn(training: Training, bits: int, seed: int) -> HashLoss:
    return Polarisation(bernoulli_centres(training.classes, bits, seed=seed))


def _hashnet(training: Training, bits: int, seed: int) -> HashLoss:
    return WeightedPairs(np.bincount(training.labels, minlength=training.classes), bits)


def _greedyhash(training: Training, bits: int, seed: int) -> HashLoss:
    return GreedyHash(training.classes, bits)


def _orthohash(training: Training, bits: int, seed: int) -> HashLoss:
    return OrthoHash(hash_centres(training.classes, bits, seed=seed))


BASELINES: Mapping[str, Baseline] = {
    "lsh": Baseline(
        "unsupervised",
        "Charikar, Similarity Estimation Techniques from Rounding Algorithms, STOC 2002",
        lsh,
        embed=centred,
    ),
    "pca": Baseline(
        "unsupervised",
        "Gong and Lazebnik, Iterative Quantization, CVPR 2011 (its baseline PCA-Direct)",
        pca_sign,
    ),
    "itq": Baseline(
        "unsupervised",
        "Gong and Lazebnik, Iterative Quantization, CVPR 2011",
        itq,
    ),
    "ridge": Baseline(
        "classifier",
        "Hoerl and Kennard, Ridge Regression, Technometrics 1970; hashed by Charikar 2002",
        lsh,
        embed=ridge,
    ),
    "probe": Baseline(
        "classifier",
        "Alain and Bengio, Linear Classifier Probes, 2016; hashed by Charikar 2002",
        lsh,
        embed=probe,
    ),
    "hashnet": Baseline(
        "hash layer",
        "Cao et al., HashNet: Deep Learning to Hash by Continuation, ICCV 2017",
        HashLayerFit(_hashnet),
    ),
    "greedyhash": Baseline(
        "hash layer",
        "Su et al., Greedy Hash, NeurIPS 2018",
        HashLayerFit(_greedyhash),
    ),
    "csq": Baseline(
        "hash layer",
        "Yuan et al., Central Similarity Quantization, CVPR 2020",
        HashLayerFit(_csq),
    ),
    "dpn": Baseline(
        "hash layer",
        "Fan et al., Deep Polarized Network, IJCAI 2020",
        HashLayerFit(_dpn),
    ),
    "orthohash": Baseline(
        "hash layer",
        "Hoe et al., One Loss for All: Deep Hashing with a Single Cosine Similarity based Learning "
        "Objective, NeurIPS 2021",
        HashLayerFit(_orthohash, batch_norm=True),
    ),
}
