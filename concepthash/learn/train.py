"""``train``: from labelled photos to a run folder with checkpoints and an evaluation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import concepthash
from concepthash.codes import CodeLayout
from concepthash.datasets import Dataset, Split, find_duplicates, holdout, load_dataset
from concepthash.errors import BackendError, CheckpointError, DataError, Skipped, UsageError
from concepthash.evaluation import Evaluation
from concepthash.files import write_json
from concepthash.images import Preprocess
from concepthash.learn.backbone import create_vit
from concepthash.learn.checkpoint import (
    FORMAT_VERSION,
    Run,
    assemble,
    load_state,
    read_json,
    read_tensors,
    save_state,
    split_state,
    write_embeddings,
    write_tensors,
)
from concepthash.learn.config import Config, DataConfig, TrainConfig, difference
from concepthash.learn.guidance import ClassEmbeddings, embed_classes
from concepthash.learn.hashing import HashedSplit, evaluate_splits, hash_split
from concepthash.learn.losses import ClassCentres, Objective
from concepthash.learn.model import ConceptHash
from concepthash.learn.photos import EpochSampler, read_photos, training_loader
from concepthash.learn.report import Reporter, Silent
from concepthash.learn.weights import check_safetensors, find_weights, load_vit


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Args:
        run: its folder.
        epochs: how many were trained in all.
        evaluation: on the test split; None if the data have none.
        skipped: photos that could not be read.
    """

    run: Path
    epochs: int
    evaluation: Evaluation | None
    skipped: Skipped


class Trainee(nn.Module):
    """Network and objective as one module, so that a distributed wrapper sees one forward."""

    def __init__(self, model: ConceptHash, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, image: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss terms of a batch; see :class:`Objective`."""
        terms: dict[str, Tensor] = self.objective(self.model(image), labels)
        return terms


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a ConceptHash model and evaluate it on the test split.

    Args:
        config: every setting; ``config.data.root`` names the photos.
        out: the run folder, which must be new unless ``resume``.
        resume: go on after the last finished epoch of ``out``.
        offline: never fetch pretrained weights.
        reporter: told what goes on.

    Raises:
        UsageError: for a wrong setting, or an ``out`` that exists or differs in configuration.
        DataError: if the data cannot be used.
        WeightsError: if pretrained weights are missing.
        BackendError: if a device or an optional package is missing.
    """
    tell = reporter or Silent()
    if out.exists() and not resume and any(out.iterdir()):
        raise UsageError("the run exists", where=out, hint="--resume, or another --out")
    if resume:
        _check_resumable(config, out)
    data = read_dataset(config.data, seed=config.train.seed)
    for note in data.notes:
        tell.note(f"data: {note}")
    _refuse_ambiguous(data)
    accelerator = _accelerator(config.train, out)
    torch.manual_seed(config.train.seed)
    model, embeddings = _build(config, data, out if resume else None, offline, tell)
    trainer = _Trainer(config, out, data, model, embeddings, accelerator, tell)
    with _atomic_interrupt(tell, out):
        trainer.run(resume)
    return trainer.finish()


def read_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """The data set a configuration names; see :func:`concepthash.datasets.load_dataset`."""
    return load_dataset(
        config.root,
        layout=config.layout,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        level=config.level,
        test_share=config.test_share,
        seed=seed,
    )


def _check_resumable(config: Config, out: Path) -> None:
    run = Run.open(out)
    changed = difference(run.config.to_json(), config.to_json())
    if changed:
        raise UsageError(
            "the configuration is not that of the run: " + "; ".join(changed),
            where=out / "config.json",
            hint="leave the changed settings out, or train anew with another --out",
        )


def _refuse_ambiguous(data: Dataset) -> None:
    for first, other in find_duplicates(data, across="labels"):
        raise DataError(
            "one photo has two labels: identical files in different classes",
            where=f"{first} and {other}",
            hint="keep one of the two",
        )


def _accelerator(config: TrainConfig, out: Path) -> Accelerator:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "no CUDA device is available to torch", where="train.device", hint="--device cpu"
        )
    on_cpu = config.device == "cpu" or not torch.cuda.is_available()
    precision = config.precision
    if precision == "auto":
        # Measured: bf16 is slower than fp32 on CPUs without AMX or AVX-512 BF16.
        precision = "bf16" if not on_cpu and torch.cuda.is_bf16_supported() else "fp32"
    for package in config.trackers:
        if package not in ("tensorboard", "wandb"):
            raise UsageError(
                f"unknown tracker {package!r}", where="train.trackers", hint="tensorboard or wandb"
            )
        if not (getattr(accelerate.utils, f"is_{package}_available")()):
            raise BackendError(
                f"{package} is not installed", hint=f"pip install 'concepthash[{package}]'"
            )
    return Accelerator(
        cpu=on_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=config.accumulate,
        log_with=list(config.trackers) or None,
        project_dir=str(out),
    )


def _build(
    config: Config, data: Dataset, run: Path | None, offline: bool, tell: Reporter
) -> tuple[ConceptHash, ClassEmbeddings]:
    """The network with its pretrained weights, and the class embeddings; from ``run`` if given."""
    settings = config.model
    if run is not None:
        import numpy as np

        record = read_json(run / "run.json")
        if tuple(record["class_names"]) != data.class_names:
            raise DataError("the classes are not those of the run", where=data.root)
        guidance = record["guidance"]
        vectors = np.load(run / "embeddings.npy", allow_pickle=False)
        embeddings = ClassEmbeddings(vectors, guidance["source"], guidance["learned"])
        return Run.open(run).load("last"), embeddings
    vit = create_vit(settings.backbone, crop=config.data.crop, arguments=settings.backbone_args)
    if settings.weights == "none":
        tell.note(f"weights: {settings.backbone} starts from random numbers")
    else:
        if settings.weights:
            path = check_safetensors(Path(settings.weights))
        else:
            repository = vit.pretrained_cfg.get("hf_hub_id") or None
            path = find_weights(settings.backbone, repository, offline=offline, note=tell.note)
        load_vit(vit, path)
        tell.note(f"weights: {path}")
    embeddings = embed_classes(
        data.class_names,
        config.guidance,
        backbone=settings.backbone,
        seed=config.train.seed,
        offline=offline,
        note=tell.note,
    )
    tell.note(f"guidance: {embeddings.source}, {embeddings.vectors.shape[1]} dimensions")
    normalise = timm.data.resolve_model_data_config(vit)
    model = assemble(settings, vit, mean=normalise["mean"], std=normalise["std"])
    return model, embeddings


class _Trainer:
    """The state of one training; each method is one step of :func:`train`."""

    def __init__(
        self,
        config: Config,
        out: Path,
        data: Dataset,
        model: ConceptHash,
        embeddings: ClassEmbeddings,
        accelerator: Accelerator,
        tell: Reporter,
    ) -> None:
        self.config, self.out, self.data, self.tell = config, out, data, tell
        self.embeddings, self.accelerator = embeddings, accelerator
        self.layout = CodeLayout(config.model.bits, config.model.concepts)
        self.preprocess = Preprocess(config.data.resize, config.data.crop)
        self.skipped = Skipped()
        self.model = model
        centres = ClassCentres(
            torch.from_numpy(embeddings.vectors), self.layout.bits, learned=embeddings.learned
        )
        self.objective = Objective(
            centres, concepts=self.layout.concepts, dim=model.encoder.dim, config=config.loss
        )
        self.epoch = 0
        self.best = -1.0
        self.worse = 0

    def run(self, resume: bool) -> None:
        """Train every epoch that is still to do."""
        config, tell = self.config.train, self.tell
        fit, held = holdout(self.data.train, self.config.data.val_share, config.seed)
        tell.note(
            f"data: {len(self.data.class_names)} classes, {len(fit)} photos to train on, "
            f"{len(held)} to validate, {len(self.data.test)} to test"
        )
        photos = read_photos(
            self.data.root,
            fit.paths,
            fit.labels,
            data=self.config.data,
            train=config,
            skipped=self.skipped,
            reporter=tell,
        )
        sampler = EpochSampler(len(photos), config.seed)
        loader = training_loader(
            photos, sampler, batch_size=config.batch_size, workers=self.config.data.workers
        )
        trainee = Trainee(self.model, self.objective)
        self.optimizer: Any = _optimizer(trainee, config)
        if resume:
            self._restore()
        else:
            self._record()
        trainee, self.optimizer, loader = self.accelerator.prepare(trainee, self.optimizer, loader)
        self.accelerator.init_trackers(self.out.name or "run")
        tell.note(
            f"device: {self.accelerator.device}, {self.accelerator.mixed_precision} precision"
        )
        while self.epoch < config.epochs and not self._out_of_patience():
            sampler.epoch = self.epoch
            values = self._epoch(trainee, loader, len(photos))
            self.epoch += 1
            due = self.epoch % config.eval_every == 0 or self.epoch == config.epochs
            if due and len(held):
                values["val_map"] = self._validate(fit, held)
            self._save(values)
        self.accelerator.end_training()

    def _epoch(self, trainee: nn.Module, loader: DataLoader[Any], photos: int) -> dict[str, float]:
        """One pass over the training photos; mean of each loss term, rate and learning rate."""
        config = self.config.train
        trainee.train()
        sums: dict[str, Tensor] = {}
        started = time.perf_counter()
        done = 0
        for step, (images, labels) in enumerate(loader):
            lr = config.lr * learning_rate(self.epoch + step / len(loader), config)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.accelerator.accumulate(trainee):
                terms = trainee(images, labels)
                self.accelerator.backward(terms["total"])
                if config.clip_norm and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(trainee.parameters(), config.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach()
            done += len(images) * self.accelerator.num_processes
            self.tell.progress(f"epoch {self.epoch + 1}/{config.epochs}", done, photos)
        values = {name: float(value) / len(loader) for name, value in sums.items()}
        if not math.isfinite(values["total"]):
            raise CheckpointError(
                f"the loss became {values['total']} in epoch {self.epoch + 1}; "
                "the last finished epoch is kept",
                where=self.out,
                hint="a smaller --lr, or --precision fp32",
            )
        seconds = time.perf_counter() - started
        return {**values, "lr": lr, "images_per_s": done / seconds}

    def _validate(self, fit: Split, held: Split) -> float:
        """Expected mAP of the held-out photos over those trained on."""
        database, queries = (self._hash(split, "validating") for split in (fit, held))
        result = evaluate_splits(queries, database, self.data, self.layout)
        self.worse += 1
        if result.map.expected > self.best:
            self.best, self.worse = result.map.expected, 0
            self._write_weights("best", result.map.expected)
        return result.map.expected

    def _hash(self, split: Split, stage: str) -> HashedSplit:
        model = self.model.to(self.accelerator.device)
        return hash_split(
            model,
            self.data.root,
            split,
            self.preprocess,
            device=self.accelerator.device,
            skipped=Skipped() if stage == "validating" else self.skipped,
            reporter=self.tell,
            stage=stage,
        )

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        if patience and self.worse >= patience:
            self.tell.note(f"stopping early: {self.worse} validations without a better mAP")
            return True
        return False

    def _record(self) -> None:
        """Write what does not change during training."""
        if not self.accelerator.is_main_process:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "config.json", self.config.to_json())
        write_embeddings(self.out, self.embeddings.vectors)
        write_tensors(self.out / "frozen.safetensors", split_state(self.model)[0])
        encoder = self.model.encoder
        record = {
            "format_version": FORMAT_VERSION,
            "class_names": list(self.data.class_names),
            "guidance": {
                "source": self.embeddings.source,
                "learned": self.embeddings.learned,
                "prompt": self.config.guidance.prompt,
            },
            "mean": (encoder.mean.flatten() / 255).tolist(),
            "std": (encoder.std.flatten() / 255).tolist(),
            "versions": {
                "concepthash": concepthash.__version__,
                "torch": torch.__version__,
                "timm": timm.__version__,
            },
        }
        write_json(self.out / "run.json", record)

    def _write_weights(self, name: str, val_map: float | None) -> None:
        if self.accelerator.is_main_process:
            write_tensors(self.out / f"{name}.safetensors", split_state(self.model)[1])
            write_json(self.out / f"{name}.json", {"epoch": self.epoch, "val_map": val_map})

    def _save(self, values: dict[str, float]) -> None:
        """Make this epoch the one a resumed run starts from."""
        self.tell.metrics({"epoch": self.epoch, **values})
        self.accelerator.log(values, step=self.epoch)
        if not self.accelerator.is_main_process:
            return
        self._write_weights("last", values.get("val_map"))
        progress = {"epoch": self.epoch, "best": self.best, "worse": self.worse}
        save_state(self.out, self.optimizer, progress, self.objective)
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": self.epoch, **values}) + "\n")

    def _restore(self) -> None:
        self.model.load_state_dict(read_tensors(self.out / "last.safetensors"), strict=False)
        progress = load_state(self.out, self.optimizer, self.objective)
        self.epoch, self.best = progress["epoch"], progress["best"]
        self.worse = progress["worse"]
        lines = (self.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["epoch"] <= self.epoch]
        (self.out / "metrics.jsonl").write_text("".join(f"{line}\n" for line in kept))
        self.tell.note(f"resuming after epoch {self.epoch}")

    def finish(self) -> TrainResult:
        """Evaluate the chosen checkpoint on the test split and write the reports."""
        run = Run.open(self.out)
        which = run.which()
        self.model = run.load(which)
        evaluation = None
        if len(self.data.test):
            database = self._hash(self.data.train, "hashing the train split")
            queries = self._hash(self.data.test, "hashing the test split")
            evaluation = evaluate_splits(
                queries,
                database,
                self.data,
                self.layout,
                checkpoint=f"{which}, epoch {self.epoch}",
                database_split="train",
                query_split="test",
            )
            write_json(self.out / "eval.json", evaluation.to_json())
        write_json(self.out / "skipped.json", [vars(item) for item in self.skipped.items])
        return TrainResult(self.out, self.epoch, evaluation, self.skipped)


def learning_rate(epoch: float, config: TrainConfig) -> float:
    """Factor of the base rate at a fractional epoch: linear warm-up, then cosine to 0."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return (epoch + 0.01) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(config.epochs - warmup, 1e-9)))


def _optimizer(trainee: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    trained = [p for p in trainee.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)


@contextmanager
def _atomic_interrupt(tell: Reporter, out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        tell.note(f"interrupted; finished epochs are kept: chash train DATA --out {out} --resume")
        raise
