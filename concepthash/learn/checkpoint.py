"""A training run on disk: safetensors and JSON, each file whole or absent.

::

    runs/NAME/
      config.json           the resolved configuration
      run.json              format, class names, guidance, backbone, library versions
      embeddings.npy        class embeddings, as the text encoder gave them
      frozen.safetensors    parameters training does not touch, written once
      best.safetensors      trained parameters with the best validation mAP, + best.json
      last.safetensors      those of the last epoch, + last.json
      state.safetensors     all that a resumed run needs, in one file: weights, objective,
                            optimiser, random state, progress
      metrics.jsonl         one line an epoch
      skipped.json          photos that were left out, and why
      eval.json             the evaluation on the test split
      lock                  empty; held by the one training that writes here
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from concepthash.codes import CodeLayout
from concepthash.errors import CheckpointError, UsageError
from concepthash.files import reason, refuse_pipe, write_bytes
from concepthash.images import Preprocess
from concepthash.learn.backbone import Encoder, create_vit
from concepthash.learn.config import Config, DataConfig, ModelConfig
from concepthash.learn.model import ConceptHash, ConceptTokens, HashHead
from concepthash.learn.parts import ClassTokens, PartEncoder, PartHashHead

FORMAT_VERSION = 2
_AGAIN = "train again, or copy the run again"


def build_model(
    config: ModelConfig, *, crop: int, mean: Any = None, std: Any = None
) -> ConceptHash:
    """The untrained network of a configuration, and ``.encoder.stem`` to load weights into.

    Args:
        crop: input side, pixels.
        mean, std: input normalisation; by default that of the timm model.
    """
    vit = create_vit(config.backbone, crop=crop, arguments=config.backbone_args)
    return assemble(config, vit, mean=mean, std=std)


def assemble(config: ModelConfig, vit: Any, *, mean: Any = None, std: Any = None) -> ConceptHash:
    """Put the parts of the configured concept mode around a timm vision transformer.

    ``mean`` and ``std`` are the input normalisation; by default that of the timm model.
    """
    known = resolve_model_data_config(vit)
    mean, std = mean or known["mean"], std or known["std"]
    layout = CodeLayout(config.bits, config.concepts)
    if config.concept_mode == "parts":
        return _assemble_parts(config, vit, layout, mean=mean, std=std)
    encoder = Encoder(
        vit, mean=mean, std=std, adapter_ratio=config.adapter_ratio, freeze=config.freeze
    )
    tokens = ConceptTokens(
        config.concepts,
        width=config.concept_dim,
        dim=encoder.dim,
        heads=config.concept_heads,
        dropout=config.concept_dropout,
        spread=config.concept_spread,
    )
    return ConceptHash(encoder, tokens, HashHead(layout, encoder.dim, spread=config.concept_spread))


def _assemble_parts(
    config: ModelConfig, vit: Any, layout: CodeLayout, *, mean: Any, std: Any
) -> ConceptHash:
    depth = len(vit.blocks)
    encoder = PartEncoder(
        vit,
        mean=mean,
        std=std,
        concepts=config.concepts,
        part_dim=min(config.part_dim, vit.embed_dim),
        tuned=min(depth, max(1, round(depth * config.tuned_share))),
    )
    tokens = ClassTokens(config.concepts, dim=encoder.dim)
    return ConceptHash(encoder, tokens, PartHashHead(layout, encoder.dim))


@dataclass(frozen=True)
class Run:
    """A run folder that has been read.

    Args:
        path: the folder.
        config: what it was trained with.
        record: ``run.json``: class names, guidance, normalisation, versions.
    """

    path: Path
    config: Config
    record: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run's configuration and record.

        Raises:
            CheckpointError: if it is no run, damaged, or of a newer format.
        """
        folder = Path(path)
        config = read_json(folder / "config.json")
        record = read_json(folder / "run.json")
        if record.get("format_version") != FORMAT_VERSION:
            found = record.get("format_version")
            older = isinstance(found, int) and found < FORMAT_VERSION
            raise CheckpointError(
                f"run format {found!r} is not {FORMAT_VERSION}, the one this version reads",
                where=folder,
                hint="chash train again; a bundle exported from it works as before"
                if older
                else "pip install --upgrade concepthash",
            )
        _check_record(record, folder / "run.json")
        try:
            return cls(folder, Config().updated(config, where=folder / "config.json"), record)
        except UsageError as error:
            hint = error.hint or _AGAIN
            raise CheckpointError(error.what, where=error.where, hint=hint) from None

    @property
    def layout(self) -> CodeLayout:
        """How the code's bits are shared."""
        return CodeLayout(self.config.model.bits, self.config.model.concepts)

    @property
    def preprocess(self) -> Preprocess:
        """How an image is prepared for this model."""
        return Preprocess(self.config.data.resize, self.config.data.crop)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The training classes in label order."""
        return tuple(self.record["class_names"])

    def which(self) -> str:
        """``best`` if a validation chose one, else ``last``.

        Raises:
            CheckpointError: if no epoch was finished.
        """
        for name in ("best", "last"):
            if (self.path / f"{name}.safetensors").is_file():
                return name
        raise CheckpointError(
            "the run has no finished epoch",
            where=self.path,
            hint=f"chash train --resume --out {self.path}",
        )

    def has_state(self) -> bool:
        """Whether there is a finished epoch to go on after."""
        return (self.path / "state.safetensors").is_file()

    def progress(self, which: str) -> dict[str, Any]:
        """Epoch and validation mAP of a checkpoint."""
        return read_json(self.path / f"{which}.json")

    def data_config(self) -> DataConfig:
        """Where the training photos are, also from another folder than the run was started in."""
        recorded, resolved = self.config.data, self.record["data_root"]
        return replace(recorded, root=resolved) if Path(resolved).exists() else recorded

    def load(self, which: str | None = None) -> ConceptHash:
        """The trained network in evaluation mode; ``which`` is best or last.

        Raises:
            CheckpointError: naming the file that is missing or does not fit.
        """
        trained = read_tensors(self.path / f"{which or self.which()}.safetensors")
        return self._network(trained).eval()

    def load_state(self) -> tuple[ConceptHash, State]:
        """The network after the last finished epoch, and the rest a resumed run needs.

        Raises:
            CheckpointError: if the state is missing, damaged or does not fit.
        """
        state = read_state(self.path / "state.safetensors")
        return self._network(state.model), state

    def _network(self, trained: dict[str, Tensor]) -> ConceptHash:
        model = build_model(
            self.config.model,
            crop=self.config.data.crop,
            mean=tuple(self.record["mean"]),
            std=tuple(self.record["std"]),
        )
        try:
            model.load_state_dict(read_tensors(self.path / "frozen.safetensors") | trained)
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint does not fit its configuration: {str(error).splitlines()[-1]}",
                where=self.path,
                hint=_AGAIN,
            ) from None
        return model

    def weights_sha256(self, which: str | None = None) -> str:
        """Hexadecimal digest over both parameter files."""
        digest = hashlib.sha256()
        for name in ("frozen", which or self.which()):
            digest.update((self.path / f"{name}.safetensors").read_bytes())
        return digest.hexdigest()


def _check_record(record: dict[str, Any], where: Path) -> None:
    """Refuse a record of a run that lacks something, or has it of another kind."""
    names = record.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError("damaged: no list of class names", where=where, hint=_AGAIN)
    for key in ("mean", "std"):
        numbers = record.get(key)
        if not isinstance(numbers, list) or [type(n) for n in numbers] != [float] * 3:
            raise CheckpointError(f"damaged: {key} is not 3 numbers", where=where, hint=_AGAIN)
    for key, kind in (("data_root", str), ("guidance", dict), ("versions", dict)):
        if not isinstance(record.get(key), kind):
            raise CheckpointError(f"damaged: {key} is missing", where=where, hint=_AGAIN)
    if not isinstance(record["guidance"].get("source"), str):
        raise CheckpointError("damaged: guidance has no source", where=where, hint=_AGAIN)


def split_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state of a model as (frozen parameters, everything that training changes)."""
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    frozen = {name: value for name, value in state.items() if name in fixed}
    return frozen, {name: value for name, value in state.items() if name not in fixed}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    write_bytes(path, save(tensors))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        refuse_pipe(path)
        return load_file(path)
    except (OSError, MemoryError, SafetensorError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "missing from the run" if missing else f"damaged: {reason(error)}"
        raise CheckpointError(what, where=path, hint=_AGAIN) from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        refuse_pipe(path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"not a training run: no {path.name}", where=path.parent, hint="chash train DATA"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"damaged: {reason(error)}", where=path, hint=_AGAIN) from None
    if not isinstance(value, dict):
        raise CheckpointError("damaged: not a JSON object", where=path, hint=_AGAIN)
    return value


@dataclass
class State:
    """What ``state.safetensors`` holds.

    Args:
        model: trained parameters.
        objective: those of centres and losses.
        optimizer: its tensors by parameter number.
        random: torch's random state on the CPU.
        progress: epoch, best validation, history, settings of the optimiser's groups.
    """

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    random: Tensor
    progress: dict[str, Any]


def save_state(
    path: Path,
    model: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
) -> None:
    """Write what a resumed run needs as one file, so that a crash cannot leave half of it."""
    state = optimizer.state_dict()
    tensors = {f"model.{name}": value for name, value in split_state(model)[1].items()}
    for name, value in objective.state_dict().items():
        tensors[f"objective.{name}"] = value.detach().cpu().contiguous()
    for index, values in state["state"].items():
        for key, value in values.items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            tensors[f"optimizer.{index}.{key}"] = tensor.detach().cpu().contiguous()
    tensors["rng.torch"] = torch.get_rng_state()
    record = json.dumps({**progress, "groups": state["param_groups"]})
    write_bytes(path / "state.safetensors", save(tensors, metadata={"progress": record}))


def read_state(file: Path) -> State:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged or something else.
    """
    state = State({}, {}, {}, torch.get_rng_state(), {})
    tensors = read_tensors(file)
    try:
        with safe_open(file, framework="pt") as opened:
            state.progress.update(json.loads(opened.metadata()["progress"]))
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                index, _, key = rest.partition(".")
                state.optimizer.setdefault(int(index), {})[key] = value
            elif kind != "rng":
                {"model": state.model, "objective": state.objective}[kind][rest] = value
        state.random = tensors["rng.torch"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"not the state of a training: {error}", where=file, hint="train again"
        ) from None
    return state


def restore(state: State, objective: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a state back where it came from, the random numbers included.

    Raises:
        CheckpointError: if it is that of another objective.
    """
    try:
        objective.load_state_dict(state.objective)
        groups = state.progress["groups"]
        optimizer.load_state_dict({"state": state.optimizer, "param_groups": groups})
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the state does not fit the run: {str(error).splitlines()[-1]}", hint="train again"
        ) from None
    torch.set_rng_state(state.random)


def write_embeddings(path: Path, vectors: np.ndarray[Any, Any]) -> None:
    """Keep the class embeddings in the run, so that no later step needs the text encoder."""
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    write_bytes(path / "embeddings.npy", buffer.getvalue())
