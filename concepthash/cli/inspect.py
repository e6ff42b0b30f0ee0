"""``chash inspect``: what a path is, without loading a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from concepthash.cli import options
from concepthash.cli.kinds import kind_of
from concepthash.cli.output import Output
from concepthash.errors import CheckpointError
from concepthash.files import reason

_LARGEST = 1 << 26  # bytes of a record of a run

EXAMPLES = (
    "chash inspect runs/cub              a run: settings, epochs, figures",
    "chash inspect cub.chb               a bundle; its files are compared with their sha256",
    "chash inspect model.onnx            an ONNX file that was taken out of a bundle",
    "chash inspect gallery.chg --json",
)


def command(
    path: Annotated[
        Path,
        options.gallery_argument(
            "A run, bundle, ONNX model, gallery, index file or code file.", "PATH"
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Say what a run, bundle, gallery, index file or code file is."""
    output = Output(as_json=as_json)
    kind = kind_of(path)
    facts = _READERS[kind](path)
    width = max(map(len, facts))
    name = options.named(path)
    lines = [f"{name}: {kind}"]
    lines += [f"  {key:<{width}}  {_text(value)}" for key, value in facts.items()]
    output.result(
        "\n".join(lines),
        lambda: {"schema": "chash.inspect/1", "path": name, "kind": kind, **facts},
    )


def _run(path: Path) -> dict[str, Any]:
    config, record = _object(path / "config.json"), _object(path / "run.json")
    model, data, train = (_part(config, name) for name in ("model", "data", "train"))
    report = path / "eval.json"
    measured = _object(report) if report.is_file() else {}
    classes = record.get("class_names")
    return {
        "format_version": record.get("format_version"),
        "bits": model.get("bits"),
        "concepts": model.get("concepts"),
        "backbone": model.get("backbone"),
        "guidance": _part(record, "guidance").get("source"),
        "data": data.get("root"),
        "classes": len(classes) if isinstance(classes, list) else None,
        "epochs": f"{_epochs(path)} of {train.get('epochs')}",
        "checkpoints": [n for n in ("best", "last") if (path / f"{n}.safetensors").is_file()],
        "test_map": _part(measured, "map").get("expected"),
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
        "test_map": _part(manifest.metrics, "map").get("expected"),
        "artifacts": [str(artifact) for artifact in manifest.artifacts],
        "files": list(manifest.files),
        "bytes": _bytes(path),
    }


def _gallery(path: Path) -> dict[str, Any]:
    from concepthash.runtime.galleries import open_gallery
    from concepthash.runtime.gallery import Gallery

    with open_gallery(path) as gallery:
        facts = gallery.stats().to_json()
        if not isinstance(gallery, Gallery):
            facts["shards"] = {
                name: len(shard) for name, shard in zip(gallery.names, gallery.shards, strict=True)
            }
    return facts


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
    hint = "copy the run again from where it was trained, or train again: chash train DATA"
    try:
        if not path.is_file():
            raise OSError("no such file, or not a regular one")
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        value = json.loads(text.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be read: {reason(error)}", where=path, hint=hint) from None
    if not isinstance(value, dict):
        raise CheckpointError("damaged: not a JSON object", where=path, hint=hint)
    return value


def _part(values: dict[str, Any], key: str) -> dict[str, Any]:
    """An object within an object; empty if there is none."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _epochs(path: Path) -> object:
    progress = path / "last.json"
    return _object(progress).get("epoch", 0) if progress.is_file() else 0


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
