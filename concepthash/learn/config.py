"""Every setting of a training run, with its default and its meaning in one line.

Sources in order of precedence: flags, ``CHASH_*`` variables, ``--config FILE``, ``chash.toml``,
the defaults here. The resolved configuration is written into the run as ``config.json``.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from concepthash.codes import CodeLayout
from concepthash.errors import UsageError
from concepthash.files import list_command, reason

ConceptMode = Literal["parts", "paper"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "sgd"]
Augment = Literal["flip", "trivial"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DataConfig:
    """Where the photos are and how they are read."""

    root: str = ""  # folder or CSV; see docs/data.md for the layouts
    layout: str = "auto"  # folder, csv, cub, nabirds, aircraft, cars
    path_column: str = "path"  # CSV only
    label_column: str = "label"  # CSV only
    split_column: str = "split"  # CSV only
    test_share: float | None = None  # held out where the data have no test split; None: 0.2
    level: str = "variant"  # FGVC-Aircraft only: variant, family, manufacturer
    val_share: float = 0.1  # of the train split, to choose the best epoch; 0 trains on everything
    resize: int = 256  # short side at test time, pixels
    crop: int = 256  # input side of the network, pixels; mode paper: 224
    cache_mb: int = 4096  # memory for decoded photos, and as much for encoded views
    workers: int = 1  # processes that augment photos
    strict: bool = False  # a photo that cannot be read is an error, not skipped

    def __post_init__(self) -> None:
        if self.val_share >= 1:
            raise UsageError(
                f"a share is below 1, not {self.val_share}",
                where="data.val_share",
                hint="--val 0.1",
            )
        _at_least(self, {"val_share": 0, "crop": 1, "resize": self.crop, "workers": 0})


@dataclass(frozen=True)
class ModelConfig:
    """The network (design section 5)."""

    backbone: str = "vit_base_patch32_clip_quickgelu_224.openai"  # timm name
    weights: str = ""  # safetensors file; "" looks them up by name; "none" starts from scratch
    backbone_args: dict[str, int] = field(default_factory=dict)  # passed to timm.create_model
    bits: int = 64  # K
    concepts: int = 4  # M
    concept_mode: ConceptMode = "parts"  # docs/method.md tells them apart
    tuned_share: float = 0.25  # mode parts: of the blocks, the last ones that learn
    object_area: float = 0.4  # mode parts: share of a photo that its object covers, at first
    part_dim: int = 128  # mode parts: dimensions in which parts are compared, at most D
    freeze: bool = True  # mode paper, as all that follows: train adapters and concepts only
    concept_dim: int = 512  # D', width of the concept queries
    concept_heads: int = 8  # heads of the attention among the queries
    concept_dropout: float = 0.1  # on that attention
    concept_spread: float = 0.02  # initial spread of concepts; docs/method.md says what it does
    adapter_ratio: float = 0.5  # bottleneck / D; 0 leaves the adapters out

    def __post_init__(self) -> None:
        CodeLayout(self.bits, self.concepts)
        least = {"concept_dim": 1, "concept_heads": 1, "adapter_ratio": 0, "concept_spread": 0}
        _at_least(self, {**least, "part_dim": 1, "tuned_share": 0, "object_area": 0.01})
        for key in ("tuned_share", "object_area"):
            if getattr(self, key) > 1:
                raise UsageError(
                    f"a share is at most 1, not {getattr(self, key)}",
                    where=f"model.{key}",
                    hint=f"--set model.{key}=0.3",
                )
        if self.concept_dim % self.concept_heads:
            raise UsageError(
                f"{self.concept_heads} heads cannot share {self.concept_dim} dimensions evenly",
                where="model.concept_dim",
                hint="--set model.concept_heads=8 --set model.concept_dim=512",
            )


@dataclass(frozen=True)
class GuidanceConfig:
    """What the class centres are made from."""

    source: str = "auto"  # auto, clip, clip:FILE, sentence:FOLDER-or-package, file:X.npy, none
    prompt: str = "a photo of a {class}"  # {class} becomes the class name


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms; the defaults are the authors' released configuration."""

    scale: float = 8.0  # s, of the cosine logits
    margin: float = 0.2  # on the true class
    classification: float = 1.0  # L_clf
    quantisation: float = 1.0  # L_quan
    concept: float = 1.0  # L_cd
    diversity: float = 0.0  # L_csd


@dataclass(frozen=True)
class TrainConfig:
    """How it is optimised."""

    epochs: int = 40  # mode paper: 100
    batch_size: int = 32  # per step, of all processes together
    accumulate: int = 1  # steps per optimiser update
    optimizer: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0  # linear, then cosine to 0
    clip_norm: float = 1.0  # gradient norm; 0 does not clip
    augment: Augment = "trivial"  # after a random resized crop
    crop_scale: float = 0.35  # smallest area of the random crop
    views: int = 8  # mode parts: of each photo, taken in turn; 0: a new one each epoch
    precision: Precision = "auto"  # fp32 on CPU, bf16 where CUDA has it
    device: Device = "auto"
    eval_every: int = 5  # epochs between validations
    patience: int = 0  # validations without a better mAP before stopping; 0 never stops
    seed: int = 0
    trackers: tuple[str, ...] = ()  # tensorboard, wandb; metrics.jsonl is always written

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 2, "accumulate": 1, "eval_every": 1}
        positive = ("patience", "views", "lr", "weight_decay", "warmup_epochs", "clip_norm")
        _at_least(self, {**least, **dict.fromkeys(positive, 0)})


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.train.patience and not self.data.val_share:
            raise UsageError(
                "early stopping needs photos to validate on",
                where="train.patience",
                hint="--val 0.1",
            )

    @classmethod
    def recipe(cls, mode: ConceptMode) -> Config:
        """The defaults of a concept mode; those of ``paper`` are the authors' configuration."""
        if mode == "parts":
            return cls()
        return cls(
            data=DataConfig(crop=224),
            model=ModelConfig(concept_mode=mode),
            train=TrainConfig(epochs=100),
        )

    def to_json(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)

    def updated(self, changes: dict[str, Any], *, where: object) -> Config:
        """A copy with ``changes``, a mapping of section to settings.

        Raises:
            UsageError: for an unknown section or key (the nearest known one is named) or a value
                of the wrong type.
        """
        sections = {f.name: getattr(self, f.name) for f in fields(self)}
        for section, values in changes.items():
            _known(section, sections, "section", where)
            if not isinstance(values, dict):
                raise UsageError(f"[{section}] is a table of settings", where=where)
            current = sections[section]
            hints = get_type_hints(type(current))
            checked = {}
            for key, value in values.items():
                _known(key, hints, f"setting in [{section}]", where)
                checked[key] = _typed(value, hints[key], f"{where}: {section}.{key}")
            sections[section] = replace(current, **checked)
        return Config(**sections)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UsageError: if it is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError("no such configuration file", where=path, hint="ls *.toml") from None
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration: {reason(error)}", where=path, hint=list_command(path)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read the configuration: {error}",
            where=path,
            hint="mend that place: a setting is a line such as bits = 64, below [model]",
        ) from None


def load_config(path: Path, base: Config | None = None) -> Config:
    """Read a TOML file over ``base`` (or the defaults).

    Raises:
        UsageError: if it is missing, not TOML, or has an unknown key or a wrong value.
    """
    return (base or Config()).updated(read_toml(path), where=path)


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key: old -> new`` for every setting in which two configurations differ."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += difference(a, b, f"{prefix}{key}.")
        elif (list(a) if isinstance(a, tuple) else a) != (list(b) if isinstance(b, tuple) else b):
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines


def _at_least(settings: object, least: dict[str, float]) -> None:
    for key, value in least.items():
        given = getattr(settings, key)
        if not given >= value or given == float("inf"):  # "not a number" is below nothing
            section = type(settings).__name__.removesuffix("Config").lower()
            raise UsageError(
                f"{key} is at least {value}, not {given}",
                where=f"{section}.{key}",
                hint=f"--set {section}.{key}={value}",
            )


def _known(key: str, known: dict[str, Any], what: str, where: object) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(sorted(known))}"
        raise UsageError(f"unknown {what}: {key!r}", where=where, hint=hint)


def _typed(value: Any, kind: Any, where: str) -> Any:
    if isinstance(kind, UnionType):  # "T | None"
        return None if value is None else _typed(value, get_args(kind)[0], where)
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise UsageError(f"{value!r} is not one of {choices}", where=where)
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    wanted = origin or kind
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise UsageError(f"{value!r} is not of type {wanted.__name__}", where=where)
    return value
