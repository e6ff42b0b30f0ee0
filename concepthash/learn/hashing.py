"""Codes of a data split from a network in memory, and the retrieval report on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from concepthash.codes import CodeLayout, Codes, pack
from concepthash.datasets import Dataset, Split
from concepthash.decode import decode_batches
from concepthash.errors import Skipped
from concepthash.evaluation import Evaluation, evaluate
from concepthash.images import Preprocess
from concepthash.learn.report import Reporter

BATCH = 64


@dataclass(frozen=True)
class HashedSplit:
    """What the network says of the readable photos of a split.

    Args:
        codes: ``(n, K/8)`` uint8.
        labels: ``(n,)`` int64.
        logits: ``(n, K)`` float32.
    """

    codes: Codes
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]


def hash_split(
    model: nn.Module,
    root: Path,
    split: Split,
    preprocess: Preprocess,
    *,
    device: torch.device | str = "cpu",
    skipped: Skipped,
    reporter: Reporter,
    stage: str = "hashing",
) -> HashedSplit:
    """Hash a split in evaluation mode, photos prepared exactly as the runtime prepares them."""
    was_training = model.training
    model.eval()
    kept: list[int] = []
    logits: list[npt.NDArray[np.float32]] = []

    def batches() -> Iterator[npt.NDArray[np.uint8]]:
        sources = (root / path for path in split.paths)
        for batch in decode_batches(sources, preprocess, batch_size=BATCH):
            for position, error in batch.failed:
                skipped.add(split.paths[position], error.what)
            kept.extend(batch.positions)
            reporter.progress(stage, len(kept), len(split))
            if batch.positions:
                yield batch.pixels

    with torch.inference_mode():
        for pixels in batches():
            output = model(torch.from_numpy(pixels).to(device))
            logits.append(output.logits.float().cpu().numpy())
    model.train(was_training)
    values = np.concatenate(logits) if logits else np.empty((0, 8), np.float32)
    return HashedSplit(pack(values), split.labels[kept], values)


def evaluate_splits(
    queries: HashedSplit, database: HashedSplit, data: Dataset, layout: CodeLayout, **protocol: Any
) -> Evaluation:
    """The report of ``queries`` over ``database``; ``protocol`` is added to its protocol block."""
    return evaluate(
        queries.codes,
        queries.labels,
        database.codes,
        database.labels,
        layout=layout,
        class_names=data.class_names,
        protocol={"data": data.root.name, "layout": data.layout, **protocol},
    )
