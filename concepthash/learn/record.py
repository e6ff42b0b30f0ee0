"""What a run says of itself from its first epoch on."""

from __future__ import annotations

from pathlib import Path

import timm
import torch

import concepthash
from concepthash.datasets import Dataset
from concepthash.files import write_json
from concepthash.learn.checkpoint import (
    FORMAT_VERSION,
    split_state,
    write_embeddings,
    write_tensors,
)
from concepthash.learn.config import Config
from concepthash.learn.guidance import ClassEmbeddings
from concepthash.learn.model import ConceptHash


def record_run(
    out: Path, config: Config, data: Dataset, model: ConceptHash, embeddings: ClassEmbeddings
) -> None:
    """Write what does not change during training into the folder ``out``; ``run.json`` last."""
    write_json(out / "config.json", config.to_json())
    write_embeddings(out, embeddings.vectors)
    write_tensors(out / "frozen.safetensors", split_state(model)[0])
    encoder = model.encoder
    record = {
        "format_version": FORMAT_VERSION,
        "class_names": list(data.class_names),
        "guidance": {
            "source": embeddings.source,
            "learned": embeddings.learned,
            "prompt": config.guidance.prompt,
        },
        "data_root": str(Path(config.data.root).resolve()),
        "mean": (encoder.mean.flatten() / 255).tolist(),
        "std": (encoder.std.flatten() / 255).tolist(),
        "versions": {
            "concepthash": concepthash.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
    }
    write_json(out / "run.json", record)
