"""``chash inspect``: what a path is, without loading a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from concepthash.cli import options
from concepthash.cli.kinds import kind_of
from concepthash.cli.output import Output
from concepthash.errors import CheckpointError

EXAMPLES = (
    "chash inspect runs/cub              a run: settings, epochs, figures",
    "chash inspect cub.chb               a bundle; its files are compared with their sha256",
    "chash inspect model.onnx            an ONNX file that was taken out of a bundle",
    "chash inspect gallery.chg --json",
)


def command(
    path: Annotated[
        Path,
        typer.Argument(
            help="A run, bundle, ONNX model, gallery, index file or code file.", metavar="PATH"
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Say what a run, bundle, gallery, index file or code file is."""
    output = Output(as_json=as_json)
    kind = kind_of(path)
    facts = _READERS[kind](path)
    width = max(map(len, facts))
    lines = [f"{path}: {kind}"]
    lines += [f"  {name:<{width}}  {_text(value)}" for name, value in facts.items()]
    output.result(
        "\n".join(lines),
        lambda: {"schema": "chash.inspect/1", "path": str(path), "kind": kind, **facts},
    )


def _run(path: Path) -> dict[str, Any]:
    config, record = _object(path / "config.json"), _object(path / "run.json")
    model = config.get("model", {})
    report = path / "eval.json"
    measured = _object(report) if report.is_file() else {}
    return {
        "format_version": record.get("format_version"),
        "bits": model.get("bits"),
        "concepts": model.get("concepts"),
        "backbone": model.get("backbone"),
        "guidance": record.get("guidance", {}).get("source"),
        "data": config.get("data", {}).get("root"),
        "classes": len(record.get("class_names", ())),
        "epochs": f"{_epochs(path)} of {config.get('train', {}).get('epochs')}",
        "checkpoints": [n for n in ("best", "last") if (path / f"{n}.safetensors").is_file()],
        "test_map": measured.get("map", {}).get("expected"),
        "versions": record.get("versions"),
        "bytes": _bytes(path),
    }


def _bundle(path: Path) -> dict[str, Any]:
    from concepthash.bundle import Bundle

    bundle = Bundle.open(path)
    bundle.verify()
    manifest = bundle.manifest
    return {
        "format_version": manifest.format_version,
        "name": manifest.name,
        "bits": manifest.bits,
        "concepts": manifest.concepts,
        "fingerprint": manifest.fingerprint,
        "backbone": manifest.backbone,
        "preprocessing": manifest.preprocessing,
        "classes": len(manifest.class_names),
        "concept_names": list(manifest.concept_names),
        "checkpoint": manifest.training.get("checkpoint"),
        "epoch": manifest.training.get("epoch"),
        "test_map": manifest.metrics.get("map", {}).get("expected"),
        "artifacts": [str(artifact) for artifact in manifest.artifacts],
        "files": list(manifest.files),
        "bytes": _bytes(path),
    }


def _gallery(path: Path) -> dict[str, Any]:
    from concepthash.runtime.gallery import Gallery

    with Gallery.open(path) as gallery:
        return gallery.stats().to_json()


def _index(path: Path) -> dict[str, Any]:
    from concepthash.runtime.index import HammingIndex

    index = HammingIndex.open(path)
    return {
        "codes": len(index),
        "bits": index.bits,
        "concepts": index.concepts,
        "bytes": _bytes(path),
    }


def _codes(path: Path) -> dict[str, Any]:
    from concepthash.codesets import load_codes

    items = load_codes(path)
    return {
        "codes": len(items.codes),
        "bits": items.layout.bits,
        "concepts": items.layout.concepts,
        "classes": len(set(items.labels.tolist())),
        "bytes": _bytes(path),
    }


_READERS = {
    "run": _run,
    "bundle": _bundle,
    "model": _bundle,
    "gallery": _gallery,
    "index": _index,
    "codes": _codes,
}


def _object(path: Path) -> dict[str, Any]:
    # Not through learn.checkpoint, which needs torch.
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=path) from None
    if not isinstance(value, dict):
        raise CheckpointError("damaged: not a JSON object", where=path)
    return value


def _epochs(path: Path) -> int:
    progress = path / "last.json"
    return int(_object(progress).get("epoch", 0)) if progress.is_file() else 0


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
