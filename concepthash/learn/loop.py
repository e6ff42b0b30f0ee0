"""The training loop: epochs, validation, and a checkpoint after each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from concepthash.codes import CodeLayout
from concepthash.codesets import CodeSet
from concepthash.datasets import Dataset, Split, evaluate_splits, holdout
from concepthash.errors import DataError, Skipped, TrainingError
from concepthash.evaluation import Evaluation
from concepthash.files import write_bytes, write_json
from concepthash.images import Preprocess
from concepthash.learn.batchnorm import share_batch_norms
from concepthash.learn.checkpoint import (
    Run,
    State,
    restore,
    save_state,
    split_state,
    write_tensors,
)
from concepthash.learn.claim import Claim
from concepthash.learn.config import Config
from concepthash.learn.discovery import discover_parts
from concepthash.learn.guidance import ClassEmbeddings
from concepthash.learn.hashing import hash_together
from concepthash.learn.losses import ClassCentres, Objective
from concepthash.learn.model import ConceptHash
from concepthash.learn.optimise import learning_rate, make_optimizer
from concepthash.learn.parts import PartEncoder
from concepthash.learn.photos import (
    EpochSampler,
    SharedBatches,
    TrainingPhotos,
    read_photos,
    training_loader,
)
from concepthash.learn.record import record_run
from concepthash.learn.report import Reporter
from concepthash.learn.team import Team
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
        claim: Claim,
        data: Dataset,
        model: ConceptHash,
        embeddings: ClassEmbeddings,
        accelerator: Accelerator,
        tell: Reporter,
        team: Team,
    ) -> None:
        self.config, self.data, self.tell = config, data, tell
        self.claim, self.out = claim, claim.out
        self.embeddings, self.accelerator, self.team = embeddings, accelerator, team
        self.layout = CodeLayout(config.model.bits, config.model.concepts)
        self.preprocess = Preprocess(config.data.resize, config.data.crop)
        self.skipped = Skipped()
        if team.size > 1:
            share_batch_norms(model)
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
        photos = self._read(fit)
        trainee = Trainee(self.model, self.objective)
        self.team.share_module(trainee)
        self.optimizer: Any = make_optimizer(trainee, config)
        if state is None:
            self._discover(fit)
            self.team.lead(self._record)
            torch.set_rng_state(self.team.lead(torch.get_rng_state))
        else:
            self._restore(state)
        parts = isinstance(self.model.encoder, PartEncoder)
        views = self._encode(photos)
        sampler = EpochSampler(len(photos), config.seed, views=config.views * parts)
        batches = SharedBatches(sampler, config.batch_size, self.team)
        loader = training_loader(
            photos if views is None else views,
            batches,
            workers=self.config.data.workers if views is None else 0,
            collate=None if views is None else collate_views,
            seed=config.seed,
        )
        # Batches come shared out already, so Accelerate is to see one process.
        loader = prepare_data_loader(
            loader, self.accelerator.device, num_processes=1, process_index=0, put_on_device=True
        )
        trainee, self.optimizer = self.accelerator.prepare(trainee, self.optimizer)
        self.accelerator.init_trackers(self.out.name or "run")
        self._tell_devices(batches)
        while self.epoch < config.epochs and not self._out_of_patience():
            sampler.epoch = self.epoch
            values = self._epoch(trainee, loader, batches)
            self.epoch += 1
            due = self.epoch % config.eval_every == 0 or self.epoch == config.epochs
            if due and len(held):
                values["val_map"] = self._validate(fit, held)
            self._save(values)

    def _tell_devices(self, batches: SharedBatches) -> None:
        device, size = self.accelerator.device, self.team.size
        precision = self.accelerator.mixed_precision.replace("no", "fp32")
        self.tell.note(f"device: {'cpu' if device.type == 'cpu' else device}, {precision}")
        if size > 1:
            shares = " + ".join(map(str, self.team.gather(batches.share)))
            self.tell.note(
                f"processes: {size}, each batch of {batches.size} photos shared out as {shares}; "
                f"one process with --threads {torch.get_num_threads()} trains the same network "
                "but for rounding"
            )

    def _read(self, fit: Split) -> TrainingPhotos:
        """The training photos, of which every process must have the same."""
        photos = self.team.together(
            lambda: read_photos(
                self.data.root,
                fit.paths,
                fit.labels,
                data=self.config.data,
                train=self.config.train,
                skipped=self.skipped,
                reporter=self.tell,
            )
        )
        bad = self.team.gather({item.path for item in self.skipped.items})
        for number, other in enumerate(bad):
            if other != bad[0]:
                raise DataError(
                    f"process {number} cannot read the same training photos as the main process: "
                    f"{min(other ^ bad[0])}",
                    where=self.data.root,
                    hint="give every machine the same photos at the same place",
                )
        self._refuse_lost_classes(photos)
        return photos

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
                team=self.team,
            )
            self.tell.note(f"parts: {found}")

    def _encode(self, photos: TrainingPhotos) -> EncodedViews | None:
        """Mode ``parts``: the views after the frozen blocks, where that saves time and fits."""
        encoder, config = self.model.encoder, self.config.train
        if not isinstance(encoder, PartEncoder) or not 0 < config.views < config.epochs:
            return None
        with self.accelerator.autocast():
            views = encode_views(
                encoder.to(self.accelerator.device),
                photos,
                views=config.views,
                workers=self.config.data.workers,
                budget=self.config.data.cache_mb * 2**20,
                reporter=self.tell,
                team=self.team,
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

    def _epoch(
        self, trainee: nn.Module, loader: DataLoader[Any], batches: SharedBatches
    ) -> dict[str, float]:
        """One pass over the training photos; mean of each loss term, rate and learning rate."""
        config, team = self.config.train, self.team
        trainee.train()
        sums: dict[str, Tensor] = {}
        started = time.perf_counter()
        done = 0
        for step, (seen, labels) in enumerate(loader):
            lr = config.lr * learning_rate(self.epoch + step / len(loader), config)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            # Terms are means over this process's photos: so weighted, they add up to the batch's.
            share = len(labels) / batches.size
            with self.accelerator.accumulate(trainee):
                terms = trainee(seen, labels)
                self.accelerator.backward(terms["total"] * (share * team.size))  # then averaged
                if config.clip_norm and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(trainee.parameters(), config.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in terms.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value.detach() * share
            done += batches.size
            self.tell.progress(f"epoch {self.epoch + 1}/{config.epochs}", done, batches.photos)
        totals = team.total(torch.stack(list(sums.values()))).tolist()
        values = {name: total / len(loader) for name, total in zip(sums, totals, strict=True)}
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
        """Expected mAP of the held-out photos over those trained on."""
        database, queries = (self._hash(s, "validating") for s in (fit, held))

        def measure() -> float:
            ranked = rank(queries.codes, queries.labels, database.codes, database.labels)
            return ranked.mean(average_precision(ranked).expected)

        found = self.team.lead(measure)
        self.worse += 1
        if found > self.best:
            self.best, self.worse = found, 0
            self._write_weights("best", found)
        return found

    def _hash(self, split: Split, stage: str) -> CodeSet:
        known = len(self.skipped)
        hashed = hash_together(
            self.model.to(self.accelerator.device),
            self.data.root,
            split,
            self.preprocess,
            self.layout,
            device=self.accelerator.device,
            skipped=self.skipped,
            reporter=self.tell,
            stage=stage,
            team=self.team,
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
        """Make the folder this run's, and write what does not change during training."""
        self.claim.new()
        record_run(self.out, self.config, self.data, self.model, self.embeddings)

    def _write_weights(self, name: str, val_map: float | None) -> None:
        if self.team.leads:
            write_tensors(self.out / f"{name}.safetensors", split_state(self.model)[1])
            write_json(self.out / f"{name}.json", {"epoch": self.epoch, "val_map": val_map})

    def _save(self, values: dict[str, float]) -> None:
        """Make this epoch the one a resumed run starts from."""
        self.tell.metrics({"epoch": self.epoch, **values})
        self.accelerator.log(values, step=self.epoch)
        if not self.team.leads:
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
        chosen = self.team.lead(self._choose)
        evaluation = None
        if len(self.data.test):
            self.team.share_module(self.model)
            database = self._hash(self.data.train, "hashing the train split")
            queries = self._hash(self.data.test, "hashing the test split")
            if self.team.leads:
                evaluation = evaluate_splits(queries, database, self.data, {"checkpoint": chosen})
                write_json(self.out / "eval.json", evaluation.to_json())
        if self.team.leads:
            write_json(self.out / "skipped.json", [vars(item) for item in self.skipped.items])
        return evaluation

    def _choose(self) -> str:
        """Load the checkpoint that counts; which one that is."""
        run = Run.open(self.out)
        which = run.which()
        self.model = run.load(which)
        return f"{which}, epoch {run.progress(which)['epoch']}"
