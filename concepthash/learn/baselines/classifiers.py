"""Linear classifiers of frozen features: their class scores are a space to hash in.

Fitted on plain views: augmented ones lowered the probe on folds of the CUB-20 train split. The
penalty of each is chosen on folds of the train split, from powers of 10, by the mAP of its scores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from concepthash.learn.baselines.folds import choose
from concepthash.learn.baselines.method import Affine, Embedding, Training, Vectors

RIDGE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""In shares of the mean eigenvalue of X'X."""

PROBE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
"""On features of unit mean square."""

PROBE_ITERATIONS = 100
"""Of LBFGS; scikit-learn's default for logistic regression."""


def ridge(training: Training) -> Embedding:
    """Class scores by ridge regression onto one-hot labels, ``(n, C)`` (Hoerl and Kennard, 1970).

    ``W = (X'X + a I)^-1 X'Y``, X and Y centred, Y one-hot.
    """
    penalty, _ = choose(RIDGE_PENALTIES, fit_ridge, training)
    return Embedding(fit_ridge(training, penalty), {"penalty": penalty})


def probe(training: Training) -> Embedding:
    """Logits of a multinomial logistic regression, ``(n, C)``: a linear probe.

    ``min_W,b  mean_i CE(W x_i + b, y_i) + a/2 ||W||_F^2`` by LBFGS from 0 (Cox, 1958; as a test of
    features, Alain and Bengio, 2016).
    """
    penalty, _ = choose(PROBE_PENALTIES, fit_probe, training)
    return Embedding(fit_probe(training, penalty), {"penalty": penalty})


def fit_ridge(training: Training, penalty: float) -> Affine:
    """The regression of :func:`ridge` for one penalty."""
    features, labels = training.plain, training.labels
    x = (features - features.mean(axis=0)).astype(np.float64)
    y = np.eye(training.classes)[labels]
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += penalty * np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram, x.T @ (y - y.mean(axis=0)))
    return Affine(features.mean(axis=0), weight.astype(np.float32))


def fit_probe(training: Training, penalty: float) -> Affine:
    """The regression of :func:`probe` for one penalty."""
    features, labels = training.plain, training.labels
    mean, scale = scaling(features)
    x, y = torch.from_numpy((features - mean) / scale), torch.from_numpy(labels)
    weight = torch.zeros(x.shape[1], training.classes, requires_grad=True)
    bias = torch.zeros(training.classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=PROBE_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, y) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    # The bias moves every photo alike, and hyperplanes divide centred scores: it is left out.
    return Affine(mean, (weight.detach().numpy() / scale).astype(np.float32))


def scaling(features: Vectors) -> tuple[Vectors, np.float32]:
    """The mean of each feature ``(D,)``, and one scale for all: the root of their mean variance."""
    mean = features.mean(axis=0)
    return mean, np.float32(max(float((features - mean).std()), 1e-12))
