"""Pretrained weights: looked for on this machine first, fetched only when allowed.

Order: the file that was named; ``NAME.safetensors`` in ``./weights`` and in the folders of
``CHASH_WEIGHTS_PATH``; the Hugging Face cache; last the hub, unless offline. Only safetensors are
read: a pickle can run code.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import VisionTransformer
from timm.models.vision_transformer import checkpoint_filter_fn

from concepthash.errors import WeightsError

HUB_FILES = ("model.safetensors", "open_clip_model.safetensors")
HUB_TIMEOUT = 3.0
"""Seconds until a hub that does not answer counts as out of reach."""


def find_weights(
    name: str, repository: str | None, *, offline: bool, note: Callable[[str], None]
) -> Path:
    """The path of the weights ``name``, local if possible.

    Args:
        name: file stem looked for in the weights folders, such as a timm model name.
        repository: ``owner/name`` on the Hugging Face hub, or None.
        offline: never use the network.
        note: told in one line before the network is used.

    Raises:
        WeightsError: naming every path tried and the command to run.
    """
    tried: list[str] = []
    folders = [Path("weights")]
    folders += [Path(p) for p in os.environ.get("CHASH_WEIGHTS_PATH", "").split(os.pathsep) if p]
    for folder in folders:
        path = folder / f"{name}.safetensors"
        if path.is_file():
            return path
        tried.append(str(path))
    if repository is not None:
        for file in HUB_FILES:
            cached = huggingface_hub.try_to_load_from_cache(repository, file)
            if isinstance(cached, str):
                return Path(cached)
            tried.append(f"hub cache: {repository}/{file}")
        if not offline and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
            return _download(repository, tried, note)
    reason = " (offline)" if offline else ""
    raise _missing(f"no weights for {name} on this machine{reason}", tried)


def _missing(what: str, tried: list[str]) -> WeightsError:
    return WeightsError(
        what,
        where="; ".join(tried),
        hint="--weights FILE.safetensors, or --weights none to train from scratch",
    )


def _download(repository: str, tried: list[str], note: Callable[[str], None]) -> Path:
    # The hub's own client retries for most of a minute; a short knock tells the same at once.
    host = urlsplit(huggingface_hub.constants.ENDPOINT)
    port = host.port or (443 if host.scheme == "https" else 80)
    try:
        socket.create_connection((host.hostname or "", port), timeout=HUB_TIMEOUT).close()
    except OSError as error:
        what = f"no weights on this machine, and the hub is out of reach ({error})"
        raise _missing(what, tried) from None
    reasons = []
    for file in HUB_FILES:
        note(f"weights: fetching {repository}/{file} from the Hugging Face hub")
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, etag_timeout=HUB_TIMEOUT))
        except Exception as error:  # the hub's client raises many kinds; the user needs one
            reasons.append(f"{file}: {str(error).splitlines()[0]}")
    raise _missing(f"the hub did not give the weights ({'; '.join(reasons)})", tried)


def check_safetensors(path: Path) -> Path:
    """``path`` if it is an existing safetensors file by name.

    Raises:
        WeightsError: otherwise, with what to do.
    """
    if not path.is_file():
        raise _missing("no such weights file", [str(path)])
    if path.suffix != ".safetensors":
        raise WeightsError(
            "weights are read from safetensors only, because a pickle can run code",
            where=path,
            hint="convert it once: safetensors.torch.save_file(state_dict, 'weights.safetensors')",
        )
    return path


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
