"""Pretrained weights put into a vision transformer; :mod:`concepthash.learn.lookup` finds them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

from concepthash.errors import WeightsError
from concepthash.learn.config import ModelConfig
from concepthash.learn.lookup import check_safetensors, find_weights


def load_pretrained(
    vit: VisionTransformer, settings: ModelConfig, *, offline: bool, note: Callable[[str], None]
) -> None:
    """Find the weights a configuration names, on this machine first, and load them into ``vit``.

    Raises:
        WeightsError: if they are missing or do not fit.
    """
    if settings.weights:
        path = check_safetensors(Path(settings.weights))
    else:
        repository = vit.pretrained_cfg.get("hf_hub_id") or None
        path = find_weights(settings.backbone, repository, offline=offline, note=note)
    load_vit(vit, path)
    note(f"weights: {path}")


def load_vit(vit: VisionTransformer, path: Path) -> None:
    """Load weights in timm's or open_clip's key names into ``vit``, complete or not at all.

    A classifier and a text tower in the file are left out; position embeddings are resampled to
    the input size.

    Raises:
        WeightsError: if a parameter of the backbone is missing or has another shape.
    """
    try:
        state = checkpoint_filter_fn(load_file(check_safetensors(path)), vit)
        result = vit.load_state_dict(state, strict=False)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise WeightsError(
            f"the weights do not fit the backbone: {str(error).splitlines()[-1].strip()}",
            where=path,
            hint="--backbone with the timm name these weights belong to",
        ) from None
    if result.missing_keys:
        missing = ", ".join(result.missing_keys[:3])
        raise WeightsError(
            f"the weights lack {len(result.missing_keys)} parameters of the backbone ({missing})",
            where=path,
            hint="--backbone with the timm name these weights belong to",
        )
