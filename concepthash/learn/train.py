"""``train``: from labelled photos to a run folder with checkpoints and an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from concepthash.errors import Skipped, UsageError
from concepthash.evaluation import Evaluation
from concepthash.files import half_written
from concepthash.learn.checkpoint import Run
from concepthash.learn.config import Config, difference
from concepthash.learn.data import check_photos, read_dataset
from concepthash.learn.loop import Trainer
from concepthash.learn.report import Reporter, Silent
from concepthash.learn.setup import TRACKERS, build_pretrained, build_resumed, make_accelerator


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
    if not resume:
        _refuse_taken(out)
    run = _resumable(config, out) if resume else None
    with _say_what_is_kept(tell, out):
        data = read_dataset(config.data, seed=config.train.seed)
        for note in data.notes:
            tell.note(f"data: {note}")
        accelerator = make_accelerator(config.train, out)
        torch.manual_seed(config.train.seed)
        state = None
        if run is None:
            model, embeddings = build_pretrained(config, data, offline=offline, tell=tell)
        else:
            model, embeddings, state = build_resumed(run, data)
        check_photos(data, strict=config.data.strict, note=tell.note)
        trainer = Trainer(config, out, data, model, embeddings, accelerator, tell)
        trainer.run(state)
        evaluation = trainer.evaluate()
    return TrainResult(out, trainer.epoch, evaluation, trainer.skipped)


def _refuse_taken(out: Path) -> None:
    if (out / "run.json").exists():
        raise UsageError("the run exists", where=out, hint="--resume, or another --out")
    # A run that was killed before it was recorded is begun again; anything else is not ours.
    ours = {"config.json", "embeddings.npy", "frozen.safetensors", *TRACKERS}
    found = [file.name for file in out.iterdir()] if out.exists() else []
    if not all(name in ours or half_written(name) for name in found):
        raise UsageError("the folder is not empty and no run", where=out, hint="another --out")


def _resumable(config: Config, out: Path) -> Run | None:
    """The run to go on with; None if it was stopped before its first epoch was finished."""
    run = Run.open(out)
    changed = difference(run.config.to_json(), config.to_json())
    if changed:
        raise UsageError(
            "the configuration is not that of the run: " + "; ".join(changed),
            where=out / "config.json",
            hint="leave the changed settings out, or train anew with another --out",
        )
    return run if run.has_state() else None


@contextmanager
def _say_what_is_kept(tell: Reporter, out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        resume = f"chash train --resume --out {shlex.quote(str(out))}"
        if (out / "state.safetensors").is_file():
            tell.note(f"interrupted; finished epochs are kept: {resume}")
        elif (out / "run.json").is_file():
            tell.note(
                f"interrupted before an epoch was finished; {out} has the settings and "
                f"what training starts from, and this begins again: {resume}"
            )
        else:
            tell.note(
                "interrupted before the run was recorded; nothing is lost but time, and the same "
                "command begins again"
            )
        raise
