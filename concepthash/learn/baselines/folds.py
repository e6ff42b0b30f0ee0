"""Choices made on folds of the train split, by the measure of the table: no test photo is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from concepthash.learn.baselines.method import Encode, Labels, Training, Vectors
from concepthash.metrics import average_precision, precision_at
from concepthash.rankings import TiedRankings

FOLDS = 3


def folds(training: Training, count: int = FOLDS) -> Iterator[tuple[Training, Training]]:
    """Pairs (fitted, held out) that share out the photos of every class evenly.

    Views of one photo stay together. The division is always the same; there is none where every
    class has a single photo.
    """
    fold = np.empty(len(training.labels), dtype=np.intp)
    rng = np.random.default_rng(0)
    for label in np.unique(training.labels):
        members = rng.permutation(np.flatnonzero(training.labels == label))
        fold[members] = np.arange(len(members)) % count
    for held in range(count):
        if 0 < np.count_nonzero(fold == held) < len(fold):
            yield training.select(fold != held), training.select(fold == held)


def choose(
    candidates: Sequence[float], fit: Callable[[Training, float], Encode], training: Training
) -> tuple[float, float]:
    """The candidate with the best mean mAP over the folds, the first of equals, and that mAP.

    Held-out photos are searched among those fitted, by the cosine of what ``fit`` encodes.
    """
    best, chosen = -1.0, candidates[0]
    for candidate in candidates:
        scores = []
        for known, held in folds(training):
            encode = fit(known, candidate)
            plain = encode(held.plain), held.labels, encode(known.plain), known.labels
            scores.append(cosine_score(*plain)[0])
        if scores and np.mean(scores) > best:
            best, chosen = float(np.mean(scores)), candidate
    return chosen, best


def cosine_score(
    queries: Vectors, query_labels: Labels, database: Vectors, labels: Labels
) -> tuple[float, float]:
    """Expected mAP and P@1 of ``(q, D)`` over ``(n, D)``, ranked by cosine similarity."""
    rankings = cosine_rankings(queries, query_labels, database, labels)
    expected = average_precision(rankings).expected
    return rankings.mean(expected), rankings.mean(precision_at(rankings, 1))


def cosine_rankings(
    queries: Vectors, query_labels: Labels, database: Vectors, labels: Labels
) -> TiedRankings:
    """Real-valued rankings in the form of Hamming rankings: equal similarities are tied.

    Column d counts the items with the d-th largest cosine of each query; ``(q, n)`` at most.
    """
    similarity = normalised(queries) @ normalised(database).T
    items = np.zeros(similarity.shape, dtype=np.int32)
    relevant = np.zeros_like(items)
    for row, (values, label) in enumerate(zip(similarity, query_labels, strict=True)):
        rank = np.unique(-values, return_inverse=True)[1]
        items[row] = np.bincount(rank, minlength=len(labels))
        relevant[row] = np.bincount(rank[labels == label], minlength=len(labels))
    return TiedRankings(items, relevant)


def normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    out: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return out
