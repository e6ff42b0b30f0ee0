"""``train``: from labelled photos to a run folder with checkpoints and an evaluation."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import current_thread, main_thread

import torch

from concepthash.datasets import Dataset
from concepthash.errors import Skipped, UsageError
from concepthash.evaluation import Evaluation
from concepthash.learn.checkpoint import Run
from concepthash.learn.claim import Claim, refuse_taken
from concepthash.learn.config import Config, difference
from concepthash.learn.data import check_photos, read_dataset
from concepthash.learn.loop import Trainer
from concepthash.learn.report import Reporter, Silent
from concepthash.learn.setup import build_network, make_accelerator
from concepthash.learn.team import ProcessLost, Team, is_loss


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Args:
        run: its folder.
        epochs: how many were trained in all.
        evaluation: on the test split; None if the data have none, and in all but the main process.
        skipped: photos that could not be read.
    """

    run: Path
    epochs: int
    evaluation: Evaluation | None
    skipped: Skipped


@dataclass(frozen=True)
class _Order:
    """What to train, as the main process was asked."""

    config: Config
    out: Path
    resume: bool
    offline: bool


def train(
    config: Config,
    out: Path,
    *,
    resume: bool = False,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a ConceptHash model and evaluate it on the test split.

    Under a launcher (torchrun, accelerate launch) every process calls this, or :func:`follow`; the
    arguments of the main process count, and it alone reports and writes.

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
        TrainingError: if the loss is not a number, ``out`` is being written by another training, or
            a process of a launcher is gone.
    """
    return _train(_Order(config, out, resume, offline), reporter or Silent())


def follow() -> TrainResult:
    """Take part in the training that the main process of the launcher was asked for.

    Raises:
        ConceptHashError: as :func:`train`; the main process tells all but ``ProcessLost``.
    """
    return _train(None, Silent())


def _train(order: _Order | None, tell: Reporter) -> TrainResult:
    team = Team.join()
    try:
        asked = team.lead(lambda: order)
        assert asked is not None
        with _say_what_is_kept(tell, asked.out, team):
            return _run(asked, tell if team.leads else Silent(), team)
    finally:
        team.leave()


def _run(asked: _Order, tell: Reporter, team: Team) -> TrainResult:
    config, out = asked.config, asked.out
    with Claim(out) as claim:
        run = team.lead(lambda: _begin(asked, claim))
        data = team.lead(lambda: _read(config, tell))
        accelerator = team.together(lambda: make_accelerator(config, out, team))
        torch.manual_seed(config.train.seed)
        model, embeddings, state = build_network(
            config, data, run, offline=asked.offline, tell=tell, team=team
        )
        team.lead(lambda: check_photos(data, strict=config.data.strict, note=tell.note))
        trainer = Trainer(config, claim, data, model, embeddings, accelerator, tell, team)
        trainer.run(state)
        evaluation = trainer.evaluate()
        accelerator.wait_for_everyone()
        accelerator.end_training()
    return TrainResult(out, trainer.epoch, evaluation, trainer.skipped)


def _begin(asked: _Order, claim: Claim) -> Run | None:
    """The run to go on with, claimed; None for one that begins."""
    if not asked.resume:
        refuse_taken(asked.out)
        return None
    run = Run.open(asked.out)
    claim.old()
    changed = difference(run.config.to_json(), asked.config.to_json())
    if changed:
        raise UsageError(
            "the configuration is not that of the run: " + "; ".join(changed),
            where=asked.out / "config.json",
            hint="leave the changed settings out, or train anew with another --out",
        )
    return run if run.has_state() else None


def _read(config: Config, tell: Reporter) -> Dataset:
    data = read_dataset(config.data, seed=config.train.seed)
    for note in data.notes:
        tell.note(f"data: {note}")
    return data


class _EndedByLauncher(KeyboardInterrupt):
    """SIGTERM, by which a launcher ends the processes that are left."""


@contextmanager
def _say_what_is_kept(tell: Reporter, out: Path, team: Team) -> Iterator[None]:
    try:
        with _heeding_the_launcher(team):
            yield
    except _EndedByLauncher:
        tell.note(f"ended by the launcher, as when another process is gone{_kept(out)}")
        raise
    except KeyboardInterrupt:
        tell.note(f"interrupted{_kept(out)}")
        raise
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise ProcessLost(
                f"a process that augments photos was killed, as for want of memory{_kept(out)}",
                where="data.workers",
                hint=f"free some memory, then: {_resume(out)}",
            ) from error
        if team.size == 1 or not is_loss(error):
            raise
        known = _kept(out) if team.leads else ""  # the run may be on another machine
        raise ProcessLost(
            f"another process of this training is gone{known}",
            where=f"process {team.rank} of {team.size}",
            hint="see what it or the launcher said; any number of processes can go on"
            if team.leads
            else f"see what it or the launcher said, then: {_resume(out)}",
        ) from error


@contextmanager
def _heeding_the_launcher(team: Team) -> Iterator[None]:
    """Let SIGTERM interrupt the main process; a process that knows that it ends ignores it."""

    def interrupt(*_: object) -> None:
        raise _EndedByLauncher

    if team.size == 1 or not team.leads or current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BaseException:
        before = signal.SIG_IGN
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _kept(out: Path) -> str:
    """What an unfinished training leaves, and the command that goes on, to end a sentence."""
    resume = _resume(out)
    if (out / "state.safetensors").is_file():
        return f"; finished epochs are kept: {resume}"
    if (out / "run.json").is_file():
        return (
            f" before an epoch was finished; {out} has the settings and "
            f"what training starts from, and this begins again: {resume}"
        )
    return (
        " before the run was recorded; nothing is lost but time, and the same command begins again"
    )


def _resume(out: Path) -> str:
    return f"chash train --resume --out {shlex.quote(str(out))}"
