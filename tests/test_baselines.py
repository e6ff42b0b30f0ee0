"""The baselines: each formula against loops written from it, and the table they make."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from concepthash.codes import pack, unpack  # noqa: E402
from concepthash.datasets import Dataset, Split  # noqa: E402
from concepthash.errors import UsageError  # noqa: E402
from concepthash.learn.baselines import classifiers, losses  # noqa: E402
from concepthash.learn.baselines.compare import Asked, score  # noqa: E402
from concepthash.learn.baselines.features import (  # noqa: E402
    Features,
)
from concepthash.learn.baselines.folds import (  # noqa: E402
    choose,
    cosine_rankings,
    cosine_score,
    folds,
)
from concepthash.learn.baselines.hashlayer import HashLayerFit, Schedule  # noqa: E402
from concepthash.learn.baselines.method import Affine, Training  # noqa: E402
from concepthash.learn.baselines.registry import BASELINES  # noqa: E402
from concepthash.learn.baselines.table import Comparison, Row  # noqa: E402
from concepthash.learn.baselines.unsupervised import (  # noqa: E402
    itq,
    itq_rotation,
    lsh,
    pca_sign,
    principal_directions,
)
from concepthash.learn.report import Silent  # noqa: E402
from concepthash.metrics import average_precision  # noqa: E402

SUPERVISED = [name for name, method in BASELINES.items() if method.kind != "unsupervised"]
CLASSES = 6


def drawn(each: int, seed: int, *, nuisance: float, views: int = 3) -> Training:
    """Six classes in 8 dimensions of unit noise; 24 more dimensions hold only ``nuisance``."""
    centres = 4 * np.random.default_rng(7).standard_normal((CLASSES, 8))
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), each)
    photos = np.concatenate(
        [centres[labels], nuisance * rng.standard_normal((len(labels), 24))], axis=1
    )
    noise = rng.standard_normal((len(labels), views, 32))
    return Training((photos[:, None] + noise + 3).astype(np.float32), labels, CLASSES)


def sets(nuisance: float) -> Features:
    queries = drawn(10, 2, nuisance=nuisance)
    return Features(drawn(20, 1, nuisance=nuisance), queries.plain, queries.labels)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"{i}.png" for i in range(count))


def data_of(features: Features) -> Dataset:
    splits = [
        Split(names(len(labels)), labels)
        for labels in (features.training.labels, features.query_labels)
    ]
    return Dataset(Path("drawn"), "folder", tuple("abcdef"), *splits)


def maps(features: Features, *methods: str, bits: int = 16, seed: int = 0) -> dict[str, float]:
    asked = Asked(methods, (bits,), (seed,))
    rows, _ = score(features, data_of(features), asked, tell=Silent())
    return {row.method: row.map[0] for row in rows if row.bits == bits}


# Folds and real-valued rankings


def test_folds__share_out_every_class_and_keep_the_views_of_a_photo_together() -> None:
    training = drawn(7, 1, nuisance=1)
    held_once = []
    for known, held in folds(training, 3):
        assert len(known.labels) + len(held.labels) == len(training.labels)
        assert set(np.bincount(held.labels, minlength=CLASSES)) <= {2, 3}
        rows = {photo.tobytes() for photo in known.views}
        assert not rows & {photo.tobytes() for photo in held.views}
        held_once += [photo.tobytes() for photo in held.views]
    assert sorted(held_once) == sorted(photo.tobytes() for photo in training.views)
    again = [held.labels.tolist() for _, held in folds(training, 3)]
    assert again == [held.labels.tolist() for _, held in folds(training, 3)]


def test_cosine_rankings__are_the_expectation_over_all_orders_of_equal_similarities() -> None:
    rng = np.random.default_rng(0)
    database = rng.standard_normal((4, 3)).astype(np.float32)
    database = np.concatenate([database, 2 * database[:2], database[:1]])  # tied: three, and two
    labels = np.array([0, 1, 0, 1, 1, 0, 0])
    queries = rng.standard_normal((5, 3)).astype(np.float32)
    asked = np.array([0, 1, 0, 1, 0])
    found = average_precision(cosine_rankings(queries, asked, database, labels)).expected
    for query, label, value in zip(queries, asked, found, strict=True):
        cosine = database @ query / np.linalg.norm(database, axis=1) / np.linalg.norm(query)
        cosine = cosine.round(5)
        scores = []
        for order in itertools.permutations(range(7)):
            if any(cosine[a] < cosine[b] for a, b in itertools.pairwise(order)):
                continue
            hits = [rank for rank, item in enumerate(order, 1) if labels[item] == label]
            scores.append(np.mean([n / rank for n, rank in enumerate(hits, 1)]))
        assert len(scores) == 12
        assert value == pytest.approx(np.mean(scores))


def test_choose__takes_the_best_candidate_and_the_first_of_equals() -> None:
    training = drawn(9, 1, nuisance=9)

    def fit(known: Training, width: float) -> Affine:
        kept = np.eye(32, dtype=np.float32)[:, : int(width)]  # 8 columns tell classes, 24 do not
        return Affine(known.plain.mean(axis=0), kept)

    chosen, best = choose((32, 8, 1), fit, training)
    assert chosen == 8
    assert best > 0.9
    assert choose((8, 8.0, 8.5), fit, training)[0] == 8
    single = training.select(np.arange(0, 54, 9))  # a photo a class: nothing can be held out
    assert choose((32, 8), fit, single)[0] == 32
    equal = choose((8.5, 8), fit, training)
    assert equal == (8.5, best)


# Without labels


def test_lsh__differs_in_a_bit_as_often_as_the_angle_says() -> None:
    views = np.zeros((4, 1, 3), np.float32)
    angle = math.radians(60)
    views[0, 0] = 1, 0, 0
    views[1, 0] = math.cos(angle), math.sin(angle), 0
    views[2:, 0] = -views[:2, 0]  # the mean is 0
    encode = lsh(Training(views, np.arange(4), 4), bits=20_000, seed=0)
    one, two = encode(views[:2, 0]) > 0
    assert np.mean(one != two) == pytest.approx(60 / 180, abs=0.015)


def test_lsh__centres_the_features() -> None:
    training = drawn(20, 1, nuisance=1)
    moved = Training(training.views + 100, training.labels, CLASSES)
    one = lsh(training, bits=64, seed=0)(training.plain) > 0
    two = lsh(moved, bits=64, seed=0)(moved.plain) > 0
    assert np.mean(one == two) > 0.999
    assert 0.3 < np.mean(one) < 0.7


def test_pca__projects_on_the_eigenvectors_of_the_covariance() -> None:
    training = drawn(20, 1, nuisance=3)
    logits = pca_sign(training, bits=8, seed=0)(training.plain)
    widths = np.linalg.eigvalsh(np.cov(training.plain.T.astype(float)))[::-1]
    assert np.cov(logits.T) == pytest.approx(np.diag(widths[:8]), rel=1e-3, abs=1e-3 * widths[0])


@pytest.mark.parametrize("fit", [pca_sign, itq])
def test_pca__has_no_more_bits_than_the_data_have_directions(fit) -> None:
    training = drawn(20, 1, nuisance=1)
    narrow = Training(np.ascontiguousarray(training.views[:, :, :12]), training.labels, CLASSES)
    wide, exact = (fit(narrow, bits=bits, seed=3)(narrow.plain) for bits in (16, 12))
    assert wide.shape == (120, 16)
    assert np.array_equal(wide[:, 12:], np.zeros((120, 4)))
    assert wide[:, :12] == pytest.approx(exact, abs=1e-4)
    few = narrow.select(np.arange(5))  # five centred photos span four directions
    assert np.count_nonzero(fit(few, bits=8, seed=0)(few.plain).any(axis=0)) == 4


def test_itq__lowers_its_objective_with_every_iteration() -> None:
    training = drawn(40, 1, nuisance=2)
    mean, directions = principal_directions(training.plain, 16)
    projected = ((training.plain - mean) @ directions).astype(np.float32)

    def objective(iterations: int) -> float:
        rotation = itq_rotation(projected, iterations=iterations, seed=0)
        assert rotation.T @ rotation == pytest.approx(np.eye(16), abs=1e-5)
        rotated = projected @ rotation
        return float(((np.where(rotated > 0, 1, -1) - rotated) ** 2).sum())

    values = [objective(i) for i in range(12)]
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(values))
    assert values[-1] < 0.99 * values[0]


def test_itq__step_is_the_best_rotation_for_the_codes() -> None:
    """Orthogonal Procrustes: no other rotation is nearer to the signs of the last one."""
    rng = np.random.default_rng(0)
    projected = rng.standard_normal((50, 4)).astype(np.float32)
    before = itq_rotation(projected, iterations=2, seed=5)
    after = itq_rotation(projected, iterations=3, seed=5)
    codes = np.where(projected @ before > 0, 1.0, -1.0)
    best = np.linalg.norm(codes - projected @ after)
    for _ in range(300):
        other = np.linalg.qr(after + 0.3 * rng.standard_normal((4, 4)))[0]
        other *= np.sign(np.diag(other.T @ after))
        assert np.linalg.norm(codes - projected @ other) >= best - 1e-5


# Classifiers


def test_ridge__solves_the_penalised_least_squares() -> None:
    training = drawn(6, 1, nuisance=2)
    x, labels = training.plain.astype(float), training.labels
    x = x - x.mean(axis=0)
    y = np.eye(CLASSES)[labels]
    weight = classifiers.fit_ridge(training, 0.1).weight
    penalty = 0.1 * np.trace(x.T @ x) / 32
    # The same as ordinary least squares with sqrt(penalty) I below the examples.
    stacked = np.concatenate([x, math.sqrt(penalty) * np.eye(32)])
    targets = np.concatenate([y - y.mean(axis=0), np.zeros((32, CLASSES))])
    assert weight == pytest.approx(np.linalg.lstsq(stacked, targets, rcond=None)[0], abs=1e-5)


def test_probe__is_where_the_gradient_of_its_objective_vanishes() -> None:
    training = drawn(6, 1, nuisance=2)
    x, labels = training.plain, training.labels
    mean, scale = classifiers.scaling(x)
    assert ((x - mean) / scale).std() == pytest.approx(1, abs=1e-5)
    x = ((x - mean) / scale).astype(float)
    weight = classifiers.fit_probe(training, 0.1).weight.astype(float) * float(scale)
    y = np.eye(CLASSES)[labels]
    bias = np.zeros(CLASSES)
    for _ in range(2000):  # the bias alone, by plain gradient descent
        bias -= 0.5 * (_softmax(x @ weight + bias) - y).mean(axis=0)
    gradient = x.T @ (_softmax(x @ weight + bias) - y) / len(x) + 0.1 * weight
    assert np.abs(gradient).max() < 1e-3
    start = x.T @ (np.full(y.shape, 1 / CLASSES) - y) / len(x)
    assert np.abs(start).max() > 0.05  # what it is without training


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["ridge", "probe"])
def test_classifier__chooses_its_penalty_on_folds_and_says_it(name: str) -> None:
    embed = BASELINES[name].embed
    assert embed is not None
    found = embed(drawn(12, 1, nuisance=9))
    candidates = {"ridge": classifiers.RIDGE_PENALTIES, "probe": classifiers.PROBE_PENALTIES}
    assert found.settings["penalty"] in candidates[name]
    queries = drawn(6, 2, nuisance=9)
    assert found.encode(queries.plain).shape == (36, CLASSES)


# Every method


@pytest.mark.parametrize("name", BASELINES)
def test_baseline__finds_separable_classes(name: str) -> None:
    found = maps(sets(nuisance=0.5), name)
    assert found[name] > 0.4  # chance is 0.19


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised__finds_what_hyperplanes_miss(name: str) -> None:
    found = maps(sets(nuisance=3), name, "lsh")
    assert found["lsh"] < 0.4
    assert found[name] > found["lsh"] + 0.3


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", BASELINES)
def test_baseline__keeps_the_contracts_of_codes_and_seeds(name: str) -> None:
    training, method = drawn(8, 1, nuisance=2), BASELINES[name]
    if method.embed is not None:
        training = training.mapped(method.embed(training).encode)
    state = torch.get_rng_state()
    encode, again, other = (method.fit(training, bits=24, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    logits = encode(training.plain)
    assert (logits.shape, logits.dtype) == ((48, 24), np.float32)
    codes = pack(logits)
    assert (codes.shape, codes.dtype) == ((48, 3), np.uint8)
    assert np.array_equal(unpack(codes), logits > 0)
    assert np.array_equal(again(training.plain), logits)
    assert np.array_equal(other(training.plain), logits) == (name == "pca")
    alone = np.concatenate([encode(row[None]) for row in training.plain])
    assert alone == pytest.approx(logits, rel=1e-4, abs=1e-4)


def test_hash_layer__is_trained_for_its_steps_on_every_view() -> None:
    seen: list[tuple[list[int], float]] = []

    class Spy(losses.HashLoss):
        def forward(self, logits, labels, progress):
            seen.append((labels.tolist(), progress))
            return logits.square().mean()

    fit = HashLayerFit(lambda *_: Spy(), schedule=Schedule(steps=7, batch_size=60))
    fit(drawn(10, 1, nuisance=1), bits=8, seed=0)  # 180 views: three batches a pass
    assert [progress for _, progress in seen] == pytest.approx([i / 7 for i in range(7)])
    everyone = sorted([*range(CLASSES)] * 30)
    for one in (seen[:3], seen[3:6]):
        assert sorted(label for labels, _ in one for label in labels) == everyone
    assert len(seen[6][0]) == 60


# The table


def test_score__has_a_row_of_real_numbers_and_one_a_code_length() -> None:
    features = sets(nuisance=4)
    notes: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    asked = Asked(("pca", "ridge"), (8, 64), (0, 3))
    rows, protocol = score(features, data_of(features), asked, tell=Notes())
    assert [(row.method, row.bits) for row in rows] == [
        ("pca", 8),
        ("pca", 64),
        ("ridge", None),
        ("ridge", 8),
        ("ridge", 64),
    ]
    assert rows[0].map[0] == rows[0].map[1]  # nothing in it is random
    assert rows[4].map[0] != rows[4].map[1]
    assert rows[1].constant_bits == 32
    assert notes == ["pca: 32 of 64 bits are constant"]
    embed = BASELINES["ridge"].embed
    assert embed is not None
    encode = embed(features.training).encode
    database, queries = encode(features.training.plain), encode(features.queries)
    labels = features.query_labels, features.training.labels
    expected = cosine_score(queries, labels[0], database, labels[1])
    assert (rows[2].map, rows[2].precision_1) == ((expected[0],), (expected[1],))
    assert rows[2].bounds == (expected[0], expected[0])
    assert rows[4].seconds > rows[2].seconds  # it has the space to learn first
    low, high = rows[3].bounds
    assert low < np.mean(rows[3].map) < high
    assert protocol["database_size"] == 120
    assert protocol["tie_rule"] == "expected over ties"


def test_comparison__prints_and_writes_what_it_holds() -> None:
    rows = (
        Row("itq", "unsupervised", 16, (0.2, 0.4), (0.1, 0.5), (0.5, 0.7), 1.5, "a, paper", 3),
        Row("itq", "unsupervised", 64, (0.3, 0.3), (0.2, 0.6), (0.6, 0.8), 2.5, "a, paper"),
        Row("paper (x)", "network", 64, (0.9,), (0.8, 0.95), (0.85,), None, "runs/x"),
        Row("ridge", "classifier", None, (0.7,), (0.7, 0.7), (0.75,), 0.5, "b"),
    )
    table = Comparison(rows, (0, 1), {"data": "drawn"})
    lines = [" ".join(line.split()) for line in str(table).splitlines()]
    assert lines[0] == "mAP 16 bits 64 bits float P@1 seconds what learned"
    assert lines[1] == "itq 0.3000 (0.141) 0.3000 (0.000) 0.7000 (0.141) 2.50 unsupervised"
    assert lines[2] == "paper (x) 0.9000 0.8500 - network"
    assert lines[3] == "ridge 0.7000 0.7500 0.50 classifier"
    value = json.loads(json.dumps(table.to_json()))
    assert (value["schema"], value["seeds"]) == ("chash.baselines/1", [0, 1])
    first = value["rows"][0]
    assert first["map"]["mean"] == pytest.approx(0.3)
    assert first["map"]["sd"] == pytest.approx(math.sqrt(0.02))
    assert (first["map"]["seeds"], first["map"]["low"]) == ([0.2, 0.4], 0.1)
    assert (first["constant_bits"], first["source"]) == (3, "a, paper")
    written = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [line["bits"] for line in written] == ["16", "64", "64", "float"]
    assert [line["source"] for line in written] == ["a, paper", "a, paper", "runs/x", "b"]
    assert float(written[0]["map_sd"]) == pytest.approx(math.sqrt(0.02))
    assert written[2]["seconds"] == ""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"methods": ("lsh", "magic")}, "magic"),
        ({"bits": (12,)}, "multiple of 8"),
        ({"bits": ()}, "has methods"),
        ({"seeds": (0, -1)}, "-1 is below 0"),
        ({"views": -1}, "-1 is below 0"),
    ],
)
def test_asked__refuses_what_does_not_exist(wrong: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Asked(**wrong)
