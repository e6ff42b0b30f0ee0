"""A whole CLIP, both towers, by open_clip: which belongs to a backbone, and loading it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from concepthash.errors import BackendError, UsageError, WeightsError
from concepthash.learn.lookup import CLIP_FILES, check_safetensors, find_weights

# Text towers of timm's CLIP image towers: prefix of the timm name -> open_clip's architecture.
CLIP_ARCHITECTURES = {
    "vit_base_patch32_clip": "ViT-B-32",
    "vit_base_patch16_clip": "ViT-B-16",
    "vit_large_patch14_clip": "ViT-L-14",
    "vit_huge_patch14_clip": "ViT-H-14",
}
# timm's pretrained tags -> open_clip's, where the two differ.
CLIP_TAGS = {
    ("ViT-B-32", "laion2b"): "laion2b_s34b_b79k",
    ("ViT-B-16", "laion2b"): "laion2b_s34b_b88k",
    ("ViT-L-14", "laion2b"): "laion2b_s32b_b82k",
    ("ViT-H-14", "laion2b"): "laion2b_s32b_b79k",
    ("ViT-B-32", "datacompxl"): "datacomp_xl_s13b_b90k",
    ("ViT-B-16", "datacompxl"): "datacomp_xl_s13b_b90k",
    ("ViT-L-14", "datacompxl"): "datacomp_xl_s13b_b90k",
    ("ViT-B-32", "metaclip_2pt5b"): "metaclip_fullcc",
    ("ViT-B-16", "metaclip_2pt5b"): "metaclip_fullcc",
    ("ViT-L-14", "metaclip_2pt5b"): "metaclip_fullcc",
}


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP.

    Args:
        model: open_clip's network, in evaluation mode.
        preparation: open_clip's preprocessing of images, with keys such as ``mean`` and ``std``.
    """

    model: Any
    preparation: dict[str, Any]


def clip_architecture(backbone: str) -> str | None:
    """open_clip's architecture of a timm CLIP image tower, QuickGELU told apart; None if none."""
    for prefix, architecture in CLIP_ARCHITECTURES.items():
        if backbone.startswith(prefix):
            return f"{architecture}-quickgelu" if "quickgelu" in backbone else architecture
    return None


def clip_tag(architecture: str, backbone: str) -> str:
    """open_clip's tag of the weights a timm image tower has; empty if the name has no tag."""
    tag = backbone.partition(".")[2]
    return CLIP_TAGS.get((architecture.removesuffix("-quickgelu"), tag), tag)


def load_clip(
    architecture: str,
    weights: str,
    *,
    where: str,
    hint: str,
    offline: bool,
    note: Callable[[str], None],
) -> Clip:
    """Both towers with their weights.

    Args:
        architecture: open_clip's name, such as ``ViT-B-32``.
        weights: a safetensors file, a folder that has one, or a tag of open_clip such as
            ``laion2b_s34b_b79k``.
        where: the option that asked, for errors.
        hint: what to run when the weights do not fit, for errors.
        offline: never use the network.
        note: told in one line before the network is used.

    Raises:
        BackendError: if open_clip is not installed.
        UsageError: if open_clip has no such architecture, or ``weights`` is empty.
        WeightsError: if the weights cannot be had, or are of another architecture.
    """
    try:
        import open_clip
    except ImportError:
        raise BackendError(
            f"{where} needs open_clip for CLIP", hint="pip install 'concepthash[train]'"
        ) from None
    if architecture not in open_clip.list_models() or not weights:
        asked = f"{architecture}:{weights}".strip(":")
        raise UsageError(f"no CLIP is known for {asked!r}", where=where, hint=hint)
    known: dict[str, Any] = {}
    if weights.endswith(".safetensors") or Path(weights).exists():
        path = check_safetensors(_in_folder(Path(weights)))
    else:
        known = open_clip.get_pretrained_cfg(architecture, weights)
        repository = str(known.get("hf_hub", "")).strip("/") or None
        name = f"{architecture}-{weights}"
        try:
            path = find_weights(name, repository, files=CLIP_FILES, offline=offline, note=note)
        except WeightsError as error:
            raise WeightsError(error.what, where=error.where, hint=hint) from None
    try:
        model = open_clip.create_model(architecture, pretrained=str(path)).eval()
    except (RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"the weights are not those of {architecture}: {str(error).splitlines()[0]}",
            where=path,
            hint=hint,
        ) from None
    return Clip(model, {**open_clip.get_model_preprocess_cfg(model), **known})


def _in_folder(path: Path) -> Path:
    """The weights in a folder; of a file, the file itself."""
    if not path.is_dir():
        return path
    found = [path / name for name in CLIP_FILES if (path / name).is_file()]
    found += sorted(path.glob("*.safetensors"))
    return found[0] if found else path / CLIP_FILES[0]
