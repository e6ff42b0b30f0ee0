"""Codes of a data split from a network in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from concepthash.codes import CodeLayout, pack
from concepthash.codesets import CodeSet
from concepthash.datasets import Split
from concepthash.decode import decode_batches
from concepthash.errors import Skipped
from concepthash.images import Preprocess
from concepthash.learn.report import Reporter

BATCH = 64


@dataclass(frozen=True)
class HashedSplit:
    """What the network says of the readable photos of a split.

    Args:
        items: codes ``(n, K/8)`` uint8 and labels ``(n,)`` int64.
        logits: ``(n, K)`` float32.
    """

    items: CodeSet
    logits: npt.NDArray[np.float32]


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
    values = np.concatenate([np.empty((0, layout.bits), np.float32), *logits])
    return HashedSplit(CodeSet(pack(values), split.labels[kept], layout), values)
