"""``export_bundle``: from a training run to a bundle that has proved to be the same model."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import torch

from concepthash.bundle import (
    MODEL,
    SUFFIX,
    Bundle,
    Manifest,
    check_target,
    fingerprint,
    write_bundle,
)
from concepthash.decode import decode_batches
from concepthash.errors import BundleError, DataError, Skipped
from concepthash.export.graph import write_onnx
from concepthash.export.parity import Parity, check_outputs, compare, gate
from concepthash.learn.checkpoint import Run
from concepthash.learn.data import read_dataset
from concepthash.learn.model import ConceptHash
from concepthash.learn.report import Reporter, Silent
from concepthash.names import default_names
from concepthash.runtime.session import open_session

SAMPLE = 256
"""Training photos on which an artefact is compared with the network."""


@dataclass(frozen=True)
class ExportResult:
    """A bundle that passed its gate.

    Args:
        bundle: its folder.
        artifacts: the model files in it.
        parity: how the exported graph compares with the network.
        skipped: sample photos that could not be read.
    """

    bundle: Path
    artifacts: tuple[str, ...]
    parity: Parity
    skipped: Skipped

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, schema ``chash.export/1``."""
        return {
            "schema": "chash.export/1",
            "bundle": str(self.bundle),
            "artifacts": list(self.artifacts),
            "parity": self.parity.to_json(),
        }

    def __str__(self) -> str:
        return f"{self.parity}, PASS\n{self.bundle}: {', '.join(self.artifacts)}"


def export_bundle(
    run_path: Path,
    out: Path | None = None,
    *,
    checkpoint: str | None = None,
    force: bool = False,
    sample: int = SAMPLE,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Export a run to ``out`` and check it against the network on real photos.

    Args:
        run_path: a run folder of :func:`concepthash.learn.train.train`.
        out: the bundle to write; by default ``RUN.chb`` beside the run.
        checkpoint: best or last; by default best where a validation chose one.
        force: replace an existing bundle.
        sample: how many training photos the comparison uses.
        reporter: told what goes on.

    Raises:
        CheckpointError: if the run cannot be read.
        UsageError: if ``out`` exists and not ``force``.
        DataError: if the run's training photos are gone.
        GateError: if the exported graph gives other codes; nothing is written.
    """
    tell = reporter or Silent()
    run = Run.open(run_path)
    which = checkpoint or run.which()
    home = run_path.resolve()
    target = out or (run_path if run_path.name else home).with_name(home.name + SUFFIX)
    check_target(target, replace=force)
    model = run.load(which)
    tell.note(f"export: {run_path}, {which} checkpoint")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        path = Path(folder) / MODEL
        write_onnx(model, path, crop=run.preprocess.crop)
        tell.note(f"export: wrote ONNX, {path.stat().st_size / 2**20:.1f} MiB")
        skipped = Skipped()
        parity = _check(run, model, path, sample, skipped, tell)
        gate(parity, where=run_path)
        bundle = _write(run, which, path, target, parity, force, tell)
    return ExportResult(bundle.path, (MODEL,), parity, skipped)


def _check(
    run: Run, model: ConceptHash, onnx: Path, sample: int, skipped: Skipped, tell: Reporter
) -> Parity:
    """Run network and graph side by side over the sample, each photo decoded once."""
    data = read_dataset(run.data_config(), seed=run.config.train.seed)
    split = data.train.select(_spread_pairs(len(data.train), sample))
    session = open_session(onnx, device="cpu")
    kept: list[int] = []
    logits, codes = [], []
    for batch in decode_batches((data.root / p for p in split.paths), run.preprocess):
        for position, error in batch.failed:
            skipped.add(split.paths[position], error.what)
        kept.extend(batch.positions)
        tell.progress("comparing with torch", len(kept), len(split))
        if batch.positions:
            with torch.inference_mode():
                expected = model(torch.from_numpy(batch.pixels))
            found = session.run(batch.pixels)
            check_outputs(expected, found, where=session.backend)
            logits.append(expected.logits.numpy())
            codes.append(found.codes)
    if len(kept) < 2:
        raise DataError(
            "the training photos cannot be read, so the export cannot be checked",
            where=data.root,
            hint="bring them back to where they were, then chash export again",
        )
    return compare(
        np.concatenate(codes),
        np.concatenate(logits),
        split.labels[kept],
        layout=run.layout,
        backend=session.backend,
    )


def _spread_pairs(count: int, sample: int) -> list[int]:
    """Up to ``sample`` positions spread over ``count``, two by two: neighbours share a class."""
    starts = np.linspace(0, max(count - 2, 0), max(sample // 2, 1)).round().astype(int)
    chosen = np.unique(np.concatenate([starts, starts + 1]))
    return [int(position) for position in chosen if position < count]


def without_folders(source: str) -> str:
    """A guidance source with the file name alone: ``sentence:/a/b`` as ``sentence:b``."""
    return ":".join(Path(part).name or part for part in source.split(":"))


def _write(
    run: Run, which: str, onnx: Path, target: Path, parity: Parity, force: bool, tell: Reporter
) -> Bundle:
    progress = run.progress(which)
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
    identity = fingerprint(run.weights_sha256(which), run.preprocess, run.layout)
    names = _names_to_keep(target, identity, tell) or default_names(run.layout.concepts)
    manifest = Manifest(
        name=target.name.removesuffix(SUFFIX),
        bits=run.layout.bits,
        concepts=run.layout.concepts,
        preprocessing=run.preprocess.to_json(),
        fingerprint=identity,
        backbone=run.config.model.backbone,
        class_names=run.class_names,
        concept_names=names,
        training={
            "checkpoint": which,
            **progress,
            "guidance": guidance,
            "versions": run.record["versions"],
            "config": config,
        },
        metrics={key: report[key] for key in kept if key in report},
    )
    files: dict[str, Path | bytes] = {
        MODEL: onnx,
        "parity.json": (json.dumps(parity.to_json(), indent=2) + "\n").encode(),
    }
    return write_bundle(target, manifest, files, replace=force)


def _names_to_keep(target: Path, identity: str, tell: Reporter) -> tuple[str, ...] | None:
    """What a person called the concepts of the bundle to be replaced, if it is the same model."""
    if not target.exists():
        return None
    try:
        replaced = Bundle.open(target).manifest
    except BundleError:
        return None
    names = replaced.concept_names
    if replaced.fingerprint == identity:
        return names
    pairs = zip(names, default_names(len(names)), strict=True)
    given = [f"--set {m}={quote(own)}" for m, (own, default) in enumerate(pairs) if own != default]
    if given:
        tell.note(
            "export: the bundle replaced was of another model; if its names fit this one too: "
            f"chash concepts name {quote(str(target))} {' '.join(given)}"
        )
    return None
