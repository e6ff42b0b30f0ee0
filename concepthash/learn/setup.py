"""What a training starts from: the devices and the pretrained network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import accelerate
import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from concepthash.datasets import Dataset
from concepthash.errors import BackendError, DataError, UsageError
from concepthash.learn.backbone import create_vit
from concepthash.learn.checkpoint import Run, State, assemble, build_model
from concepthash.learn.config import ConceptMode, Config
from concepthash.learn.guidance import ClassEmbeddings, embed_classes
from concepthash.learn.model import ConceptHash
from concepthash.learn.report import Reporter
from concepthash.learn.team import Team
from concepthash.learn.weights import load_pretrained

TRACKERS = ("tensorboard", "wandb")

OF_ONE_MODE: Mapping[ConceptMode, tuple[str, ...]] = {
    "parts": ("model.tuned_share", "model.object_area", "model.part_dim", "train.views"),
    "paper": (
        "model.freeze",
        "model.concept_dim",
        "model.concept_heads",
        "model.concept_dropout",
        "model.concept_spread",
        "model.adapter_ratio",
        "loss.diversity",  # the maps of mode parts do not learn
    ),
}
"""Settings that change nothing in the other concept mode."""


def make_accelerator(settings: Config, out: Path, team: Team) -> Accelerator:
    """Device placement, precision, accumulation and trackers of a run, checked.

    Raises:
        UsageError: for an unknown tracker, a batch that the processes cannot share, or a launcher
            that is not known.
        BackendError: if the device or a tracker is missing.
    """
    config = settings.train
    if config.batch_size < team.size:
        raise UsageError(
            f"{team.size} processes cannot share a batch of {config.batch_size} photos",
            where="train.batch_size",
            hint=f"--batch-size {team.size}, or fewer processes",
        )
    if config.device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "no CUDA device is available to torch", where="train.device", hint="--device cpu"
        )
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        # bf16 is slower than fp32 on CPUs without AMX: benchmarks/results/training.json.
        native = not on_cpu and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    if precision == "fp16" and on_cpu:
        raise UsageError(
            "fp16 needs a GPU", where="train.precision", hint="--precision fp32, or bf16"
        )
    for package in config.trackers:
        if package not in TRACKERS:
            raise UsageError(
                f"unknown tracker {package!r}", where="train.trackers", hint="tensorboard or wandb"
            )
        if not (getattr(accelerate.utils, f"is_{package}_available")()):
            raise BackendError(
                f"{package} is not installed", hint=f"pip install 'concepthash[{package}]'"
            )
    if team.size > 1:  # or Accelerate chooses the number of threads
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    # Without a loss on the logits the head learns nothing, which the processes must know.
    headless = not (settings.loss.classification or settings.loss.quantisation)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=list(config.trackers) or None,
        project_dir=str(out),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=headless)],
    )
    if accelerator.num_processes != team.size:
        raise UsageError(
            f"Accelerate sees {accelerator.num_processes} processes, not {team.size}",
            where="environment",
            hint="torchrun --nproc-per-node N -m concepthash train DATA",
        )
    return accelerator


def without_effect(config: Config) -> list[str]:
    """The settings of the other concept mode that are not at the defaults of this one."""
    mode = config.model.concept_mode
    given, default = config.to_json(), Config.recipe(mode).to_json()
    places = (
        place.split(".") for other, own in OF_ONE_MODE.items() if other != mode for place in own
    )
    return [
        f"{section}.{key}"
        for section, key in places
        if given[section][key] != default[section][key]
    ]


def build_pretrained(
    config: Config, data: Dataset, *, offline: bool, tell: Reporter
) -> tuple[ConceptHash, ClassEmbeddings]:
    """The network with pretrained weights, and the class embeddings.

    Raises:
        UsageError: for an unknown backbone or guidance.
        WeightsError: if weights are missing or do not fit.
    """
    settings = config.model
    ignored = without_effect(config)
    if ignored:
        tell.note(f"settings without effect in mode {settings.concept_mode}: {', '.join(ignored)}")
    vit = create_vit(settings.backbone, crop=config.data.crop, arguments=settings.backbone_args)
    if settings.weights == "none" and settings.concept_mode == "parts":
        raise UsageError(
            "parts are found in pretrained features; a backbone of random numbers has none",
            where="model.concept_mode",
            hint="--weights FILE, or --concept-mode paper --set model.freeze=false",
        )
    if settings.weights == "none":
        frozen = " and stays there: --set model.freeze=false lets it learn" * settings.freeze
        tell.note(f"weights: {settings.backbone} starts from random numbers{frozen}")
    else:
        load_pretrained(vit, settings, offline=offline, note=tell.note)
    embeddings = embed_classes(
        data.class_names,
        config.guidance,
        backbone=settings.backbone,
        seed=config.train.seed,
        offline=offline,
        note=tell.note,
    )
    tell.note(f"guidance: {embeddings.source}, {embeddings.vectors.shape[1]} dimensions")
    return assemble(settings, vit), embeddings


def build_network(
    config: Config, data: Dataset, run: Run | None, *, offline: bool, tell: Reporter, team: Team
) -> tuple[ConceptHash, ClassEmbeddings, State | None]:
    """The network to train, its class embeddings, and the state of a run that goes on.

    The main process reads them; the others build a network of the same shape, whose values come
    with :meth:`Team.share_module`.

    Raises:
        UsageError, WeightsError: as :func:`build_pretrained`.
        DataError, CheckpointError: as :func:`build_resumed`.
    """
    built: list[ConceptHash] = []

    def read() -> tuple[ClassEmbeddings, State | None]:
        if run is None:
            model, embeddings = build_pretrained(config, data, offline=offline, tell=tell)
            state = None
        else:
            model, embeddings, state = build_resumed(run, data)
        built.append(model)
        return embeddings, state

    embeddings, state = team.lead(read)
    model = built[0] if built else build_model(config.model, crop=config.data.crop)
    return model, embeddings, state


def build_resumed(run: Run, data: Dataset) -> tuple[ConceptHash, ClassEmbeddings, State]:
    """The network after the last finished epoch of a run, its class embeddings, and the rest.

    Raises:
        DataError: if the data have other classes than the run.
        CheckpointError: if the run cannot be read.
    """
    if run.class_names != data.class_names:
        other = sorted(set(run.class_names) ^ set(data.class_names))[:5]
        raise DataError(
            f"the classes are not those of the run: {', '.join(other) or 'another order'}",
            where=data.root,
            hint="train anew with another --out",
        )
    vectors = np.load(run.path / "embeddings.npy", allow_pickle=False)
    guidance = run.record["guidance"]
    embeddings = ClassEmbeddings(vectors, guidance["source"], guidance["learned"])
    model, state = run.load_state()
    return model, embeddings, state
