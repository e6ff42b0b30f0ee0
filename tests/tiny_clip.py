"""A CLIP small enough for a test, with random weights: the ``tiny-clip`` of open_clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

_TOWER = {"layers": 1, "width": 32}
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {**_TOWER, "image_size": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {**_TOWER, "context_length": 77, "vocab_size": 49408, "heads": 2},
}


def tiny_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights in ``folder``; for this test open_clip knows the architecture, and backbones
    whose name begins with ``tiny_clip`` are its image tower.
    """
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    from concepthash.learn import clip

    folder.mkdir(parents=True)
    config = folder / "tiny-clip.json"
    config.write_text(json.dumps(CONFIG))
    factory = open_clip.factory
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", [*factory._MODEL_CONFIG_PATHS])
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS})
    open_clip.add_model_config(config)
    monkeypatch.setitem(clip.CLIP_ARCHITECTURES, "tiny_clip", "tiny-clip")
    torch.manual_seed(0)
    state = open_clip.create_model("tiny-clip").state_dict()
    contiguous = {name: value.contiguous() for name, value in state.items()}
    save_file(contiguous, folder / "open_clip_model.safetensors")
    return folder
