"""A real training at the smallest size: drawn birds, a vision transformer of two blocks."""

from pathlib import Path

from concepthash.demo import write_dataset
from concepthash.learn.config import Config

TINY_VIT = {"patch_size": 16, "depth": 2, "embed_dim": 32, "num_heads": 2}


def drawn_birds(folder: Path, *, species: int = 3, images: int = 8) -> Path:
    write_dataset(folder, species=species, images=images, test_share=0.5, size=48)
    return folder


def tiny_config(data: Path, **train: object) -> Config:
    changes = {
        "data": {"root": str(data), "resize": 48, "crop": 48, "val_share": 0.25, "workers": 0},
        "model": {
            "backbone": "vit_tiny_patch16_224",
            "weights": "none",
            "freeze": False,
            "backbone_args": TINY_VIT,
            "bits": 16,
            "concepts": 2,
            "concept_dim": 16,
            "concept_heads": 2,
        },
        "guidance": {"source": "none"},
        "train": {"epochs": 2, "batch_size": 4, "eval_every": 1, "device": "cpu", **train},
    }
    return Config().updated(changes, where="test")
