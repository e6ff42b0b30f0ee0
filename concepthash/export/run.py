"""A training run as something to export. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path

from concepthash.bundle import Manifest, fingerprint
from concepthash.export.graph import write_onnx
from concepthash.export.source import Source
from concepthash.learn.checkpoint import Run
from concepthash.learn.data import read_dataset
from concepthash.learn.encoder import TorchEncoder
from concepthash.names import default_names


def open_run(path: Path, *, name: str, checkpoint: str | None) -> Source:
    """A run, to become the bundle ``name``.

    Raises:
        CheckpointError: if the run cannot be read.
    """
    run = Run.open(path)
    which = checkpoint or run.which()
    model = run.load(which)
    return Source(
        path,
        TorchEncoder(model),
        run.preprocess,
        run.layout,
        _manifest(run, which, name),
        data=lambda: read_dataset(run.data_config(), seed=run.config.train.seed),
        write_graph=lambda file: write_onnx(model, file, crop=run.preprocess.crop),
    )


def _manifest(run: Run, which: str, name: str) -> Manifest:
    evaluation = run.path / "eval.json"
    report = json.loads(evaluation.read_text(encoding="utf-8")) if evaluation.is_file() else {}
    if not str(report.get("protocol", {}).get("checkpoint", "")).startswith(f"{which},"):
        report = {}  # the figures are of the other checkpoint
    kept = ("map", "map_at_r", "precision", "recall", "per_concept_map", "protocol")
    config = run.config.to_json()  # without the paths of the training machine
    config["data"]["root"] = Path(run.config.data.root).name
    config["model"]["weights"] = Path(run.config.model.weights).name
    config["guidance"]["source"] = without_folders(run.config.guidance.source)
    guidance = {**run.record["guidance"]}
    guidance["source"] = without_folders(guidance["source"])
    weights = run.weights_sha256(which)
    return Manifest(
        name=name,
        bits=run.layout.bits,
        concepts=run.layout.concepts,
        preprocessing=run.preprocess.to_json(),
        fingerprint=fingerprint(weights, run.preprocess, run.layout),
        backbone=run.config.model.backbone,
        class_names=run.class_names,
        concept_names=default_names(run.layout.concepts),
        training={
            "checkpoint": which,
            **run.progress(which),
            "guidance": guidance,
            "versions": run.record["versions"],
            "config": config,
        },
        metrics={key: report[key] for key in kept if key in report},
        weights=weights,
    )


def without_folders(source: str) -> str:
    """A guidance source with the file name alone: ``sentence:/a/b`` as ``sentence:b``."""
    return ":".join(Path(part).name or part for part in source.split(":"))
