"""A trained run as a row of the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from concepthash.datasets import Dataset, evaluate_splits
from concepthash.errors import Skipped, UsageError
from concepthash.learn.baselines.table import Row
from concepthash.learn.checkpoint import Run
from concepthash.learn.data import read_dataset
from concepthash.learn.hashing import hash_split
from concepthash.learn.report import Reporter


def network_row(
    run: Run,
    data: Dataset,
    root: str,
    *,
    checkpoint: str | None = None,
    device: torch.device | str = "cpu",
    skipped: Skipped,
    tell: Reporter,
) -> Row:
    """The codes of a run's own network on ``data``, scored as the baselines are.

    Its time is not given: it was not trained here.

    Args:
        run: the trained run.
        data: both splits.
        root: what ``data`` was read from; read again for a run whose own photos are gone.
        checkpoint: best or last; by default the one that training chose.
        device: where the network computes.
        skipped: told of photos that cannot be read.
        tell: told of progress.

    Raises:
        UsageError: if it was trained on other photos, which may be those of the test split.
        CheckpointError: if the run cannot be read.
    """
    own = run.data_config()
    if not Path(own.root).exists():
        own = replace(own, root=root)
    trained = read_dataset(own, seed=run.config.train.seed)
    if (trained.class_names, trained.train.paths) != (data.class_names, data.train.paths):
        raise UsageError(
            "the run was trained on another train split",
            where=run.path,
            hint="chash eval PHOTOS --baselines --backbone NAME --weights FILE",
        )
    model = run.load(checkpoint).to(device)
    database, queries = (
        hash_split(
            model,
            data.root,
            split,
            run.preprocess,
            run.layout,
            device=device,
            skipped=skipped,
            reporter=tell,
            stage=f"{run.path.name}: hashing the {name}",
        )
        for split, name in ((data.train, "database"), (data.test, "queries"))
    )
    found = evaluate_splits(queries, database, data, {})
    return Row(
        f"{run.config.model.concept_mode} ({run.path.name})",
        "network",
        run.layout.bits,
        (found.map.expected,),
        (found.map.low, found.map.high),
        (found.precision[1],),
        None,
        str(run.path),
        constant_bits=sum(entropy == 0 for entropy in found.bit_entropy),
    )
