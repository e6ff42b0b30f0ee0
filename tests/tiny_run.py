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
            "concept_mode": "paper",
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


def parts_config(data: Path, weights: Path, **train: object) -> Config:
    """Mode parts on a backbone of three blocks, whose random weights stand for pretrained ones."""
    import torch
    from safetensors.torch import save_file

    from concepthash.learn.backbone import create_vit

    sizes = {**TINY_VIT, "depth": 3, "patch_size": 8}
    if not weights.exists():
        torch.manual_seed(0)
        vit = create_vit("vit_tiny_patch16_224", crop=48, arguments=sizes)
        save_file(vit.state_dict(), weights)
    changes = {"backbone_args": sizes, "weights": str(weights), "concept_mode": "parts"}
    train = {"views": 1, **train}  # two epochs: views are encoded beforehand, as in long trainings
    return tiny_config(data, **train).updated({"model": changes}, where="test")
