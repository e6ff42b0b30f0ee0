"""The training loop: epochs, validation, and a checkpoint after each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import DataLoader

import concepthash
from concepthash.codes import CodeLayout
from concepthash.codesets import CodeSet
from concepthash.datasets import Dataset, Split, evaluate_splits, holdout
from concepthash.errors import DataError, Skipped, TrainingError
from concepthash.evaluation import Evaluation
from concepthash.files import write_bytes, write_json
from concepthash.images import Preprocess
from concepthash.learn.checkpoint import (
    FORMAT_VERSION,
    Run,
    State,
    restore,
    save_state,
    split_state,
    write_embeddings,
    write_tensors,
)
from concepthash.learn.config import Config, TrainConfig
from concepthash.learn.discovery import discover_parts
from concepthash.learn.guidance import ClassEmbeddings
from concepthash.learn.hashing import hash_split
from concepthash.learn.losses import ClassCentres, Objective
from concepthash.learn.model import ConceptHash
from concepthash.learn.parts import PartEncoder
from concepthash.learn.photos import EpochSampler, TrainingPhotos, read_photos, training_loader
from concepthash.learn.report import Reporter
from concepthash.learn.views import EncodedViews, collate_views, encode_views
from concepthash.metrics import average_precision
from concepthash.rankings import rank


class Trainee(nn.Module):
    """Network and objective as one module, so that a distributed wrapper sees one forward."""

    def __init__(self, model: ConceptHash, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, seen: Tensor | Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The loss terms of a batch, photos or encoded views; see :class:`Objective`."""
        whole = isinstance(seen, Tensor)
        output = self.model(seen) if whole else self.model.of_patches(*seen)
        terms: dict[str, Tensor] = self.objective(output, labels)
        return terms


class Trainer:
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
            centres,
            concepts=self.layout.concepts,
            dim=model.encoder.dim,
            shared=config.model.concept_mode == "paper",
            config=config.loss,
        )
        self.epoch = 0
        self.best = -1.0
        self.worse = 0
        self.history: list[dict[str, float]] = []

    def run(self, state: State | None) -> None:
        """Train every epoch that is still to do, after ``state`` if there is one."""
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
        self._refuse_lost_classes(photos)
        trainee = Trainee(self.model, self.objective)
        self.optimizer: Any = make_optimizer(trainee, config)
        if state is None:
            self._discover(fit)
            self._record()
        else:
            self._restore(state)
        parts = isinstance(self.model.encoder, PartEncoder)
        views = self._encode(photos)
        sampler = EpochSampler(len(photos), config.seed, views=config.views * parts)
        loader = training_loader(
            photos if views is None else views,
            sampler,
            batch_size=config.batch_size,
            workers=self.config.data.workers if views is None else 0,
            collate=None if views is None else collate_views,
            seed=config.seed,
        )
        trainee, self.optimizer, loader = self.accelerator.prepare(trainee, self.optimizer, loader)
        self.accelerator.init_trackers(self.out.name or "run")
        precision = self.accelerator.mixed_precision.replace("no", "fp32")
        tell.note(f"device: {self.accelerator.device}, {precision}")
        while self.epoch < config.epochs and not self._out_of_patience():
            sampler.epoch = self.epoch
            values = self._epoch(trainee, loader, len(photos))
            self.epoch += 1
            due = self.epoch % config.eval_every == 0 or self.epoch == config.epochs
            if due and len(held):
                values["val_map"] = self._validate(fit, held)
            self._save(values)
        self.accelerator.end_training()
        self.accelerator.wait_for_everyone()

    def _discover(self, fit: Split) -> None:
        """Mode ``parts``: find the maps before anything learns."""
        if isinstance(self.model.encoder, PartEncoder):
            found = discover_parts(
                self.model,
                self.data.root,
                fit,
                self.preprocess,
                area=self.config.model.object_area,
                seed=self.config.train.seed,
                reporter=self.tell,
            )
            self.tell.note(f"parts: {found}")

    def _encode(self, photos: TrainingPhotos) -> EncodedViews | None:
        """Mode ``parts``: the views after the frozen blocks, where that saves time and fits."""
        encoder, config = self.model.encoder, self.config.train
        if not isinstance(encoder, PartEncoder) or not 0 < config.views < config.epochs:
            return None
        if self.accelerator.num_processes > 1:  # each would need the views of all
            return None
        with self.accelerator.autocast():
            views = encode_views(
                encoder.to(self.accelerator.device),
                photos,
                views=config.views,
                workers=self.config.data.workers,
                budget=self.config.data.cache_mb * 2**20,
                reporter=self.tell,
            )
        if views is None:
            self.tell.note(
                f"data: {config.views} encoded views of {len(photos)} photos do not fit in memory "
                f"(data.cache_mb = {self.config.data.cache_mb}); photos are encoded each epoch, "
                "which is slower"
            )
        return views

    def _refuse_lost_classes(self, photos: TrainingPhotos) -> None:
        lost = set(range(len(self.data.class_names))) - set(photos.labels.tolist())
        if lost:
            names = ", ".join(self.data.class_names[c] for c in sorted(lost)[:5])
            raise DataError(
                f"not one training photo can be read of: {names}",
                where=self.data.root,
                hint="mend the photos, or remove the class",
            )

    def _epoch(self, trainee: nn.Module, loader: DataLoader[Any], photos: int) -> dict[str, float]:
        """One pass over the training photos; mean of each loss term, rate and learning rate."""
        config = self.config.train
        trainee.train()
        sums: dict[str, Tensor] = {}
        started = time.perf_counter()
        done = 0
        for step, (seen, labels) in enumerate(loader):
            lr = config.lr * learning_rate(self.epoch + step / len(loader), config)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.accelerator.accumulate(trainee):
                terms = trainee(seen, labels)
                self.accelerator.backward(terms["total"])
                if config.clip_norm and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(trainee.parameters(), config.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach()
            done += len(labels) * self.accelerator.num_processes
            self.tell.progress(f"epoch {self.epoch + 1}/{config.epochs}", done, photos)
        values = {name: float(value) / len(loader) for name, value in sums.items()}
        if not math.isfinite(values["total"]):
            raise TrainingError(
                f"the loss became {values['total']} in epoch {self.epoch + 1}; "
                "the last finished epoch is kept",
                where=self.out,
                hint="a smaller --lr, or --precision fp32",
            )
        seconds = time.perf_counter() - started
        return {**values, "lr": lr, "images_per_s": done / seconds}

    def _validate(self, fit: Split, held: Split) -> float:
        """Expected mAP of the held-out photos over those trained on, measured by one process."""
        found = [0.0]
        if self.accelerator.is_main_process:
            database, queries = (self._hash(s, "validating") for s in (fit, held))
            ranked = rank(queries.codes, queries.labels, database.codes, database.labels)
            found = [ranked.mean(average_precision(ranked).expected)]
        broadcast_object_list(found)
        self.worse += 1
        if found[0] > self.best:
            self.best, self.worse = found[0], 0
            self._write_weights("best", found[0])
        return found[0]

    def _hash(self, split: Split, stage: str) -> CodeSet:
        known = len(self.skipped)
        hashed = hash_split(
            self.model.to(self.accelerator.device),
            self.data.root,
            split,
            self.preprocess,
            self.layout,
            device=self.accelerator.device,
            skipped=self.skipped,
            reporter=self.tell,
            stage=stage,
        )
        if self.config.data.strict and len(self.skipped) > known:
            bad = self.skipped.items[known]
            raise DataError(bad.reason, where=bad.path, hint="mend or remove the file")
        return hashed

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
            "data_root": str(Path(self.config.data.root).resolve()),
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
        self.history.append({"epoch": self.epoch, **values})
        lines = "".join(json.dumps(line) + "\n" for line in self.history)
        write_bytes(self.out / "metrics.jsonl", lines.encode())
        progress = {
            "epoch": self.epoch,
            "best": self.best,
            "worse": self.worse,
            "history": self.history,
        }
        save_state(self.out, self.model, self.objective, self.optimizer, progress)

    def _restore(self, state: State) -> None:
        restore(state, self.objective, self.optimizer)
        progress = state.progress
        self.epoch, self.best = progress["epoch"], progress["best"]
        self.worse, self.history = progress["worse"], progress["history"]
        self.tell.note(f"resuming after epoch {self.epoch}")

    def evaluate(self) -> Evaluation | None:
        """Evaluate the chosen checkpoint on the test split, if there is one, and report."""
        if not self.accelerator.is_main_process:
            return None
        run = Run.open(self.out)
        which = run.which()
        self.model = run.load(which)
        evaluation = None
        if len(self.data.test):
            database = self._hash(self.data.train, "hashing the train split")
            queries = self._hash(self.data.test, "hashing the test split")
            chosen = f"{which}, epoch {run.progress(which)['epoch']}"
            evaluation = evaluate_splits(queries, database, self.data, {"checkpoint": chosen})
            write_json(self.out / "eval.json", evaluation.to_json())
        write_json(self.out / "skipped.json", [vars(item) for item in self.skipped.items])
        return evaluation


def learning_rate(epoch: float, config: TrainConfig) -> float:
    """Factor of the base rate at a fractional epoch: linear warm-up, then cosine to 0."""
    warmup = min(config.warmup_epochs, config.epochs / 2)
    if epoch < warmup:
        return (epoch + 0.01) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(config.epochs - warmup, 1e-9)))


def make_optimizer(trainee: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimiser over what is trained; no weight decay on vectors and scalars."""
    trained = [p for p in trainee.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=config.lr)
