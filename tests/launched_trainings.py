"""Several trainings in the processes of one launcher, for test_learn_processes.

Run by torchrun with the folder to write into. In double precision rounding cannot hide a mistake,
nor grow into a difference, so a training shared out has to be that of one process to many digits.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from tiny_run import parts_config, tiny_config
from torch import nn

from concepthash.errors import ConceptHashError, Skipped, WeightsError
from concepthash.learn import discovery, hashing, loop, views
from concepthash.learn.batchnorm import share_batch_norms
from concepthash.learn.config import Config
from concepthash.learn.losses import ClassCentres
from concepthash.learn.photos import TrainingPhotos, read_photos
from concepthash.learn.report import Silent
from concepthash.learn.team import Team
from concepthash.learn.train import train

# Batches of 5 and 3 cannot be halved; 9 photos leave a rest.
TRAININGS = {
    "paper": {"epochs": 3, "batch_size": 5, "clip_norm": 0.1},
    "accumulated": {"epochs": 2, "batch_size": 3, "accumulate": 2, "optimizer": "sgd", "lr": 0.02},
    "parts": {"epochs": 3, "batch_size": 5, "views": 2},
    "pixels": {"epochs": 2, "batch_size": 4, "views": 0},
}


def config(name: str, folder: Path) -> Config:
    data, settings = folder / "birds", TRAININGS[name]
    if name in ("parts", "pixels"):
        return parts_config(data, folder / "vit.safetensors", **settings)
    diverse = {"loss": {"diversity": 1.0}}
    return tiny_config(data, **settings).updated(diverse, where="test")


@contextmanager
def double_precision() -> Iterator[None]:
    """Networks, losses and codes' logits in float64."""

    def centres(vectors: torch.Tensor, bits: int, *, learned: bool) -> ClassCentres:
        return ClassCentres(vectors.double(), bits, learned=learned)

    torch.set_default_dtype(torch.float64)
    try:
        with (
            patch.object(torch.Tensor, "float", torch.Tensor.double),
            patch.object(torch.Tensor, "half", torch.Tensor.double),
            patch.object(loop, "ClassCentres", centres),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


class KeepsEach(Silent):
    """Copies the run as it is after each epoch but the last: ``NAME-after-EPOCH``."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def metrics(self, values: dict[str, float]) -> None:
        if values["epoch"] > 1:
            shutil.copytree(self.out, f"{self.out}-after-{values['epoch'] - 1:.0f}")


def run(name: str, folder: Path, out: Path, *, resume: bool = False) -> None:
    with double_precision(), ExitStack() as stack:
        for module in (discovery, hashing, views):  # several batches to share out, of few photos
            stack.enter_context(patch.object(module, "BATCH", 4))
        train(config(name, folder), out, resume=resume, reporter=KeepsEach(out))


def normalised(team: Team) -> dict[str, list[float]]:
    """BatchNorm of seven photos shared out, and the gradients of a function of the whole batch."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64) * 3 + 100
    aim = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    norm = nn.Sequential(nn.BatchNorm1d(4)).double()
    if team.size > 1:
        share_batch_norms(norm)
    mine = torch.tensor(list(team.stretch(7)))
    own = x[mine].requires_grad_()
    out = norm(own)
    ((out - aim[mine]) ** 3).sum().backward()
    total = {name: team.total(p.grad) for name, p in norm.named_parameters() if p.grad is not None}
    values = {
        "out": torch.cat(team.gather(out.detach())),
        "gradient": torch.cat(team.gather(own.grad)),
        **total,
        **dict(norm.named_buffers()),
    }
    return {name: value.double().flatten().tolist() for name, value in values.items()}


def failures(team: Team, folder: Path) -> dict[str, list[str]]:
    """What each process raises where only the second one fails."""

    def fail() -> None:
        if team.rank == 1:
            raise WeightsError("no such file", where="vit", hint="ls")

    def reads_less(*arguments: Any, skipped: Skipped, **named: Any) -> TrainingPhotos:
        if team.rank == 1:
            skipped.add("train/a.jpg", "not here")
        return read_photos(*arguments, skipped=skipped, **named)

    def misses_photos() -> None:
        with patch.object(loop, "read_photos", reads_less):
            train(config("parts", folder), folder / "never")

    found = {}
    for name, work in (("one", lambda: team.together(fail)), ("photos", misses_photos)):
        with pytest.raises(ConceptHashError) as raised:
            work()
        found[name] = team.gather(f"{type(raised.value).__name__}: {raised.value}")
    return found


def main(folder: Path) -> None:
    team = Team.join()
    with (  # they part at the end
        patch.object(Accelerator, "end_training", lambda self: None),
        patch.object(Team, "leave", lambda self: None),
    ):
        for name in TRAININGS:
            run(name, folder, folder / f"{name}-shared")
        resumed = folder / "resumed"
        if team.leads:
            shutil.copytree(folder / "paper-after-1", resumed)
        run("paper", folder, resumed, resume=True)
        found = {"normalised": normalised(team), "failures": failures(team, folder)}
    if team.leads:
        (folder / "found.json").write_text(json.dumps(found))
    team.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
