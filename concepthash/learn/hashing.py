"""Codes of a data split from a network in memory."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from concepthash.codes import CodeLayout, pack
from concepthash.codesets import CodeSet
from concepthash.datasets import Split
from concepthash.decode import decode_batches
from concepthash.errors import Skipped
from concepthash.images import Preprocess
from concepthash.learn.report import Reporter
from concepthash.learn.team import Team

BATCH = 64


def hash_split(
    model: nn.Module,
    root: Path,
    split: Split,
    preprocess: Preprocess,
    layout: CodeLayout,
    *,
    device: torch.device | str = "cpu",
    skipped: Skipped,
    reporter: Reporter,
    stage: str = "hashing",
) -> CodeSet:
    """Hash a split in evaluation mode, photos prepared exactly as the runtime prepares them."""
    was_training = model.training
    model.eval()
    kept: list[int] = []
    codes = [np.empty((0, layout.nbytes), np.uint8)]
    sources = (root / path for path in split.paths)
    with torch.inference_mode():
        for batch in decode_batches(sources, preprocess, batch_size=BATCH):
            for position, error in batch.failed:
                skipped.add(split.paths[position], error.what)
            kept.extend(batch.positions)
            reporter.progress(stage, len(kept), len(split))
            if batch.positions:
                logits = model(torch.from_numpy(batch.pixels).to(device)).logits
                codes.append(pack(logits.float().cpu().numpy()))
    model.train(was_training)
    return CodeSet(np.concatenate(codes), split.labels[kept], layout)


def hash_together(
    model: nn.Module,
    root: Path,
    split: Split,
    preprocess: Preprocess,
    layout: CodeLayout,
    *,
    device: torch.device | str,
    skipped: Skipped,
    reporter: Reporter,
    stage: str,
    team: Team,
) -> CodeSet:
    """:func:`hash_split` of which every process does a stretch, and each has the whole.

    Batches are those of one process, and so are codes, where all have as many threads as it.
    """
    missed = Skipped()
    mine = split.select(team.stretch(len(split), BATCH))
    hashed = hash_split(
        model, root, mine, preprocess, layout,
        device=device, skipped=missed, reporter=reporter, stage=stage,
    )  # fmt: skip
    stretches = team.gather((hashed.codes, hashed.labels, missed.items))
    codes, labels, failed = zip(*stretches, strict=True)
    for item in chain.from_iterable(failed):
        skipped.add(item.path, item.reason)
    return CodeSet(np.concatenate(codes), np.concatenate(labels), layout)
