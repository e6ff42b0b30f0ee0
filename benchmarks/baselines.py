"""Published hashing methods on the features of one frozen backbone, CUB-20.

Needs ``../shared`` (20 classes of CUB-200-2011, a ViT-Ti/16); a few minutes on two cores. The run
of ``python -m benchmarks.cub20`` is a row of the table if it is there. The settings that all hash
layers share are compared on folds of the train split; the test split is scored once, with the
settings in the code.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.report import SHARED, write
from concepthash.codes import pack
from concepthash.errors import Skipped
from concepthash.learn.baselines.classifiers import PROBE_PENALTIES, fit_probe
from concepthash.learn.baselines.compare import Asked, score
from concepthash.learn.baselines.features import read_backbone, read_features
from concepthash.learn.baselines.folds import FOLDS, choose, folds
from concepthash.learn.baselines.hashlayer import HashLayerFit, Schedule
from concepthash.learn.baselines.method import Encode, Training
from concepthash.learn.baselines.network import network_row
from concepthash.learn.baselines.registry import BASELINES
from concepthash.learn.baselines.table import Comparison
from concepthash.learn.checkpoint import Run
from concepthash.learn.config import Config
from concepthash.learn.data import read_dataset
from concepthash.learn.report import Silent
from concepthash.metrics import average_precision
from concepthash.rankings import rank

DATA = SHARED / "data" / "cub20"
WEIGHTS = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
RUN = Path("runs/cub20")
FOLD_BITS = 64
FOLD_VIEWS = 8  # augmented ones, beside the plain view

# The settings in the code first; each other differs in one.
SCHEDULES = {
    "as in the code": Schedule(),
    "500 steps": Schedule(steps=500),
    "2000 steps": Schedule(steps=2000),
    "rate 0.003": Schedule(lr=3e-3),
    "rate 0.01": Schedule(lr=1e-2),
    "decay 0.5": Schedule(weight_decay=0.5),
}


def main() -> None:
    config = Config().updated(
        {
            "data": {"root": str(DATA)},
            "model": {"backbone": "vit_tiny_patch16_224", "weights": str(WEIGHTS)},
        },
        where="benchmark",
    )
    data, skipped, asked = read_dataset(config.data, seed=0), Skipped(), Asked()
    started = time.perf_counter()
    backbone = read_backbone(config, offline=True, tell=Silent())
    features = read_features(
        config, data, backbone, views=FOLD_VIEWS, skipped=skipped, tell=Silent()
    )
    seen = features.training
    features = replace(features, training=plain_views(seen))
    reading = time.perf_counter() - started
    started = time.perf_counter()
    rows, protocol = score(features, data, asked, tell=Silent())
    scoring = time.perf_counter() - started
    if RUN.exists():
        run = Run.open(RUN)
        rows.append(network_row(run, data, config.data.root, skipped=skipped, tell=Silent()))
    table = Comparison(tuple(rows), asked.seeds, {"views": asked.views, **protocol})
    print(table, flush=True)
    write(
        "baselines",
        {
            "what": "expected mAP on the test split; ViT-Ti/16, frozen; features shared by all",
            "seconds": {"features": round(reading, 1), "fits and scores": round(scoring, 1)},
            "skipped": len(skipped),
            "table": table.to_json(),
            "on folds of the train split": on_folds(seen),
        },
    )


def on_folds(training: Training) -> dict[str, object]:
    """Mean mAP of held-out training photos over the fitted ones, by setting."""
    plain = plain_views(training)
    layers = {name: hash_maps(plain, schedule) for name, schedule in SCHEDULES.items()}
    layers[f"{FOLD_VIEWS} augmented views too"] = hash_maps(training, Schedule())
    probes = {
        "plain view": choose(PROBE_PENALTIES, fit_probe, training),
        "every view": choose(PROBE_PENALTIES, probe_of_every_view, training),
    }
    return {
        "folds": FOLDS,
        "hash layers": {"bits": FOLD_BITS, "seed": 0, "map": layers},
        "probe, float": {
            name: {"penalty": penalty, "map": found} for name, (penalty, found) in probes.items()
        },
    }


def plain_views(training: Training) -> Training:
    return Training(training.views[:, :1], training.labels, training.classes)


def hash_maps(training: Training, schedule: Schedule) -> dict[str, float]:
    """Each learned hash layer, and their mean."""
    found = {}
    for name, method in BASELINES.items():
        if isinstance(method.fit, HashLayerFit):
            fit = replace(method.fit, schedule=schedule)
            scores = [
                hamming_map(fit(known, bits=FOLD_BITS, seed=0), known, held)
                for known, held in folds(training)
            ]
            found[name] = float(np.mean(scores))
    return {**found, "mean": float(np.mean(list(found.values())))}


def hamming_map(encode: Encode, database: Training, queries: Training) -> float:
    known, asked = (pack(encode(split.plain)) for split in (database, queries))
    rankings = rank(asked, queries.labels, known, database.labels)
    return rankings.mean(average_precision(rankings).expected)


def probe_of_every_view(training: Training, penalty: float) -> Encode:
    rows, labels = training.rows
    return fit_probe(Training(rows[:, None], labels, training.classes), penalty)


if __name__ == "__main__":
    main()
