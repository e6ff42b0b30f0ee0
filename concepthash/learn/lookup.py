"""Pretrained weights: looked for on this machine first, fetched only when allowed.

Order: the file that was named; ``NAME.safetensors`` in ``./weights`` and in the folders of
``CHASH_WEIGHTS_PATH``; the Hugging Face cache; last the hub, unless offline. Only safetensors are
read: a pickle can run code. Nothing here needs torch, so a missing file is missed at once.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import threading
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import constants

from concepthash.errors import UsageError, WeightsError
from concepthash.learn.config import ModelConfig

VIT_FILES = ("model.safetensors", "open_clip_model.safetensors")
CLIP_FILES = ("open_clip_model.safetensors",)
"""What the hub calls the weights of an image tower, and of a whole CLIP; one repository may hold
both, and the image tower alone has no text encoder."""

_REGISTERED = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)

HUB_TIMEOUT = 3.0
"""Seconds until a hub that does not answer counts as out of reach."""


def find_weights(
    name: str,
    repository: str | None,
    *,
    files: tuple[str, ...] = VIT_FILES,
    offline: bool,
    note: Callable[[str], None],
) -> Path:
    """The path of the weights ``name``, local if possible.

    Args:
        name: file stem looked for in the weights folders, such as a timm model name.
        repository: ``owner/name`` on the Hugging Face hub, or None.
        files: names to look for in it, the preferred first.
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
        for file in files:
            cached = huggingface_hub.try_to_load_from_cache(repository, file)
            if isinstance(cached, str):
                return Path(cached)
            tried.append(f"hub cache: {repository}/{file}")
        if not offline and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
            return _download(repository, files, tried, note)
    reason = " (offline)" if offline else ""
    raise _missing(f"no weights for {name} on this machine{reason}", tried)


def _missing(what: str, tried: list[str]) -> WeightsError:
    return WeightsError(
        what,
        where="; ".join(tried),
        hint="--weights FILE.safetensors",
    )


def _download(
    repository: str, files: tuple[str, ...], tried: list[str], note: Callable[[str], None]
) -> Path:
    # The hub's own client retries for most of a minute; a short knock tells the same at once.
    refused = _knock()
    if refused is not None:
        what = f"no weights on this machine, and the hub is out of reach ({refused})"
        raise _missing(what, tried)
    reasons = []
    for file in files:
        note(f"weights: fetching {repository}/{file} from the Hugging Face hub")
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, etag_timeout=HUB_TIMEOUT))
        except Exception as error:  # the hub's client raises many kinds; the user needs one
            reasons.append(f"{file}: {str(error).splitlines()[0]}")
    raise _missing(f"the hub did not give the weights ({'; '.join(reasons)})", tried)


def _knock() -> str | None:
    """Why the hub, or the proxy in front of it, does not answer; None if it does."""
    hub = urlsplit(constants.ENDPOINT)
    door = urlsplit(getproxies().get(hub.scheme) or constants.ENDPOINT)
    port = door.port or (443 if door.scheme == "https" else 80)
    answer = [f"no answer within {HUB_TIMEOUT:.0f} s"]

    def connect() -> None:
        try:
            socket.create_connection((door.hostname or "", port), timeout=HUB_TIMEOUT).close()
            answer.clear()
        except OSError as error:
            answer[0] = str(error)

    attempt = threading.Thread(target=connect, daemon=True)  # a name look-up knows no timeout
    attempt.start()
    attempt.join(HUB_TIMEOUT)
    return answer[0] if answer else None


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


def check_wanted(settings: ModelConfig, *, offline: bool) -> None:
    """Fail before torch is loaded where it is sure that weights are missing.

    Raises:
        UsageError: if they are of a backbone that timm does not know.
        WeightsError: naming every path tried and the command to run.
    """
    if settings.weights and settings.weights != "none":
        check_safetensors(Path(settings.weights))
    elif not settings.weights and offline:
        cache = Path(constants.HF_HUB_CACHE)
        if not any(cache.glob("models--*")):
            try:
                find_weights(settings.backbone, None, offline=True, note=lambda _: None)
            except WeightsError as error:
                check_backbone(settings.backbone, timm_models())
                where = f"{error.where}; hub cache: {cache} (empty)"
                raise WeightsError(error.what, where=where, hint=error.hint) from None


def timm_models() -> list[str]:
    """What timm can create, read from its source: importing it takes torch, and seconds.

    Empty if timm is not installed.
    """
    spec = find_spec("timm")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in Path(folder).glob("models/*.py")]
    return [name for file in files for name in _REGISTERED.findall(file.read_text("utf-8"))]


def check_backbone(name: str, known: Collection[str]) -> None:
    """Refuse a backbone that timm does not know.

    Args:
        name: timm's, with or without a pretrained tag.
        known: the models there are, without tags; if there are none, nothing is refused.

    Raises:
        UsageError: with the nearest names, and how to list all.
    """
    model = name.partition(".")[0]
    if not known or model in known or ":" in name:  # "hf-hub:..." is looked up elsewhere
        return
    vits = sorted(other for other in known if other.startswith("vit_"))
    near = difflib.get_close_matches(model, vits, n=3) or ["vit_tiny_patch16_224"]
    raise UsageError(
        f"timm knows no backbone {name!r}",
        where="model.backbone",
        hint=f"--backbone {', or '.join(near)}; "
        "python -c \"import timm; print(timm.list_models('vit_*'))\" lists them",
    )
