"""Hash centres, and the losses of learned hash layers, against loops written from formulas."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from concepthash.learn.baselines import losses  # noqa: E402
from concepthash.learn.baselines.centres import (  # noqa: E402
    bernoulli_centres,
    hadamard,
    hash_centres,
)

# Centres


@pytest.mark.parametrize(("classes", "bits"), [(2, 16), (16, 16), (20, 64)])
def test_hash_centres__of_hadamard_differ_in_half_of_the_bits(classes: int, bits: int) -> None:
    centres = hash_centres(classes, bits, seed=1)
    assert centres.shape == (classes, bits)
    for one, two in itertools.combinations(centres, 2):
        assert np.count_nonzero(one != two) == bits // 2


def test_hash_centres__of_more_classes_than_bits_use_negated_rows_too() -> None:
    centres = hash_centres(30, 16, seed=0)
    distances = [np.count_nonzero(a != b) for a, b in itertools.combinations(centres, 2)]
    assert set(distances) == {8, 16}
    assert distances.count(16) == 14


@pytest.mark.parametrize(("classes", "bits"), [(20, 24), (40, 16)])
def test_hash_centres__are_coins_where_there_is_no_such_matrix(classes: int, bits: int) -> None:
    centres = hash_centres(classes, bits, seed=0)
    assert np.array_equal(centres, bernoulli_centres(classes, bits, seed=0))
    assert set(np.unique(centres)) == {-1, 1}
    assert abs(centres.mean()) < 0.15


def test_hash_centres__follow_from_the_seed() -> None:
    assert np.array_equal(hash_centres(9, 32, seed=4), hash_centres(9, 32, seed=4))
    assert not np.array_equal(hash_centres(9, 32, seed=4), hash_centres(9, 32, seed=5))


def test_hadamard__is_sylvesters() -> None:
    expected = np.ones((1, 1))
    for _ in range(4):
        expected = np.block([[expected, expected], [expected, -expected]])
    assert np.array_equal(hadamard(16), expected)


# Losses, against loops

B, C, K = 7, 3, 8


@pytest.fixture
def batch() -> tuple:
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(1.5 * rng.standard_normal((B, K)).astype(np.float32))
    labels = torch.tensor([0, 1, 2, 1, 0, 1, 1])
    return logits, labels, bernoulli_centres(C, K, seed=2)


def test_csq_loss__is_its_formula(batch) -> None:
    logits, labels, centres = batch
    total = 0.0
    for v, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for k in range(K):
            h = (math.tanh(v[k]) + 1) / 2
            target = (centres[label, k] + 1) / 2
            total -= target * math.log(h) + (1 - target) * math.log(1 - h)
            total += 0.3 * math.log(math.cosh(abs(2 * h - 1) - 1))
    loss = losses.CentralSimilarity(centres, quantisation=0.3)(logits, labels, 0.0)
    assert loss.item() == pytest.approx(total / B / K, rel=1e-5)
    extreme = losses.CentralSimilarity(centres)(1000 * logits, labels, 0.0)
    assert math.isfinite(extreme.item())


def test_dpn_loss__is_its_formula(batch) -> None:
    logits, labels, centres = batch
    total = 0.0
    for v, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += sum(max(0.7 - v[k] * centres[label, k], 0) for k in range(K))
    loss = losses.Polarisation(centres, margin=0.7)(logits, labels, 0.0)
    assert loss.item() == pytest.approx(total / B / K, rel=1e-5)


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 1.0), (0.505, 26**0.5), (0.999, 50**0.5)])
def test_hashnet_loss__is_its_formula(batch, progress: float, beta: float) -> None:
    logits, labels, _ = batch
    counts = np.array([4, 9, 2])
    similar = 4**2 + 9**2 + 2**2
    total = 0.0
    for i, j in itertools.permutations(range(B), 2):
        product = sum(
            math.tanh(beta * a) * math.tanh(beta * b)
            for a, b in zip(logits[i].tolist(), logits[j].tolist(), strict=True)
        )
        same = labels[i] == labels[j]
        weight = 15**2 / similar if same else 15**2 / (15**2 - similar)
        x = 10 / K * product
        total += weight * (math.log(1 + math.exp(x)) - same * x)
    loss = losses.WeightedPairs(counts, K)(logits, labels, progress)
    assert loss.item() == pytest.approx(float(total) / (B * (B - 1)), rel=1e-5)


def test_greedyhash_loss__is_its_formula_and_passes_the_gradient_through_the_sign(batch) -> None:
    logits, labels, _ = batch
    torch.manual_seed(0)
    module = losses.GreedyHash(C, K, penalty=0.4)
    weight = module.classify.weight.tolist()
    total, slopes = 0.0, np.zeros((B, K))
    for i, (v, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        code = [1.0 if x > 0 else -1.0 for x in v]
        scores = [sum(w * b for w, b in zip(row, code, strict=True)) for row in weight]
        powers = [math.exp(x) for x in scores]
        total -= math.log(powers[label] / sum(powers))
        total += 0.4 * sum(abs(abs(x) - 1) ** 3 for x in v) / K
        for k in range(K):
            for c in range(C):
                slopes[i, k] += (powers[c] / sum(powers) - (c == label)) * weight[c][k] / B
            over = abs(v[k]) - 1
            slopes[i, k] += 0.4 * 3 * over * abs(over) * math.copysign(1, v[k]) / B / K
    watched = logits.clone().requires_grad_()
    loss = module(watched, labels, 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(total / B, rel=1e-5)
    assert watched.grad.numpy() == pytest.approx(slopes, abs=1e-6)


def test_orthohash_loss__is_its_formula(batch) -> None:
    logits, labels, centres = batch
    total = 0.0
    for v, label in zip(logits.tolist(), labels.tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in v)) * math.sqrt(K)
        powers = []
        for c in range(C):
            cosine = sum(x * b for x, b in zip(v, centres[c].tolist(), strict=True)) / length
            powers.append(math.exp(8 * (cosine - 0.2 * (c == label))))
        total -= math.log(powers[label] / sum(powers))
    loss = losses.OrthoHash(centres)(logits, labels, 0.0)
    assert loss.item() == pytest.approx(total / B, rel=1e-5)
