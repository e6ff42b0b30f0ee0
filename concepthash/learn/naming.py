"""How well words fit what concepts look at, by the CLIP the backbone is the image tower of.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021),
section 3.1.2: a picture belongs to the text with the most similar embedding. Weights are those on
this machine; the network is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from concepthash.errors import UsageError
from concepthash.images import Pixels
from concepthash.learn.clip import clip_architecture, clip_tag, load_clip

PROMPT = "a photo of the {word}"
AUTO = "auto"


def word_fit(
    windows: Iterable[Pixels], words: Sequence[str], *, backbone: str, weights: str
) -> npt.NDArray[np.float64]:
    """How well each word fits each concept: ``(M, n)``, rows of sum 1.

    The similarity of a word and a concept is the mean cosine over photos. What a word is similar to
    all concepts is taken off, since it names none; the softmax at CLIP's own scale follows.

    Args:
        windows: for each photo what its concepts look at, ``(M, s, s, 3)`` uint8.
        words: n.
        backbone: timm's name of the bundle's backbone.
        weights: a safetensors file of a whole CLIP, a folder that has one, a tag of open_clip such
            as ``laion2b_s34b_b79k``, or "auto" for the tag of the backbone.

    Raises:
        UsageError: if the backbone is no CLIP image tower.
        BackendError: if open_clip is not installed.
        WeightsError: if the weights are not on this machine, or are of another architecture.
    """
    architecture = clip_architecture(backbone)
    if architecture is None:
        raise UsageError(
            f"the backbone {backbone} is no CLIP image tower: no text encoder speaks of what it "
            "sees",
            where="--clip",
            hint="--parts FILE with annotated parts, or --set 0=NAME by hand",
        )
    clip = load_clip(
        architecture,
        clip_tag(architecture, backbone) if weights == AUTO else weights,
        where="--clip",
        hint="--clip FILE.safetensors with a whole CLIP in open_clip's key names",
        offline=True,
        note=lambda _: None,
    )
    model = clip.model
    mean, std = (torch.tensor(clip.preparation[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        texts = _texts(model, architecture, words)
        photos = [model.encode_image(_batch(own, model, mean, std), normalize=True)
                  for own in windows]  # fmt: skip
        similar = torch.stack(photos).mean(dim=0) @ texts.T
        if len(similar) > 1:
            similar = similar - similar.mean(dim=0)
        fit: npt.NDArray[np.float64] = (
            (model.logit_scale.exp() * similar).double().softmax(dim=1).numpy()
        )
    return fit


def _texts(model: Any, architecture: str, words: Sequence[str]) -> Tensor:
    import open_clip

    tokens = open_clip.get_tokenizer(architecture)([PROMPT.format(word=word) for word in words])
    return torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(64)])


def _batch(windows: Pixels, model: Any, mean: Tensor, std: Tensor) -> Tensor:
    size = model.visual.image_size
    sides = (size, size) if isinstance(size, int) else (size[1], size[0])
    resized = [Image.fromarray(own).resize(sides, Image.Resampling.BICUBIC) for own in windows]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in resized]))
    return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
